"""The scan's sums and files: Wilson's intervals, who is counted, CSV, JSON, page and sheet; written whole, or not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.classifier import Classifier, Flag
from edge_runtime.contact_sheet import SHOWN, THUMB_PX, ContactSheet, heading
from edge_runtime.differential import Tally
from edge_runtime.errors import OutputError
from edge_runtime.refusal import Refusal
from edge_runtime.scan import FieldScan, ScannedCell, Scanner
from edge_runtime.scan_files import DATA, PAGE, SHEET, TABLE, scan_files
from edge_runtime.scan_text import differential_text
from edge_runtime.shares import wilson
from train.render import render_field

HOSTILE = 'a<script>alert("x")</script>&\'\n,;.png'


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.open("blood-cells", threads=1)


@pytest.fixture(scope="module")
def field(classifier: Classifier) -> FieldScan:
    return Scanner(classifier).scan(render_field("Early", np.random.default_rng(5), 448).pixels, "early.png")


Make = Callable[..., FieldScan]


@pytest.fixture
def made(field: FieldScan) -> Make:
    """Return a function that makes a field whose cells have given labels."""
    sample = next(cell for cell in field.cells if not cell.cell.cut)

    def make(*labels: str, name: str = "made.png", **changes: object) -> FieldScan:
        cells = []
        for place, label in enumerate(labels):
            blast = label == "blast"
            prediction = replace(
                sample.prediction,
                label=label,
                probability=1 / (1 + place),
                flags={"blast": Flag(blast, float(blast), 0.5)},
                refusals=(),
            )
            cells.append(replace(sample, prediction=prediction))
        return replace(field, name=name, cells=tuple(cells), **changes)

    return make


def changed(scan: FieldScan, place: int, **changes: object) -> FieldScan:
    """Return a field with one cell changed."""
    cells = list(scan.cells)
    cell: ScannedCell = cells[place]
    prediction = replace(cell.prediction, refusals=changes.get("refusals", ()))
    cells[place] = replace(cell, prediction=prediction, cell=replace(cell.cell, cut=bool(changes.get("cut"))))
    return replace(scan, cells=tuple(cells))


@pytest.mark.parametrize(
    ("count", "total"), [(0, 10), (10, 10), (1, 100), (3, 7), (81, 263), (50_000, 100_000), (0, 1)]
)
def test_wilsons_interval_is_scipys(count: int, total: int) -> None:
    from scipy.stats import binomtest

    known = binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson(count, total) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilsons_interval_of_newcombe() -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    for count, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        assert wilson(count, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(0, 0) == (0.0, 1.0)


def test_only_leukocytes_that_may_be_counted_are_in_the_shares(classifier: Classifier, made: Make) -> None:
    tally = Tally(classifier.bundle.manifest)
    first = made("neutrophil", "neutrophil", "lymphocyte", "blast", "erythroblast", "platelet", name="a.png")
    tally.add(changed(changed(first, 1, cut=True), 2, refusals=(Refusal("unfamiliar", "distance", 9.0, high=5.0),)))
    blurred = (Refusal("blurred", "sharpness", 0.1, low=0.5),)
    tally.add(made("blast", "blast", name="b.png", refusals=blurred))
    tally.fail("c.png", "c.png: no such file")
    tally.add(made("neutrophil", "neutrophil", "neutrophil", name="a.png"))  # another part of the same picture
    found = tally.differential()
    assert (found.fields, found.failed, found.refused, found.found, found.counted) == (3, 1, 1, 11, 5)
    shares = {share.name: (share.count, share.total) for share in found.leukocytes}
    assert shares["neutrophil"] == (4, 5) and shares["blast"] == (1, 5) and shares["lymphocyte"] == (0, 5)
    assert {share.name: share.count for share in found.beside} == {"erythroblast": 1, "platelet": 1, "smudge cell": 0}
    assert not {"erythroblast", "platelet", "smudge cell"} & shares.keys()
    assert found.left_out == {"cut": 1, "no answer": 1, "field refused": 2}
    (point,) = found.points
    assert (point.share.count, point.share.total) == (1, 7)  # not the two of the refused field
    assert point.false_alarms == pytest.approx(7 * (1 - point.specificity))
    a, b, c = tally.rows
    assert (a.parts, a.found, b.refused_parts, dict(b.refused)) == (2, 9, 1, {"blurred": 1})
    assert c.error and not c.wholly_refused
    told = found.to_dict()
    assert told["leukocytes"][2] == {
        "name": "neutrophil",
        "count": 4,
        "of": 5,
        "share": 0.8,
        "low": wilson(4, 5)[0],
        "high": wilson(4, 5)[1],
    }
    text = differential_text(found)
    assert "3 fields, 11 white cells found, 5 leukocytes counted; 1 refused; 1 failed" in text
    assert re.search(r"neutrophil +4 +80\.0 %  \(37\.6 to 96\.4 %\)", text)
    assert "1 the picture's border cuts the cell" in text


def test_nothing_found_is_no_division_by_zero(classifier: Classifier) -> None:
    found = Tally(classifier.bundle.manifest).differential()
    assert found.counted == 0 and found.to_dict()["leukocytes"][0]["share"] is None
    assert "left out: none" in differential_text(found)


UNFAMILIAR = (Refusal("unfamiliar", "distance from the training pictures", 9.0, high=3.5),)


def test_where_the_model_declined_the_report_says_so_and_gives_no_result(
    classifier: Classifier, made: Make, tmp_path: Path
) -> None:
    scan = made("blast", "blast", "lymphocyte", "lymphocyte", "lymphocyte")
    for place in range(5):
        scan = changed(scan, place, refusals=UNFAMILIAR)
    tally = Tally(classifier.bundle.manifest)
    tally.add(scan)
    found = tally.differential()
    assert found.declined == {"unfamiliar": 5} and found.would_have_said == {"lymphocyte": 3, "blast": 2}
    assert found.to_dict()["declined"] == tally.rows[0].to_dict()["declined"] == {"unfamiliar": 5}
    text = differential_text(found)
    assert "no cell was counted" in text and "%" not in text and "flagged" not in text
    assert "no answer, unfamiliar 5: unlike what the model was trained on: look yourself" in text
    assert "would have said, which is no result: lymphocyte 3, blast 2" in text
    assert "5 of 5 cells are unlike the model's training pictures" in text and "docs/abstention.md" in text
    page = Page()
    page.feed(write(tmp_path, classifier, scan)[PAGE].read_text(encoding="utf-8"))
    shown = " ".join(page.text)
    assert "The model declined to answer for 5 cells." in shown and "Flagged" not in shown
    assert "What it would have said of these: no result" in shown and "of the leukocytes that were" not in shown.lower()
    assert all(text.startswith("would have said ") for text in page.alternatives) and len(page.alternatives) == 5
    assert "blast?" not in shown


def test_shares_of_some_answers_say_how_many_were_declined(classifier: Classifier, made: Make) -> None:
    tally = Tally(classifier.bundle.manifest)
    ambiguous = (Refusal("ambiguous", "labels that cannot be excluded", 2.0, high=1.0),)
    tally.add(changed(made("neutrophil", "neutrophil", "platelet", "monocyte"), 3, refusals=ambiguous))
    text = differential_text(tally.differential())
    assert "Shares are of the 3 of 4 cells that it answered" in text and "would have said" in text


def test_groups_are_sorted_and_large_ones_sampled(classifier: Classifier, made: Make) -> None:
    sheet = ContactSheet(classifier.bundle.manifest)
    scan = made(*["neutrophil"] * (SHOWN + 40), "lymphocyte", "blast", "monocyte", "monocyte")
    sheet.add(changed(scan, SHOWN + 42, cut=True))
    groups = list(sheet.groups())
    assert [(group.title, group.total) for group in groups] == [
        ("flagged: blast", 1),
        ("neutrophil", SHOWN + 40),
        ("lymphocyte", 1),
        ("monocyte", 1),
        ("left out: the picture's border cuts the cell", 1),
    ]
    neutrophils = groups[1]
    assert len(neutrophils.shown) == SHOWN and heading(neutrophils) == (
        f"neutrophil ({SHOWN + 40} cells, {SHOWN} of them shown, picked by chance)"
    )
    probabilities = [thumbnail.probability for thumbnail in neutrophils.shown]
    assert probabilities == sorted(probabilities, reverse=True)
    numbers = {thumbnail.number for thumbnail in neutrophils.shown}
    assert len(numbers) == SHOWN and max(numbers) > SHOWN and min(numbers) < 40  # neither the first nor the best
    again = ContactSheet(classifier.bundle.manifest)
    again.add(changed(scan, SHOWN + 42, cut=True))
    assert list(again.groups()) == groups


class Page(HTMLParser):
    """Collects a page's tags, text, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [value for key in ("src", "href") if (value := values.get(key)) is not None]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def write(folder: Path, classifier: Classifier, *scans: FieldScan) -> dict[str, Path]:
    tally = Tally(classifier.bundle.manifest)
    with scan_files(folder, classifier.bundle) as files:
        for scan in scans:
            tally.add(scan)
            files.add(scan)
        tally.fail("broken<i>.png", "broken<i>.png: damaged & truncated")
        files.finish(tally)
    return {name: folder / name for name in (PAGE, TABLE, DATA, SHEET)}


