"""Cost tables: what an answer costs, for the README and ``docs/benchmarks.md``, from ``results`` and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.layout import markdown

from .aims import Aim, aims, by_name, fastest_floor
from .lineup import FLOOR, ONE_CPU, RUNTIME

RESULTS = Path(__file__).parent / "results"
TIMES = f"times {RUNTIME}"


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def short_table() -> str:
    """For the README: both series with one thread, both with two, and fresh processes."""
    found = _read("side-by-side.json")
    machine, parts = found["machine"], []
    head = ("p50 ms", "p99 ms", TIMES, "peak RSS, MB")
    for series, title in (
        ("pixels", "from pixels, 1 thread"),
        ("files", "from a JPEG of 1024 x 768 to JSON, 1 thread"),
    ):
        ways = by_name(found, series, 1)
        shown = [one for name, one in ways.items() if not name.startswith(FLOOR) or name == fastest_floor(ways)]
        rows = [
            [
                _title(one),
                one["gives"],
                f"{one['p50_ms']:.2f}",
                f"{one['p99_ms']:.2f}",
                _ratio(one, RUNTIME),
                f"{one['peak_rss_mb']:.0f}",
            ]
            for one in sorted(shown, key=lambda one: one["p50_ms"])
        ]
        parts.append(markdown((title, "gives, beside the class", *head), rows))
    both = [by_name(found, series, 2) for series in ("pixels", "files")]
    rows = [
        [_title(one), *(cell for ways in both for cell in _brief(ways.get(name)))]
        for name, one in sorted(both[0].items(), key=lambda item: item[1]["p50_ms"])
    ]
    parts.append(markdown(("2 threads", "from pixels, p50 ms", TIMES, "from a JPEG, p50 ms", TIMES), rows))
    parts.append(start_table())
    place = f"{machine['cores']} cores of {machine['cpu']}, {_load(found)}; in turns, each in a process of its own."
    aside = f'Threads are the engine\'s; "{RUNTIME}" judges on a spare CPU meanwhile, "{ONE_CPU}" has none to spare.'
    return "\n\n".join((f"MobileNetV2 at 224 px, on {place} {aside}", *parts))


def _load(found: dict[str, Any]) -> str:
    return f"load {found['load_before']:.1f} before" if "load_before" in found else "the load before was not recorded"


def machines_table() -> str:
    """Where the figures come from, and what else the machine did."""
    rows = []
    for name in ("side-by-side", "cost"):
        found = _read(f"{name}.json")
        machine = found["machine"]
        where = f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}"
        rows.append([f"`{name}`", where, _load(found)])
    return markdown(("measured by", "on", "load"), rows)


def _brief(one: dict[str, Any] | None) -> tuple[str, str]:
    return ("", "") if one is None else (f"{one['p50_ms']:.2f}", _ratio(one, RUNTIME))


def _title(one: dict[str, Any]) -> str:
    told = [one["precision"]] if one["precision"] not in one["name"] else []
    told += [one["network"]] if one["network"] else []
    return one["name"] + (f" ({', '.join(told)})" if told else "")


def _ratio(one: dict[str, Any], base: str) -> str:
    found = one["ratios"].get(base)
    return "" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def full_table(series: str, threads: int) -> str:
    """All that was measured of a series of single questions."""
    ways = by_name(_read("side-by-side.json"), series, threads)
    rows = [
        [
            _title(one),
            one["gives"],
            *(f"{one[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{one['samples']:,}",
            _ratio(one, RUNTIME),
            f"{one['load_ms']:.0f}",
            f"{one['first_ms']:.1f}",
            f"{one['peak_rss_mb']:.0f}",
            *((f"{one['pixels_off']:.3f}" if "pixels_off" in one else "",) if series == "files" else ()),
        ]
        for one in sorted(ways.values(), key=lambda one: one["p50_ms"])
    ]
    off = ("pixels off, grey levels",) if series == "files" else ()
    head = ("way", "gives, beside the class", "p50 ms", "p90 ms", "p99 ms", "runs", TIMES, "load ms")
    return markdown((*head, "first ms", "peak RSS, MB", *off), rows)


def throughput_table() -> str:
    """Pictures per second, by threads."""
    found = _read("side-by-side.json")
    counts = [int(threads) for threads in found["series"]["throughput"]]
    measured = [by_name(found, "throughput", threads) for threads in counts]
    rows = [
        [
            name,
            *(f"{ways[name]['pictures_per_s']:.0f}" if name in ways else "" for ways in measured),
            f"{max(ways[name]['peak_rss_mb'] for ways in measured if name in ways):.0f}",
        ]
        for name in dict.fromkeys(name for ways in measured for name in ways)
    ]
    head = [f"pictures/s, {threads} thread{'s' * (threads > 1)}" for threads in counts]
    return markdown(("from pixels", *head, "peak RSS, MB"), rows)


def missing_table() -> str:
    """What was not measured, by name, and why."""
    missing = {**_read("side-by-side.json")["missing"], **_read("cost.json")["start"].get("missing", {})}
    return markdown(("not measured", "why"), [[name, why.replace("|", "/")] for name, why in missing.items()])


def aims_table() -> str:
    """Every aim, what was found, and whether it is met."""
    found = aims(_read("side-by-side.json"), _read("cost.json"))
    return markdown(("aim", "limit", "found", "of", "verdict"), [_aim(one) for one in found])


def _aim(one: Aim) -> list[str]:
    sides = [f"{value:.2f}" for value in one.found]
    value = "" if not sides else sides[0] + (f" [{', '.join(sides[1:])}]" if sides[1:] else "")
    return [one.text, f"{'<=' if one.most else '>='} {one.limit:g}", value, one.of, one.verdict]


def split_table() -> str:
    """The parts of an answer."""
    answers = _read("cost.json")["answer"]
    head = [f"{one['bundle']}: {one['picture']}" for one in answers]
    rows = [
        [part, *(f"{one['parts'][part]['p50_ms']:.3f} / {one['parts'][part]['p99_ms']:.3f}" for one in answers)]
        for part in answers[0]["parts"]
    ]
    return markdown(("1 thread, p50 / p99 ms", *head), rows)


def start_table() -> str:
    """Fresh processes."""
    found = _read("cost.json")["start"]["found"]
    rows = [
        [name, *(f"{one['seconds'][q]:.3f}" for q in ("p50", "p90")), f"{one['peak_rss_mb']:.0f}", str(one["runs"])]
        for name, one in sorted(found.items(), key=lambda item: item[1]["seconds"]["p50"])
    ]
    return markdown(("fresh process, start to printed answer", "p50 s", "p90 s", "peak RSS, MB", "starts"), rows)


def class_map_table() -> str:
    """What the explanation adds to a graph."""
    rows = [
        [
            name,
            str(one["threads"]),
            f"{one['ratio']['value']:.4f} [{one['ratio']['low']:.4f}, {one['ratio']['high']:.4f}]",
        ]
        for name, both in _read("cost.json")["class_map"].items()
        for one in both
    ]
    return markdown(("graph with class map / the same graph without", "threads", "ratio of medians"), rows)


def energy_table() -> str:
    """What an answer takes, or that the machine does not tell."""
    found = _read("cost.json")["energy"]
    if found is None:
        return "This machine does not tell: neither RAPL, nor an INA3221, nor a Raspberry Pi's power chip can be read."
    head = ("read from", "idle, W", "busy, W", "an answer, mJ", "above idle, mJ")
    cells = [found["source"], *(f"{found[key]:.2f}" for key in ("idle_w", "busy_w", "mj", "mj_above_idle"))]
    return markdown(head, [cells])


TABLES = {
    "machines": machines_table,
    "aims": aims_table,
    **{
        f"{series}-{threads}": lambda series=series, threads=threads: full_table(series, threads)
        for series in ("pixels", "files")
        for threads in (1, 2)
    },
    "throughput": throughput_table,
    "not-measured": missing_table,
    "split": split_table,
    "starts": start_table,
    "class-map": class_map_table,
    "energy": energy_table,
}
"""Tables of ``docs/benchmarks.md``."""
