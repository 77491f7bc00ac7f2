"""The index reads native layouts, names what it leaves out, and keeps together what belongs together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import UsageError
from train.cli import main
from train.errors import DataError
from train.index import PROTOCOLS, SPLITS, Index, build_index, read_index
from train.pixels import load_pixels, prepare_picture
from train.render import render_field
from train.split import split_index
from train.tasks import TASKS

SUBTYPES = TASKS["all-subtypes"]


def _picture(path: Path, seed: int, label: str = "Early", px: int = 96, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render_field(label, np.random.default_rng(seed), px).pixels).save(path, quality=quality)


@pytest.fixture
def taleqani(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "taleqani" / "Original"
    for c, label in enumerate(SUBTYPES.labels):
        for n in range(5):
            _picture(root / label / f"WBC-{label}-{n:03d}.jpg", 10 * c + n, label)
    return tmp_path / "data"


def test_exact_duplicates_are_dropped_and_contradictions_named(taleqani: Path, tmp_path: Path) -> None:
    root = taleqani / "taleqani" / "Original"
    (root / "Early" / "again.jpg").write_bytes((root / "Early" / "WBC-Early-000.jpg").read_bytes())
    (root / "Pro" / "liar.jpg").write_bytes((root / "Pre" / "WBC-Pre-001.jpg").read_bytes())
    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    assert len(index.rows) == 20 - 1  # the contradicted original is gone, too
    root_name = "taleqani/Original"
    assert index.info["contradictory"] == [f"{root_name}/Pre/WBC-Pre-001.jpg (Pre), {root_name}/Pro/liar.jpg (Pro)"]
    assert index.info["repeated"] == [
        f"{root_name}/Early/again.jpg: the same picture as {root_name}/Early/WBC-Early-000.jpg"
    ]
    assert index.info["exact_duplicates"] == 1
    assert len({row.key for row in index.rows}) == len(index.rows)


def test_unreadable_pictures_are_named_and_left_out(taleqani: Path, tmp_path: Path) -> None:
    root = taleqani / "taleqani" / "Original" / "Benign"
    whole = (root / "WBC-Benign-000.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").write_bytes(b"")
    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    assert len(index.rows) == 20
    named = "\n".join(index.info["unreadable"])
    assert "truncated.jpg" in named and "empty.jpg" in named


def test_near_duplicates_share_a_group_and_strangers_need_not(taleqani: Path, tmp_path: Path) -> None:
    root = taleqani / "taleqani" / "Original" / "Pre"
    _picture(root / "twin-a.jpg", 77, "Pre", 224)
    _picture(root / "twin-b.jpg", 77, "Pre", 224, quality=60)
    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    group = {Path(row.path).name: row.group for row in index.rows}
    assert group["twin-a.jpg"] == group["twin-b.jpg"]
    assert len(set(group.values())) > 1


def test_index_survives_a_round_trip(taleqani: Path, tmp_path: Path) -> None:
    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    again = read_index(tmp_path / "index")
    assert again.rows == index.rows and again.sha256 == index.sha256


def test_an_index_edited_by_hand_is_refused(taleqani: Path, tmp_path: Path) -> None:
    index = build_index(SUBTYPES, taleqani, tmp_path / "ix")
    table = index.folder / "index.csv"
    table.write_text(table.read_text().replace(",Early,Early,", ",Early,Pre,", 1))
    with pytest.raises(DataError, match=r"index\.csv is not the one"):
        read_index(index.folder)


def test_cached_pixels_are_the_devices_pixels(taleqani: Path, tmp_path: Path) -> None:
    from edge_runtime.preprocess import Preprocess, decode, prepare

    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    pixels = load_pixels(index)
    for row, cached in zip(index.rows, pixels, strict=True):
        assert np.array_equal(cached, prepare(decode(taleqani / row.path), Preprocess(224)))


def test_changed_data_is_noticed_when_the_cache_is_gone(taleqani: Path, tmp_path: Path) -> None:
    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    for cache in (tmp_path / "index").glob("*.npy"):
        cache.unlink()
    _picture(taleqani / index.rows[0].path, 999)
    with pytest.raises(DataError, match="changed since it was indexed"):
        load_pixels(index)


def test_missing_classes_sources_and_folders_are_named(taleqani: Path, tmp_path: Path) -> None:
    for path in (taleqani / "taleqani" / "Original" / "Pro").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no pictures of Pro: .*--labels Benign Early Pre"):
        build_index(SUBTYPES, taleqani, tmp_path / "index")
    with pytest.raises(DataError, match="no folder"):
        build_index(SUBTYPES, tmp_path / "nowhere", tmp_path / "index")
    with pytest.raises(DataError, match="python -m train index"):
        read_index(tmp_path / "nothing")


def test_the_folders_of_sources_that_are_not_there_are_named(taleqani: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures of Benign.*: got none of the folders taleqani, folder, rend"):
        build_index(SUBTYPES, taleqani / "taleqani", tmp_path / "index")
    with pytest.raises(DataError, match=r"none of the folders .*; segmentation_wbc only where --sources names it"):
        (tmp_path / "cells" / "segmentation_wbc").mkdir(parents=True)
        build_index(TASKS["blood-cells"], tmp_path / "cells", tmp_path / "index")


@pytest.mark.parametrize(("options", "what"), [
    (["--sources", "nosuch"], "does not use nosuch, expected some of taleqani, folder, rendered"),
    (["--sources", "taleqani", "bccd"], "does not use bccd, expected some of taleqani, folder, rendered"),
    (["--labels", "Pre", "Por"], "--labels: got Por, expected two or more of Benign, Early, Pre, Pro"),
    (["--labels", "Pre"], "--labels: got Pre, expected two or more of Benign, Early, Pre, Pro"),
    (["--limit", "0"], "--limit: got 0, expected 1 or more"),
    (["--limit", "-3"], "--limit: got -3, expected 1 or more"),
])  # fmt: skip
def test_options_that_mean_nothing_are_usage(
    options: list[str], what: str, taleqani: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data", str(taleqani), "--out", str(tmp_path / "index")]
    assert main(["index", "--task", "all-subtypes", *places, *options]) == 2
    told = capsys.readouterr().err
    assert what.replace(", expected some", ": expected some") in told and told.count("\n") == 1
    assert not (tmp_path / "index").exists()


def test_a_place_that_cannot_be_written_is_known_before_pictures_are_read(
    taleqani: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.pixels.prepare_all", lambda *_: pytest.fail("pictures are read"))
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file", tmp_path / "file" / "index"):
        assert main(["index", "--task", "all-subtypes", "--data", str(taleqani), "--out", str(out)]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"error: {out}: cannot be made") and told.count("\n") == 1


def test_a_limit_is_recorded_where_there_is_one(taleqani: Path, tmp_path: Path) -> None:
    assert "limit" not in build_index(SUBTYPES, taleqani, tmp_path / "all").info
    build_index(SUBTYPES, taleqani, tmp_path / "some", limit=3)
    again = read_index(tmp_path / "some")
    assert again.info["limit"] == 3 and len(again.rows) == 12


def test_indexing_again_says_how_the_splits_come_back(
    rendered_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    options = ["index", "--task", "all-subtypes", "--data", str(rendered_data), "--out", str(out), "--limit", "10"]
    assert main(options) == 0
    assert main(options) == 0
    assert capsys.readouterr().err == "", "there were none yet"
    assert main(["split", str(out), "--seed", "7"]) == 0
    before = read_index(out).sha256
    assert main(options) == 0
    assert f"note: the splits in {out} are gone; python -m train split {out} --seed 7" in capsys.readouterr().err
    assert main(["split", str(out), "--seed", "7"]) == 0
    assert read_index(out).sha256 == before


@pytest.mark.parametrize(("change", "says"), [
    ({"version": 2}, "not an index of this version: got format leukoscope-index, version 2, expected .* version 1"),
    ({"format": None}, "not an index of this version: got format None"),
    ({"task": "subtypes"}, "no such task: got subtypes, expected one of all-subtypes"),
    ({"labels": ["Pro", "Benign"]}, "labels are not the task's, in its order"),
    ({"labels": 4}, "labels are not the task's"),
    ({"data": None}, "index.json: data: got None, expected a str"),
    ({"unreadable": "none"}, "index.json: unreadable: got 'none', expected a list"),
    (None, "not an index of this version"),
])  # fmt: skip
def test_an_index_json_that_is_none_says_why(change: object, says: str, taleqani: Path, tmp_path: Path) -> None:
    path = build_index(SUBTYPES, taleqani, tmp_path / "index").folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change if isinstance(change, dict) else []))
    with pytest.raises(DataError, match=says) as caught:
        read_index(path.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("old", "new", "says"), [
    (",phash,", ",", "not the columns of an index: got path, box, .*, expected path, .*phash"),
    ("path,box,", "box,path,", "not the columns of an index"),
    (",Early,Early,", ",Early,Earl,", "row 6: label: got 'Earl', expected one of Benign, Early, Pre, Pro"),
    ("taleqani,Pro,", "tal,Pro,", "row 16: source: got 'tal', expected one of taleqani"),
    (",,\n", ",,test1\n", "row 1: grouped: got 'test1', expected one of train, val, test"),
    (",,taleqani,", ",1 2 3,taleqani,", "row 1: box: got '1 2 3'"),
    (",,\n", ",\n", "row 1: got 10 cells, expected 11"),
    ("path,", "\0\udcff", "not an index"),
])  # fmt: skip
def test_an_index_csv_that_is_none_says_why(old: str, new: str, says: str, taleqani: Path, tmp_path: Path) -> None:
    path = build_index(SUBTYPES, taleqani, tmp_path / "index").folder / "index.csv"
    path.write_text(path.read_text().replace(old, new, 1), errors="surrogateescape")
    with pytest.raises(DataError, match=says) as caught:
        read_index(path.parent)
    assert str(path.parent) in str(caught.value)
    path.write_text("")
    with pytest.raises(DataError, match="not the columns"):
        read_index(path.parent)


def test_a_class_whose_pictures_are_all_damaged_is_missing(taleqani: Path, tmp_path: Path) -> None:
    for path in (taleqani / "taleqani" / "Original" / "Pro").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no pictures of Pro: got 15 pictures that can be used"):
        build_index(SUBTYPES, taleqani, tmp_path / "index")


def test_an_index_can_be_restricted_to_some_classes(taleqani: Path, tmp_path: Path) -> None:
    index = build_index(SUBTYPES.restricted(["Pro", "Benign"]), taleqani, tmp_path / "index")
    assert len(index.rows) == 10 and index.info["labels_left_out"] == {"taleqani: Early": 5, "taleqani: Pre": 5}
    again = read_index(tmp_path / "index")
    assert again.task == index.task and again.task.labels == ("Benign", "Pro"), "in the task's order"
    assert set(again.targets(range(10))) == {0, 1}
    assert [(point.name, point.positive) for point in again.task.operating_points] == [("malignant", ("Pro",))]


def test_an_index_from_before_classes_could_be_chosen_is_read(taleqani: Path, tmp_path: Path) -> None:
    build_index(SUBTYPES, taleqani, tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in info.items() if key != "labels"}))
    assert read_index(tmp_path / "index").task == SUBTYPES
    path.write_text(json.dumps(info | {"labels": ["Benign", "Pros"]}))
    with pytest.raises(DataError, match=r"got .*Pros"):
        read_index(tmp_path / "index")


def test_more_than_twenty_lines_of_a_kind_are_counted(taleqani: Path, tmp_path: Path, capsys) -> None:
    root = taleqani / "taleqani" / "Original" / "Pre"
    for n in range(25):
        (root / f"broken-{n:02d}.jpg").write_bytes(b"")
    options = ["--task", "all-subtypes", "--data", str(taleqani), "--out", str(tmp_path / "index")]
    assert main(["index", *options]) == 0
    told = capsys.readouterr().err
    assert "broken-19.jpg" in told and "broken-20.jpg" not in told
    assert "left out: and 5 more, all named in index.json" in told
    assert "broken-24.jpg" in (tmp_path / "index" / "index.json").read_text()


@pytest.mark.parametrize(("arguments", "what"), [
    (["--task", "blast"], "needs --data and --out"),
    (["--task", "blast", "--data", "d", "--out", "o", "--json"], "takes no --json"),
    (["--describe", "i", "--labels", "ALL", "AML"], "no option but --json: got --labels"),
    ([], "--task --describe is required"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(arguments: list[str], what: str, capsys) -> None:
    try:
        status = main(["index", *arguments])
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr().err
    assert status == 2 and what in told and told.count("\n") == 1


def test_single_cells_keep_one_scale(tmp_path: Path) -> None:
    """The published 360 px crop and its central 256 px give the same pixels."""
    big = Image.fromarray(render_field("Pre", np.random.default_rng(5), 360).pixels)
    big.save(tmp_path / "big.png")
    big.crop((52, 52, 308, 308)).save(tmp_path / "small.png")
    from edge_runtime.preprocess import Preprocess

    both = [prepare_picture(tmp_path / name, None, 256, Preprocess(224)) for name in ("big.png", "small.png")]
    assert np.array_equal(*both)


def test_splits_keep_groups_whole_and_classes_everywhere(rendered_index: Path) -> None:
    index = read_index(rendered_index)
    for protocol in PROTOCOLS:
        for side in SPLITS:
            assert {index.rows[i].label for i in index.select(protocol, side)} == set(SUBTYPES.labels)
    for group in {row.group for row in index.rows}:
        assert len({row.grouped for row in index.rows if row.group == group}) == 1
    again = split_index(index, seed=0)
    assert again.rows == index.rows, "the same seed deals the same way"
    other = split_index(index, seed=1)
    assert other.rows != index.rows
    split_index(index, seed=0)


def test_too_few_pictures_or_groups_are_named(
    taleqani: Path, rendered_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (taleqani / "taleqani" / "Original" / "Pro" / "WBC-Pro-000.jpg").unlink()
    few = build_index(SUBTYPES, taleqani, tmp_path / "index")
    with pytest.raises(DataError, match=r"stratified protocol: cannot be dealt out: got Pro from taleqani in 4 pict"
                                        r"ures of . group\(s\), expected as a rule 10 pictures .* Pro"):  # fmt: skip
        split_index(few, seed=0)
    many = dataclasses.replace(read_index(rendered_index), folder=tmp_path / "never")

    def held_together(*labels: str) -> Index:
        rows = (
            dataclasses.replace(row, group=row.label if row.label in labels else f"alone-{n}")
            for n, row in enumerate(many.rows)
        )
        return dataclasses.replace(many, rows=tuple(rows))

    with pytest.raises(DataError, match=r"grouped protocol: cannot be dealt out: got Benign from rendered in 30 "
                                        r"pictures of 1 group\(s\), expected as a rule 8 groups or more"):  # fmt: skip
        split_index(held_together(*SUBTYPES.labels), seed=0)
    with pytest.raises(DataError, match=r"grouped protocol: the (train|val|test) side would hold no Pre: got Pre from "
                                        r"rendered in 30 pictures of 1 group\(s\)"):  # fmt: skip
        split_index(held_together("Pre"), seed=0)
    assert not (tmp_path / "never").exists() and "n_splits" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_usage(seed: int, rendered_index: Path) -> None:
    with pytest.raises(UsageError, match="--seed: got"):
        split_index(read_index(rendered_index), seed)
