"""Bundles that lie about when they decline: each is refused with one line that names the file and the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import LABELS, replace_file, spoil

from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError
from edge_runtime.familiarity import MAX_BYTES, Familiarity, feature_names

COUNT = len(feature_names(LABELS))


def stated() -> dict[str, Any]:
    return {
        "coverage": 0.95,
        "margins": dict.fromkeys(LABELS, 1.0),
        "familiarity": {"file": "familiarity.json", "limit": 2.0},
    }


def known() -> dict[str, Any]:
    return Familiarity(np.zeros((len(LABELS), COUNT)), np.eye(COUNT)).to_dict(LABELS)


def declining(folder: Path, manifest: dict[str, Any], content: bytes) -> Path:
    replace_file(folder, "familiarity.json", content)
    return spoil(folder, lambda whole: whole.update(abstention=manifest))


def test_what_these_attacks_spoil_is_accepted(bundle_folder: Path) -> None:
    Classifier.open(declining(bundle_folder, stated(), json.dumps(known()).encode()))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("coverage"), "abstention.coverage: missing"),
        (lambda s: s.pop("margins"), "abstention.margins: missing"),
        (lambda s: s.pop("familiarity"), "abstention.familiarity: missing"),
        (lambda s: s.update(coverage=0), "abstention.coverage: got 0"),
        (lambda s: s.update(coverage=1.01), "abstention.coverage: got 1.01"),
        (lambda s: s.update(coverage=True), "abstention.coverage: got true"),
        (lambda s: s["margins"].pop(LABELS[0]), f"abstention.margins.{LABELS[0]}: missing"),
        (lambda s: s["margins"].update({LABELS[0]: -0.1}), f"abstention.margins.{LABELS[0]}"),
        (lambda s: s["margins"].update({LABELS[0]: None}), f"abstention.margins.{LABELS[0]}"),
        (lambda s: s["margins"].update({LABELS[0]: "1"}), f"abstention.margins.{LABELS[0]}"),
        (lambda s: s["margins"].update({LABELS[0]: 10**400}), f"abstention.margins.{LABELS[0]}"),
        (lambda s: s["margins"].update(Nobody=1.0), "abstention.margins.Nobody: got no such label"),
        (lambda s: s["familiarity"].update(file="no.json"), "abstention.familiarity.file: got 'no.json'"),
        (lambda s: s["familiarity"].update(file="../secret"), "abstention.familiarity.file"),
        (lambda s: s["familiarity"].update(limit=0), "abstention.familiarity.limit: got 0"),
        (lambda s: s["familiarity"].pop("limit"), "abstention.familiarity.limit: missing"),
    ],
)
def test_manifests(bundle_folder: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    manifest = stated()
    change(manifest)
    declining(bundle_folder, manifest, json.dumps(known()).encode())
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle_folder)
    assert str(caught.value).startswith(f"{bundle_folder.resolve() / 'manifest.json'}: {named}")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda k: k.update(format="leukoscope-bundle"), "format"),
        (lambda k: k.update(version=2), "version: newer than this program"),
        (lambda k: k["features"].pop(), "features"),
        (lambda k: k["features"].reverse(), "features"),
        (lambda k: k["means"].pop(), "means"),
        (lambda k: k["means"][0].pop(), "means"),
        (lambda k: k["whitening"].append([0.0] * COUNT), "whitening"),
        (lambda k: k["whitening"][3].append(0.0), "whitening"),
        (lambda k: k["whitening"][3].__setitem__(2, "0"), "whitening[3][2]"),
        (lambda k: k["whitening"][3].__setitem__(2, None), "whitening[3][2]"),
        (lambda k: k["whitening"].__setitem__(0, 5), "whitening[0]"),
        (lambda k: k.pop("means"), "means: missing"),
    ],
)
def test_files(bundle_folder: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    content = known()
    change(content)
    declining(bundle_folder, stated(), json.dumps(content).encode())
    with pytest.raises(BundleError) as caught:
        Classifier.open(bundle_folder)
    assert str(caught.value).startswith(f"{bundle_folder.resolve() / 'familiarity.json'}: {named}")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"{" * 5000, b'{"format": NaN}', b" " * (MAX_BYTES + 1)], ids=range(6)
)
def test_what_is_no_json(bundle_folder: Path, content: bytes) -> None:
    declining(bundle_folder, stated(), content)
    with pytest.raises(BundleError, match=r"familiarity\.json"):
        Classifier.open(bundle_folder)


def test_numbers_that_overflow_make_no_warning_and_no_answer(bundle_folder: Path) -> None:
    content = known()
    content["whitening"][0][0] = 1e308
    content["means"] = [[1e308] * COUNT for _ in LABELS]
    classifier = Classifier.open(declining(bundle_folder, stated(), json.dumps(content).encode()))
    found = classifier.classify(np.zeros((96, 96, 3), np.uint8))
    assert "unfamiliar" in [refusal.reason for refusal in found.refusals]
    json.dumps(found.to_dict(), allow_nan=False)
