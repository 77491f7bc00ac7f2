"""``doctor``: recorded machines are judged as they should be, and this one is looked at for real."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from machines import CONTAINER, ORIN, PI_4, PI_5, Machine, arm_cpuinfo, cpufreq

from edge_runtime import bundle, cli, device, installation
from edge_runtime.device import FAILED, OK, WARNING, Check, Device
from edge_runtime.device_settings import Choice, remember
from edge_runtime.hardware import HARDWARE, THROTTLED
from edge_runtime.machine import cpu_name

pytestmark = pytest.mark.usefixtures("default_bundles")


def hardware(machine: Machine, root: Path, **other: object) -> dict[str, Check]:
    """Examine a machine: name of check -> what it found."""
    looked_at = dataclasses.replace(machine, **other).device(root)
    checks = [found for check in HARDWARE for found in check(looked_at)]
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def installed() -> dict[str, Check]:
    return {found.name: found for check in installation.INSTALLATION for found in check(Device())}


def test_a_healthy_pi_4_is_all_right(tmp_path: Path) -> None:
    found = hardware(PI_4, tmp_path)
    assert {check.result for check in found.values()} == {OK}
    assert found["system"].found == "Raspberry Pi 4 Model B Rev 1.5, Debian GNU/Linux 12 (bookworm), 64-bit aarch64"
    assert found["processor"].found.startswith("Raspberry Pi 4 Model B Rev 1.5, Cortex-A72; has asimd; lacks asimdhp, ")
    assert found["cores"].found == "4 of 4 CPUs for this process"
    assert found["temperature"].found == "52 C (cpu-thermal)"
    assert found["frequency"].found == "governor ondemand, 0.60 of 1.80 GHz"
    assert found["camera"].found == "/dev/video0 (HD USB Camera: HD USB Camera)"  # neither its twin nor the codecs
    assert found["storage"].found == "20000 MB free on SD card or eMMC"
    assert found["clock"].found == "synchronised" and found["picamera2"].found == "not installed"


def test_a_pi_5_with_a_weak_supply_and_no_fan_is_told_so(tmp_path: Path) -> None:
    found = hardware(PI_5, tmp_path)
    power = found["power"]
    assert (
        power.result == FAILED
        and power.todo == "a stronger power supply, a shorter cable; cooling, or a stronger power supply"
    )
    assert power.found == (
        "under-voltage now, throttled now, under-voltage since the start, throttled since the start (0x50005)"
    )  # fmt: skip
    assert found["temperature"].result == WARNING and found["temperature"].todo == "cooling"
    assert "Cortex-A76; has asimd, asimdhp, asimddp; lacks i8mm" in found["processor"].found
    assert found["camera"].found == "none by V4L2" and found["picamera2"].found == "1 camera(s) at the ribbon cable"
    assert found["clock"].result == WARNING and "no hardware clock" not in found["clock"].found


def test_an_orin_in_a_small_power_mode_is_told_which(tmp_path: Path) -> None:
    found = hardware(ORIN, tmp_path)
    assert found["power"].found == "power mode 7W" and "nvpmodel" in found["power"].todo
    assert found["cores"].result == WARNING and found["cores"].found.endswith("; 2 switched off")
    assert found["cores"].todo == "sudo nvpmodel -m 0"
    assert found["temperature"].found == "49 C (cpu-thermal)"  # not the sensor that is switched off
    assert found["camera"].result == WARNING and "usermod -aG video" in found["camera"].todo
    assert "Cortex-A78AE" in found["processor"].found and "picamera2" not in found


def test_a_small_container_is_told_its_limits(tmp_path: Path) -> None:
    found = hardware(CONTAINER, tmp_path)
    assert found["cores"].result == WARNING and found["cores"].found.endswith("but only the time of 1.5")
    assert found["memory"].result == WARNING and found["memory"].found.endswith("at most 128 MB for this process")
    assert found["processor"].result == WARNING and "avx2" in found["processor"].todo
    assert found["storage"].result == WARNING and found["storage"].found == "overlay is mounted read-only"
    assert not {"power", "temperature", "frequency", "clock", "picamera2"} & set(found)  # nobody could say


@pytest.mark.parametrize("bit", sorted(THROTTLED))
def test_every_bit_of_the_throttle_flags_has_its_words(tmp_path: Path, bit: int) -> None:
    said = {"vcgencmd get_throttled": f"throttled={1 << bit:#x}"}
    power = hardware(PI_4, tmp_path, programs=said)["power"]
    assert power.result == (FAILED if bit == 0 else WARNING)
    assert power.found == f"{THROTTLED[bit][1]} ({1 << bit:#x})" and power.todo == THROTTLED[bit][2]


@pytest.mark.parametrize(
    ("change", "name", "result", "words"),
    [
        ({"programs": {}}, "power", WARNING, "does not answer"),
        ({"free_mb": 300}, "storage", WARNING, "300 MB free"),
        ({"free_mb": 20}, "storage", FAILED, "20 MB free"),
        ({"modules": ()}, "camera", WARNING, "OpenCV is not installed"),
        ({"modules": ("cv2", "picamera2")}, "picamera2", WARNING, "cannot be imported"),
        ({"files": {}, "synchronised": False}, "clock", WARNING, "no hardware clock"),
        ({"files": cpufreq("powersave", 600_000, 1_800_000)}, "frequency", WARNING, "governor powersave"),
        ({"files": cpufreq("ondemand", 1, 1_800_000, 900_000)}, "frequency", WARNING, "capped at 0.90"),
        ({"files": cpufreq("powersave", 1, 3_000_000, driver="intel_pstate")}, "frequency", OK, "powersave"),
    ],
)
def test_what_can_be_wrong(tmp_path: Path, change: dict, name: str, result: str, words: str) -> None:
    found = hardware(PI_4, tmp_path, **change)[name]
    assert found.result == result and words in found.found and (found.todo or result == OK)


def test_32_bits_fail(tmp_path: Path) -> None:
    looked_at = dataclasses.replace(PI_4.device(tmp_path), bits=32, arch="armv7l")
    (system,) = HARDWARE[0](looked_at)
    assert system.result == FAILED and "64-bit" in system.todo


def test_a_machine_that_says_nothing_or_nonsense_is_no_error(tmp_path: Path) -> None:
    silent = hardware(Machine({}), tmp_path / "nothing")
    assert silent["system"].result == OK
    if sys.platform == "linux":  # engines cannot choose their kernels without it
        assert silent["processor"].result == WARNING and "/proc/cpuinfo" in silent["processor"].todo
        assert silent["cores"].result == WARNING and "/sys/devices/system/cpu" in silent["cores"].todo
    nonsense = {name: "\x00\xff: nonsense 12x\n" for machine in (PI_4, ORIN) for name in machine.files}
    nonsense["sys/fs/cgroup/cpu.max"] = "\n"
    assert hardware(Machine(nonsense), tmp_path / "nonsense")["system"].result == OK


def test_the_name_of_a_processor(tmp_path: Path) -> None:
    for number, (cpuinfo, name) in enumerate(
        (
            (arm_cpuinfo(1, "fp", "0xd03"), "Cortex-A53"),
            (arm_cpuinfo(1, "fp", "0xfff"), "CPU 0x41/0xfff"),
            (CONTAINER.files["proc/cpuinfo"], "Intel(R) Xeon(R) CPU @ 2.20GHz"),
        )
    ):
        path = tmp_path / str(number) / "proc" / "cpuinfo"
        path.parent.mkdir(parents=True)
        path.write_text(cpuinfo)
        assert cpu_name(tmp_path / str(number)) == name


def test_the_bundles_are_run_with_the_engine_that_would_answer(default_bundles: Path, device_settings: Path) -> None:
    found = installed()
    assert found["bundle all-subtypes"].result == OK and "2 of 2 golden pictures right with litert" in (
        found["bundle all-subtypes"].found
    )
    remember({bundle.open_bundle("all-subtypes").id: Choice("litert", 1, 1.0)}, device_settings)
    assert installed()["bundle all-subtypes"].found.endswith("with litert, 1 thread")
    assert str(device_settings) in installed()["settings"].found
    (default_bundles / "all-subtypes" / "MODEL_CARD.md").write_bytes(b"# A lie\n\n")
    broken = installed()["bundle all-subtypes"]
    assert broken.result == FAILED and "MODEL_CARD.md: " in broken.found


def test_no_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "package_version", lambda module: None)
    assert installed()["engines"].result == FAILED


def test_tflite_runtime_beside_numpy_2_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "package_version", lambda module: "2.14.0" if "tflite" in module else None)
    monkeypatch.setattr(installation, "version", lambda name: "2.1.0")
    assert installed()["engines"].result == WARNING and "numpy<2" in installed()["engines"].todo


def test_settings_of_another_machine_are_a_warning(device_settings: Path) -> None:
    remember({"a@1": Choice("litert", 1, 1.0)}, device_settings)
    stated = json.loads(device_settings.read_text())
    device_settings.write_text(json.dumps({**stated, "machine": {}}))
    assert installed()["settings"].result == WARNING and "bench" in installed()["settings"].todo


def test_a_trust_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bundles need no signature" in installed()["trust"].found
    monkeypatch.setenv("LEUKOSCOPE_TRUST", str(tmp_path / "gone"))
    found = installed()
    assert found["trust"].result == FAILED and found["bundle all-subtypes"].result == FAILED


def test_this_machine_for_people_and_programs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(["doctor"])
    out, err = capfd.readouterr()
    *lines, summary = out.splitlines()
    counts = [int(word) for word in summary.split() if word.isdecimal()]
    assert sum(counts) == len(lines) and status == (1 if counts[2] else 0) and err == ""
    assert all(line.split()[0] in (OK, WARNING, FAILED) for line in lines)
    assert cli.main(["doctor", "--json"]) == status
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["result"] for row in rows] == [line.split()[0] for line in lines]
    assert all(set(row) == {"name", "result", "found", "todo"} for row in rows)
    names = {row["name"] for row in rows}
    assert {"system", "processor", "cores", "storage", "python", "engines", "bundle all-subtypes"} <= names
    monkeypatch.setattr(device, "examine", lambda _: iter([Check("x", FAILED, "broken", "mend it")]))
    assert cli.main(["doctor"]) == 1
    assert capfd.readouterr().out.splitlines()[0].split() == ["failed", "x", "broken", "(mend", "it)"]


def test_asking_a_program_that_fails_is_no_answer() -> None:
    assert device.ask(["/no/such/program"]) is None and device.ask(["false"]) is None
    assert device.ask(["echo", "yes"]) == "yes"
    assert device.clock_synchronised() in (True, False, None)
