"""Mutate pictures: from a seed and a source of randomness to one hostile file, the same for the same number everywhere.

What comes in are the files of ``seeds/``; what goes out is a `Picture`. Mutators work on the `Anatomy` of a file, so
that what they change is what steers a decoder; the bombs, which are few bytes that ask for much, are in ``bombs``. A
mutator that finds nothing to change in a file leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from .anatomy import ANATOMIES, Anatomy, mended
from .bombs import BOMBS
from .make_seeds import SEEDS

EXTREMES = (
    0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 63, 64, 100, 127, 128, 255, 256, 257, 511, 4095, 13_000, 16_383, 16_384,
    32_767, 32_768, 65_500, 65_535, 65_536, 100_000, 2**24 - 1, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8,
    2**63 - 1, 2**64 - 1,
)  # fmt: skip
"""Numbers at which a decoder's own ones overflow, change their sign or ask for too much memory."""

MAX_BYTES = 2_000_000
"""No case is larger, so that thousands of them take minutes."""


@dataclass(frozen=True)
class Picture:
    """A case: the seed it came from, what was done to it, and the bytes."""

    seed: str
    mutators: tuple[str, ...]
    content: bytes

    @property
    def kind(self) -> str:
        """Return the format of the seed, of `ANATOMIES`."""
        return self.seed.rpartition(".")[2]


@lru_cache(maxsize=1)
def seeds() -> Mapping[str, bytes]:
    """Return the seeds by name, sorted."""
    return {path.name: path.read_bytes() for path in sorted(SEEDS.iterdir())}


def _field(random: Random, content: bytes, parts: Anatomy) -> bytes:
    if not parts.fields:
        return content
    field = random.choice(parts.fields)
    was = field.read(content)
    near = (was + 1, was - 1, was * 2, was // 2, was ^ (1 << random.randrange(8 * field.width)), -was)
    return field.written(content, random.choice(near if random.random() < 0.4 else EXTREMES))


def _fields(random: Random, content: bytes, parts: Anatomy) -> bytes:
    for _ in range(random.randint(2, 6)):
        content = _field(random, content, parts)  # widths stay, so the anatomy does
    return content


def _drop(random: Random, content: bytes, parts: Anatomy) -> bytes:
    if not parts.members:
        return content
    start, end = random.choice(parts.members)
    return content[:start] + content[end:]


def _repeat(random: Random, content: bytes, parts: Anatomy) -> bytes:
    if not parts.members:
        return content
    start, end = random.choice(parts.members)
    times = min(random.choice((1, 2, 3, 10, 200, 5000)), MAX_BYTES // max(1, end - start))
    return content[:end] + content[start:end] * times + content[end:]


def _swap(random: Random, content: bytes, parts: Anatomy) -> bytes:
    if len(parts.members) < 2:
        return content
    (a, b), (c, d) = sorted(random.sample(parts.members, 2))
    if b > c:  # one within the other: a frame and its chunk
        return content
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _splice(random: Random, content: bytes, parts: Anatomy) -> bytes:
    """Put a member of any seed, of whatever format, in the place of one of these."""
    name = random.choice(list(seeds()))
    donor = seeds()[name]
    foreign = ANATOMIES[name.rpartition(".")[2]](donor).members
    if not parts.members or not foreign:
        return content
    (start, end), (first, last) = random.choice(parts.members), random.choice(foreign)
    return content[: random.choice((start, end))] + donor[first:last] + content[end:]


def _cross(random: Random, content: bytes, parts: Anatomy) -> bytes:
    """Let one file begin and another one end."""
    other = random.choice(list(seeds().values()))
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def _bits(random: Random, content: bytes, parts: Anatomy) -> bytes:
    """Flip bits of the compressed pixels."""
    spans = parts.bulk or ((0, len(content)),)
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20, 100))):
        start, end = random.choice(spans)
        if start < end:
            damaged[random.randrange(start, end)] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _bytes(random: Random, content: bytes, parts: Anatomy) -> bytes:
    """Put random bytes anywhere, over what is there or between."""
    place = random.randrange(len(content) + 1)
    new = random.randbytes(random.choice((1, 2, 4, 16, 300)))
    return content[:place] + new + content[place + len(new) * random.randint(0, 1) :]


def _cut(random: Random, content: bytes, parts: Anatomy) -> bytes:
    edges = [edge for span in parts.members for edge in span]
    place = random.choice(edges) if edges and random.random() < 0.5 else random.randrange(len(content) + 1)
    return content[: max(0, place + random.randint(-2, 2))]


def _grow(random: Random, content: bytes, parts: Anatomy) -> bytes:
    """Put much between two members: zeros, ones, or a whole file."""
    place = random.choice([end for _, end in parts.members] or [len(content)])
    filler = random.choice((bytes(100_000), b"\xff" * 100_000, *seeds().values()))
    return content[:place] + filler + content[place:]


Mutator = Callable[[Random, bytes, Anatomy], bytes]

MUTATORS: dict[str, Mutator] = {
    "field": _field,
    "fields": _fields,
    "drop": _drop,
    "repeat": _repeat,
    "swap": _swap,
    "splice": _splice,
    "cross": _cross,
    "bits": _bits,
    "bytes": _bytes,
    "cut": _cut,
    "grow": _grow,
}
"""Name -> what it does to a file. "bomb" is the one that stands in the place of all of them."""

_WEIGHTS = {"field": 6, "fields": 4, "bits": 3, "repeat": 2, "splice": 2}
BOMB_SHARE = 0.04


def mutated(random: Random, name: str, content: bytes) -> Picture:
    """Return a file after one to three mutators.

    Args:
        random: all that is random.
        name: of the seed; its suffix says what the file is.
        content: the file, a seed or already mutated.
    """
    kind = name.rpartition(".")[2]
    if random.random() < BOMB_SHARE:
        bomb = random.choice(sorted(BOMBS[kind]))
        return Picture(name, (f"bomb: {bomb}",), BOMBS[kind][bomb](random, content))
    chosen = _choose(random, random.choice((1, 1, 1, 2, 2, 3)))
    for mutator in chosen:
        content = MUTATORS[mutator](random, content, ANATOMIES[kind](content))[:MAX_BYTES]
    if random.random() < 0.8:  # else a checksum would keep most of it from the decoder
        content = mended(kind, content)
    return Picture(name, chosen, content)


def _choose(random: Random, count: int) -> tuple[str, ...]:
    names: Sequence[str] = list(MUTATORS)
    return tuple(random.choices(names, [_WEIGHTS.get(name, 1) for name in names], k=count))


def picture(seed: int, number: int) -> Picture:
    """Return a case by its number; the formats take turns."""
    random = Random(f"pictures {seed} {number}")
    kind = list(ANATOMIES)[number % len(ANATOMIES)]
    name = random.choice([name for name in seeds() if name.endswith(f".{kind}")])
    return mutated(random, name, seeds()[name])
