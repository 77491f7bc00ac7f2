"""Demands: what decoding a picture would take, known from its header, and whether that is too much.

What comes in is a picture that Pillow has opened but not decoded; what goes out is nothing, or an `ImageError`. A file
of 30 bytes may state 13 000 x 13 000 pixels and take 2.6 GB, and one of 13 KB may ask for a thousand passes over them:
on a small board the first one kills the program, and the second one stops it. The fixed limit of pixels is in
``preprocess``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import ExifTags, Image

from .errors import ImageError
from .room import room_bytes

MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10 scans, each a pass over all its pixels. libtiff refuses more than 100, too."""

HELD_BYTES = {"WEBP": 8}
"""What a decoder holds until its file is closed, bytes per pixel."""

DECODER_BYTES = {"TIFF": 4}
"""What a decoder needs only while it decodes, bytes per pixel: libtiff a strip, which may be the whole picture."""

COEFFICIENT_BYTES = 2
"""Likewise a JPEG of several scans, which are put together first: bytes per pixel and channel."""

CONVERSION_BYTES = {"RGB": 4, "L": 4, "P": 4, "1": 4, "CMYK": 4, "YCbCr": 4, "LAB": 4, "I;16": 8, "I": 10}
"""What becoming RGB, or upright, takes beside the picture, bytes per pixel of this mode."""

BLENDING_BYTES = 16
"""The same for a picture with transparency, and for modes that are not in the table."""

RGB_BYTES = 4
"""A pixel of an RGB picture, and of the centre square that is cut out of it."""

ANSWER_BYTES = 32_000_000
"""What an answer takes beside the picture; a scan's finding of cells takes most."""

FREE_BYTES = 64 * 1024 * 1024
"""Pictures that take less are not worth asking the kernel."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


_LARGE = threading.Lock()
"""Large pictures are decoded one at a time: two that are asked about together would both be given the same memory."""


@contextmanager
def admitted(picture: Image.Image, encoded: bytes, name: str) -> Iterator[None]:
    """Refuse a picture that would take too much time or more memory than there is; else decode it within.

    Args:
        picture: opened, not decoded.
        encoded: its file.
        name: what errors call it.

    Raises:
        ImageError: it would.
    """
    # This count is quick and never too small; the other one is only for files that it speaks against.
    scans = encoded.count(b"\xff\xda") if picture.format in ("JPEG", "MPO") else 1
    if scans > MAX_JPEG_SCANS:
        scans = jpeg_scans(encoded)
        if scans > MAX_JPEG_SCANS:
            raise ImageError(f"{name}: too slow to decode", got=f"{scans} scans", expected=f"at most {MAX_JPEG_SCANS}")
    if _needed(picture, scans) < FREE_BYTES:
        yield
        return
    with _LARGE:
        _check_room(picture, encoded, scans, name)
        yield


def _check_room(picture: Image.Image, encoded: bytes, scans: int, name: str) -> None:
    free = room_bytes()
    if free is None or _needed(picture, scans) + ANSWER_BYTES <= free:
        return
    needed = _needed(picture, jpeg_scans(encoded) if scans > 1 else scans) + ANSWER_BYTES
    if needed > free:
        raise ImageError(
            f"{name}: too large for this machine's memory",
            got=f"{picture.width} x {picture.height} pixels, about {needed / 1e6:.0f} MB",
            expected=f"at most the {free / 1e6:.0f} MB that are free",
            todo="cut it into fields",
        )


def _needed(picture: Image.Image, scans: int) -> float:
    return picture.width * picture.height * bytes_per_pixel(picture, scans)


def bytes_per_pixel(picture: Image.Image, scans: int = 1) -> float:
    """Return how much memory there must be from decoding to cutting, at the worst moment; bytes per pixel.

    Args:
        picture: opened, not decoded.
        scans: of a JPEG.
    """
    channels = len(picture.getbands())
    own = 4 if channels > 1 or picture.mode in ("I", "F") else 2 if picture.mode.startswith("I;16") else 1
    held = own + HELD_BYTES.get(picture.format or "", 0)
    decoder = DECODER_BYTES.get(picture.format or "", 0)
    if scans > 1 or picture.info.get("progressive"):
        decoder = COEFFICIENT_BYTES * channels
    conversion = CONVERSION_BYTES.get(picture.mode, BLENDING_BYTES)
    if picture.has_transparency_data:
        conversion = BLENDING_BYTES
    elif picture.mode == "RGB" and _is_upright(picture):
        conversion = 0
    short, long = sorted(picture.size)
    cutting = RGB_BYTES * (1 + (0 if short == long else short / long))
    return max(held + decoder, held + conversion, cutting)


def _is_upright(picture: Image.Image) -> bool:
    """Say whether a picture need not be turned. Only a JPEG tells before it is decoded; phones turn theirs often."""
    with suppress(Exception):  # damaged EXIF
        return picture.format in ("JPEG", "MPO") and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return True


def jpeg_scans(encoded: bytes) -> int:
    """Count the scans of a JPEG, up to its end: what stands in segments or behind is none."""
    scans, place = 0, 2
    while found := _MARKER.search(encoded, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):  # these two have no length
            place += int.from_bytes(encoded[place : place + 2], "big")
    return scans
