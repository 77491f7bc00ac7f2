"""Signing: keys for their owner's eyes, the same bytes for the same bundle, and nothing signed that is not whole."""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "edge_runtime"))  # bundle_maker

from bundle_maker import key_line, signature, signing_key, spoil, tiny_bundle

from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError, OutputError, UsageError
from edge_runtime.guard import Parser, guarded
from edge_runtime.trust import read_trust
from export.errors import ExportError
from export.pack import _put_in_place
from export.signing import add_commands, make_key, public_key, read_key, sign_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "bundle")


def run(*arguments: object) -> int:
    """Run a command line that has these commands."""
    parser = Parser(prog="test")
    add_commands(parser.add_subparsers(required=True))
    return guarded(parser, list(map(str, arguments)))


def test_a_key_is_for_its_owner_and_never_replaced(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        public = make_key(tmp_path / "key.pem")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert public_key(read_key(tmp_path / "key.pem")) == public
    assert make_key(tmp_path / "other.pem") != public
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(ExportError, match="is there already"):
        make_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before
    with pytest.raises(OutputError, match="cannot be written"):
        make_key(tmp_path / "gone" / "key.pem")


def test_signing_says_what_the_format_says(folder: Path) -> None:
    """Against a second implementation, written after the document."""
    bundle = sign_bundle(folder, signing_key(1), 5)
    assert json.loads((folder / "manifest.sig").read_text()) == signature(folder, 1, 5)
    assert bundle.signer is not None and str(bundle.signer.key) == key_line(1) and bundle.signer.serial == 5


def test_signing_changes_nothing_else_and_is_the_same_twice(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    opened = open_bundle(folder)
    sign_bundle(folder, signing_key(1), 5)
    first = (folder / "manifest.sig").read_bytes()
    sign_bundle(folder, signing_key(1), 5, force=True)
    assert (folder / "manifest.sig").read_bytes() == first and first.endswith(b"}\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before | {
        folder / "manifest.sig": first
    }
    assert open_bundle(folder) == opened


def test_the_serial_is_the_time_unless_it_is_given(folder: Path) -> None:
    start = int(time.time())
    signer = sign_bundle(folder, signing_key(1)).signer
    assert signer is not None and start <= signer.serial <= time.time()
    for serial in (-1, 2**53):
        with pytest.raises(UsageError, match="--serial"):
            sign_bundle(folder, signing_key(1), serial, force=True)


def test_a_signature_is_replaced_only_on_demand(folder: Path, tmp_path: Path) -> None:
    sign_bundle(folder, signing_key(1), 5)
    before = (folder / "manifest.sig").read_bytes()
    with pytest.raises(ExportError, match="--force replaces"):
        sign_bundle(folder, signing_key(2), 6)
    assert (folder / "manifest.sig").read_bytes() == before
    signer = sign_bundle(folder, signing_key(2), 6, force=True).signer
    assert signer is not None and str(signer.key) == key_line(2)


def test_a_link_in_the_place_of_the_signature_is_replaced_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (folder / "manifest.sig").symlink_to(tmp_path / "precious")
    with pytest.raises(ExportError, match="is there already"):
        sign_bundle(folder, signing_key(1), 5)
    sign_bundle(folder, signing_key(1), 5, force=True)
    assert (tmp_path / "precious").read_text() == "mine" and not (folder / "manifest.sig").is_symlink()


@pytest.mark.parametrize("name", ["model.tflite", "golden/1.json", "MODEL_CARD.md"])
def test_what_is_not_whole_is_not_signed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: altered or damaged"):
        sign_bundle(folder, signing_key(1))
    assert not (folder / "manifest.sig").exists()


def test_a_manifest_that_no_device_would_open_is_not_signed(folder: Path) -> None:
    spoil(folder, lambda stated: stated.update(temperature=-1))
    with pytest.raises(BundleError, match="temperature"):
        sign_bundle(folder, signing_key(1))


def test_a_folder_is_signed_never_a_default_bundle_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime import bundle as reader

    monkeypatch.setattr(reader, "DEFAULT_BUNDLES", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    for parent in ("package", "."):
        tiny_bundle(tmp_path / parent / "mine")
    sign_bundle(Path("mine"), signing_key(1))
    assert (tmp_path / "mine" / "manifest.sig").exists()
    assert not (tmp_path / "package" / "mine" / "manifest.sig").exists()


def test_a_new_bundle_in_an_old_ones_place_is_not_signed(folder: Path, tmp_path: Path) -> None:
    """``pack --force`` replaces the folder: a signature must not outlive what it was made for."""
    sign_bundle(folder, signing_key(1))
    _put_in_place(tiny_bundle(tmp_path / "new"), folder)
    assert not (folder / "manifest.sig").exists()


def openssl_key(path: Path, kind: str) -> Path:
    """Write a key of another kind."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else signing_key(1)
    closed = form.BestAvailableEncryption(b"secret") if kind == "closed" else form.NoEncryption()
    if kind == "public":
        text = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    else:
        text = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, closed)
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("ec", "got ECPrivateKey, expected an Ed25519 private key"),
        ("closed", "got one with a passphrase"),
        ("public", "not a signing key: expected an Ed25519 private key"),
    ],
)
def test_other_keys_are_named(tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        read_key(openssl_key(tmp_path / "key.pem", kind))


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ExportError, match="text: not a signing key"):
        read_key(tmp_path / "text")
    with pytest.raises(ExportError, match="gone: cannot be read"):
        read_key(tmp_path / "gone")


def test_from_key_to_device_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keygen", tmp_path / "key.pem") == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "PRIVATE" not in line
    (tmp_path / "keys.txt").write_text(line)
    assert run("sign", folder, "--key", tmp_path / "key.pem", "--serial", 7) == 0
    said, advice = capsys.readouterr().out.splitlines()
    bundle = open_bundle(folder, read_trust(tmp_path / "keys.txt"))
    assert bundle.signer is not None and bundle.signer.serial == 7
    assert said == f"{bundle.id}: signed by key {bundle.signer.key.fingerprint}, serial 7"
    (tmp_path / "keys.txt").write_text(advice.removeprefix("trust it with: "))
    trusted = read_trust(tmp_path / "keys.txt").keys[0]
    assert (trusted.name, trusted.serial) == ("test-tiny-int8", 7)
    assert open_bundle(folder, read_trust(tmp_path / "keys.txt")).signer == bundle.signer
    assert run("keygen", tmp_path / "key.pem") == 1
    assert run("sign", folder, "--key", tmp_path / "key.pem") == 1
    assert run("sign", folder, "--key", tmp_path / "key.pem", "--serial", -1, "--force") == 2
    with pytest.raises(SystemExit) as stop:
        run("sign", folder)
    assert stop.value.code == 2


def test_without_the_library_there_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert run("keygen", tmp_path / "key.pem") == 1
    assert run("sign", folder, "--key", tmp_path / "key.pem") == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and all(line.endswith('(pip install "leukoscope[sign]")') for line in err)
    assert not (tmp_path / "key.pem").exists()


def test_help_needs_no_library() -> None:
    program = (
        "import sys; from export.signing import add_commands; from edge_runtime.guard import Parser;"
        "add_commands(Parser().add_subparsers()); assert not {'cryptography', 'numpy', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)


def test_add_commands_leaves_the_parser_its_other_commands() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    commands.add_parser("pack")
    add_commands(commands)
    assert set(commands.choices) == {"pack", "keygen", "sign"}
