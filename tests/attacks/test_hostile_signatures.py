"""Bundles that are not the ones somebody trusted signed: each is refused by name before a byte of it is believed."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundle_maker import key_line, replace_file, sign, signature, signing_key, spoil

from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.signature import MAX_SIGNATURE_BYTES, parse_signature
from edge_runtime.trust import read_trust

FRIEND, ENEMY = 1, 2
"""Seeds of two keys; only the first is trusted."""
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519's base point."""


pytestmark = pytest.mark.usefixtures("no_engine_may_see_it")


@pytest.fixture
def signed(bundle_folder: Path) -> Path:
    """Return a bundle of the test's own, signed by the friend with serial 5: it opens."""
    sign(bundle_folder, FRIEND)
    open_bundle(bundle_folder, read_trust(trust_file(bundle_folder)))
    return bundle_folder


def trust_file(folder: Path, limits: str = "") -> Path:
    """Write a trust file beside a bundle: the friend's key."""
    path = folder.parent / "keys.txt"
    path.write_text(f"{key_line(FRIEND)} {limits}\n")
    return path


def refusal(folder: Path, limits: str = "") -> str:
    """Return the line with which a bundle is refused by who trusts the friend alone."""
    trust = read_trust(trust_file(folder, limits))
    with pytest.raises(BundleError) as caught:
        Classifier.open(folder, trust=trust)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(folder.resolve())) and len(line) < 900
    return line


def rewrite(folder: Path, **changes: Any) -> Path:
    """Change what ``manifest.sig`` says without signing again."""
    path = folder / "manifest.sig"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_not_signed_at_all(bundle_folder: Path) -> None:
    assert ": not signed: expected manifest.sig by a key of " in refusal(bundle_folder)


def test_the_signature_was_taken_away(signed: Path) -> None:
    (signed / "manifest.sig").unlink()
    assert ": not signed" in refusal(signed)


def test_a_byte_of_the_manifest_was_changed(signed: Path) -> None:
    path = signed / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.95"))  # a threshold: fewer patients are flagged
    line = refusal(signed)
    assert "altered after signing" in line and "got manifest.json with SHA-256 " in line


@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m[:100], lambda m: b"", lambda m: m + b"\n"])
def test_the_manifest_was_cut_or_grown(signed: Path, change) -> None:
    """What no longer is a manifest is not parsed to find that out."""
    path = signed / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    assert "altered after signing" in refusal(signed)


def test_a_byte_of_the_model_was_changed(signed: Path) -> None:
    model = bytearray((signed / "model.tflite").read_bytes())
    model[len(model) // 2] ^= 1
    (signed / "model.tflite").write_bytes(model)
    assert "model.tflite: altered or damaged" in refusal(signed)


def test_model_and_manifest_were_changed_together(signed: Path) -> None:
    """An attacker who knows the format corrects the hash; without a signature nothing would be wrong."""
    replace_file(signed, "model.tflite", b"TFL3 and evil")
    assert open_bundle(signed).read("model.tflite") == b"TFL3 and evil"
    assert "altered after signing" in refusal(signed)


def test_the_signature_file_claims_the_hash_of_the_altered_manifest(signed: Path) -> None:
    replace_file(signed, "model.tflite", b"TFL3 and evil")
    rewrite(signed, manifest_sha256=signature(signed)["manifest_sha256"])
    assert "forged: the signature does not hold" in refusal(signed)


def test_signed_again_by_another_key(signed: Path) -> None:
    replace_file(signed, "model.tflite", b"TFL3 and evil")
    line = refusal(sign(signed, ENEMY))
    assert "signed by a key that is not trusted: got key " in line
    friend, enemy = (
        parse_signature(json.dumps(signature(signed, seed)).encode()).key.fingerprint for seed in (FRIEND, ENEMY)
    )
    assert f"got key {enemy}" in line and friend in line


def test_signed_by_another_key_in_the_name_of_a_trusted_one(signed: Path) -> None:
    assert "forged" in refusal(sign(signed, ENEMY, key=key_line(FRIEND)))


def test_a_signature_copied_from_another_bundle(signed: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "other"))
    sign(spoil(other, lambda stated: stated.update(name="other-tiny-int8")), FRIEND)
    shutil.copy(other / "manifest.sig", signed / "manifest.sig")
    assert "signature of another bundle: got other-tiny-int8, expected test-tiny-int8" in refusal(signed)


