"""Explain: where runs saw a class in pictures, by several methods, side by side and as raw arrays.

What comes in are run folders and pictures, each of which is prepared by every run's own preprocessing; what goes out
is a folder: ``<picture>.npz`` with the heatmaps as they are, ``contact-sheet.png`` for people and ``explanations.json``
with what was asked, answered and spent. How a run is asked is `train.answers`' business, the methods are
`train.attribution`'s; what a heatmap is worth is measured by `train.faithfulness`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ImageError, UsageError
from edge_runtime.files import make_folder, require_writable, write_text, write_whole
from edge_runtime.guard import complain, plain
from edge_runtime.pictures import distinct, find_pictures
from edge_runtime.preprocess import decode, prepare

from .answers import LAST, SEEDS, Answer, Wish, ask, require_class_and_layer
from .attribution import METHODS
from .contact_sheet import NOTE, Row, contact_sheet
from .evaluate import best_device
from .layout import columns
from .run_folder import Run, read_run

DEFAULT_METHODS = ("class-map", "gradcam", "lime")
COLUMNS = {"spearman": "Spearman between seeds", "overlap": "overlap between seeds"}
"""What `between_seeds` measures -> head of its column."""

SHEET, RESULT = "contact-sheet", "explanations.json"
PAGE_ROWS = 40
"""Rows of one contact sheet; what is more goes into contact-sheet-2.png and so on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("pictures", nargs="+", metavar="IMAGE", help="picture, or folder to search")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--beside",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="RUN",
        help="more runs, in the same sheet",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        action="extend",
        choices=list(METHODS),
        metavar="METHOD",
        help=f"of {', '.join(METHODS)} (default {' '.join(DEFAULT_METHODS)})",
    )
    parser.add_argument(
        "--class", dest="label", metavar="LABEL", help="explain this class (default: the predicted one)"
    )
    parser.add_argument("--layer", metavar="NAME", help=f"of the backbone, such as 13 (default: the {LAST})")
    parser.add_argument("--seed", type=int, metavar="N", help="of LIME's samples (default 0)")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help=f"ask LIME under N seeds, to see how far they agree (default {SEEDS})"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Explain pictures; return the exit status: 1 where one could not be read."""
    methods = tuple(dict.fromkeys(args.method or DEFAULT_METHODS))
    _require_effect(methods, {"layer": args.layer, "seed": args.seed, "seeds": args.seeds})
    given = {name: value for name in ("layer", "seed", "seeds") if (value := getattr(args, name)) is not None}
    with _as_options():
        wish = Wish(methods, args.label, **given)
    errors: list[str] = []

    def unlisted(error: OSError) -> None:
        errors.append(f"{error.filename}: cannot be listed: {error.strerror}")
        complain(errors[-1])

    pictures = find_pictures(args.pictures, unlisted, skip=args.out)
    for picture in pictures:
        name = Path(os.path.realpath(picture))
        if name.parent == Path(os.path.realpath(args.out)) and name.name.startswith(SHEET):
            raise UsageError("--out holds a picture that would be overwritten", got=picture, todo="give another folder")
    runs = [read_run(folder) for folder in (args.run_folder, *args.beside)]
    with _as_options():
        for one in runs:
            require_class_and_layer(one, wish)
    found = explain(runs, pictures, wish, args.out, errors)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    elif found["explanations"]:
        sys.stdout.write(f"{table(found)}\n-> {plain(str(args.out))}\n{NOTE}\n")
    return 1 if found["errors"] else 0


@contextmanager
def _as_options() -> Iterator[None]:
    """Let what is wrong with a wish be called by its option, which has the same name."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"--{error.what}", got=error.got, expected=error.expected, todo=error.todo) from None


def _require_effect(methods: Sequence[str], options: dict[str, Any]) -> None:
    for option, value in options.items():
        users = [name for name, method in METHODS.items() if option.removesuffix("s") in method.options]
        if value is not None and not set(users) & set(methods):
            raise UsageError(f"--{option} is looked at by {' and '.join(users)} only", got=" ".join(methods))


