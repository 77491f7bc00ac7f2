"""Aims: what was promised of an answer's cost, and whether what was measured keeps it.

What comes in are ``results/side-by-side.json`` and ``results/cost.json`` as read; what goes out are `Aim`s. One that is
not met says SHORT; one whose ways were not measured says so. The pages show all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .lineup import BARE, EAGER, FLOOR, GRADCAM, LEAN_GRADCAM, ONE_CPU, RUNTIME, UNJUDGED

OURS = (UNJUDGED, RUNTIME, ONE_CPU)


@dataclass(frozen=True)
class Aim:
    """A promise and what was found.

    Attributes:
        text: what is aimed at.
        limit: of the value.
        most: whether the value may be at most `limit`; else it has to be at least that.
        found: value, and the low and high end of its 95 % interval where it has one; empty: not measured.
        of: what the value is of.
    """

    text: str
    limit: float
    most: bool
    found: tuple[float, ...]
    of: str

    @property
    def verdict(self) -> str:
        """Say whether it is met; it is not beyond doubt where the limit lies within the interval."""
        if not self.found:
            return "not measured"
        value, low, high = self.found[0], min(self.found), max(self.found)
        if value > self.limit if self.most else value < self.limit:
            return "SHORT"
        return "met" if (high <= self.limit if self.most else low >= self.limit) else "met, but not beyond doubt"


def aims(side_by_side: Mapping[str, Any], cost: Mapping[str, Any]) -> list[Aim]:
    """Hold results against the aims.

    Args:
        side_by_side: ``results/side-by-side.json``.
        cost: ``results/cost.json``.
    """
    pixels, files = (by_name(side_by_side, series, 1) for series in ("pixels", "files"))
    found = []
    for name in OURS:
        text = "pixels to prediction with heatmap, by bare invoke"
        found.append(Aim(text, 1.10, True, _ratio(pixels, name, BARE), name))
    floor = fastest_floor(files)
    for name in OURS:
        text = "JPEG of 1024 x 768 to JSON, by fastest faithful decode and bare invoke"
        found.append(Aim(text, 1.15, True, _ratio(files, name, floor), f"{name}, by {floor or 'none'}"))
    for peer, limit in ((EAGER, 8.0), (GRADCAM, 30.0), (LEAN_GRADCAM, 30.0)):
        for name in OURS:
            text = f"{peer}, by this runtime, from pixels"
            found.append(Aim(text, limit, False, _ratio(pixels, peer, name), name))
    text = "every peer end to end, by this runtime: the nearest one"
    for name in (RUNTIME, ONE_CPU):
        behind = nearest_peer(files, name)
        found.append(Aim(text, 1.0, False, _ratio(files, behind, name), f"{behind or 'none'}, by {name}"))
    ours = {name: one for name, one in cost["start"]["found"].items() if name.startswith("`classify")}
    slowest = max(ours, key=lambda name: ours[name]["seconds"]["p50"])
    found.append(Aim("cold start to printed JSON, s", 0.25, True, (ours[slowest]["seconds"]["p50"],), slowest))
    largest = max(ours, key=lambda name: ours[name]["peak_rss_mb"])
    found.append(Aim("peak RSS of that, MB", 65.0, True, (ours[largest]["peak_rss_mb"],), largest))
    return found


def by_name(side_by_side: Mapping[str, Any], series: str, threads: int) -> dict[str, Any]:
    """Return the ways that were timed in a series, by name."""
    return {one["name"]: one for one in side_by_side["series"].get(series, {}).get(str(threads), ())}


def fastest_floor(files: Mapping[str, Any]) -> str:
    """Return the name of the fastest way that decodes faithfully and invokes, and nothing else; "": none was timed.

    Faithful is a decoder that gives the pixels of `preprocess.prepare`, equal in every value: see ``docs/speed.md`` for
    what less would change.
    """
    faithful = [one for name, one in files.items() if name.startswith(FLOOR) and one["pixels_off"] == 0]
    return min(faithful, key=lambda one: one["p50_ms"])["name"] if faithful else ""


def nearest_peer(files: Mapping[str, Any], base: str) -> str:
    """Return the name of the peer with the least ratio to a way; "": none was timed beside it."""
    peers = {name: _ratio(files, name, base) for name in files if name not in OURS and not name.startswith(FLOOR)}
    timed = [name for name, found in peers.items() if found]
    return min(timed, key=lambda name: peers[name]) if timed else ""


def _ratio(ways: Mapping[str, Any], name: str, base: str) -> tuple[float, ...]:
    return tuple(ways[name]["ratios"].get(base, ())) if name in ways else ()
