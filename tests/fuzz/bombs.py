"""Bombs: pictures of few bytes that ask a decoder for much memory, much time or many words, by format.

What comes in is a seed; what goes out is the hostile file. Sizes vary with the randomness, and most stay below the
limit of pixels, because what is above it is refused at once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from .anatomy import ANATOMIES, Field
from .make_seeds import bmp, chunk

Bomb = Callable[[Random, bytes], bytes]


def _side(random: Random) -> int:
    return random.choice((2000, 4000, 9000, 13_000))


def _jpeg_huge(random: Random, content: bytes) -> bytes:
    """State other sides; the data stays what it was."""
    side = _side(random)
    for start, end in ANATOMIES["jpg"](content).members:
        if 0xC0 <= content[start + 1] <= 0xC2 and end - start > 9:
            content = content[: start + 5] + struct.pack(">HH", side, side) + content[start + 9 :]
    return content


def _jpeg_scans(random: Random, content: bytes) -> bytes:
    """Repeat the last scan's header, without data, over a large picture: each is a pass over all of it."""
    content = _jpeg_huge(random, content)
    scans = [span for span in ANATOMIES["jpg"](content).members if content[span[0] + 1] == 0xDA]
    if not scans:
        return content
    start, end = scans[-1]
    return content[:end] + b"\0" * 8 + content[start:end] * random.choice((100, 1000, 5000)) + b"\xff\xd9"


def _jpeg_segments(random: Random, content: bytes) -> bytes:
    """Put many full segments before the picture: profile, EXIF, comments."""
    marker, name = random.choice(
        ((0xE2, b"ICC_PROFILE\0\1\xff"), (0xE1, b"Exif\0\0"), (0xFE, b""), (0xED, b"Photoshop 3.0\0"))
    )
    body = name + bytes(65_000)
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
    return content[:2] + segment * random.choice((1, 30)) + content[2:]


def _png_after_header(content: bytes, *chunks: bytes) -> bytes:
    return content[:33] + b"".join(chunks) + content[33:]


def _png_text(random: Random, content: bytes) -> bytes:
    """Add texts or a profile that grow a thousandfold."""
    packed = zlib.compress(bytes(random.choice((2_000_000, 60_000_000))), 9)
    made = random.choice(
        (
            chunk(b"zTXt", b"a\0\0" + packed),
            chunk(b"iTXt", b"a\0\1\0\0\0" + packed),
            chunk(b"iCCP", b"a\0\0" + packed),
        )
    )
    return _png_after_header(content, made * random.choice((1, 1, 30)))


def _png_huge(random: Random, content: bytes) -> bytes:
    """State other sides, of any kind of pixel; zeros follow, few or as many as there must be."""
    side, (bits, colour) = _side(random), random.choice(((1, 0), (8, 2), (8, 6), (16, 6), (16, 0), (8, 3)))
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    row = 1 + (side * bits * channels + 7) // 8
    zeros = zlib.compressobj(1)
    data = b"".join(zeros.compress(bytes(row)) for _ in range(random.choice((10, min(side, 2000))))) + zeros.flush()
    head = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, random.randint(0, 1))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return content[:8] + chunk(b"IHDR", head) + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _tiff_pages(random: Random, content: bytes) -> bytes:
    """Write directories of many pages, each leading to the next, the last to the first."""
    order = "<" if content[:2] == b"II" else ">"
    count = random.choice((3, 1000, 20_000))
    head = content[:2] + struct.pack(order + "HI", 42, 8)
    page = struct.pack(order + "HHHII", 1, 256, 3, 1, 64)
    places = [8 + 18 * n for n in range(count)]
    return head + b"".join(page + struct.pack(order + "I", place) for place in [*places[1:], 8])


def _tiff_tags(random: Random, content: bytes) -> bytes:
    """Write one directory of 65 535 entries: unknown ones, or the same one."""
    order = "<" if content[:2] == b"II" else ">"
    tags = [random.choice((256, 65_000, 273, 34_675)) if random.random() < 0.3 else n for n in range(65_535)]
    entries = b"".join(struct.pack(order + "HHII", tag, random.choice((3, 4, 2, 7)), 1, 64) for tag in tags)
    return content[:2] + struct.pack(order + "HIH", 42, 8, 65_535) + entries + bytes(4)


