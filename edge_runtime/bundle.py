"""The bundle reader: the only code that opens a bundle. From a name or a folder to bytes that are what they must be.

What comes in is the name of a bundle that came with the package, or a folder; what goes out is a `Bundle`, whose `read`
returns the bytes of a file only after their size and SHA-256 were checked. Each file is read once, and the bytes that
were checked are the bytes that are used: nobody can exchange the file in between. The hostile bundle that motivated
each check is in ``tests/attacks``. What the manifest's keys mean is in ``manifest``, what a model does in ``engines``,
whose signatures count in ``trust``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .digest import sha256_hex
from .errors import BundleError
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, MODEL_FILES, SIGNATURE_NAME, Manifest, parse_manifest

if TYPE_CHECKING:
    from .trust import Signer, Trust

DEFAULT_BUNDLES = Path(__file__).parent / "bundles"
"""The bundles in the wheel, one folder each."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle.

    Attributes:
        root: its folder, all links resolved.
        manifest: what it says, checked.
        manifest_sha256: of the bytes of its manifest, 64 lower-case hex digits.
        signer: who signed it; None when it was opened without a `Trust`, and so no signature was looked at.
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str
    signer: Signer | None = None

    @property
    def id(self) -> str:
        """Return ``name@`` + the first 12 hex digits of the SHA-256 of its manifest."""
        return f"{self.manifest.name}@{self.manifest_sha256[:12]}"

    @property
    def models(self) -> tuple[str, ...]:
        """Return the model files it holds, of `MODEL_FILES`."""
        return tuple(name for name in MODEL_FILES if name in self.manifest.files)

    @property
    def size_bytes(self) -> int:
        """Return the size of all its files but the manifest, bytes."""
        return sum(info.size_bytes for info in self.manifest.files.values())

    def read(self, name: str) -> bytes:
        """Read a file once and check it.

        Args:
            name: as in the manifest's `files`.

        Returns:
            The checked bytes.

        Raises:
            BundleError: not in the manifest, missing, altered, truncated, or a link that leaves the bundle.
        """
        if name not in self.manifest.files:
            held = ", ".join(self.manifest.files)
            raise BundleError(f"{self.manifest.name}: {name}: not in the bundle", expected=f"one of {held}")
        info = self.manifest.files[name]
        found = _read_inside(self.root, name, info.size_bytes)
        if len(found) != info.size_bytes:
            got = len(found) if len(found) < info.size_bytes else f"more than {info.size_bytes}"
            raise _wrong_size(self.root, name, got, info.size_bytes)
        digest = sha256_hex(found)
        if digest != info.sha256:
            raise BundleError(
                f"{self.root / name}: altered or damaged",
                got=f"SHA-256 {digest[:12]}...",
                expected=f"{info.sha256[:12]}...",
                todo="copy the bundle again",
            )
        return found


def default_bundles() -> tuple[str, ...]:
    """Return the names of the bundles that came with the package, sorted."""
    if not DEFAULT_BUNDLES.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in DEFAULT_BUNDLES.iterdir() if (entry / MANIFEST_NAME).is_file()))


def open_bundle(name_or_path: str | os.PathLike[str], trust: Trust | None = None) -> Bundle:
    """Open a bundle: check its manifest, and that every file it names is there with its size.

    Hashes are checked by `Bundle.read`, when and only when a file is used, so that a classification need not hash
    pictures it does not show; ``verify`` reads all files.

    Args:
        name_or_path: name of a default bundle, or a folder (write ``./name`` for a folder of the same name).
        trust: whose signature it must have (see `trust.read_trust`); default: no signature is looked at.

    Raises:
        BundleError: no such bundle, one that breaks ``docs/bundle-format.md``, or one that `trust` refuses.
    """
    root = _find(os.fspath(name_or_path))
    text = _read_inside(root, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    signer = None if trust is None else trust.check(_read_signature(root, trust), text, root)  # before it is believed
    manifest = parse_manifest(text, str(root / MANIFEST_NAME))
    if signer is not None and signer.name != manifest.name:  # else a key could sign for a name it is not trusted with
        raise BundleError(
            f"{root / SIGNATURE_NAME}: signed under another name", got=signer.name, expected=manifest.name
        )
    for name, info in manifest.files.items():
        size_bytes = _regular(root, name).stat().st_size
        if size_bytes != info.size_bytes:
            raise _wrong_size(root, name, size_bytes, info.size_bytes)
    return Bundle(root, manifest, sha256_hex(text), signer)


def _read_signature(root: Path, trust: Trust) -> bytes:
    from .signature import MAX_SIGNATURE_BYTES

    if not os.path.lexists(root / SIGNATURE_NAME):
        raise BundleError(
            f"{root}: not signed",
            expected=f"{SIGNATURE_NAME} by a key of {trust.source}",
            todo="get a signed one, or sign it: python -m export sign",
        )
    return _read_inside(root, SIGNATURE_NAME, MAX_SIGNATURE_BYTES)


def _find(name: str) -> Path:
    default = DEFAULT_BUNDLES / name
    if name in default_bundles():
        return default.resolve()
    try:
        folder = Path(name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        folder = None
    if not name or folder is None:
        raise BundleError(
            "no such model",
            got=repr(name),
            expected=" or ".join([*default_bundles(), "the path of a bundle"]),
            todo="see: python -m edge_runtime models",
        )
    if not folder.is_dir():
        raise BundleError(f"{name}: not a bundle", got="a file", expected=f"a folder with {MANIFEST_NAME}")
    if not os.path.exists(folder / MANIFEST_NAME):  # Path.exists raises where a link leads to an impossible name
        raise BundleError(f"{name}: not a bundle", expected=f"a folder with {MANIFEST_NAME}")
    return folder


def _regular(root: Path, name: str) -> Path:
    """Return where a file of the bundle really is: a regular file inside the bundle."""
    path = root / name
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise BundleError(f"{path}: missing", todo="copy the bundle again") from None
    if not real.is_relative_to(root):
        raise BundleError(f"{path}: a link that leaves the bundle", got=real)
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path}: not a regular file")
    return real


def _read_inside(root: Path, name: str, limit_bytes: int) -> bytes:
    """Read a file, but never more than one byte over its limit, so that a lying size costs no memory."""
    real = _regular(root, name)
    try:
        # O_NONBLOCK: were the file exchanged for a pipe since the check, opening it would hang for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(real, flags), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BundleError(f"{root / name}: not a regular file")
            return stream.read(limit_bytes + 1)
    except OSError as error:
        raise BundleError(f"{root / name}: cannot be read", got=error.strerror or type(error).__name__) from None


def _wrong_size(root: Path, name: str, got: object, expected: int) -> BundleError:
    return BundleError(
        f"{root / name}: wrong size", got=f"{got} bytes", expected=expected, todo="copy the bundle again"
    )
