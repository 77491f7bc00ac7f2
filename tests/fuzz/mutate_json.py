"""Mutate JSON: as a tree, with the values that a careless reader would trip over, and as a text.

What comes in is a document and a source of randomness; what goes out is another one, or bytes that are none any more.
What the documents mean is not known here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from .mutate_pictures import EXTREMES


class Raw(str):
    """A text that goes into JSON as it stands, without quotes."""


NASTY: tuple[Any, ...] = (
    *EXTREMES, -1, -(2**31), -(2**63), 10**400, 0.5, -0.5, 1e308, 5e-324, True, False, None, "", " ", "\0", "\n",
    "a" * 101, "a" * 100_000, "ä", "\u202e", "\U0001f9ec", "e\u0301", "\ufeff", "\x1b[2J", "..", "../..", "/",
    "/etc/passwd", "//", "golden/../manifest.json", "manifest.json", "manifest.sig", "model.tflite", "golden",
    "golden/", "CON", "a\\b", "-rf", "file:///etc/passwd", "%00", "$HOME", "`id`", "<script>", "{}", "NaN", "1", [], {},
    [[]], [None], {"": None}, list(range(3000)), {str(n): n for n in range(3000)},
    Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("-0"), Raw("01"), Raw("0x1"), Raw("9" * 5000),
    Raw("1." + "1" * 3000), Raw("'a'"), Raw('"\\ud800"'), Raw('"\\u0000"'), Raw('"\x01"'), Raw(""), Raw("[" * 50_000),
    Raw("[" * 900 + "]" * 900), Raw('{"a":' * 60_000 + "1" + "}" * 60_000),
)  # fmt: skip
"""Values that a careless reader would trip over."""


def written(tree: Any) -> bytes:
    """Return JSON, with every `Raw` as it stands."""
    raws: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value)
            return f"raw {len(raws) - 1} raw"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(marked(tree))
    for number, raw in enumerate(raws):
        text = text.replace(f'"raw {number} raw"', raw)
    return text.encode("utf-8", "surrogatepass")


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from places(value)


def mutate_tree(random: Random, tree: Any) -> Any:
    """Return a tree after one to three changes: values, keys, order, repetition, nesting."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        choices = list(places(tree))
        if not choices:
            return tree
        outer = [choice for choice in choices if choice[0] is tree]  # few among many numbers, and checked the most
        where, key = random.choice(outer if random.random() < 0.3 else choices)
        way = random.choice(("value",) * 6 + ("near", "near", "drop", "rename", "add", "wrap", "swap", "repeat"))
        if way == "value":
            where[key] = copy.deepcopy(random.choice(NASTY))
        elif way == "near" and isinstance(where[key], int | float):
            was = where[key]
            where[key] = random.choice((was + 1, -was, was * 10**9, was / 3 if abs(was) < 10**9 else 0, repr(was)[:50]))
        elif way == "near" and isinstance(where[key], str):
            text = where[key]
            where[key] = random.choice(
                (text[:-1], text + random.choice("\0\n é/"), text.upper(), text[::-1], text * 30)
            )
        elif way == "drop":
            del where[key]
        elif way == "rename" and isinstance(where, dict):
            where[random.choice((key.upper(), key + " ", "", key[:-1], "a" * 5000))] = where.pop(key)
        elif way == "add" and isinstance(where, dict):
            where[random.choice(("", "x", "\0", "é", "__proto__", "a" * 5000, "files"))] = random.choice(NASTY)
        elif way == "wrap":
            where[key] = [where[key]] if random.random() < 0.5 else {"value": where[key]}
        elif way == "swap":
            other, place = random.choice(choices)
            if place in other if isinstance(other, dict) else place < len(other):
                where[key] = copy.deepcopy(other[place])
        elif way == "repeat" and isinstance(where, list):
            where[:] = [copy.deepcopy(item) for item in where * random.choice((2, 50, 2000))][:20_000]
    return tree


def mutate_text(random: Random, text: bytes) -> bytes:
    """Return JSON after a change that no tree can show: keys twice, bytes, encodings, cuts, what stands behind."""
    way = random.choice(("twice", "bytes", "cut", "behind", "encoding", "blanks", "none"))
    if way == "twice":
        key = json.dumps(random.choice(list(json.loads(text)))).encode()
        return text[:1] + key + b": " + random.choice((b"1", b"{}", b"null")) + b", " + text[1:]
    if way == "bytes":
        changed = bytearray(text)
        for _ in range(random.choice((1, 3, 30))):
            changed[random.randrange(len(changed))] = random.randrange(256)
        return bytes(changed)
    if way == "cut":
        return text[: random.randrange(len(text))]
    if way == "behind":
        return text + random.choice((b"\0", b"{}", b"\xff", text, b" " * 2_000_000, b"]"))
    if way == "encoding":
        return text.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))
    return b" " * random.choice((10, 1_048_576)) + text if way == "blanks" else b""
