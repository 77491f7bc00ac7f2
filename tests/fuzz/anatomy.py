"""Anatomy of a picture file: where its members, its steering numbers and its compressed pixels lie.

What comes in are bytes of one of the five formats, whole or already damaged; what goes out is an `Anatomy`, places in
these bytes. A file that makes no sense has as much of an anatomy as could be followed. Nothing is changed here:
``mutate_pictures`` does that, the same way for all formats.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Span = tuple[int, int]
"""(start, end) in bytes."""


@dataclass(frozen=True)
class Field:
    """An integer that tells a decoder what to do: `width` bytes at `place`."""

    place: int
    width: int
    order: Literal["little", "big"]

    def read(self, content: bytes) -> int:
        """Return its value."""
        return int.from_bytes(content[self.place : self.place + self.width], self.order)

    def written(self, content: bytes, value: int) -> bytes:
        """Return the content with another value, cut to the field's width."""
        raw = (value % (1 << 8 * self.width)).to_bytes(self.width, self.order)
        return content[: self.place] + raw + content[self.place + self.width :]


@dataclass(frozen=True)
class Anatomy:
    """Places in a file: `members` (segments, chunks, entries, rows of headers), `fields`, and `bulk`, the pixels."""

    members: tuple[Span, ...]
    fields: tuple[Field, ...]
    bulk: tuple[Span, ...]


MAX_PARTS = 400
"""Of each kind: a file may hold millions, and a mutator needs a choice, not all."""


def _filled(spans: Iterable[Span]) -> tuple[Span, ...]:
    return tuple(span for span in spans if span[0] < span[1])


def jpeg(content: bytes) -> Anatomy:
    """Take a JPEG apart: segments, their lengths, and every number of frame, scan and restart headers."""
    members, fields, bulk = [], [], []
    place = 2
    while place + 4 <= len(content) and len(members) < MAX_PARTS:
        if content[place] != 0xFF:
            break
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        end = min(len(content), place + 2 + length)
        members.append((place, end))
        fields += [Field(place + 1, 1, "big"), Field(place + 2, 2, "big")]
        if 0xC0 <= marker <= 0xCF or marker in (0xDA, 0xDD, 0xDB):
            fields += [Field(n, 1, "big") for n in range(place + 4, min(end, place + 40))]
            if marker not in (0xDA, 0xDB) and end >= place + 9:
                fields += [Field(place + 5, 2, "big"), Field(place + 7, 2, "big")] * 4  # height and width
        if marker in (0xE1, 0xE2):
            fields += [Field(n, 2, "little") for n in range(place + 4, min(end, place + 80), 2)]
        place = end
        if marker == 0xDA:
            start = place
            while place + 1 < len(content) and not (
                content[place] == 0xFF and content[place + 1] not in (0, *range(0xD0, 0xD8))
            ):
                place += 1
            bulk.append((start, place))
            if content[place + 1 : place + 2] == b"\xd9":  # the second picture of a phone begins behind
                place = content.find(b"\xff\xd8", place) + 2
                if place == 1:
                    break
    return Anatomy(tuple(members), tuple(fields), _filled(bulk))


def png(content: bytes) -> Anatomy:
    """Take a PNG apart: chunks, their lengths and types, and the bytes of the small ones."""
    members, fields, bulk = [], [], []
    place = 8
    while place + 12 <= len(content) and len(members) < MAX_PARTS:
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = min(len(content), place + 12 + length)
        members.append((place, end))
        fields.append(Field(place, 4, "big"))
        inside = range(place + 8, end - 4)
        if kind in (b"IDAT", b"fdAT"):
            bulk.append((place + 8, end - 4))
        else:
            fields += [Field(place + 4, 4, "big"), *(Field(n, 1, "big") for n in inside[:40])]
            fields += [Field(n, 4, "big") for n in inside[:32:4]]
        if kind == b"IHDR":
            fields += [Field(n, 4 if n < place + 16 else 1, "big") for n in (place + 8, place + 12, *inside[8:])] * 4
        place = end
    return Anatomy(tuple(members), tuple(fields), _filled(bulk))


