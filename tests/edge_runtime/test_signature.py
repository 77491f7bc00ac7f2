"""Signatures and trust files: who is accepted, what is said about it, and what it costs who does not ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_maker import key_line, sign, signature

from edge_runtime import TRUST_VARIABLE, cli
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, UsageError
from edge_runtime.signature import PublicKey, holds, parse_signature, signed_text
from edge_runtime.trust import TrustedKey, read_trust

ROOT = Path(__file__).resolve().parents[2]
KEY = PublicKey.parse(key_line(1))


@pytest.fixture
def signed(bundle_folder: Path) -> Path:
    """Return a bundle of the test's own, signed by key 1 with serial 5."""
    return sign(bundle_folder, 1, 5)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a trust file with key 1."""
    path = tmp_path / "keys.txt"
    path.write_text(key_line(1) + "\n")
    return path


def test_a_signed_bundle_opens_and_says_who_signed(signed: Path, keys: Path) -> None:
    signer = open_bundle(signed, read_trust(keys)).signer
    assert signer is not None and (signer.key, signer.name, signer.serial) == (KEY, "test-tiny-int8", 5)
    assert Classifier.open(signed, trust=read_trust(keys)).bundle.signer == signer


def test_signing_changes_neither_manifest_nor_id(bundle_folder: Path) -> None:
    before = open_bundle(bundle_folder)
    assert open_bundle(sign(bundle_folder)) == before


def test_a_signature_that_nobody_checked_does_not_look_checked(signed: Path, keys: Path) -> None:
    assert open_bundle(signed).signer is None
    sign(signed, 2)
    assert open_bundle(signed).signer is None, "and an unknown signer is no reason to refuse who asks for none"
    with pytest.raises(BundleError, match="not trusted"):
        open_bundle(signed, read_trust(keys))


def test_trust_comes_too_late_for_an_open_bundle(signed: Path, keys: Path) -> None:
    with pytest.raises(UsageError, match="open already"):
        Classifier.open(open_bundle(signed), trust=read_trust(keys))


def test_the_signed_text_is_the_documented_one() -> None:
    text = signed_text(KEY, "a-b-c", "ab" * 32, 7)
    assert text == (
        f"leukoscope-signature 1\nkey {key_line(1)}\nname a-b-c\nmanifest-sha256 {'ab' * 32}\nserial 7\n".encode()
    )
    document = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    for line in text.decode().splitlines():
        assert f"\n{line.split(' ')[0]} " in document


def test_the_signature_of_the_standard_holds() -> None:
    """RFC 8032, 7.1, test 1: the key of the documentation, so that its text cannot have been typed wrongly."""
    key = PublicKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
    assert str(key) in (ROOT / "edge_runtime" / "trust.py").read_text(encoding="utf-8")
    assert PublicKey.parse(str(key)) == key and len(key.fingerprint) == 16


def test_what_is_written_is_what_is_read(signed: Path) -> None:
    found = parse_signature(json.dumps(signature(signed)).encode())
    assert found.to_dict() == signature(signed) and holds(found)


def double(point: tuple[int, int]) -> tuple[int, int]:
    """Add a point of Ed25519's curve to itself: RFC 8032, 5.1.4, in affine coordinates."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    x, y = point
    cross = d * x * x * y * y % p
    return 2 * x * y * pow(1 + cross, -1, p) % p, (y * y + x * x) * pow(1 - cross, -1, p) % p


def test_the_weak_keys_are_those_whose_eightfold_is_nothing() -> None:
    from edge_runtime.signature import _FIELD as P
    from edge_runtime.signature import _SMALL_ORDER

    d = -121665 * pow(121666, -1, P) % P
    for y in _SMALL_ORDER:
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
        assert x * x % P == square
        assert double(double(double((x, y)))) == (0, 1)
    assert len(set(_SMALL_ORDER)) == 5  # and two signs of x, where it is not 0: eight points


