"""Files that are not what the manifest says: altered, cut, swapped for links, pipes or folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_maker import spoil

from edge_runtime import engines
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, EngineError

pytestmark = pytest.mark.usefixtures("no_engine_may_see_it")


def refusal(folder: Path) -> str:
    """Return the line with which a bundle is refused before it classifies anything."""
    with pytest.raises(BundleError) as caught:
        Classifier.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_changed_bit_of_the_model_is_found(bundle_folder: Path) -> None:
    model = bytearray((bundle_folder / "model.tflite").read_bytes())
    model[len(model) // 2] ^= 1
    (bundle_folder / "model.tflite").write_bytes(model)
    assert "model.tflite: altered or damaged: got SHA-256 " in refusal(bundle_folder)


@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m[:100], lambda m: b"", lambda m: m + b"\0"])
def test_a_cut_or_grown_model_is_found(bundle_folder: Path, change) -> None:
    model = (bundle_folder / "model.tflite").read_bytes()
    (bundle_folder / "model.tflite").write_bytes(change(model))
    assert f"model.tflite: wrong size: got {len(change(model))} bytes, expected {len(model)}" in refusal(bundle_folder)


def test_a_wrong_hash_and_a_wrong_size_in_the_manifest_are_found(bundle_folder: Path) -> None:
    spoil(bundle_folder, lambda stated: stated["files"]["model.tflite"].update(sha256="0" * 64))
    assert "model.tflite: altered or damaged" in refusal(bundle_folder)
    spoil(bundle_folder, lambda stated: stated["files"]["MODEL_CARD.md"].update(bytes=1))
    assert "MODEL_CARD.md: wrong size: got 9 bytes, expected 1" in refusal(bundle_folder)


@pytest.mark.parametrize("name", ["model.tflite", "golden/0.png", "MODEL_CARD.md"])
def test_a_missing_file_is_named(bundle_folder: Path, name: str) -> None:
    (bundle_folder / name).unlink()
    assert refusal(bundle_folder).startswith(f"{bundle_folder.resolve() / name}: missing")


@pytest.mark.parametrize("name", ["model.tflite", "golden/1.json", "manifest.json"])
def test_a_link_that_leaves_the_bundle_is_refused(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"  # the right bytes: only where they lie is wrong
    shutil.move(bundle_folder / name, outside)
    (bundle_folder / name).symlink_to(outside)
    assert f"{name}: a link that leaves the bundle" in refusal(bundle_folder)


def test_a_linked_folder_that_leaves_the_bundle_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    shutil.move(bundle_folder / "golden", tmp_path / "golden")
    (bundle_folder / "golden").symlink_to(tmp_path / "golden")
    assert "a link that leaves the bundle" in refusal(bundle_folder)


def test_a_neighbour_with_a_longer_name_is_outside(bundle_folder: Path, tmp_path: Path) -> None:
    neighbour = tmp_path / "bundle-evil"
    neighbour.mkdir()
    shutil.move(bundle_folder / "model.tflite", neighbour / "model.tflite")
    (bundle_folder / "model.tflite").symlink_to("../bundle-evil/model.tflite")
    assert "a link that leaves the bundle" in refusal(bundle_folder)


def test_a_loop_of_links_is_refused(bundle_folder: Path) -> None:
    (bundle_folder / "model.tflite").unlink()
    (bundle_folder / "model.tflite").symlink_to("model.tflite")
    assert "model.tflite: missing" in refusal(bundle_folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["model.tflite", "manifest.json"])
def test_a_pipe_does_not_hang_the_reader(bundle_folder: Path, name: str) -> None:
    (bundle_folder / name).unlink()
    os.mkfifo(bundle_folder / name)
    assert f"{name}: not a regular file" in refusal(bundle_folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_file_exchanged_for_a_pipe_after_the_check_does_not_hang(bundle_folder: Path, monkeypatch) -> None:
    from edge_runtime import bundle as reader

    opened = open_bundle(bundle_folder)
    (bundle_folder / "model.tflite").unlink()
    os.mkfifo(bundle_folder / "model.tflite")
    monkeypatch.setattr(reader, "_regular", lambda root, name: root / name)  # the check was a moment ago
    with pytest.raises(BundleError, match="not a regular file"):
        opened.read("model.tflite")


def test_a_folder_in_the_place_of_a_file_is_refused(bundle_folder: Path) -> None:
    (bundle_folder / "model.tflite").unlink()
    (bundle_folder / "model.tflite").mkdir()
    assert "model.tflite: not a regular file" in refusal(bundle_folder)


def test_a_huge_manifest_is_not_read_to_its_end(bundle_folder: Path) -> None:
    with open(bundle_folder / "manifest.json", "wb") as stream:
        stream.truncate(8 * 2**30)  # 8 GiB, sparse
    assert "manifest.json: too large" in refusal(bundle_folder)


def test_the_bytes_that_were_checked_are_the_bytes_that_are_used(bundle_folder: Path, monkeypatch) -> None:
    """Exchange the model between its check and its use: the engine must get the checked bytes."""
    whole = (bundle_folder / "model.tflite").read_bytes()
    seen: list[bytes] = []

    def load(files: Mapping[str, bytes], threads: int) -> None:
        (bundle_folder / "model.tflite").write_bytes(b"evil")
        seen.append(files["model.tflite"])
        raise RuntimeError("enough")

    monkeypatch.setitem(engines.ENGINES, "litert", replace(engines.ENGINES["litert"], load=load))
    with pytest.raises(EngineError, match="enough"):
        Classifier.open(bundle_folder, "litert")
    assert seen == [whole]
