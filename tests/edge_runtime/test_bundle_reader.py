"""A valid bundle opens by path and by name, and its files are read once, checked, and only when they are used."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from edge_runtime import bundle as reader
from edge_runtime import digest
from edge_runtime.bundle import default_bundles, open_bundle
from edge_runtime.errors import BundleError


def test_a_bundle_opens_by_path(valid_bundle: Path) -> None:
    bundle = open_bundle(valid_bundle)
    digest = hashlib.sha256((valid_bundle / "manifest.json").read_bytes()).hexdigest()
    assert bundle.id == f"test-tiny-int8@{digest[:12]}"
    assert bundle.models == ("model.tflite",)
    assert bundle.read("model.tflite") == (valid_bundle / "model.tflite").read_bytes()
    assert bundle.size_bytes == sum((valid_bundle / name).stat().st_size for name in bundle.manifest.files)


def test_default_bundles_open_by_name(valid_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "DEFAULT_BUNDLES", tmp_path)
    assert default_bundles() == ()
    for name in ("b", "a"):
        shutil.copytree(valid_bundle, tmp_path / name)
    (tmp_path / "no-bundle").mkdir()
    assert default_bundles() == ("a", "b")
    assert open_bundle("a").root == (tmp_path / "a").resolve()
    with pytest.raises(BundleError, match="no such model: got 'c', expected a or b or the path of a bundle"):
        open_bundle("c")


@pytest.mark.parametrize("name", default_bundles())
def test_default_bundles_state_where_the_cells_of_their_class_map_lie(name: str) -> None:
    manifest = open_bundle(name).manifest
    assert {"first_px", "step_px"} <= set(manifest.raw["outputs"]["class_map"])


def test_a_missing_folder_of_default_bundles_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "DEFAULT_BUNDLES", tmp_path / "none")
    assert default_bundles() == ()


@pytest.mark.parametrize("name", ["", "nowhere", "../nowhere", "a\0b", "x" * 5000])
def test_what_is_not_there_is_no_model(name: str) -> None:
    with pytest.raises(BundleError, match="no such model"):
        open_bundle(name)


def test_other_folders_and_files_are_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle: expected a folder with manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"x")
    with pytest.raises(BundleError, match="not a bundle: got a file"):
        open_bundle(tmp_path / "model.tflite")


def test_a_link_to_a_bundle_and_links_inside_it_are_allowed(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "stored").mkdir()
    (bundle_folder / "model.tflite").rename(bundle_folder / "stored" / "blob")
    (bundle_folder / "model.tflite").symlink_to("stored/blob")
    (tmp_path / "link").symlink_to(bundle_folder)
    assert open_bundle(tmp_path / "link").read("model.tflite") == (bundle_folder / "stored" / "blob").read_bytes()


def test_only_files_that_are_used_are_hashed(bundle_folder: Path) -> None:
    card = bundle_folder / "MODEL_CARD.md"
    card.write_bytes(b"x" * card.stat().st_size)
    bundle = open_bundle(bundle_folder)
    bundle.read("model.tflite")
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md: altered or damaged"):
        bundle.read("MODEL_CARD.md")


def test_files_that_are_not_named_do_not_exist_for_the_reader(bundle_folder: Path) -> None:
    (bundle_folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.bin: not in the bundle"):
        open_bundle(bundle_folder).read("extra.bin")


def test_a_file_exchanged_after_opening_is_noticed(bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    model = bundle_folder / "model.tflite"
    content = model.read_bytes()
    for other, says in (
        (content + b"x", "wrong size: got more than"),
        (content[:-1], "wrong size"),
        (b"\xff" + content[1:], "altered or damaged"),
    ):
        model.write_bytes(other)
        with pytest.raises(BundleError, match=says):
            bundle.read("model.tflite")
    model.unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.read("model.tflite")


@pytest.mark.parametrize("size_bytes", [0, 1, 55, 56, 64, 1000, digest._SMALL_BYTES, digest._SMALL_BYTES + 1])
@pytest.mark.parametrize("light", [digest._LIGHT, "nothing_of_this_name"])
def test_every_sha256_is_the_same(size_bytes: int, light: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_LIGHT", light)
    content = bytes(range(256)) * (size_bytes // 256 + 1)
    assert digest.sha256_hex(content[:size_bytes]) == hashlib.sha256(content[:size_bytes]).hexdigest()