def test_a_signature_copied_from_another_version_of_the_bundle(signed: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "other"))
    sign(spoil(other, lambda stated: stated.update(temperature=2.0)), FRIEND, 6)
    shutil.copy(other / "manifest.sig", signed / "manifest.sig")
    assert "altered after signing, or this is another version's signature" in refusal(signed)


def test_an_old_version_is_replayed(signed: Path) -> None:
    open_bundle(signed, read_trust(trust_file(signed, "serial>=5")))
    assert "got serial 5, expected at least 6" in refusal(signed, "serial>=6")
    assert "forged" in refusal(rewrite(signed, serial=6), "serial>=6")


def test_a_line_without_a_serial_does_not_loosen_the_other(signed: Path) -> None:
    assert "expected at least 6" in refusal(signed, f"serial>=6\n{key_line(FRIEND)}")


def test_a_name_that_the_key_may_not_sign(signed: Path) -> None:
    open_bundle(signed, read_trust(trust_file(signed, "name=test-*")))
    line = refusal(signed, "name=blood-*")
    assert "key not trusted for this name: got test-tiny-int8, signed by key " in line and "expected blood-*" in line


def test_a_key_signs_under_a_name_that_it_may_and_the_bundle_has_another(signed: Path) -> None:
    """The owner of one name's key must not ship a bundle of another name."""
    sign(signed, FRIEND, name="blood-tiny-int8")
    line = refusal(signed, "name=blood-*")
    assert "signed under another name: got blood-tiny-int8, expected test-tiny-int8" in line


def test_the_name_in_the_signature_was_swapped(signed: Path) -> None:
    assert "forged" in refusal(rewrite(signed, name="blood-tiny-int8"))


def test_a_link_that_leaves_the_bundle(signed: Path, tmp_path: Path) -> None:
    shutil.move(signed / "manifest.sig", tmp_path / "outside")  # the right bytes: only where they lie is wrong
    (signed / "manifest.sig").symlink_to(tmp_path / "outside")
    assert "manifest.sig: a link that leaves the bundle" in refusal(signed)
    (tmp_path / "outside").unlink()
    assert "manifest.sig: missing" in refusal(signed)


def test_a_folder_in_the_place_of_the_signature(signed: Path) -> None:
    (signed / "manifest.sig").unlink()
    (signed / "manifest.sig").mkdir()
    assert "manifest.sig: not a regular file" in refusal(signed)


def test_a_huge_signature_is_not_read_to_its_end(signed: Path) -> None:
    with open(signed / "manifest.sig", "wb") as stream:
        stream.truncate(8 * 2**30)  # 8 GiB, sparse
    assert f"manifest.sig: too large: got {MAX_SIGNATURE_BYTES + 1} bytes" in refusal(signed)


def test_a_signature_that_names_itself_in_files(signed: Path) -> None:
    entry = {"sha256": "0" * 64, "bytes": 1}
    spoil(signed, lambda stated: stated["files"].update({"manifest.sig": entry}))
    assert "files.manifest.sig: got the signature" in refusal(sign(signed, FRIEND))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: b"", "not JSON"),
        (lambda t: t[:-1], "not JSON"),
        (lambda t: t[: len(t) // 2], "not JSON"),
        (lambda t: t + b"x", "not JSON"),
        (lambda t: t + t, "not JSON"),
        (lambda t: b"[" + t + b"]", "not an object"),
        (lambda t: b"\xff" + t, "not UTF-8"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": 4, "serial": 5'), "serial: stands there twice"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": true'), "serial: got true, expected an integer"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": 5.0'), "serial: got 5.0, expected an integer"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": "5"'), "serial: got a text, expected an integer"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": -5'), "serial: got -5, expected 0 to 9007199254740991"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": 9007199254740992'), "serial: got 9007199254740992"),
        (lambda t: t.replace(b'"serial": 5', b'"serial": NaN'), "not a number of JSON: got NaN"),
    ],
)
def test_damaged_signature_files_are_named(signed: Path, change, says: str) -> None:
    path = signed / "manifest.sig"
    text = path.read_bytes()
    assert change(text) != text
    path.write_bytes(change(text))
    assert f"manifest.sig: {says}" in refusal(signed)


