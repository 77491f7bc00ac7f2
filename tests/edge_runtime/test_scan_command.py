"""The command ``scan`` and slides: what is printed and written, restarts, and pictures larger than memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import bomb, tiny_bundle
from PIL import Image

from edge_runtime import slides
from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError, ImageError
from edge_runtime.quality import CLIPPED
from edge_runtime.scan import FieldScan, Scanner
from edge_runtime.slides import is_slide, scan_slide
from train.render import render_field

ROOT = Path(__file__).resolve().parents[2]
FILES = {"report.html", "cells.csv", "scan.json", "contact-sheet.jpg"}


@pytest.fixture
def scan_command(run):
    """Return a function that runs ``scan``, as `run` does."""
    return lambda *arguments: run("scan", *arguments)


def render(label: str, seed: int, side: int = 448) -> np.ndarray:
    return render_field(label, np.random.default_rng(seed), side).pixels


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two fields, one of them empty, and one damaged picture."""
    folder = tmp_path_factory.mktemp("fields")
    Image.fromarray(render("Early", 5, 320)).save(folder / "a.png")
    Image.new("RGB", (320, 240), (240, 238, 242)).save(folder / "empty.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:900])
    return folder


def test_a_folder_becomes_one_report(scan_command, fields: Path, tmp_path: Path) -> None:
    status, out, err = scan_command(fields, fields / "a.png", "--out", tmp_path / "report")
    assert status == 1 and len(err) == 1 and "broken.png: damaged or truncated" in err[0]
    assert out.startswith("3 fields, ") and "; 1 failed" in out and out.endswith("not a diagnosis.\n")
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES
    data = json.loads((tmp_path / "report" / "scan.json").read_text())
    assert [Path(row["field"]).name for row in data["fields"]] == ["a.png", "broken.png", "empty.png"]  # a.png once
    assert data["fields"][0]["found"] == len(data["scans"][0]["cells"]) > 2
    assert data["fields"][2]["found"] == 0 and data["fields"][2]["scale"] == "unknown"


def test_a_copy_of_a_field_is_counted_once_and_named(scan_command, fields: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).write_bytes((fields / "a.png").read_bytes())
    (tmp_path / "empty.png").write_bytes((fields / "empty.png").read_bytes())
    status, out, err = scan_command(tmp_path)
    assert status == 0 and out.startswith("2 fields, ") and len(err) == 1
    assert "b.png: the same bytes as " in err[0] and "which is counted" in err[0]


def test_a_field_at_which_the_engine_fails_does_not_end_the_scan(
    scan_command, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Scanner, *arguments: object, **options: object) -> FieldScan:
        raise EngineError("a value that is not finite")

    monkeypatch.setattr(Scanner, "look", failing)
    status, out, err = scan_command(fields / "a.png", fields / "empty.png", "--out", tmp_path)
    assert status == 1 and len(err) == 2 and "2 failed" in out and "a.png: a value" in err[0]
    assert len(json.loads((tmp_path / "scan.json").read_text())["fields"]) == 2


def test_json_is_a_line_per_field(scan_command, fields: Path) -> None:
    status, out, _ = scan_command("--json", fields)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and [Path(line["field"]).name for line in lines] == ["a.png", "broken.png", "empty.png"]
    assert "error" in lines[1] and lines[0]["cells"][0]["number"] == 1


def test_nothing_is_written_unless_asked(
    scan_command, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert scan_command(fields / "a.png")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_report_among_the_fields_is_not_scanned(scan_command, fields: Path, tmp_path: Path) -> None:
    Image.open(fields / "a.png").save(tmp_path / "a.png")
    first = scan_command(tmp_path, "--out", tmp_path / "report")
    second = scan_command(tmp_path, "--out", tmp_path / "report")
    assert first == second and first[0] == 0


def test_wrong_usage_is_one_line(scan_command, fields: Path, tmp_path: Path) -> None:
    status, _, err = scan_command(fields, "--model", "all-subtypes")
    assert status == 2 and "scan needs a model for single cells: got all-subtypes" in err[0] and len(err) == 1
    status, _, err = scan_command(fields, "--um-per-px", "25")
    assert status == 2 and err == ["error: micrometres per pixel: got 25.0, expected 0.02 to 1.0"]
    (tmp_path / "nothing").mkdir()
    status, _, err = scan_command(tmp_path / "nothing")
    assert status == 2 and "no pictures there" in err[0] and ".svs" in err[0]
    field_bundle = tiny_bundle(tmp_path / "bundle")
    assert scan_command(fields, "--model", field_bundle)[0] == 2


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from edge_runtime.cli import build_parser; build_parser().parse_args(['scan', 'x']); "
        "print(sorted({'numpy', 'PIL', 'openslide'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_killed_and_started_again_it_loses_and_doubles_nothing(fields: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(6):
        with Image.open(fields / "a.png") as picture:
            picture.putpixel((0, 0), (number, 0, 0))  # a copy would be counted once
            picture.save(many / f"{number}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edge_runtime", "scan", str(many), "--out", str(out)]
    process = subprocess.Popen([*command, "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    json.loads(process.stdout.readline())  # it is at work
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert not FILES & {path.name for path in out.iterdir()}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert {path.name for path in out.iterdir()} == FILES  # what the killed one left is gone too
    data = json.loads((out / "scan.json").read_text())
    assert len(data["fields"]) == len(data["scans"]) == 6 and len({row["found"] for row in data["fields"]}) == 1
    assert data["differential"]["found"] == 6 * data["fields"][0]["found"] > 0


# ------------------------------------------------------------------------------------------------------ slides


def write_tiff(path: Path, pixels: np.ndarray) -> Path:
    import tifffile

    tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib", photometric="rgb")
    return path


@pytest.fixture(scope="module")
def mosaic() -> np.ndarray:
    """A smear of 2 x 2 fields in the middle of glass."""
    sides = [[render("Benign", 10 * i + j, 320) for j in range(2)] for i in range(2)]
    smear = np.concatenate([np.concatenate(row, axis=1) for row in sides])
    slide = np.full((1350, 1700, 3), 240, np.uint8)
    slide[350 : 350 + smear.shape[0], 500 : 500 + smear.shape[1]] = smear
    return slide


def told(fields: list[FieldScan]) -> list[tuple]:
    return [
        (field.first + n, cell.cell, cell.crop, cell.prediction.probabilities)
        for field in fields
        for n, cell in enumerate(field.cells)
    ]


def test_a_slide_gives_what_the_picture_gives(mosaic: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="extra slides is not installed")
    scanner = Scanner(Classifier.open("blood-cells", threads=1))
    path = write_tiff(tmp_path / "slide.tif", mosaic)
    seen: list[int] = []

    def progress(tiles):
        seen.append(len(tiles))
        return tiles

    slide = list(scan_slide(scanner, path, progress))
    picture = list(scanner.looks(mosaic, os.fspath(path)))
    assert told(slide) == told(picture) and len(told(slide)) > 15
    assert [number for number, *_ in told(slide)] == list(range(1, len(told(slide)) + 1))
    assert {(field.name, field.width, field.height) for field in slide} == {(str(path), 1700, 1350)}
    assert 0 < len(slide) < seen[0], "glass is passed over"
    whole = scanner.scan(mosaic)
    assert [cell.cell for cell in whole.cells] == [cell for _, cell, *_ in told(slide)]


def test_a_cell_alone_at_the_smears_end_is_no_refused_field() -> None:
    smear = render("Benign", 1, 448)
    slide = np.full((1500, 1900, 3), 240, np.uint8)
    slide[:448, :448] = smear
    rows, columns = np.mgrid[:1500, :1900]
    slide[(rows - 1200) ** 2 + (columns - 1600) ** 2 < 20**2] = (90, 40, 140)
    fields = list(Scanner(Classifier.open("blood-cells", threads=1)).looks(slide, "slide"))
    alone = [field for field in fields for cell in field.cells if cell.cell.centre[0] > 1500]
    assert len(fields) > 1 and len(alone) == 1 and alone[0].refusals == ()


class Scanned:
    """Stands for a slide of which only a corner was scanned, and whose file states where."""

    dimensions = (800, 600)
    level_downsamples = (1.0,)

    def __init__(self, **bounds: str) -> None:
        self.properties = {f"openslide.bounds-{side}": value for side, value in bounds.items()}

    def read_region(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        region = Image.new("RGBA", size, (0, 0, 0, 0))
        region.paste(Image.new("RGBA", (size[0] // 2, size[1]), (200, 150, 180, 255)))
        return region


def test_what_was_not_scanned_is_no_over_exposed_glass() -> None:
    pytest.importorskip("openslide", reason="extra slides is not installed")
    seen = slides._read(Scanned(), "slide", (0, 0, 40, 20), 0)
    assert (seen[:, :20] == (200, 150, 180)).all() and (seen[:, 20:] >= 240).all() and (seen < CLIPPED).all()


@pytest.mark.parametrize(
    ("bounds", "area"),
    [
        ({}, (0, 0, 800, 600)),
        ({"x": "100", "y": "50", "width": "200", "height": "300"}, (100, 50, 200, 300)),
        ({"x": "700", "y": "50", "width": "200", "height": "300"}, (700, 50, 100, 300)),
        ({"x": "100"}, (0, 0, 800, 600)),
        ({"x": "one", "y": "50", "width": "200", "height": "300"}, (0, 0, 800, 600)),
        ({"x": "900", "y": "50", "width": "200", "height": "300"}, (0, 0, 800, 600)),
    ],
)
def test_bounds_that_a_slide_states_are_believed_where_they_can_be(bounds: dict, area: tuple) -> None:
    assert slides._area(Scanned(**bounds)) == area


def test_what_is_a_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_slide("x/y.SVS") and is_slide("a.ndpi") and is_slide("a.mrxs")
    small = write_tiff(tmp_path / "small.tif", np.zeros((64, 64, 3), np.uint8))
    assert not is_slide(small) and not is_slide(tmp_path / "missing.png")
    (tmp_path / "bomb.png").write_bytes(bomb(100_000, 100_000))
    assert is_slide(tmp_path / "bomb.png")
    (tmp_path / "large.png").write_bytes(bomb(13_500, 13_200))  # over our limit, under Pillow's
    assert is_slide(tmp_path / "large.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert not is_slide(tmp_path / "pipe.png")  # without waiting for somebody to write


def test_too_large_a_picture_says_how_to_convert_it(scan_command, tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="extra slides is not installed")
    (tmp_path / "large.png").write_bytes(bomb(100_000, 100_000))
    status, _, err = scan_command(tmp_path / "large.png")
    assert status == 1 and len(err) == 1 and "too large to decode" in err[0] and "vips tiffsave" in err[0]
    (tmp_path / "cut.svs").write_bytes(b"II*\0 no slide")
    (tmp_path / "none.svs").write_bytes(b"")
    status, _, err = scan_command(tmp_path / "cut.svs", tmp_path / "none.svs", tmp_path / "missing.svs")
    assert status == 1 and len(err) == 3 and "missing.svs: no such file" in err[2]


def test_without_openslide_slides_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "openslide", None)
    scanner = Scanner(Classifier.open("blood-cells", threads=1))
    with pytest.raises(ImageError, match=r"OpenSlide is not installed \(pip install"):
        next(scan_slide(scanner, tmp_path / "a.svs"))


def test_a_blank_slide_wants_its_scale(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="extra slides is not installed")
    path = write_tiff(tmp_path / "blank.tif", np.full((1500, 1500, 3), 240, np.uint8))
    classifier = Classifier.open("blood-cells", threads=1)
    with pytest.raises(ImageError, match="no red cells that could be measured"):
        next(scan_slide(Scanner(classifier), path))
    assert list(scan_slide(Scanner(classifier, um_per_px=0.25), path)) == []


PEAK = """
import sys
from edge_runtime.classifier import Classifier
from edge_runtime.scan import Scanner
from edge_runtime.slides import scan_slide
fields = sum(1 for _ in scan_slide(Scanner(Classifier.open("blood-cells", threads=1), um_per_px=0.25), sys.argv[1]))
with open("/proc/self/status") as status:  # not getrusage, which counts the memory of the parent that forked it
    print(fields, next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    """A slide of 280 megabytes of pixels needs hardly more than one of 7: all glass but for a field in its corner."""
    pytest.importorskip("openslide", reason="extra slides is not installed")
    import zlib

    import tifffile

    smear = render("Benign", 1, 512)
    glass = zlib.compress(bytes([240]) * (512 * 512 * 3))
    peaks = []
    for side in (1536, 9728):
        count = (side // 512) ** 2
        blocks = iter([zlib.compress(smear.tobytes())] + [glass] * (count - 1))
        path = tmp_path / f"{side}.tif"
        shape = (side, side, 3)
        tifffile.imwrite(
            path, blocks, shape=shape, dtype=np.uint8, tile=(512, 512), compression="zlib", photometric="rgb"
        )
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        )
        fields, peak = map(int, done.stdout.split())
        assert fields >= 1
        peaks.append(peak)
    assert peaks[0] < 250 and peaks[1] - peaks[0] < 50, peaks