def test_the_page_stands_alone_and_escapes_what_it_shows(
    classifier: Classifier, field: FieldScan, made: Make, tmp_path: Path
) -> None:
    text = write(tmp_path, classifier, replace(field, name=HOSTILE), made("blast", name="made.png"))[PAGE].read_text(
        encoding="utf-8"
    )
    page = Page()
    page.feed(text)
    assert page.open == [] and not {"script", "i", "link", "iframe"} & set(page.tags)
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert "url(" not in text and "@import" not in text and "http" not in text
    shown = " ".join(page.text)
    assert 'a<script>alert("x")</script>&\' ,;.png' in shown and "broken<i>.png: damaged & truncated" in shown
    assert (
        "Wilson" in shown
        and len(page.alternatives) == len(field.cells) + 1
        and all("heatmap" in text for text in page.alternatives)
    )
    assert "not a diagnosis" in shown and "@media print" in text
    assert page.tags.count("th") > 20 and page.tags.count("caption") == page.tags.count("table") >= 4
    for anchor in (link for link in page.links if link.startswith("#")):
        assert f'id="{anchor[1:]}"' in text


def test_the_table_has_a_row_per_cell(classifier: Classifier, field: FieldScan, tmp_path: Path) -> None:
    with write(tmp_path, classifier, replace(field, name=HOSTILE), field)[TABLE].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * len(field.cells) and {row["field"] for row in rows} == {HOSTILE, "early.png"}
    for row, cell in zip(rows, field.cells, strict=False):
        assert row["label"] == cell.prediction.label and float(row["p blast"]) == pytest.approx(
            cell.prediction.probabilities["blast"], abs=1e-6
        )
        assert (row["left_out"] == "cut") == (row["cut"] == "yes") == cell.cell.cut
        assert [int(row[key]) for key in ("left", "top", "width", "height")] == list(cell.cell.box)
        assert int(row["crop_px"]) == cell.crop[2] and row["blast"] == (
            "yes" if cell.prediction.flags["blast"].yes else "no"
        )
    assert [int(row["cell"]) for row in rows[: len(field.cells)]] == list(range(1, len(field.cells) + 1))


