"""Data card of the report: what `train.describe` found about an index, as tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .describe import COLOURS
from .page import Block, Section, Table, Text


def data_sections(card: dict[str, Any], runs: Sequence[str]) -> list[Section]:
    """Return the section of one index.

    Args:
        card: from `train.describe.describe`.
        runs: folders of the runs that were trained on it.
    """
    found, near = card["confounding"], card["near_duplicates"]
    opening = [
        f"{card['task']}: {card['title']}. {card['pictures']} pictures in {card['groups']} groups; sha256 of pictures, "
        f"labels, groups and splits {card['data_sha256'][:16]}. Used by: {', '.join(runs)}."
    ]
    facts = [
        f"The source alone gives the class away with a balanced accuracy of {found['balanced_accuracy_of_source']:.3f} "
        f"(chance {found['chance']:.3f}; all {card['pictures']} pictures, no interval: this is the whole set); "
        f"normalised mutual information {found['normalised_mutual_information']:.3f}.",
        f"Near duplicates ({near['bits']} of 256 bits of a perceptual hash): {near['pairs']} pairs, "
        f"{near['of_two_classes']} of two classes.",
        *(f"Of two classes: {line}." for line in near["of_two_classes_examples"]),
    ]
    blocks: list[Block] = [Text(opening)]
    if card["warnings"]:
        blocks += [Text(["Warnings:"]), Text(card["warnings"], points=True)]
    blocks += [_sources(card), _counts(card), Text(facts, points=True)]
    blocks += [_split(protocol, split) for protocol, split in card["splits"].items()]
    blocks += [_colours(card), _left_out(card)]
    return [Section(f"Data: {card['task']}, {', '.join(card['sources'])}", blocks)]


def _size(size: dict[str, int] | None) -> str:
    return f"{size['pictures']} / {size['groups']}" if size else "-"


def _sources(card: dict[str, Any]) -> Table:
    rows = [
        [
            name,
            source["title"],
            source["citation"],
            source["licence"],
            f"{source['pictures']} / {source['groups']}"
            + (f" ({source['clusters']} of them clusters, for want of patients)" if source["clusters"] else ""),
        ]
        for name, source in card["sources"].items()
    ]
    return Table("Sources.", ["source", "what", "citation", "terms", "pictures / groups"], rows)


def _counts(card: dict[str, Any]) -> Table:
    names = list(card["sources"])
    rows = [[label, *(_size(found.get(name)) for name in names)] for label, found in card["counts"].items()]
    return Table("Classes by source, pictures / groups; all splits.", ["class", *names], rows)


def _split(protocol: str, split: dict[str, Any]) -> Table:
    sides = split["sides"]
    rows = [[label, *(_size(side["labels"][label]) for side in sides.values())] for label in sides["train"]["labels"]]
    rows.append(["all", *(_size(side) for side in sides.values())])
    return Table(
        f"{protocol} split, pictures / groups; {split['torn_groups']} groups are on several sides.",
        ["class", *sides],
        rows,
    )


def _colours(card: dict[str, Any]) -> Table:
    rows = []
    for row in card["colours"]:
        digits = {name: 2 if name == "saturation" else 0 for name in COLOURS}
        cells = [f"{row[name]['mean']:.{digits[name]}f} ± {row[name]['spread']:.{digits[name]}f}" for name in COLOURS]
        rows.append([f"{row['source']}: {row['label']}", str(row["measured"]), *cells])
    return Table(
        "Colours, mean ± standard deviation between pictures, grey levels 0..255 (saturation 0..1); all splits.",
        ["source: class", "pictures measured", *COLOURS],
        rows,
    )


def _left_out(card: dict[str, Any]) -> Table:
    left_out = card["left_out"]
    rows = [
        ["exact duplicates", str(left_out["exact_duplicates"])],
        *([f"labelled {name}: no class of the task", str(count)] for name, count in left_out["labels"].items()),
        ["unreadable", str(len(left_out["unreadable"]))],
        ["one picture under two labels (sets)", str(len(left_out["contradictory"]))],
    ]
    return Table("Left out of the index.", ["why", "pictures"], rows)
