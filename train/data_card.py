"""Data card: what `train.describe` found about an index, laid out for people. Nothing is measured or printed here."""

from __future__ import annotations

from typing import Any

from .describe import COLOURS
from .layout import columns

INDENT = "  "
"""What the lines of a table begin with."""


def format_card(card: dict[str, Any]) -> str:
    """Lay out a data card for people.

    Args:
        card: from `describe`.
    """
    sources, left_out, near = card["sources"], card["left_out"], card["near_duplicates"]
    parts = [
        f"{card['task']}: {card['title']}\n{card['pictures']} pictures in {card['groups']} groups, "
        f"sha256 {card['data_sha256'][:12]}\nshown: {card['intended']}",
        "\n".join(f"WARNING: {text}" for text in card["warnings"]),
        _counts_text(card),
        _confounding_text(card["confounding"]),
        *(_source_text(name, source) for name, source in sources.items()),
        "left out\n"
        + columns(
            ["", "pictures"],
            [
                ["exact duplicates", str(left_out["exact_duplicates"])],
                *([f"labelled {name}", str(count)] for name, count in left_out["labels"].items()),
                ["unreadable", str(len(left_out["unreadable"]))],
                ["under two labels (sets)", str(len(left_out["contradictory"]))],
            ],
            INDENT,
        ),
        *(
            "\n".join([f"{title}:", *(f"  {line}" for line in lines)])
            for title, lines in (
                ("unreadable", left_out["unreadable"]),
                ("one picture under two labels", left_out["contradictory"]),
                ("remarks", left_out["remarks"]),
            )
            if lines
        ),
        _near_duplicates_text(near),
        "colours, mean +- spread between pictures, grey levels (saturation 0..1)\n"
        + columns(
            ["source", "class", "n", *COLOURS],
            [
                [row["source"], row["label"], str(row["measured"]), *(_colour(name, row[name]) for name in COLOURS)]
                for row in card["colours"]
            ],
            INDENT,
        ),
        *(_split_text(protocol, split) for protocol, split in card["splits"].items()),
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(size: dict[str, int] | None) -> str:
    return f"{size['pictures']} / {size['groups']}" if size else "-"


def _colour(name: str, value: dict[str, float]) -> str:
    digits = 2 if name == "saturation" else 0
    return f"{value['mean']:.{digits}f} +- {value['spread']:.{digits}f}"


def _counts_text(card: dict[str, Any]) -> str:
    against_rest = card["confounding"]["class_against_rest"]
    rows = [
        [label, *(_cell(found.get(name)) for name in card["sources"]), f"{against_rest[label]:.3f}"]
        for label, found in card["counts"].items()
    ]
    table = columns(["", *card["sources"], "told from the rest by source alone"], rows, INDENT)
    return f"class by source, pictures / groups; and the balanced accuracy of who knows only the source\n{table}"


def _confounding_text(found: dict[str, Any]) -> str:
    return (
        f"over all classes the source alone has a balanced accuracy of {found['balanced_accuracy_of_source']:.3f} "
        f"(chance {found['chance']:.3f}); normalised mutual information "
        f"{found['normalised_mutual_information']:.3f}"
    )


def _source_text(name: str, source: dict[str, Any]) -> str:
    def shares(counts: dict[str, int]) -> str:
        shown = [f"{key} ({count})" for key, count in list(counts.items())[:4]]
        return ", ".join(shown + ([f"{len(counts) - 4} more"] if len(counts) > 4 else []))

    boxes = f", {source['boxes']} of them boxes" if source["boxes"] else ""
    clusters = f" ({source['clusters']} of them clusters, for want of patients)" if source["clusters"] else ""
    return (
        f"{name}: {source['title']}\n  {source['pictures']} pictures in {source['groups']} groups{clusters}{boxes}; "
        f"{source['citation']}; {source['licence']}\n"
        f"  sizes, px: {shares(source['sizes_px'])}; formats: {shares(source['formats'])}"
    )


def _near_duplicates_text(near: dict[str, Any]) -> str:
    named = near["of_two_classes_examples"]
    more = near["of_two_classes"] - len(named)
    return "\n".join(
        [
            f"near duplicates ({near['bits']} of 256 bits): {near['pairs']} pairs, "
            f"{near['of_two_classes']} of two classes",
            *(INDENT + line for line in named),
            *([f"{INDENT}and {more} more of two classes"] if more else []),
        ]
    )


def _split_text(protocol: str, split: dict[str, Any]) -> str:
    sides = split["sides"]
    rows = [[label, *(_cell(side["labels"][label]) for side in sides.values())] for label in sides["train"]["labels"]]
    rows.append(["all", *(_cell(side) for side in sides.values())])
    rows.append(
        [
            "pictures in a group, median / largest",
            *(
                f"{side['pictures_per_group']['median']:g} / {side['pictures_per_group']['largest']}"
                for side in sides.values()
            ),
        ]
    )
    return f"{protocol} split, pictures / groups\n{columns(['', *sides], rows, INDENT)}"
