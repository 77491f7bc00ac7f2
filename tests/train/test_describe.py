"""The data card counts right, says what could be learnt by cheating, and holds for all five leukemia classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.cli import main
from train.data_card import format_card
from train.describe import describe
from train.index import PROTOCOLS, SPLITS, Index, build_index, read_index
from train.pixels import load_pixels
from train.render import write_rendered
from train.tasks import TASKS

LEUKEMIA = TASKS["leukemia"]


def _tint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a noisy picture of one mean colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 21, (32, 32, 1))
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(path)


@pytest.fixture
def confounded(tmp_path: Path) -> Index:
    """ALL from two sources, 6 + 2 pictures; AML and Healthy from one each, 4 and 4."""
    data = tmp_path / "data"
    for n in range(6):
        _tint(data / "rendered" / "ALL" / f"{n}.png", (200, 150, 100), n)
    for n in range(4):
        _tint(data / "rendered" / "AML" / f"{n}.png", (100, 100, 100), 10 + n)
        _tint(data / "folder" / "healthy" / f"P{n // 2}" / f"{n}.png", (180, 180, 90), 20 + n)
    for n in range(2):
        _tint(data / "folder" / "all" / "P9" / f"{n}.png", (200, 150, 100), 30 + n)
    return build_index(LEUKEMIA.restricted(["ALL", "AML", "Healthy"]), data, tmp_path / "index")


def test_classes_are_counted_by_source_and_group(confounded: Index) -> None:
    card = describe(confounded)
    assert card["counts"] == {
        "ALL": {"folder": {"pictures": 2, "groups": 1}, "rendered": {"pictures": 6, "groups": 6}},
        "AML": {"rendered": {"pictures": 4, "groups": 4}},
        "Healthy": {"folder": {"pictures": 4, "groups": 2}},
    }
    assert (card["pictures"], card["groups"]) == (16, 13)
    assert card["sources"]["folder"]["sizes_px"] == {"32 x 32": 6}
    assert card["sources"]["rendered"]["formats"] == {"PNG": 10}
    assert card["sources"]["folder"]["clusters"] == 0
    assert card["splits"] == {}
    assert json.loads(json.dumps(card)) == card


def test_a_class_of_one_source_is_warned_of_and_the_source_is_scored_as_a_classifier(confounded: Index) -> None:
    card = describe(confounded)
    found = card["confounding"]
    assert found["single_source"] == {"AML": "rendered", "Healthy": "folder"}
    # from rendered one guesses AML (all of it, against 6/8 of ALL), from folder Healthy: recalls 0, 1, 1
    assert found["balanced_accuracy_of_source"] == pytest.approx(2 / 3)
    assert found["class_against_rest"] == pytest.approx({"ALL": 0.625, "AML": 0.75, "Healthy": 11 / 12})
    assert found["chance"] == pytest.approx(1 / 3)
    assert 0.3 < found["normalised_mutual_information"] < 0.7
    assert "AML comes from rendered only: to know the source can be to know the class" in card["warnings"]
    text = format_card(card)
    assert "WARNING: Healthy comes from folder only" in text
    assert "balanced accuracy of 0.667 (chance 0.333)" in text


def test_colours_are_those_of_the_pictures(confounded: Index) -> None:
    rows = {(row["source"], row["label"]): row for row in describe(confounded)["colours"]}
    found = rows["rendered", "ALL"]
    assert [found[name]["mean"] for name in ("red", "green", "blue")] == pytest.approx([200, 150, 100], abs=1.5)
    assert found["saturation"]["mean"] == pytest.approx(0.5, abs=0.01)
    numbers = [i for i, row in enumerate(confounded.rows) if (row.source, row.label) == ("rendered", "ALL")]
    pixels = load_pixels(confounded)[numbers].astype(float)  # (6, H, W, 3)
    assert found["contrast"]["mean"] == pytest.approx(pixels.std((1, 2)).mean(), abs=0.01)
    assert rows["rendered", "AML"]["saturation"]["mean"] < 0.01
    assert found["darkest"]["mean"] < 150 < found["background"]["mean"]
    assert found["measured"] == 6


def test_near_duplicates_and_torn_groups_are_counted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label in ("blast", "other"):
        for n in range(40):
            tiles = np.random.default_rng([n, ord(label[0])]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = data / "folder" / label / f"P{n // 2}{label}" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiles).resize((64, 64), Image.Resampling.NEAREST).save(path)
            if n == 0:
                Image.open(path).save(path.with_name("twin.jpg"), quality=95)
    out = tmp_path / "index"
    assert main(["index", "--task", "blast", "--data", str(data), "--out", str(out)]) == 0
    assert main(["split", str(out)]) == 0
    card = describe(read_index(out))
    assert card["near_duplicates"]["pairs"] == 2 and card["near_duplicates"]["of_two_classes"] == 0
    assert card["near_duplicates"]["across_sides"]["grouped"] == 0
    assert card["splits"]["grouped"]["torn_groups"] == 0 < card["splits"]["stratified"]["torn_groups"]
    assert any(text.startswith("stratified: ") and "groups are on several sides" in text for text in card["warnings"])
    for protocol in PROTOCOLS:
        sides = card["splits"][protocol]["sides"]
        assert sum(sides[side]["pictures"] for side in SPLITS) == 82
        assert sum(sides[side]["labels"]["blast"]["pictures"] for side in SPLITS) == 41
    assert card["splits"]["grouped"]["sides"]["train"]["pictures_per_group"]["median"] == 2


def test_near_duplicates_of_two_classes_are_named_nearest_first(tmp_path: Path) -> None:
    data = tmp_path / "data" / "folder"
    for n in range(12):
        tiles = np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(tiles).resize((64, 64), Image.Resampling.NEAREST)
        for label in ("blast", "other"):
            (data / label).mkdir(parents=True, exist_ok=True)
            quality = {"quality": 30} if (n, label) == (0, "blast") else {}
            picture.save(data / label / f"{label}-{n:02d}.{'jpg' if quality else 'png'}",
                         **quality, **({"compress_level": 0} if label == "other" else {}))  # fmt: skip
    card = describe(build_index(TASKS["blast"], data.parent, tmp_path / "index"))
    near = card["near_duplicates"]
    assert near["of_two_classes"] == 12, "the same pixels in other bytes"
    assert len(near["of_two_classes_examples"]) == 10
    line = "folder/blast/blast-01.png (blast), folder/other/other-01.png (other): 0 bits apart"
    assert near["of_two_classes_examples"][0] == line
    text = format_card(card).splitlines()
    place = text.index("near duplicates (30 of 256 bits): 12 pairs, 12 of two classes")
    assert text[place + 1] == f"  {line}" and text[place + 11] == "  and 2 more of two classes"


def test_what_was_left_out_is_on_the_card(confounded: Index, tmp_path: Path) -> None:
    root = confounded.data / "folder"
    (root / "all" / "P9" / "broken.png").write_bytes(b"")
    (root / "Healthy").mkdir()
    shutil.copy(root / "all" / "P9" / "0.png", root / "healthy" / "P0" / "liar.png")
    shutil.copy(root / "all" / "P9" / "1.png", root / "all" / "again.png")
    _tint(root / "MDS" / "1.png", (9, 99, 99), 99)
    index = build_index(confounded.task, confounded.data, tmp_path / "again")
    left_out = describe(index)["left_out"]
    assert len(left_out["unreadable"]) == 1 and "broken.png: empty" in left_out["unreadable"][0]
    assert "liar.png (Healthy)" in left_out["contradictory"][0]
    assert left_out["exact_duplicates"] == 1 and "folder/all/again.png" in left_out["repeated"][0]
    assert left_out["labels"] == {"folder: MDS": 1}
    assert "no picture in this folder" in left_out["remarks"][0]
    text = format_card(describe(index))
    for words in ("broken.png", "liar.png", "folder: MDS", "no picture in this folder"):
        assert words in text


def test_the_card_needs_no_pictures_once_they_are_prepared(confounded: Index) -> None:
    shutil.rmtree(confounded.data)
    card = describe(confounded)
    assert card["sources"]["folder"]["formats"] == {"not there any more": 6}
    assert len(card["colours"]) == 4


def test_card_on_the_command_line(rendered_index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--describe", str(rendered_index)]) == 0
    text = capsys.readouterr().out
    assert "WARNING: every class comes from rendered only" in text and "grouped split, pictures / groups" in text
    assert main(["index", "--describe", str(rendered_index), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    index = read_index(rendered_index)
    assert card["data_sha256"] == index.sha256 and card["labels"] == list(index.task.labels)
    assert sum(size["pictures"] for found in card["counts"].values() for size in found.values()) == len(index.rows)
    assert main(["index", "--describe", str(rendered_index / "nothing")]) == 1


def test_five_leukemia_classes_from_picture_to_split(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "index"
    options = ["--task", "leukemia", "--per-class", "16", "--px", "96", "--out", str(data / "rendered")]
    assert main(["render", *options]) == 0
    assert main(["index", "--task", "leukemia", "--data", str(data), "--out", str(out)]) == 0
    assert main(["split", str(out)]) == 0
    index = read_index(out)
    assert index.task == LEUKEMIA and len(index.rows) == 5 * 16
    for protocol in PROTOCOLS:
        for side in SPLITS:
            assert {index.rows[i].label for i in index.select(protocol, side)} == set(LEUKEMIA.labels)
    colours = {row["label"]: row for row in describe(index)["colours"]}
    reds = [colours[label]["red"] for label in LEUKEMIA.labels]
    assert np.ptp([red["mean"] for red in reds]) < 2 * np.mean([red["spread"] for red in reds]), "one stain for all"


def test_a_class_nobody_has_pictures_of_is_named_with_the_way_out(tmp_path: Path, capsys) -> None:
    write_rendered(tmp_path / "data" / "rendered", ("ALL", "Healthy"), 2, seed=0, kind="field", px=64)
    _tint(tmp_path / "data" / "folder" / "A.M.L." / "1.png", (9, 99, 99), 0)
    (tmp_path / "data" / "folder" / "CLL").mkdir()
    options = ["--task", "leukemia", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "index")]
    assert main(["index", *options]) == 1
    told = capsys.readouterr().err
    assert "labels that are no class, as 'folder: A.M.L.'" in told and "CLL: no picture in this folder" in told
    assert "no pictures of AML, CLL, CML" in told and "--labels ALL Healthy" in told
    assert main(["index", *options, "--labels", "ALL", "Healthy"]) == 0
