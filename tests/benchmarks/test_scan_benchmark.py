"""The judge of scans names what was missed and what has no box; fields enlarged are compared cell by cell."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import scan as benchmark
from benchmarks.cell_finder import Field, read_fields
from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError
from edge_runtime.refusal import Refusal
from edge_runtime.scan import Scanner
from train.render import render_field


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(Classifier.open("blood-cells", threads=1))


@pytest.fixture(scope="module")
def field(scanner: Scanner) -> Field:
    pixels = render_field("Early", np.random.default_rng(5), 320).pixels
    boxes = tuple(cell.cell.box for cell in scanner.scan(pixels).cells)
    return Field(pixels, boxes, 20.0, "early.png")


def test_what_is_missed_and_what_has_no_box_is_named(scanner: Scanner, field: Field) -> None:
    scans, times = benchmark.scan_all(scanner, [field])
    right = benchmark.judge([field], scans)
    assert right["centre_hit"]["recall"] == right["iou_0.5"]["precision"] == 1 and times[0] > 0
    assert right["misses"] == right["extras"] == []
    found = benchmark.judge([replace(field, boxes=(*field.boxes[1:], (100, 310, 10, 10)))], scans)
    assert found["centre_hit"]["found"] == len(field.boxes) - 1
    assert [miss["box"] for miss in found["misses"]] == [[100, 310, 10, 10]]
    assert found["misses"][0]["kind"].startswith("cut by the border; ")
    assert [extra["box"] for extra in found["extras"]] == [list(field.boxes[0])]
    assert found["extras"][0]["file"] == "early.png"


def test_a_field_compared_with_itself_agrees(scanner: Scanner, field: Field) -> None:
    scans, _ = benchmark.scan_all(scanner, [field])
    same = benchmark.compare(scans, scans, 1.0)
    assert same["found_again"] == same["same_class"] == 1 and same["new"] == 0
    fewer = [replace(scans[0], cells=scans[0].cells[1:])]
    assert benchmark.compare(scans, fewer, 1.0)["found_again"] == 1 - 1 / len(scans[0].cells)
    assert benchmark.compare(fewer, scans, 1.0)["new"] == 1 / len(scans[0].cells)


def test_what_the_model_declined_is_counted(scanner: Scanner, field: Field) -> None:
    (scan,), _ = benchmark.scan_all(scanner, [field])
    whole = [cell for cell in scan.cells if not cell.cell.cut]
    strange = (Refusal("unfamiliar", "distance", 9.0, high=3.5),)
    cells = [replace(cell, prediction=replace(cell.prediction, refusals=())) for cell in scan.cells]
    place = next(place for place, cell in enumerate(cells) if not cell.cell.cut)
    cells[place] = replace(cells[place], prediction=replace(cells[place].prediction, refusals=strange))
    found = benchmark.refusals_of([replace(scan, cells=tuple(cells), refusals=())])
    assert found["whole_cells"] == len(whole) and found["answered"] == len(whole) - 1 > 0
    assert found["declined"] == {"unfamiliar": 1} and found["fields_refused"] == 0
    assert benchmark.refusals_of([replace(scan, refusals=strange)])["whole_cells"] == 0


def test_a_slide_is_written_as_large_as_told(tmp_path: Path) -> None:
    import tifffile

    fields = benchmark.write_slide(tmp_path / "slide.tif", 1000, 1400)
    with tifffile.TiffFile(tmp_path / "slide.tif") as slide:
        page = slide.pages[0]
        assert page.shape == (1400, 1000, 3) and page.is_tiled
        pixels = page.asarray()
    assert fields == 3 and pixels[:448].std() > 10 and (pixels[500:] == 238).all()


def test_without_data_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set"):
        benchmark.measure(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_workers_and_one_process_are_timed_in_turns(field: Field, tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(field.pixels[number:]).save(tmp_path / f"{number}.png")
    found = benchmark.side_by_side(tmp_path, "blood-cells", 1)
    assert found["fields"] == 2 and set(found["ways"]) == {"1", str(found["cpus"])}
    for count, way in found["ways"].items():
        assert way["fields_per_second"] == pytest.approx(2 / way["seconds"][0]) and 50 < way["peak_rss_mb"] < 300
        assert (count == "1") == (way["worker_peak_rss_mb"] == 0)


def test_real_fields(scanner: Scanner, shared_data: Path) -> None:
    """On every eighth field of BCCD, whole scans find what the finder alone finds."""
    fields = read_fields(shared_data)[::8]
    found = benchmark.judge(fields, benchmark.scan_all(scanner, fields)[0])
    assert found["centre_hit"]["recall"] >= 0.97 and found["centre_hit"]["precision"] >= 0.95