@pytest.mark.parametrize(
    ("line", "name", "serial"),
    [
        ("{key}", "*", 0),
        ("  {key}\t# the laboratory's", "*", 0),
        ("{key} name=all-*", "all-*", 0),
        ("{key} serial>=17", "*", 17),
        ("{key} serial>=9007199254740991 name=a?c#comment", "a?c", 2**53 - 1),
    ],
)
def test_lines_of_a_trust_file(tmp_path: Path, line: str, name: str, serial: int) -> None:
    path = tmp_path / "keys.txt"
    text = "# keys\r\n\r\n" + line.format(key=key_line(1)) + "\r\n"
    for encoded in (text.encode(), text.encode("utf-8-sig")):
        path.write_bytes(encoded)
        assert read_trust(path).keys == (TrustedKey(KEY, name, serial),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("key", "line 2: not a key: got 'key', expected ed25519: and 44 characters of base64"),
        ("ed25519:", "line 2: not a key"),
        ("{key}=", "line 2: not a key"),
        ("{short}", "line 2: not a key"),
        ("ED25519:{raw}", "line 2: not a key"),
        ("{raw}", "line 2: not a key"),
        ("{key} all-*", "line 2: after the key: got 'all-*', expected name=GLOB and serial>=NUMBER"),
        ("{key} serial=3", "line 2: after the key: got 'serial=3'"),
        ("{key} serial>= 3", "line 2: after the key: got '3'"),
        ("{key} serial>=", "line 2: serial>=: got ''"),
        ("{key} serial>=-1", "line 2: serial>=: got '-1'"),
        ("{key} serial>=1.5", "line 2: serial>=: got '1.5'"),
        ("{key} serial>=٣", "line 2: serial>=: got '٣'"),
        ("{key} serial>=9007199254740992", "line 2: serial>=: got '9007199254740992', expected an integer from 0"),
        ("{key} serial>=1 serial>=2", "line 2: after the key: got 'serial>=2'"),
        ("{key} name=", "line 2: name=: got ''"),
        ("{key} name=[ab]", "line 2: name=: got '[ab]'"),
        ("{key} name=All", "line 2: name=: got 'All'"),
        ("# {key}", "trusts nobody"),
    ],
)
def test_wrong_lines_of_a_trust_file_are_named(tmp_path: Path, line: str, says: str) -> None:
    path, raw = tmp_path / "keys.txt", key_line(1).partition(":")[2]
    path.write_text("#\n" + line.format(key=key_line(1), raw=raw, short=key_line(1)[:-4]) + "\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_trust(path)
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)


def test_trust_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b"#" * (2**20 + 1))
    for name, says in (("", "no name"), ("gone", "cannot be read"), (".", "cannot be read"), ("huge", "too large")):
        with pytest.raises(UsageError, match=says):
            read_trust(name and tmp_path / name)
    with pytest.raises(UsageError, match="not UTF-8"):
        read_trust(tmp_path / "binary")


@pytest.mark.parametrize("command", ["classify", "info", "verify"])
def test_every_command_refuses_by_option_and_by_environment(
    command: str,
    signed: Path,
    keys: Path,
    picture_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = ["classify", str(picture_file), "--model", str(signed)] if command == "classify" else [command, str(signed)]
    assert cli.main([*plain, "--trust", str(keys)]) == 0
    sign(signed, 2)
    assert cli.main(plain) == 0
    capsys.readouterr()
    assert cli.main([*plain, "--trust", str(keys)]) == 1
    assert "signed by a key that is not trusted" in capsys.readouterr().err
    monkeypatch.setenv(TRUST_VARIABLE, str(keys))
    assert cli.main(plain) == 1
    for nothing in ("", str(keys.parent / "gone.txt")):  # a service whose setting was lost must stop, not go on
        monkeypatch.setenv(TRUST_VARIABLE, nothing)
        assert cli.main(plain) == 2


def test_info_and_verify_say_who_signed_only_when_that_was_checked(
    signed: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    for command in ("info", "verify"):
        assert "sign" not in said(command, str(signed))
        assert f"key {KEY.fingerprint}, serial 5" in said(command, str(signed), "--trust", str(keys))
    assert "signed_by" not in json.loads(said("verify", str(signed), "--json"))
    stated = json.loads(said("verify", str(signed), "--json", "--trust", str(keys)))
    assert stated["signed_by"] == {"key": str(KEY), "fingerprint": KEY.fingerprint, "serial": 5}


def test_without_the_library_nothing_is_accepted(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cryptography", "cryptography.exceptions", "cryptography.hazmat.primitives.asymmetric.ed25519"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["info", str(signed)]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(signed), "--trust", str(keys)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == (
        'error: signatures cannot be checked: no cryptography library (pip install "leukoscope[sign]")\n'
    )


def test_who_asks_for_no_signature_loads_none_of_this(signed: Path, keys: Path) -> None:
    program = "import sys; from edge_runtime.cli import main; main(sys.argv[1:]); print(*sys.modules)"

    def loaded(*arguments: object) -> set[str]:
        command = [sys.executable, "-c", program, "info", str(signed), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=True)
        return set(done.stdout.decode().splitlines()[-1].split())

    wanted = {"edge_runtime.signature", "edge_runtime.trust", "cryptography"}
    assert not loaded() & wanted
    assert wanted <= loaded("--trust", keys)