@pytest.mark.parametrize("key", ["format", "version", "key", "name", "manifest_sha256", "serial", "signature"])
def test_every_missing_key_is_named(signed: Path, key: str) -> None:
    stated = json.loads((signed / "manifest.sig").read_text())
    del stated[key]
    (signed / "manifest.sig").write_text(json.dumps(stated))
    assert refusal(signed).endswith(f"manifest.sig: {key}: missing")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "leukoscope-bundle"}, "format: got 'leukoscope-bundle', expected 'leukoscope-signature'"),
        ({"version": 2}, "version: newer than this program: got 2, expected at most 1 (update leukoscope)"),
        ({"version": True}, "version: got true"),
        ({"name": "Test"}, "name: got 'Test'"),
        ({"name": "test\nserial 9"}, "name: got"),
        ({"manifest_sha256": "AB" * 32}, "manifest_sha256: got"),
        ({"key": "x"}, "key: got 'x', expected ed25519: and 44 characters of base64"),
        ({"key": None}, "key: got null"),
        ({"signature": ""}, "signature: got"),
        ({"signature": "A" * 84}, "signature: got"),  # 63 bytes
        ({"signature": "ä" * 88}, "signature: got"),
        ({"valid": True}, "valid: got a key that nobody signed"),
    ],
)
def test_wrong_values_are_named(signed: Path, changes: dict[str, Any], says: str) -> None:
    assert f"manifest.sig: {says}" in refusal(rewrite(signed, **changes))


def test_base64_has_one_spelling(signed: Path) -> None:
    """Else one signature could be written in many ways, and who keeps a list of refused ones would miss the others."""
    value = json.loads((signed / "manifest.sig").read_text())["signature"]
    assert value.endswith("==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sloppy = value[:-3] + alphabet[alphabet.index(value[-3]) ^ 1] + "=="
    assert base64.b64decode(sloppy) == base64.b64decode(value)
    for other in (sloppy, value[:40] + " " + value[40:], value.rstrip("="), value + "AAAA", value + "\n"):
        assert "manifest.sig: signature: got" in refusal(rewrite(signed, signature=other))


def test_a_signature_is_not_taken_in_a_second_form(signed: Path) -> None:
    """S + order fits the same equation; RFC 8032 wants S below the order."""
    value = base64.b64decode(json.loads((signed / "manifest.sig").read_text())["signature"])
    s = int.from_bytes(value[32:], "little") + ORDER
    other = base64.b64encode(value[:32] + s.to_bytes(32, "little")).decode()
    assert "forged" in refusal(rewrite(signed, signature=other))


FIELD = 2**255 - 19
SHORT = 2707385501144840649318225287225658788936804267575313519463743609750303402022  # y of a point of order 8
WEAK = [y | sign for y in (0, 1, FIELD - 1, SHORT, FIELD - SHORT, FIELD, FIELD + 1) for sign in (0, 2**255)]


@pytest.mark.parametrize("y", WEAK)
def test_keys_of_small_order_are_refused_everywhere(signed: Path, y: int) -> None:
    """Under the key 01 00 ... 00 the signature 01 00 ... 00 fits every text: nobody may be made to trust it."""
    raw = y.to_bytes(32, "little")
    line = "ed25519:" + base64.b64encode(raw).decode()
    (signed.parent / "weak.txt").write_text(line)
    with pytest.raises(UsageError, match="line 1: not a key: got a weak key"):
        read_trust(signed.parent / "weak.txt")
    anything = base64.b64encode(b"\1" + bytes(63)).decode()
    assert "manifest.sig: key: got a weak key" in refusal(rewrite(signed, key=line, signature=anything))


def test_a_weak_key_would_open_every_door() -> None:
    """The library takes such a key and such a signature, so it is this program that must not."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = b"\1" + bytes(31)
    for text in (b"one", b"another"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), text)


def test_the_manifest_is_exchanged_after_it_was_checked(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that were verified must be the bytes that are parsed."""
    from edge_runtime import bundle as reader

    parse = reader.parse_manifest

    def exchange(text: bytes, source: str) -> Any:
        spoil(signed, lambda stated: stated.update(temperature=9.0))
        return parse(text, source)

    monkeypatch.setattr(reader, "parse_manifest", exchange)
    assert open_bundle(signed, read_trust(trust_file(signed))).manifest.temperature == 1.5


def test_other_texts_that_the_key_signed_are_no_signature_of_a_bundle(signed: Path) -> None:
    """The key also signs, say, releases: what it signed there does not start with the first line of a bundle's text."""
    digest = signature(signed)["manifest_sha256"]
    for text in (digest.encode(), bytes.fromhex(digest), (signed / "manifest.json").read_bytes()):
        value = base64.b64encode(signing_key(FRIEND).sign(text)).decode()
        assert "forged" in refusal(rewrite(signed, signature=value))