def _tiff_sides(random: Random, content: bytes) -> bytes:
    """State other sides, and many rows to a strip or few."""
    side = _side(random)
    for start, end in ANATOMIES["tif"](content).members:
        entry = content[start:end]
        if len(entry) != 12:
            return content
        order = "little" if content[:2] == b"II" else "big"
        tag = int.from_bytes(entry[:2], order)
        if tag in (256, 257, 278):
            kind, value = (4).to_bytes(2, order), (side if tag != 278 else random.choice((1, side))).to_bytes(4, order)
            content = content[: start + 2] + kind + (1).to_bytes(4, order) + value + content[end:]
    return content


def _tiff_counts(random: Random, content: bytes) -> bytes:
    """Let an entry claim millions of values."""
    fields = [field for field in ANATOMIES["tif"](content).fields if field.width in (4, 8)]
    for field in random.sample(fields, min(3, len(fields))):
        content = field.written(content, random.choice((2**20, 2**26, 2**31 - 1)))
    return content


def _bmp_huge(random: Random, content: bytes) -> bytes:
    """State huge sides over a hundred bytes, of every depth and compression."""
    bits, compression = random.choice(((1, 0), (4, 0), (4, 2), (8, 0), (8, 1), (16, 0), (24, 0), (32, 0), (32, 3)))
    made = bmp(
        bits, compression, random.choice((bytes(50), bytes((255, 0)) * 40)), palette=bytes(1024 if bits <= 8 else 0)
    )
    side = _side(random)
    return Field(22, 4, "little").written(Field(18, 4, "little").written(made, side), random.choice((side, -side)))


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _animated(frames: int, side: int, frame: bytes, tail: bytes = b"") -> bytes:
    sides = (side - 1).to_bytes(3, "little")
    head = _riff(b"VP8X", bytes((2, 0, 0, 0)) + sides + sides) + _riff(b"ANIM", bytes(6))
    one = _riff(b"ANMF", bytes(6) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little") + bytes(4) + frame)
    body = b"WEBP" + head + one * frames + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_image(content: bytes) -> bytes:
    spans = ANATOMIES["webp"](content).members
    return next((content[a:b] for a, b in spans if content[a : a + 4] in (b"VP8 ", b"VP8L")), b"")


def _webp_frames(random: Random, content: bytes) -> bytes:
    """Animate: many frames on a small canvas, or few on a huge one."""
    frames, side = random.choice(((1, 13_000), (3, 9000), (20_000, 64), (300, 2000)))
    image = _webp_image(content)
    return _animated(min(frames, 1_900_000 // (len(image) + 30)), side, image)


def _webp_flat(random: Random, content: bytes) -> bytes:
    """Write a lossless picture of one colour: a few bytes, any size."""
    side = _side(random) - 1
    bits = 0x2F | side << 8 | side << 22 | random.randint(0, 1) << 36
    # No transform, no colour cache, no meta codes; five codes of one symbol each, 0 (alpha's too).
    value, used = bits, 40
    for bit in [0, 0, 0] + [1, 0, 0, 0] * 5:
        value |= bit << used
        used += 1
    return b"RIFF" + struct.pack("<I", 4 + 8 + 10) + b"WEBP" + _riff(b"VP8L", value.to_bytes(10, "little"))


def _webp_profile(random: Random, content: bytes) -> bytes:
    """Put a large profile and EXIF beside a small picture."""
    head = _riff(b"VP8X", bytes((0x20 | 0x08, 0, 0, 0)) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little"))
    extra = (
        _riff(b"ICCP", bytes(900_000)) + _webp_image(content) + _riff(b"EXIF", b"II*\0\x08\0\0\0" + b"\xff" * 900_000)
    )
    body = b"WEBP" + head + extra
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS: dict[str, dict[str, Bomb]] = {
    "jpg": {"huge": _jpeg_huge, "scans": _jpeg_scans, "segments": _jpeg_segments},
    "png": {"texts": _png_text, "huge": _png_huge},
    "tif": {"pages": _tiff_pages, "tags": _tiff_tags, "sides": _tiff_sides, "counts": _tiff_counts},
    "bmp": {"huge": _bmp_huge},
    "webp": {"frames": _webp_frames, "flat": _webp_flat, "profile": _webp_profile},
}
"""Format -> name -> what makes it of a seed."""
