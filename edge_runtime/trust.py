"""Trust: which keys may sign which bundles, and from which serial on. The policy of the device's operator.

What comes in is a trust file, one key a line; what goes out is a `Trust`, whose `check` says who signed a bundle or
refuses it by name: not signed, damaged, an unknown key, forged, another bundle's, altered, a name the key may not sign,
replayed. Nothing is remembered between two runs, so a read-only device can have it: who wants an old bundle, validly
signed, to be refused from now on raises ``serial>=`` in the file.

    # keys.txt
    ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=   name=all-subtypes-*   serial>=1767225600
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from . import TRUST_VARIABLE
from .digest import sha256_hex
from .errors import BundleError, UsageError
from .json_reader import load_object
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME
from .signature import KEY_SHAPE, MAX_SERIAL, PublicKey, holds, parse_signature

_MAX_TRUST_BYTES = 1024 * 1024
_LIMIT = re.compile(r"(name=|serial>=)(.*)")
_GLOB = re.compile(r"[a-z0-9*?-]+")
_SERIAL = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True)
class TrustedKey:
    """A line of a trust file.

    Attributes:
        key: that may sign.
        name: glob of the bundles' names; "*" is all.
        serial: the smallest that is accepted.
    """

    key: PublicKey
    name: str = "*"
    serial: int = 0


@dataclass(frozen=True)
class Signer:
    """Who signed a bundle: only `Trust.check` makes one, so whoever holds it knows that the signature was checked."""

    key: PublicKey
    name: str
    serial: int


@dataclass(frozen=True)
class Trust:
    """Whose bundles are accepted. `source` is what errors call the file."""

    keys: tuple[TrustedKey, ...]
    source: str

    def check(self, signature: bytes, manifest: bytes, folder: Path) -> Signer:
        """Check the signature of a bundle.

        Args:
            signature: the bytes of ``manifest.sig``.
            manifest: the bytes of ``manifest.json`` that will be parsed, no others.
            folder: of the bundle, for errors.

        Returns:
            Who signed these bytes. Whether `Signer.name` is what the manifest calls itself is for the caller to see.

        Raises:
            BundleError: damaged, a key that is not trusted, forged, another bundle's, altered, not for this name, or
                replayed; or there is no library to find out.
        """
        source = f"{folder / SIGNATURE_NAME}"
        found = parse_signature(signature, source)
        lines = [line for line in self.keys if line.key == found.key]
        if not lines:
            known = sorted({line.key.fingerprint for line in self.keys})
            raise BundleError(
                f"{source}: signed by a key that is not trusted",
                got=f"key {found.key.fingerprint}",
                expected=f"one of {self.source}: {', '.join(known[:3])}{', ...' if len(known) > 3 else ''}",
                todo="get the bundle from who signs for you, or trust that key too",
            )
        if not holds(found):
            raise BundleError(
                f"{source}: forged: the signature does not hold",
                got="bytes that this key did not sign",
                expected=f"a signature by key {found.key.fingerprint}",
                todo="get the bundle again from who signed it",
            )
        digest = sha256_hex(manifest)
        if digest != found.manifest_sha256:
            raise _misfit(source, manifest, digest, found.name, found.manifest_sha256)
        lines = [line for line in lines if fnmatchcase(found.name, line.name)]
        if not lines:
            allowed = sorted({line.name for line in self.keys if line.key == found.key})
            raise BundleError(
                f"{source}: key not trusted for this name",
                got=f"{found.name}, signed by key {found.key.fingerprint}",
                expected=" or ".join(allowed),
                todo=f"see {self.source}",
            )
        serial = max(line.serial for line in lines)  # each line that speaks of it must be content
        if found.serial < serial:
            raise BundleError(
                f"{source}: older than {self.source} allows",
                got=f"serial {found.serial}",
                expected=f"at least {serial}",
                todo="an old bundle was put back: get the new one",
            )
        return Signer(found.key, found.name, found.serial)


def _misfit(source: str, manifest: bytes, digest: str, name: str, signed: str) -> BundleError:
    """Word the refusal of a manifest that is not the signed one; its name is read for this and for nothing else."""
    try:
        stated = load_object(manifest, MANIFEST_NAME, MAX_MANIFEST_BYTES).get("name")
    except BundleError:
        stated = name  # no manifest at all any more
    if stated != name:
        return BundleError(
            f"{source}: signature of another bundle",
            got=name,
            expected=str(stated)[:100],
            todo="copy bundle and signature together",
        )
    return BundleError(
        f"{source}: the bundle was altered after signing, or this is another version's signature",
        got=f"{MANIFEST_NAME} with SHA-256 {digest[:12]}...",
        expected=f"{signed[:12]}...",
        todo="get the bundle again from who signed it",
    )


def read_trust(path: str | os.PathLike[str]) -> Trust:
    """Read a trust file.

    Args:
        path: UTF-8 text, at most 1 MiB: a line is ``KEY [name=GLOB] [serial>=N]``; ``#`` begins a comment.

    Raises:
        UsageError: it cannot be read, trusts nobody, or a line is not what it must be; names the line.
    """
    name = os.fspath(path)
    if not name:
        raise UsageError(
            "the trust file has no name", todo=f"unset {TRUST_VARIABLE} to accept bundles that are not signed"
        )
    try:
        with open(name, "rb") as stream:
            content = stream.read(_MAX_TRUST_BYTES + 1)
        if len(content) > _MAX_TRUST_BYTES:
            raise UsageError(f"{name}: too large for a trust file", expected=f"at most {_MAX_TRUST_BYTES} bytes")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name}: cannot be read", got=error.strerror, expected="a trust file") from None
    except UnicodeError:
        raise UsageError(f"{name}: not UTF-8 text", expected="a trust file") from None
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words:
            keys.append(_trusted_key(words, f"{name}: line {number}"))
    if not keys:
        raise UsageError(f"{name}: trusts nobody", expected="a line with a key")
    return Trust(tuple(keys), name)


def _trusted_key(words: list[str], source: str) -> TrustedKey:
    try:
        key = PublicKey.parse(words[0])
    except ValueError as error:
        raise UsageError(f"{source}: not a key", got=error, expected=KEY_SHAPE) from None
    limits: dict[str, str] = {}
    for word in words[1:]:
        found = _LIMIT.fullmatch(word)
        if not found or found[1] in limits:
            expected = "name=GLOB and serial>=NUMBER, each at most once"
            raise UsageError(f"{source}: after the key", got=repr(word[:80]), expected=expected)
        limits[found[1]] = found[2]
    name, serial = limits.get("name=", "*"), limits.get("serial>=", "0")
    if not _GLOB.fullmatch(name):
        raise UsageError(f"{source}: name=", got=repr(name[:80]), expected="lower-case letters, digits, -, * and ?")
    if not _SERIAL.fullmatch(serial) or int(serial) > MAX_SERIAL:
        raise UsageError(f"{source}: serial>=", got=repr(serial[:80]), expected=f"an integer from 0 to {MAX_SERIAL}")
    return TrustedKey(key, name, int(serial))