def explain(
    runs: Sequence[Run], pictures: Sequence[str], wish: Wish, out: Path, errors: Sequence[str] = ()
) -> dict[str, Any]:
    """Ask every run about every picture and write the answers; a picture that cannot be read is named and left out.

    Args:
        runs: at least one, each with the class and layer that are wished for; their tasks may differ.
        pictures: files.
        wish: what is asked.
        out: folder to write.
        errors: what has failed already.

    Returns:
        ``note``; ``device``; ``runs``: key -> folder, backbone and task; ``sheets``: names of files; ``explanations``:
        per picture, run and method ``picture``, ``file`` and ``key`` (where the array is), ``run``, ``class``,
        ``probability``, ``predicted``, ``method``, ``layer`` and ``seed`` (None where the method does not look at
        it), ``passes`` and ``duration_ms`` (of one map), and ``stability`` (see `train.answers.between_seeds`;
        None where nothing is seeded); ``errors``. Nothing is written where no picture could be read.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    # the first maps' durations are not to hold these imports
    import captum.attr  # noqa: F401
    import lime.lime_image  # noqa: F401
    from tqdm import tqdm

    make_folder(out)
    require_writable(out)
    keys = distinct(plain(one.folder.resolve().name) for one in runs)
    for one in runs:
        one.network.to(best_device()).eval()
    failed, entries, rows, sheets = list(errors), [], [], []
    with tqdm(
        total=len(pictures) * len(runs) * wish.questions, desc="explain", unit="map", leave=False, disable=None
    ) as bar:
        for picture, stem in zip(pictures, distinct(Path(picture).stem for picture in pictures), strict=True):
            try:
                decoded = decode(Path(picture))
                prepared = [prepare(decoded, one.preprocess) for one in runs]
            except ImageError as error:
                bar.clear()
                complain(str(error))
                failed.append(str(error))
                bar.update(len(runs) * wish.questions)
                continue
            arrays: dict[str, npt.NDArray[Any]] = {}
            for one, key, pixels in zip(runs, keys, prepared, strict=True):
                said = ask(one, pixels, wish, bar.update)
                arrays |= {f"{key}/{name}": array for name, array in said.arrays.items()}
                where = {"picture": picture, "file": f"{stem}.npz", "run": key}
                entries += [where | {"key": f"{key}/{entry['method']}"} | entry for entry in said.entries]
                rows.append(_row(Path(picture).name, key, said))
            if not sheets:
                _remove_older(out)
            with write_whole(out / f"{stem}.npz") as stream:
                np.savez(stream, **arrays)
            if len(rows) >= PAGE_ROWS:
                sheets.append(_write_sheet(rows, wish.titles, out, len(sheets)))
                rows = []
    if rows:
        sheets.append(_write_sheet(rows, wish.titles, out, len(sheets)))
    found = {
        "note": NOTE,
        "device": best_device(),
        "runs": {
            key: {"folder": str(one.folder), "backbone": one.backbone, "task": one.task.name}
            for key, one in zip(keys, runs, strict=True)
        },
        "sheets": sheets,
        "explanations": entries,
        "errors": failed,
    }
    if entries:
        write_text(out / RESULT, json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def _remove_older(out: Path) -> None:
    """Remove what an earlier run left: it would vouch for arrays, and show pictures, that it does not describe."""
    (out / RESULT).unlink(missing_ok=True)
    for file in out.glob(f"{SHEET}*.png"):
        if re.fullmatch(rf"{SHEET}(-[0-9]+)?\.png", file.name):
            file.unlink()


def _row(picture: str, key: str, said: Answer) -> Row:
    entry = said.entries[0]
    lines = [picture, key, f"{entry['class']} {100 * entry['probability']:.1f} %"]
    if entry["predicted"] != entry["class"]:
        lines.append(f"predicted: {entry['predicted']}")
    return Row(said.arrays["pixels"], lines, [said.arrays[e["method"]] for e in said.entries])


def _write_sheet(rows: Sequence[Row], titles: Sequence[str], out: Path, number: int) -> str:
    name = f"{SHEET}.png" if number == 0 else f"{SHEET}-{number + 1}.png"
    sheet = contact_sheet(rows, titles)
    with write_whole(out / name) as stream:
        sheet.save(stream, "PNG")
    return name


def table(found: dict[str, Any]) -> str:
    """Lay out what was found, for people."""
    rows = []
    for entry in found["explanations"]:
        agreed = entry["stability"]
        shown = ["-" if agreed is None or agreed[key] is None else f"{agreed[key]:.2f}" for key in COLUMNS]
        rows.append(
            [
                plain(Path(entry["picture"]).name),
                entry["run"],
                entry["class"],
                f"{100 * entry['probability']:.1f} %",
                entry["method"],
                entry["layer"] or "-",
                f"{entry['duration_ms']:.0f}",
                *shown,
            ]
        )
    head = ["picture", "run", "class", "probability", "method", "layer", "ms", *COLUMNS.values()]
    return columns(head, rows, rule=True)
