"""Archives: lists of every kind, plans that are kept to, rows that say all, and the command that makes them."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import encoded, smear
from PIL import Image

from edge_runtime import cli, report
from edge_runtime.archive import lists
from edge_runtime.archive.columns import column_types, error_row
from edge_runtime.archive.lists import listed, named, of_this_place
from edge_runtime.archive.parts import claimed
from edge_runtime.archive.plan import MODES, Job, Settings, make_plan, names_of, read_plan
from edge_runtime.archive.shard import Shards
from edge_runtime.classifier import Classifier
from edge_runtime.engines import Engine
from edge_runtime.errors import EngineError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.preprocess import PICTURE_SUFFIXES
from edge_runtime.scan import Scanner
from train.render import render_field

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with seven pictures, one of them bad and one below."""
    place = tmp_path / "pictures"
    (place / "below").mkdir(parents=True)
    for number in range(5):
        (place / f"{number}.png").write_bytes(encoded(Image.fromarray(smear(48, number))))
    (place / "below" / "5.png").write_bytes(encoded(Image.fromarray(smear(48, 5))))
    (place / "bad.png").write_bytes(b"bad")
    return place


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of an archive, part by part."""
    return [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


# ---------------------------------------------------------------------------------------------------------- the list


def test_a_list_is_text_csv_or_parquet_plain_or_gzipped(tmp_path: Path) -> None:
    names = ["a b.png", "ü/ö.png", "c,d.png"]
    text = "\n".join(names)
    table = "label,path\n" + "".join(f'x,"{name}"\n' for name in names)
    files = {
        "plain.txt": text.encode(),
        "dos.txt": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n",
        "packed.txt.gz": gzip.compress(text.encode()),
        "table.csv": b"\xef\xbb\xbf" + table.encode(),
        "table.csv.gz": gzip.compress(table.encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.table({"x": [1, 2, 3], "path": names}), tmp_path / "table")
    for name in (*files, "table"):
        assert list(listed(str(tmp_path / name))) == names, name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "cannot be read: got No such file"),
        ("table.csv", b"file,label\na,b\n", "no column 'path': got file, label, expected path"),
        ("torn.gz", gzip.compress(b"a.png\n" * 100)[:-12], "cannot be read"),
        ("torn.parquet", b"PAR1torn", "damaged Parquet"),
    ],
)
def test_a_wrong_list_is_one_line(run: Run, tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    status, out, err = run("archive", "--out", tmp_path / "out", "--list", tmp_path / name)
    assert (status, out, len(err)) == (2, "", 1) and said in err[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}  # neither plan nor list


def test_folders_are_walked_as_classify_does(folder: Path) -> None:
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    found = list(named([str(folder), "x.png"], lambda error: None, str(folder / "out"), PICTURE_SUFFIXES))
    assert [Path(name).name for name in found] == [*(f"{n}.png" for n in range(5)), "bad.png", "5.png", "x.png"]


def test_a_list_from_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(lists, "LOOKED_AT", 3)
    with pytest.raises(UsageError, match=r"none of the first 3 pictures is there: got x\.png and so on \(relative"):
        of_this_place(iter(["x.png", "y\0.png", "z.png", "0.png"]), str(folder))
    with pytest.raises(UsageError, match="no pictures there"):
        of_this_place(iter([]), str(folder))
    names = ["x.png", "0.png", "y.png", "z.png"]
    assert list(of_this_place(iter(names), str(folder))) == names


def test_a_plan_deals_names_of_every_kind(tmp_path: Path) -> None:
    names = ["a.png", "two\nlines.png", os.fsdecode(b"\xff.png"), "ü.png", "e.png"]
    settings = Settings("classify", "m", "m@1", "litert", False, None, 2, "/")
    plan = make_plan(tmp_path, names, settings)
    assert read_plan(tmp_path) == plan and plan.pictures == 5 and len(plan.offsets) == 3
    dealt = [list(names_of(plan, plan.job(shard))) for shard in range(3)]
    assert dealt == [names[:2], names[2:4], names[4:]]
    assert [(plan.job(n).first, plan.job(n).count) for n in range(3)] == [(0, 2), (2, 2), (4, 1)]
    assert [make_plan(tmp_path, names, settings, parts).settings.shard_pictures for parts in (1, 3, 4, 9)] == [
        2,
        2,
        2,
        1,
    ]
    job = Job(1, 2, 3, 4, {7: "why"})
    assert Job.from_json(job.to_json()) == job


def test_a_parquet_lists_names_that_are_no_text(tmp_path: Path) -> None:
    names = [b"a.png", b"\xff.png"]
    torn = pa.StringArray.from_buffers(2, *pa.array(names).buffers()[1:])
    for column in (pa.array(names), torn):
        pq.write_table(pa.table({"path": column}), tmp_path / "list")
        assert list(listed(str(tmp_path / "list"))) == [os.fsdecode(name) for name in names]


def test_an_error_is_one_short_line() -> None:
    row = error_row(0, "a.png", "a.png: ValueError: " + "lots\n" * 100_000 + "of it", "b@1")
    assert row["error"].startswith("a.png: ValueError: lots lots") and row["error"].endswith("lots of it")
    assert len(row["error"]) < 1100


def test_the_name_of_a_part_is_forced_to_the_medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[list[str]] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            forced.append(os.listdir(descriptor))
            raise OSError("a file system that cannot")

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "part", b"whole")
    assert forced == [["part"]] and (tmp_path / "part").read_bytes() == b"whole"


def test_an_archive_of_blanks_is_named_once(tmp_path: Path, valid_bundle: Path) -> None:
    names = ["two  blanks.png", "two\nlines.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"bad")
    bundle = Classifier.open(valid_bundle).bundle
    settings = Settings("classify", str(valid_bundle), bundle.id, "litert", False, None, 2, str(tmp_path))
    (tmp_path / "out").mkdir()
    plan = make_plan(tmp_path / "out", names, settings)
    assert Shards(plan).write(plan.job(0), lambda place: None).errors == 2
    found = rows(plan.out)
    assert [row["path"] for row in found] == names
    assert [row["error"].split(": not")[0] for row in found] == ["two blanks.png", "two lines.png"]


# ------------------------------------------------------------------------------------------------------- the command


def test_each_picture_has_one_row_that_says_what_classify_says(
    run: Run, folder: Path, tmp_path: Path, valid_bundle: Path
) -> None:
    out = tmp_path / "out"
    status, text, err = run("archive", "--model", valid_bundle, "--out", out, "--shard", 3, "--workers", 2, folder)
    assert status == 1 and err == []
    assert "7 pictures, 7 rows, 1 pictures with an error" in text and text.endswith(f"{report.NOTE}\n")
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "_list.jsonl",
        "_plan.json",
        *(f"part-0000{n}.parquet" for n in range(3)),
    ]
    found, classifier = rows(out), Classifier.open(valid_bundle, threads=1)
    assert [row["row"] for row in found] == list(range(7))
    bad = found[5]
    assert bad["path"] == f"{folder}/bad.png" and bad["error"] == f"{bad['path']}: not a picture: expected " + (
        "JPEG, PNG, TIFF, BMP or WebP"
    )
    assert {key for key, value in bad.items() if value is not None} == {"row", "path", "bundle_id", "error"}
    for row in (*found[:5], found[6]):
        prediction = classifier.classify(row["path"])
        assert row["error"] is None and row["label"] == prediction.label and row["bundle_id"] == prediction.bundle_id
        for label, value in prediction.probabilities.items():
            assert row[f"p {label}"] == np.float32(value)
        assert row["probability"] == np.float32(prediction.probability)
        assert {name: row[f"flag {name}"] for name in prediction.flags} == {
            name: flag.yes for name, flag in prediction.flags.items()
        }
        assert row["abstained"] == prediction.abstained and row["plausible"] == list(prediction.plausible)
        assert [one["reason"] for one in row["refusals"]] == [one.reason for one in prediction.refusals]
        heat = np.array(row["heatmap"]).reshape(prediction.heatmap.shape) / 255
        assert np.abs(heat - prediction.heatmap).max() <= 0.5 / 255 + 1e-7
        assert row["degraded"] == prediction.degraded and row["total_ms"] > 0


def test_a_part_says_what_it_is(run: Run, folder: Path, tmp_path: Path, valid_bundle: Path) -> None:
    assert run("archive", "--model", valid_bundle, "--out", tmp_path / "out", folder)[0] == 1
    said = pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata
    bundle = Classifier.open(valid_bundle).bundle
    assert said[b"leukoscope.bundle_id"].decode() == bundle.id and said[b"leukoscope.note"].decode() == report.NOTE
    assert json.loads(said[b"leukoscope.labels"]) == list(bundle.manifest.task.labels)
    heat, io = json.loads(said[b"leukoscope.heatmap"]), bundle.manifest.io
    assert (heat["height"], heat["width"], heat["steps"]) == (io.map_height, io.map_width, 255)
    assert said[b"leukoscope.leukoscope"] and said[b"leukoscope.columns"] == b"1" and b"leukoscope.node" not in said


def test_scan_has_a_row_per_cell_and_loses_no_field(run: Run, tmp_path: Path) -> None:
    fields = tmp_path / "fields"
    fields.mkdir()
    pixels = render_field("Early", np.random.default_rng(0), 512).pixels
    (fields / "cells.png").write_bytes(encoded(Image.fromarray(pixels)))
    (fields / "empty.png").write_bytes(encoded(Image.new("RGB", (256, 256), (235, 225, 230))))
    (fields / "torn.png").write_bytes(encoded(Image.fromarray(pixels))[:5000])
    (fields / "slide.svs").write_bytes(b"no slide")
    status, text, _ = run("archive", "--scan", "--out", tmp_path / "out", "--json", fields)
    facts, found = json.loads(text), rows(tmp_path / "out")
    assert status == 1 and facts["pictures"] == 4 and facts["errors"] == 2 and facts["rows"] == len(found)
    field = Scanner(Classifier.open("blood-cells", threads=1)).scan(fields / "cells.png")
    cells = [row for row in found if row["path"].endswith("cells.png")]
    assert len(cells) == len(field.cells) > 2 and [row["cell"] for row in cells] == list(range(1, len(cells) + 1))
    for row, cell in zip(cells, field.cells, strict=True):
        assert (row["left"], row["top"], row["width"], row["height"]) == cell.cell.box
        assert row["label"] == cell.prediction.label and row["left_out"] == field.left_out(cell)
        assert row["red_cell_px"] == np.float32(field.red_cell_px) and row["scale"] == "measured"
    (empty,) = (row for row in found if row["path"].endswith("empty.png"))
    assert empty["cell"] is None and empty["error"] is None and empty["field_refusals"]
    errors = {Path(row["path"]).name: row["error"] for row in found if row["error"]}
    assert set(errors) == {"torn.png", "slide.svs"} and "damaged" in errors["torn.png"]
    assert errors["slide.svs"].count("slide.svs") == 1


def test_a_wide_picture_is_scanned_in_parts(run: Run, tmp_path: Path) -> None:
    pixels = render_field("Early", np.random.default_rng(1), 512).pixels
    (tmp_path / "wide.png").write_bytes(encoded(Image.fromarray(np.concatenate([pixels] * 4, axis=1))))
    assert run("archive", "--scan", "--out", tmp_path / "out", tmp_path / "wide.png")[0] == 0
    found = rows(tmp_path / "out")
    assert {row["part"] for row in found} > {0} and {row["row"] for row in found} == {0}
    numbers = [row["cell"] for row in found if row["cell"] is not None]
    assert numbers == list(range(1, len(numbers) + 1)) and max(row["left"] for row in found if row["cell"]) > 1024


def test_a_run_goes_on_where_the_last_one_ended(
    run: Run, folder: Path, tmp_path: Path, valid_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    listing = tmp_path / "list.txt"
    listing.write_text("0.png\n1.png\n0.png\n2.png\n3.png\n", encoding="utf-8")
    out = tmp_path / "out"
    whole = ("archive", "--model", valid_bundle, "--out", out, "--shard", 2, "--list", listing)
    assert run(*whole)[0] == 0
    first = rows(out)
    assert [row["path"] for row in first] == ["0.png", "1.png", "0.png", "2.png", "3.png"]  # twice is twice
    kept = (out / "part-00000.parquet").stat().st_mtime_ns
    (out / "part-00001.parquet").unlink()
    (out / ".part-00001.parquet.host-1.part").write_bytes(b"torn")
    monkeypatch.chdir(tmp_path)  # relative names start where the plan was made
    status, _, err = run("archive", "--out", out)
    assert status == 0 and err == ["note: 3 of 5 pictures were done before"]
    assert (out / "part-00000.parquet").stat().st_mtime_ns == kept and not list(out.glob(".*.part"))
    timeless = [[{**row, "total_ms": None} for row in some] for some in (first, rows(out))]
    assert timeless[0] == timeless[1]
    status, text, err = run(*whole, "--json")
    assert status == 0 and err == [] and json.loads(text)["now"]["pictures"] == 0


def test_another_plan_is_refused(
    run: Run, folder: Path, tmp_path: Path, valid_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("list.txt").write_text("0.png\n1.png\n2.png\n", encoding="utf-8")
    Path("other.txt").write_text("0.png\n1.png\n", encoding="utf-8")
    usual = ("--model", valid_bundle, "--list", "list.txt", "--shard", 2)
    assert run("archive", "--out", tmp_path / "out", *usual)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    changes: dict[tuple[Any, ...], str] = {
        ("--shard", 3): "got pictures in a shard 3, expected pictures in a shard 2",
        ("--list", "other.txt"): "of 2 pictures, expected list",
        ("--model", "all-subtypes"): "got bundle all-subtypes",
        ("--scan", "--model", "blood-cells"): "got mode scan, expected mode classify",
        ("--engine", "onnxruntime"): "onnxruntime",
        ("--isolate",): "got --isolate True, expected --isolate False",
    }
    for change, said in changes.items():
        status, text, err = run("archive", "--out", tmp_path / "out", *usual, *change)
        assert status in (1, 2) and text == "" and said in err[-1]
        assert all("isolat" in line for line in err[:-1])  # how well, where it was asked for
    plan = json.loads(before["_plan.json"])
    plan["leukoscope"] = "0.0.1"
    (tmp_path / "out" / "_plan.json").write_text(json.dumps(plan), encoding="utf-8")
    status, _, err = run("archive", "--out", tmp_path / "out")
    assert status == 2 and len(err) == 1 and "expected leukoscope 0.0.1 (install leukoscope 0.0.1" in err[0]
    (tmp_path / "out" / "_plan.json").write_bytes(before["_plan.json"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_engine_that_only_fails_ends_it(
    folder: Path, tmp_path: Path, valid_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{n % 5}.png" for n in range(20)]
    bundle = Classifier.open(valid_bundle).bundle
    settings = Settings("classify", str(valid_bundle), bundle.id, "litert", False, None, 20, "/")
    plan = make_plan(tmp_path, names, settings)
    shards, asked, honest = Shards(plan), itertools.count(), Engine.run

    def run(self: Engine, pixels: Any) -> Any:
        if next(asked) in failing:
            raise EngineError("litert failed on a picture")
        return honest(self, pixels)

    monkeypatch.setattr(Engine, "run", run)
    monkeypatch.setattr("edge_runtime.archive.shard.ENGINE_FAILURES", 4)
    failing = {3, 4, 5, 7, 8}
    done = shards.write(plan.job(0), lambda place: None)
    assert (done.rows, done.errors) == (20, 5)
    assert [row["row"] for row in rows(tmp_path) if row["error"]] == sorted(failing)
    plan.part(0).unlink()
    failing = set(range(26, 30))
    with pytest.raises(EngineError, match="the engine failed on 4 pictures in a row: got litert failed"):
        shards.write(plan.job(0), lambda place: None)
    assert plan.missing() == [0] and not list(tmp_path.glob(".*.part"))


def test_an_isolated_archive_is_the_same(run: Run, folder: Path, tmp_path: Path, valid_bundle: Path) -> None:
    usual = ("archive", "--model", valid_bundle, "--workers", 1, folder)
    assert run(*usual, "--out", tmp_path / "plain")[0] == 1
    status, _, err = run(*usual, "--out", tmp_path / "isolated", "--isolate")
    if status == 2 and "isolate" in err[-1]:
        pytest.skip(err[-1])
    timeless = [[{**row, "total_ms": None} for row in rows(tmp_path / name)] for name in ("plain", "isolated")]
    assert status == 1 and timeless[0] == timeless[1]
    assert json.loads((tmp_path / "isolated" / "_plan.json").read_text(encoding="utf-8"))["isolate"] is True


def test_damage_in_the_folder_is_one_line(run: Run, folder: Path, tmp_path: Path, valid_bundle: Path) -> None:
    out = tmp_path / "out"
    arguments = ("archive", "--model", valid_bundle, "--out", out, "--shard", 7, folder)
    assert run(*arguments)[0] == 1
    part, plan = out / "part-00000.parquet", out / "_plan.json"
    whole = part.read_bytes()
    rest = pq.read_table(part).slice(0, 6)
    for torn in (b"", whole[:-5], b"\0" * len(whole), rest):
        pq.write_table(torn, part) if torn is rest else part.write_bytes(torn)
        status, text, err = run("archive", "--out", out)
        assert status == 1 and err == [f"note: {part}: damaged; it is done again"] and "7 of them now" in text
        assert [row["row"] for row in rows(out)] == list(range(7))
    part.unlink()
    names = (out / "_list.jsonl").read_bytes()
    (out / "_list.jsonl").write_bytes(names[:20])
    status, _, err = run("archive", "--out", out)
    assert status == 1 and len(err) == 1 and "_list.jsonl: damaged" in err[0] and not part.exists()
    (out / "_list.jsonl").write_bytes(names)
    for text in (b"{", b"[]", b'{"format": "leukoscope-archive", "version": 2}', b"\xff"):
        plan.write_bytes(text)
        status, _, err = run("archive", "--out", out)
        assert status == 2 and len(err) == 1 and "_plan.json" in err[0]
    plan.unlink()
    part.write_bytes(whole)
    status, _, err = run(*arguments)
    assert status == 2 and len(err) == 1 and "parts without _plan.json" in err[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no archive there to go on with"),
        (("x.png", "--list", "y"), "pictures and --list: got both"),
        (("missing.png",), "none of the first 1 pictures is there: got missing.png"),
        (("--workers", 0, "x"), "--workers: got 0"),
        (("--shard", 0, "x"), "--shard: got 0"),
        (("--timeout", "nan", "x"), "--timeout: got nan"),
        (("--um-per-px", 0.1, "x"), "--um-per-px needs --scan"),
        (("--scan", "--um-per-px", 7, "x"), "micrometres per pixel: got 7.0"),
        (("--scan", "--model", "all-subtypes", "x"), "single cells"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, tmp_path: Path, arguments: tuple[Any, ...], said: str) -> None:
    status, out, err = run("archive", "--out", tmp_path / "out", *arguments)
    assert (status, out, len(err)) == (2, "", 1) and said in err[0]
    assert not (tmp_path / "out" / "_plan.json").exists()


def test_without_pyarrow_it_says_what_to_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run("archive", "--out", tmp_path / "out", "x.png")
    assert status == 2 and len(err) == 1 and 'pip install "leukoscope[archive]"' in err[0]
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_what_to_install(
    run: Run, folder: Path, tmp_path: Path, valid_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ("archive", "--model", valid_bundle, "--out", tmp_path / "out", "--ray", "local", folder)
    status, _, err = run(*arguments)
    assert status == 2 and len(err) == 1 and 'pip install "leukoscope[ray]"' in err[0]
    assert run(*arguments[:5])[0] == 1  # the plan is made: it goes on without


def test_two_at_a_time_are_refused(run: Run, folder: Path, tmp_path: Path, valid_bundle: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with claimed(out):
        status, _, err = run("archive", "--model", valid_bundle, "--out", out, folder)
    assert status == 2 and len(err) == 1 and "in use by another archive" in err[0]


def test_the_guides_commands_parse_and_its_examples_run(
    run: Run, folder: Path, tmp_path: Path, valid_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "archive.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m edge_runtime ([^\n]*)", page, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command, comments=True))
    assert run("archive", "--model", valid_bundle, "--out", tmp_path / "answers", folder)[0] == 1
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(examples) == 3
    names: dict[str, Any] = {}
    for example in examples:
        if "pandas" not in example or find_spec("pandas"):
            exec(compile(example, "docs/archive.md", "exec"), names)
    prediction = Classifier.open(valid_bundle).classify(names["row"]["path"])
    assert np.abs(names["heatmap"] - prediction.heatmap).max() <= 0.5 / 255 + 1e-6
    documented = set(re.findall(r"`([a-zA-Z_ ]+)`", page))
    for mode in MODES:
        for column in column_types(Classifier.open(valid_bundle).bundle.manifest, mode):
            assert (
                re.sub(r"^(p|flag) .*", lambda found: {"p": "p LABEL", "flag": "flag NAME"}[found[1]], column)
                in documented
            )