def tiff(content: bytes) -> Anatomy:
    """Take a TIFF apart: entries of all its directories, with tag, type, count, value, and where they lead."""
    order: Literal["little", "big"] = "little" if content[:2] == b"II" else "big"
    big = int.from_bytes(content[2:4], order) == 43
    wide, head, size = (8, 8, 20) if big else (4, 2, 12)
    members, fields, bulk = [], [Field(2, 2, order), Field(8 if big else 4, wide, order)], []
    met: set[int] = set()
    place = fields[1].read(content)
    while place not in met and 0 < place + head <= len(content) and len(members) < MAX_PARTS:
        met.add(place)
        number = Field(place, head, order)
        count = min(number.read(content), 64)
        fields.append(number)
        for entry in range(place + head, min(len(content) - size, place + head + count * size), size):
            members.append((entry, entry + size))
            value = Field(entry + 4 + wide, wide, order)
            fields += [Field(entry, 2, order), Field(entry + 2, 2, order), Field(entry + 4, wide, order), value]
            fields.append(Field(entry + 4 + wide, 2, order))
            tag, target = Field(entry, 2, order).read(content), value.read(content)
            if tag in (273, 279, 324, 325, 258, 339, 330, 34665) and target + 16 <= len(content):
                fields += [Field(n, 4, order) for n in range(target, target + 16, 4)]
        link = Field(place + head + count * size, wide, order)
        fields.append(link)
        place = link.read(content)
    taken = max((end for _, end in members), default=8)
    bulk = [(8, min(met, default=8)), (min(taken, len(content)), len(content))]
    return Anatomy(tuple(members), tuple(fields), _filled(bulk))


def bmp(content: bytes) -> Anatomy:
    """Take a BMP apart: the numbers of its two headers; its rows' bytes are the pixels."""
    start = min(max(54, int.from_bytes(content[10:14], "little")), len(content))
    places = ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4))
    fields = [Field(place, width, "little") for place, width in places] * 3
    fields += [Field(place, 4, "little") for place in range(54, min(start, 70), 4)]
    edges = [min(place, len(content)) for place in (0, 14, 54, start, len(content))]
    *members, bulk = itertools.pairwise(edges)
    return Anatomy(_filled(members), tuple(fields), _filled([bulk]))


def webp(content: bytes) -> Anatomy:
    """Take a WebP apart: chunks, those within frames too, their lengths, and the headers of the bit streams."""
    members: list[Span] = []
    fields, bulk = [Field(4, 4, "little")], []

    def walk(place: int, end: int) -> None:
        while place + 8 <= end and len(members) < MAX_PARTS:
            kind, length = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
            stop = min(end, place + 8 + length + length % 2)
            members.append((place, stop))
            fields.extend((Field(place, 4, "little"), Field(place + 4, 4, "little")))
            if kind in (b"VP8 ", b"VP8L", b"ALPH"):
                bulk.append((place + 8, stop))
                fields.extend(Field(n, 1, "little") for n in range(place + 8, min(stop, place + 20)))
                fields.extend((Field(place + 14, 2, "little"), Field(place + 16, 2, "little")))
            else:
                fields.extend(Field(n, 3, "little") for n in range(place + 8, min(stop - 3, place + 24), 3))
            if kind == b"ANMF":
                walk(place + 24, stop)
            place = stop

    walk(12, len(content))
    return Anatomy(tuple(members), tuple(fields), _filled(bulk))


ANATOMIES: dict[str, Callable[[bytes], Anatomy]] = {"jpg": jpeg, "png": png, "tif": tiff, "bmp": bmp, "webp": webp}
"""Suffix of the seed -> what takes it apart."""


def mended(kind: str, content: bytes) -> bytes:
    """Return a file whose checksums and outer length are right again, where its format has such: PNG and WebP."""
    if kind == "webp" and len(content) >= 12:
        return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    if kind != "png":
        return content
    return content[:8] + b"".join(_chunks(content))


def _chunks(content: bytes) -> Iterator[bytes]:
    place = 8
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if end > len(content):
            break
        framed = content[place + 4 : end - 4]
        yield content[place : place + 4] + framed + struct.pack(">I", zlib.crc32(framed))
        place = end
    yield content[place:]
