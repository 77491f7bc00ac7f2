"""The index reads native layouts, names what it leaves out, and keeps together what belongs together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.cli import main
from train.errors import DataError
from train.index import PROTOCOLS, SPLITS, build_index, read_index
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
    with pytest.raises(DataError, match="does not use pbc"):
        build_index(SUBTYPES, taleqani, tmp_path / "index", ["pbc"])
    with pytest.raises(DataError, match="no folder"):
        build_index(SUBTYPES, tmp_path / "nowhere", tmp_path / "index")
    with pytest.raises(DataError, match="python -m train index"):
        read_index(tmp_path / "nothing")


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
    with pytest.raises(DataError, match="got Pros"):
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


def test_too_few_groups_are_refused(taleqani: Path, tmp_path: Path) -> None:
    import dataclasses

    index = build_index(SUBTYPES, taleqani, tmp_path / "index")
    torn = dataclasses.replace(index, rows=tuple(dataclasses.replace(r, group=f"g{r.label}") for r in index.rows))
    with pytest.raises(DataError, match=r"too few groups|would hold no"):
        split_index(torn, seed=0)
