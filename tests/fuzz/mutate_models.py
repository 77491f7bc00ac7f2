"""Mutate models: as bytes, of any format, and as the objects of TFLite's schema.

What comes in are the bytes of a model and a source of randomness; what goes out are other ones. Whether an engine gets
them is for ``mutate_bundles`` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

from .mutate_pictures import EXTREMES


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """Return a binary file after changes of bytes and of aligned 32-bit words, a cut, a swap, or with more behind."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 10))):
        way = random.choice(("byte", "byte", "word", "word", "word", "cut", "swap", "behind"))
        if len(changed) < 16:
            return bytes(changed)
        place = random.randrange(len(changed) // 4 - 1) * 4
        if way == "byte":
            changed[random.randrange(len(changed))] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        elif way == "word":
            was = int.from_bytes(changed[place : place + 4], "little")
            value = random.choice((random.choice(EXTREMES), was + 4, was - 4, was * 2, random.randrange(len(changed))))
            changed[place : place + 4] = (value % 2**32).to_bytes(4, "little")
        elif way == "cut" and random.random() < 0.3:
            del changed[random.randrange(len(changed)) :]
        elif way == "swap":
            other = random.randrange(len(changed) // 4 - 1) * 4
            one, two = changed[place : place + 4], changed[other : other + 4]
            changed[place : place + 4], changed[other : other + 4] = two, one
        elif way == "behind":
            changed += random.randbytes(random.choice((1, 64, 5000)))
    return bytes(changed)


def mutate_schema(random: Random, model: bytes) -> bytes:
    """Return a TFLite model after changes to the objects of its schema: shapes, types, indices, scales, options."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    numbers = [place for place in _objects(graph, 0)]
    for _ in range(random.choice((1, 1, 2, 4))):
        owner, key = random.choice(numbers)
        was = owner[key] if isinstance(owner, list) else getattr(owner, key)
        if isinstance(was, np.ndarray):
            if not was.size:
                continue
            value = was.copy()
            with np.errstate(all="ignore"):
                value.flat[random.randrange(value.size)] = _fitting(random, was.dtype)
            value = random.choice((value, value, value, value[:-1], np.concatenate([value, value])))
        elif isinstance(was, float):
            value = random.choice((0.0, -1.0, float("nan"), float("inf"), 1e-40, 1e38, was * 2))
        elif isinstance(was, bool):
            value = not was
        else:
            value = random.choice((was + 1, max(0, was - 1), 0, 1, 2, 5, 17, 100, 127))
        if isinstance(owner, list):
            owner[key] = value
        else:
            setattr(owner, key, value)
    builder = flatbuffers.Builder(len(model))
    try:
        builder.Finish(graph.Pack(builder), b"TFL3")
    except (TypeError, ValueError, OverflowError, AttributeError):  # a value that its field cannot hold
        return mutate_bytes(random, model)
    return bytes(builder.Output())


def _fitting(random: Random, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return random.choice((0.0, -1.0, float("nan"), float("inf"), 1e-40, 1e38))
    limits = np.iinfo(dtype)
    return random.choice((0, 1, 2, 3, 7, 64, 100, limits.max, limits.min))


def _objects(thing: Any, depth: int) -> Iterator[tuple[Any, Any]]:
    """Yield (owner, key) of all numbers and arrays below an object of the schema."""
    inside = enumerate(thing) if isinstance(thing, list) else vars(thing).items() if hasattr(thing, "__dict__") else ()
    for key, value in inside:
        if isinstance(value, bool | int | float | np.ndarray):
            yield thing, key
        elif value is not None and not isinstance(value, str | bytes) and depth < 12:
            yield from _objects(value, depth + 1)
