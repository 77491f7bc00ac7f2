"""Describe: the data card of an index: what is in it, what is wrong with it, and what could be learnt by cheating.

What comes in is an index; what goes out is a dict that JSON can hold; `train.data_card` lays it out for people. It
counts pictures and groups, names what was left out, measures colours, and says how far the source alone, or a picture's
twin on the other side of a split, gives the class away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .groups import CLUSTER, near_duplicate_pairs
from .index import NEAR_DUPLICATE_BITS, PROTOCOLS, SPLITS, Index, Row

COLOUR_SAMPLE = 200
"""Pictures measured per source and class: evenly spaced, which gives means to about a grey level."""

FEW_GROUPS = 3
"""A class that rests on fewer groups than this on the test side says little about new patients."""

PAIRS_NAMED = 10
"""Near-duplicate pairs of two classes that the card names, the nearest first: one of the two labels may be wrong."""

Numbers = npt.NDArray[np.float32]

COLOURS: dict[str, Callable[[Numbers], Numbers]] = {
    "red": lambda n: n[:, 0],
    "green": lambda n: n[:, 1],
    "blue": lambda n: n[:, 2],
    "saturation": lambda n: 1 - n[:, :3].min(1) / np.maximum(n[:, :3].max(1), 1),
    "contrast": lambda n: n[:, 3:6].mean(1),
    "darkest": lambda n: n[:, 6:9].mean(1),
    "background": lambda n: n[:, 18:21].mean(1),
}
"""Readings of `train.colour.colour_numbers`, (N, 21) -> (N,): mean of each channel, saturation of the mean colour
(0..1), standard deviation within a picture, 5 % and 95 % quantile (means of the channels); grey levels 0..255."""


def describe(index: Index) -> dict[str, Any]:
    """Describe an index.

    Args:
        index: split or not.

    Returns:
        A data card that JSON can hold: ``task``, ``labels``, ``counts`` (class -> source -> pictures and groups),
        ``sources``, ``left_out``, ``near_duplicates``, ``colours``, ``splits``, ``confounding`` and ``warnings``.

    Raises:
        DataError: the prepared pixels have gone and the data has changed.
    """
    labels, rows = index.task.labels, index.rows
    counts = {
        label: {
            source: _size([row.group for row in rows if (row.label, row.source) == (label, source)])
            for source in sorted({row.source for row in rows if row.label == label})
        }
        for label in labels
    }
    card = {
        "task": index.task.name,
        "title": index.task.title,
        "intended": index.task.intended,
        "labels": list(labels),
        "pictures": len(rows),
        "groups": len({row.group for row in rows}),
        "data_sha256": index.sha256,
        "counts": counts,
        "sources": _sources(index),
        "left_out": {
            "unreadable": index.info["unreadable"],
            "contradictory": index.info["contradictory"],
            "exact_duplicates": index.info["exact_duplicates"],
            "repeated": index.info.get("repeated", []),
            "labels": index.info["labels_left_out"],
            "remarks": index.info.get("remarks", []),
        },
        "near_duplicates": _near_duplicates(index),
        "colours": _colours(index),
        "splits": _splits(index),
        "confounding": _confounding(index, counts),
    }
    return card | {"warnings": _warnings(card)}


def _size(groups: Sequence[str]) -> dict[str, int]:
    return {"pictures": len(groups), "groups": len(set(groups))}


def _sources(index: Index) -> dict[str, Any]:
    """Say of every source who made it and how its picture files are; formats and sizes are read from their headers."""
    from PIL import Image
    from tqdm import tqdm

    from .sources import SOURCES

    found = {}
    for name in sorted({row.source for row in index.rows}):
        rows = [row for row in index.rows if row.source == name]
        sizes: Counter[str] = Counter()
        formats: Counter[str] = Counter()
        for path in tqdm(sorted({row.path for row in rows}), desc=f"headers of {name}", unit="picture", disable=None):
            try:
                with Image.open(index.data / path) as picture:
                    sizes[f"{picture.width} x {picture.height}"] += 1
                    formats[str(picture.format)] += 1
            except OSError:
                formats["not there any more"] += 1
        found[name] = {
            "title": SOURCES[name].title,
            "licence": SOURCES[name].licence,
            "citation": SOURCES[name].citation,
            **_size([row.group for row in rows]),
            "clusters": len({row.group for row in rows if row.group.startswith(f"{name}:{CLUSTER}")}),
            "boxes": sum(row.box is not None for row in rows),
            "sizes_px": dict(sizes.most_common()),
            "formats": dict(formats.most_common()),
        }
    return found


def _near_duplicates(index: Index) -> dict[str, Any]:
    first, second = near_duplicate_pairs([row.phash for row in index.rows])
    pairs = [(index.rows[i], index.rows[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    of_two = [(_bits_apart(a, b), a, b) for a, b in pairs if a.label != b.label]
    of_two.sort(key=lambda pair: pair[0])
    return {
        "bits": NEAR_DUPLICATE_BITS,
        "pairs": len(pairs),
        "of_two_classes": len(of_two),
        "of_two_classes_examples": [
            f"{a.path} ({a.label}), {b.path} ({b.label}): {bits} bits apart" for bits, a, b in of_two[:PAIRS_NAMED]
        ],
        "across_sides": {
            protocol: sum(getattr(a, protocol) != getattr(b, protocol) for a, b in pairs) for protocol in PROTOCOLS
        },
    }


def _bits_apart(a: Row, b: Row) -> int:
    return (int(a.phash, 16) ^ int(b.phash, 16)).bit_count()


def _colours(index: Index) -> list[dict[str, Any]]:
    from .colour import colour_numbers
    from .pixels import load_pixels

    pixels, found = load_pixels(index), []
    strata = sorted({(row.source, row.label) for row in index.rows})
    for source, label in strata:
        numbers = [i for i, row in enumerate(index.rows) if (row.source, row.label) == (source, label)]
        places = np.unique(np.linspace(0, len(numbers) - 1, min(COLOUR_SAMPLE, len(numbers))).round().astype(int))
        measured = colour_numbers(pixels[[numbers[place] for place in places]])  # (n, 21)
        row: dict[str, Any] = {"source": source, "label": label, "measured": len(places)}
        for name, read in COLOURS.items():
            values = read(measured)
            row[name] = {"mean": round(float(values.mean()), 3), "spread": round(float(values.std()), 3)}
        found.append(row)
    return found


def _splits(index: Index) -> dict[str, Any]:
    """Count pictures and groups per side; a torn group has pictures on several sides."""
    found: dict[str, Any] = {}
    for protocol in PROTOCOLS if "split_seed" in index.info else ():
        sides: dict[str, set[str]] = {}
        for row in index.rows:
            sides.setdefault(row.group, set()).add(getattr(row, protocol))
        found[protocol] = {"torn_groups": sum(len(held) > 1 for held in sides.values()), "sides": {}}
        for side in SPLITS:
            rows = [row for row in index.rows if getattr(row, protocol) == side]
            per_group = list(Counter(row.group for row in rows).values())
            found[protocol]["sides"][side] = {
                **_size([row.group for row in rows]),
                "pictures_per_group": {"median": float(np.median(per_group)), "largest": max(per_group)},
                "labels": {
                    label: _size([row.group for row in rows if row.label == label]) for label in index.task.labels
                },
            }
    return found


def _confounding(index: Index, counts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Say how well the source alone gives the class away.

    Per source one guesses the class whose pictures come from it most often relative to the class's size, the best
    guess for balanced accuracy; with one source, or the same class shares in all, that is no better than chance. For
    one class against the rest the best balanced accuracy is (1 + d) / 2, with d the total variation distance between
    the sources of the class and those of the rest.
    """
    from sklearn.metrics import balanced_accuracy_score, normalized_mutual_info_score

    labels, sources = [row.label for row in index.rows], [row.source for row in index.rows]
    sizes, joint = Counter(labels), Counter(zip(sources, labels, strict=True))
    of_source = Counter(sources).items()
    guess = {s: max(index.task.labels, key=lambda label: joint[s, label] / sizes[label]) for s in set(sources)}

    def against_rest(label: str) -> float:
        own, rest = sizes[label], len(labels) - sizes[label]
        return (1 + sum(abs(joint[s, label] / own - (n - joint[s, label]) / rest) for s, n in of_source) / 2) / 2

    return {
        "normalised_mutual_information": float(normalized_mutual_info_score(labels, sources)),
        "balanced_accuracy_of_source": float(balanced_accuracy_score(labels, [guess[s] for s in sources])),
        "chance": 1 / len(index.task.labels),
        "class_against_rest": {label: against_rest(label) for label in index.task.labels},
        "single_source": {label: next(iter(found)) for label, found in counts.items() if len(found) == 1},
    }


def _warnings(card: dict[str, Any]) -> list[str]:
    single, found = card["confounding"]["single_source"], []
    if len(card["sources"]) == 1:
        found.append(f"every class comes from {next(iter(card['sources']))} only: another laboratory is never seen")
    else:
        for label, source in single.items():
            found.append(f"{label} comes from {source} only: to know the source can be to know the class")
    for protocol, split in card["splits"].items():
        if protocol == "grouped":
            for label, size in split["sides"]["test"]["labels"].items():
                if size["groups"] < FEW_GROUPS:
                    found.append(f"grouped test: {label} rests on {size['groups']} group(s)")
        if split["torn_groups"]:
            found.append(f"{protocol}: {split['torn_groups']} of {card['groups']} groups are on several sides")
        if across := card["near_duplicates"]["across_sides"][protocol]:
            found.append(f"{protocol}: {across} near-duplicate pairs have their pictures on two sides")
    return found
