"""Signing: make a key pair, and sign a bundle that is whole. The device's half, which checks, is in ``edge_runtime``.

What comes in is a bundle's folder and a private key; what goes out is ``manifest.sig`` in that folder. The bundle is
opened with the device's own code and all its hashes are checked first; nothing else in it changes, nor does its id.
Ed25519 draws no random numbers: the same bundle, key and serial give the same bytes. The private key is a PEM file
(PKCS#8) that only its owner may read, without a passphrase: keep it off the devices. A public key is one line of text,
as a trust file has it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import OutputError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.manifest import SIGNATURE_NAME
from edge_runtime.signature import INSTALL, MAX_SERIAL, PublicKey, Signature, signed_text
from edge_runtime.trust import Trust, TrustedKey

from .errors import ExportError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_KEY_BYTES = 64 * 1024

KEYGEN_EXAMPLES = """examples:
  python -m export keygen signing.pem >> keys.txt

The line that is printed goes into the trust files of the devices; signing.pem goes nowhere.
"""

SIGN_EXAMPLES = """examples:
  python -m export sign work/bundle --key signing.pem
  python -m export sign work/bundle --key signing.pem --serial 7 --force
  python -m edge_runtime verify work/bundle --trust keys.txt

exit status: 0 signed; 1 the bundle or the key is not what it must be; 2 wrong usage.
"""


def make_key(path: Path) -> PublicKey:
    """Make a key pair and write the private half; a file that is there is never replaced.

    Args:
        path: of the PEM file to make, readable for its owner alone (mode 0600).

    Returns:
        The public half; its `str` is what a trust file has.

    Raises:
        ExportError: something of that name is there, or the library is missing.
        OutputError: it cannot be written.
    """
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ExportError(f"{path}: is there already", todo="a key is not replaced: give another name") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written", got=error.strerror) from None
    try:
        with open(descriptor, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)  # half a key is none
        raise OutputError(f"{path}: cannot be written", got=error.strerror) from None
    return public_key(key)


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key that `make_key` or ``openssl genpkey -algorithm ed25519`` wrote.

    Raises:
        ExportError: it cannot be read, has a passphrase, or is another kind of key; or the library is missing.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    expected = "an Ed25519 private key in PEM, without a passphrase"
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read", got=error.strerror, expected=expected) from None
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:
        raise ExportError(f"{path}: not a signing key", got="one with a passphrase", expected=expected) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ExportError(f"{path}: not a signing key", expected=expected) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ExportError(f"{path}: not a signing key", got=type(key).__name__.lstrip("_"), expected=expected)
    return key


def public_key(key: Ed25519PrivateKey) -> PublicKey:
    """Return the public half of a private key."""
    return PublicKey(key.public_key().public_bytes_raw())


def sign_bundle(folder: Path, key: Ed25519PrivateKey, serial: int | None = None, force: bool = False) -> Bundle:
    """Sign a bundle: check all its files, write ``manifest.sig``, and open it as a device that trusts the key.

    Args:
        folder: of the bundle.
        key: from `read_key`.
        serial: 0 to 2**53 - 1; greater means newer. Default: the seconds since 1970, UTC.
        force: replace a signature that is there.

    Returns:
        The bundle, opened; its `signer` says who signed.

    Raises:
        BundleError: not a whole bundle.
        ExportError: it is signed already.
        OutputError: the signature cannot be written.
        UsageError: serial out of range.
    """
    serial = int(time.time()) if serial is None else serial
    if not 0 <= serial <= MAX_SERIAL:
        raise UsageError("--serial", got=serial, expected=f"0 to {MAX_SERIAL}")
    bundle = open_bundle(folder.resolve())  # resolved: a folder is meant, never a default bundle of the same name
    target = bundle.root / SIGNATURE_NAME
    if os.path.lexists(target) and not force:
        raise ExportError(f"{target}: is there already", todo="--force replaces the signature")
    for name in bundle.manifest.files:
        bundle.read(name)
    public, name = public_key(key), bundle.manifest.name
    value = key.sign(signed_text(public, name, bundle.manifest_sha256, serial))
    signature = Signature(public, name, bundle.manifest_sha256, serial, value)
    write_bytes(target, (json.dumps(signature.to_dict(), indent=1) + "\n").encode("ascii"))
    return open_bundle(bundle.root, Trust((TrustedKey(public, name, serial),), "its own key"))


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``keygen`` and ``sign`` to the subcommands of a parser."""
    raw = argparse.RawDescriptionHelpFormatter
    keygen = commands.add_parser(
        "keygen",
        help="make a key that signs bundles",
        description="Make a key pair: the private key into a new file that only you can read, the public key, as a "
        "trust file has it, to standard output.",
        epilog=KEYGEN_EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    keygen.add_argument("key", type=Path, metavar="FILE", help="PEM file to make; one that is there is not replaced")
    keygen.set_defaults(run=_keygen)
    sign = commands.add_parser(
        "sign",
        help="sign a bundle",
        description="Check a bundle's files and sign its manifest, and so all of them. Nothing else in it changes.",
        epilog=SIGN_EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key, from keygen")
    sign.add_argument(
        "--serial", type=int, metavar="N", help="greater means newer; default: the seconds since 1970, UTC"
    )
    sign.add_argument("--force", action="store_true", help="replace a signature that is there")
    sign.set_defaults(run=_sign)


def _keygen(args: argparse.Namespace) -> None:
    sys.stdout.write(f"{make_key(args.key)}\n")


def _sign(args: argparse.Namespace) -> None:
    bundle = sign_bundle(args.bundle, read_key(args.key), args.serial, args.force)
    signer = bundle.signer
    assert signer is not None  # it was opened with a trust
    sys.stdout.write(f"{bundle.id}: signed by key {signer.key.fingerprint}, serial {signer.serial}\n")
    sys.stdout.write(f"trust it with: {signer.key} name={signer.name} serial>={signer.serial}\n")


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ExportError("bundles cannot be signed: no cryptography library", todo=INSTALL) from None