def test_the_data_agree_with_the_table(classifier: Classifier, field: FieldScan, tmp_path: Path) -> None:
    paths = write(tmp_path, classifier, field)
    data = json.loads(paths[DATA].read_text())
    assert data["scans"] == [json.loads(json.dumps(field.to_dict()))]
    assert [row["field"] for row in data["fields"]] == ["early.png", "broken<i>.png"]
    assert data["fields"][1]["error"] == "broken<i>.png: damaged & truncated"
    assert data["differential"]["found"] == len(field.cells) and data["note"].startswith("Research")
    with Image.open(paths[SHEET]) as sheet:
        assert sheet.format == "JPEG" and sheet.width > 10 * 2 * THUMB_PX


def test_an_empty_scan_has_a_report_too(classifier: Classifier, tmp_path: Path) -> None:
    paths = write(tmp_path, classifier)
    assert "No cell was found" in paths[PAGE].read_text() and json.loads(paths[DATA].read_text())["scans"] == []


def test_a_scan_that_fails_leaves_the_folder_as_it_was(
    classifier: Classifier, field: FieldScan, tmp_path: Path
) -> None:
    paths = write(tmp_path / "out", classifier, field)
    before = {name: path.read_bytes() for name, path in paths.items()}
    with pytest.raises(KeyboardInterrupt), scan_files(tmp_path / "out", classifier.bundle) as files:
        files.add(replace(field, name="other"))
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"), scan_files(tmp_path / "file", classifier.bundle):
        pass


def test_a_thousand_cells_are_a_page_of_sane_size(classifier: Classifier, made: Make, tmp_path: Path) -> None:
    labels = classifier.labels
    scans = [made(*(labels[(i + j) % len(labels)] for j in range(50)), name=f"{i}.png") for i in range(20)]
    paths = write(tmp_path, classifier, *scans)
    assert paths[PAGE].stat().st_size < 6_000_000 and paths[SHEET].stat().st_size < 6_000_000
