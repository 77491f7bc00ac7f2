"""Energy is read where a machine tells: from trees of files as Linux lays them out, and from what a Pi prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.energy import Source, UnreadError, find_source, measure, rails_w


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", encoding="utf-8")
    return root


RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "9999999",
    "sys/class/powercap/intel-rapl:0:0/name": "core",  # within the package: must not be counted twice
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "700000",
    "sys/class/powercap/intel-rapl:1/name": "psys",
    "sys/class/powercap/intel-rapl:1/energy_uj": "5000000",
}


def _counting(file: Path, step_uj: int) -> Callable[[], None]:
    """Return a run that takes `step_uj` of a counter that starts anew after 10,000,000."""

    def run() -> None:
        file.write_text(str((int(file.read_text(encoding="utf-8")) + step_uj) % 10_000_000), encoding="utf-8")

    return run


def test_rapl_counts_packages_only(tmp_path: Path) -> None:
    source = find_source(_write(tmp_path, RAPL))
    assert source is not None and source.joules is not None
    assert source.joules() == [(1.0, 10.0)]


def test_a_counter_that_starts_anew_loses_nothing(tmp_path: Path) -> None:
    _write(tmp_path, {**RAPL, "sys/class/powercap/intel-rapl:0/energy_uj": "9999990"})
    source = find_source(tmp_path)
    run = _counting(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", 5)
    found = measure(run, source, seconds=0.2)
    assert found is not None
    assert found.mj == pytest.approx(0.005, rel=0.01)  # 5 microjoules a run, over the counter's end
    assert found.idle_w == 0 and found.mj_above_idle == pytest.approx(found.mj)


def test_a_jetson_tells_the_power_of_the_board(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    files = {"in1_label": "VDD_CPU_GPU_CV", "in1_input": "5000", "curr1_input": "100"}
    files |= {"in2_label": "VDD_IN", "in2_input": "5000", "curr2_input": "1200"}
    source = find_source(_write(tmp_path, {f"{folder}/{name}": text for name, text in files.items()}))
    assert source is not None and source.watts is not None
    assert source.watts() == pytest.approx(6.0)
    assert "VDD_IN" in source.name


def test_a_pi_sums_its_rails() -> None:
    told = "  VDD_CORE_A current(7)=1.50000000A\n  3V3_SYS_A current(1)=0.10000000A\n"
    told += "  VDD_CORE_V volt(15)=0.72000000V\n  3V3_SYS_V volt(9)=3.30000000V\n  EXT5V_V volt(24)=5.10000000V\n"
    assert rails_w(told) == pytest.approx(1.5 * 0.72 + 0.1 * 3.3)
    assert rails_w('error=1 error_msg="Command not registered"') == 0


def test_power_is_averaged_while_the_work_runs() -> None:
    state = {"busy": 0}

    def run() -> None:
        state["busy"] += 1

    found = measure(run, Source("a meter", watts=lambda: 4.0 if state["busy"] else 1.0), seconds=0.3)
    assert found is not None
    assert (found.idle_w, found.busy_w) == (1.0, 4.0)
    assert found.mj_above_idle == pytest.approx(found.mj * 3 / 4)


def test_most_machines_do_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_source(tmp_path) is None
    closed = _write(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0"})  # the count is root's only
    assert find_source(closed) is None
    assert measure(lambda: None, None) is None


def test_a_source_that_falls_silent_is_no_source(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    files = {"in2_label": "VDD_IN", "in2_input": "5000", "curr2_input": "1200"}
    source = find_source(_write(tmp_path, {f"{folder}/{name}": text for name, text in files.items()}))
    assert source is not None and source.watts is not None
    (tmp_path / folder / "curr2_input").write_text("")
    assert measure(lambda: None, source, seconds=0.1) is None
    (tmp_path / folder / "curr2_input").write_text("1200")
    calls = iter(range(1000))

    def at_times() -> float:
        if next(calls) % 3 == 0:
            raise UnreadError
        return 6.0

    found = measure(lambda: None, Source("a busy bus", watts=at_times), seconds=0.4)
    assert found is not None and found.busy_w == pytest.approx(6.0)


def test_a_counter_without_an_end_is_no_source(tmp_path: Path) -> None:
    assert find_source(_write(tmp_path, {k: v for k, v in RAPL.items() if "max_energy" not in k})) is None
