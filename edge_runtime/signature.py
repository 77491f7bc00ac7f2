"""A bundle's signature: what ``manifest.sig`` says, the text that is signed, and whether the signature holds.

What comes in are the bytes of that file; what goes out is a `Signature`, which is a claim until `holds` has said that
the key it names made it. A signature covers the manifest's bytes, and so the hash of every file of the bundle. Whose
keys count is not known here: see ``trust``. Nothing is signed here either: ``export`` does that, with the same text.
``cryptography`` is imported by `holds` alone, so that whoever asks for no signature needs no such library.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from .digest import sha256_hex
from .errors import BundleError
from .json_reader import Node, load_object
from .manifest import SIGNATURE_NAME

FORMAT = "leukoscope-signature"
VERSION = 1
MAX_SIGNATURE_BYTES = 4096
MAX_SERIAL = 2**53 - 1
"""The greatest integer that every reader of JSON keeps exactly."""

KEY_SHAPE = "ed25519: and 44 characters of base64"
INSTALL = 'pip install "leukoscope[sign]"'

_KEY_BYTES, _VALUE_BYTES = 32, 64
_PREFIX = "ed25519:"
_KEYS = ("format", "version", "key", "name", "manifest_sha256", "serial", "signature")
_NAME = re.compile(r"[a-z0-9-]+")

_FIELD = 2**255 - 19
_OF_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER = (0, 1, _FIELD - 1, _OF_ORDER_8, _FIELD - _OF_ORDER_8)
"""The y of the eight points whose order divides 8. Under such a key one signature fits very many texts."""


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key: `raw`, 32 bytes."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read a key as `str` writes it.

        Raises:
            ValueError: not that; says in a few words what it is instead.
        """
        raw = decode_base64(text[len(_PREFIX) :]) if text.startswith(_PREFIX) else None
        if raw is None or len(raw) != _KEY_BYTES:
            raise ValueError(repr(text[:80]))
        y = int.from_bytes(raw, "little") & (2**255 - 1)
        if y >= _FIELD or y in _SMALL_ORDER:
            raise ValueError("a weak key, under which anybody can sign")
        return cls(raw)

    def __str__(self) -> str:
        return _PREFIX + encode_base64(self.raw)

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits of its SHA-256, for people to compare; programs compare `raw`."""
        return sha256_hex(self.raw)[:16]


@dataclass(frozen=True)
class Signature:
    """What ``manifest.sig`` claims.

    Attributes:
        key: that is said to have signed.
        name: of the bundle, ``[a-z0-9-]+``.
        manifest_sha256: of the bytes of ``manifest.json``, 64 lower-case hex digits.
        serial: 0 to `MAX_SERIAL`; a newer bundle has a greater one.
        value: the Ed25519 signature of `signed_text`, 64 bytes.
    """

    key: PublicKey
    name: str
    manifest_sha256: str
    serial: int
    value: bytes

    def to_dict(self) -> dict[str, object]:
        """Return the content of ``manifest.sig``, which `parse_signature` reads."""
        stated = (
            FORMAT,
            VERSION,
            str(self.key),
            self.name,
            self.manifest_sha256,
            self.serial,
            encode_base64(self.value),
        )
        return dict(zip(_KEYS, stated, strict=True))


def signed_text(key: PublicKey, name: str, manifest_sha256: str, serial: int) -> bytes:
    """Return the bytes that are signed; ``docs/bundle-format.md`` specifies them.

    The first line is no other text's, so that a key that signs other things as well signs no bundle by mistake.
    """
    lines = (
        f"{FORMAT} {VERSION}",
        f"key {key}",
        f"name {name}",
        f"manifest-sha256 {manifest_sha256}",
        f"serial {serial}",
    )
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def parse_signature(text: bytes, source: str = SIGNATURE_NAME) -> Signature:
    """Parse a signature file. Its shape is fixed: what is not signed must not stand beside what is.

    Args:
        text: the bytes of ``manifest.sig``.
        source: what errors call the file.

    Raises:
        BundleError: not what ``docs/bundle-format.md`` says; names the key.
    """
    top = Node(load_object(text, source, MAX_SIGNATURE_BYTES), source, "")
    top.version(FORMAT, VERSION)
    try:
        key = PublicKey.parse(top.line("key"))
    except ValueError as error:
        raise top.wrong("key", error, KEY_SHAPE) from None
    name = top.line("name")
    if not _NAME.fullmatch(name):
        raise top.wrong("name", repr(name), "lower-case letters, digits and hyphens")
    manifest_sha256, serial = top.sha256("manifest_sha256"), top.integer("serial", 0, MAX_SERIAL)
    value = decode_base64(top.line("signature"))
    if value is None or len(value) != _VALUE_BYTES:
        raise top.wrong("signature", repr(top.value["signature"]), f"{_VALUE_BYTES} bytes in base64")
    for other in top.value:
        if other not in _KEYS:
            raise top.wrong(other, "a key that nobody signed", ", ".join(_KEYS))
    return Signature(key, name, manifest_sha256, serial, value)


def holds(signature: Signature) -> bool:
    """Return whether the key that a signature names did sign what it says. That key need not be trusted.

    Raises:
        BundleError: this cannot be found out here.
    """
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise BundleError("signatures cannot be checked: no cryptography library", todo=INSTALL) from None
    text = signed_text(signature.key, signature.name, signature.manifest_sha256, signature.serial)
    try:
        Ed25519PublicKey.from_public_bytes(signature.key.raw).verify(signature.value, text)
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm:
        raise BundleError("signatures cannot be checked: this machine's OpenSSL has no Ed25519") from None
    return True


def encode_base64(content: bytes) -> str:
    """Return base64 with its padding, on one line."""
    return binascii.b2a_base64(content, newline=False).decode("ascii")


def decode_base64(text: str) -> bytes | None:
    """Return what `encode_base64` made this text of, or None if it made no such text: each content has one spelling."""
    try:
        content = binascii.a2b_base64(text)
    except ValueError:  # not ASCII, or not base64
        return None
    return content if encode_base64(content) == text else None
