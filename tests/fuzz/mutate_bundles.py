"""Mutate bundles: from whole bundles and a source of randomness to one hostile folder, the same for the same number.

What comes in are the bundles of `wholes`; what goes out is a `Hostile`: names -> bytes, or what else can lie in a
folder, to be laid out by `lay_out`. JSON is mutated as a tree, a TFLite model as the objects of its schema or as bytes.
Where a mutator says "repaired", size and hash in the manifest are right again, so that the bytes reach whoever reads
them; where the signature is to hold, the bundle is signed anew.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from .mutate_pictures import EXTREMES, mutated, seeds

sys.path.insert(0, str(Path(__file__).parents[1] / "edge_runtime"))

from bundle_maker import LABELS, TINY_IO, key_line, make_bundle, replace_file, signature, spoil, tiny

from edge_runtime.familiarity import Familiarity, feature_names

MANIFEST, SIGNATURE, FAMILIARITY = "manifest.json", "manifest.sig", "familiarity.json"


@dataclass(frozen=True)
class Odd:
    """What lies in the place of a file: "link" (to `target`), "pipe", "folder", "sparse" (`target` bytes long)."""

    what: str
    target: str = ""


Files = dict[str, "bytes | Odd"]


@dataclass(frozen=True)
class Hostile:
    """A case: the bundle it came from, what was done to it, and its files.

    Attributes:
        whole: of `wholes`.
        mutators: names, of `MUTATORS`.
        files: name in the folder -> content.
        reaches_engine: a changed model has the right hash, so the engine gets it.
    """

    whole: str
    mutators: tuple[str, ...]
    files: Mapping[str, bytes | Odd]
    reaches_engine: bool


def make_wholes(folder: Path) -> None:
    """Write the bundles that are mutated: of version 1, of version 2 with all that a bundle can have, and of ONNX."""
    make_bundle(folder / "plain", {"model.tflite": tiny("int8")}, TINY_IO)
    make_bundle(folder / "onnx", {"model.onnx": tiny("onnx")}, TINY_IO)
    full = make_bundle(folder / "full", {"model.tflite": tiny("float32")}, TINY_IO)
    count = len(feature_names(LABELS))
    known = Familiarity(np.zeros((len(LABELS), count)), np.eye(count)).to_dict(LABELS)
    replace_file(full, FAMILIARITY, json.dumps(known).encode())

    def complete(stated: dict[str, Any]) -> None:
        stated["version"] = 2
        stated["preprocess"] |= {"background": "neutral-field", "stain": "reinhard"}
        stated["quality"] = {"sharpness": {"low": 0.01}, "noise": {"high": 900}}
        stated["abstention"] = {
            "coverage": 0.95,
            "margins": dict.fromkeys(LABELS, 1.0),
            "familiarity": {"file": FAMILIARITY, "limit": 200.0},
        }

    spoil(full, complete)
    for name in ("plain", "onnx", "full"):
        sign(folder / name)


def sign(folder: Path) -> None:
    """Sign a bundle with the key of `TRUSTED`."""
    (folder / SIGNATURE).write_text(json.dumps(signature(folder)), encoding="utf-8")


def trusted() -> str:
    """Return the trust file whose key signs these bundles."""
    return key_line(1) + "\n"


def read_wholes(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return what `make_wholes` wrote: name -> name of file -> content."""
    return {
        whole.name: {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob("*.*")}
        for whole in sorted(folder.iterdir())
    }


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

    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    text = json.dumps(marked(tree))
    sys.set_int_max_str_digits(limit)
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
        where, key = random.choice(choices)
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
        return text.decode().encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))
    return b" " * random.choice((10, 1_048_576)) + text if way == "blanks" else b""


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


def repaired(files: Files, name: str, content: bytes) -> None:
    """Exchange a file and state its size and hash."""
    files[name] = content
    stated = json.loads(files[MANIFEST])  # type: ignore[arg-type] # whole until a mutator of the manifest has been there
    stated["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    files[MANIFEST] = json.dumps(stated).encode()


def _tree_of(name: str) -> Callable[[Random, Files], None]:
    """Mutate a JSON file of the bundle as a tree or, now and then, as a text."""

    def mutate(random: Random, files: Files) -> None:
        text = files.get(name)
        if not isinstance(text, bytes):
            return
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):  # another mutator was there
            return
        changed = mutate_text(random, text) if random.random() < 0.2 else written(mutate_tree(random, tree))
        if name in (MANIFEST, SIGNATURE):
            files[name] = changed
        else:
            repaired(files, name, changed)

    return mutate


def _model(files: Files) -> str:
    return next(name for name in ("model.tflite", "model.onnx") if name in files)


def _model_bytes(random: Random, files: Files) -> None:
    """Damage the model and say so: the hash is right."""
    name = _model(files)
    repaired(files, name, mutate_bytes(random, files[name]))  # type: ignore[arg-type] # whole: no other mutator was there


def _model_schema(random: Random, files: Files) -> None:
    """Change what the model's objects say; the hash is right. An ONNX model has its bytes changed."""
    name = _model(files)
    change = mutate_schema if name == "model.tflite" else mutate_bytes
    repaired(files, name, change(random, files[name]))  # type: ignore[arg-type] # likewise


def _model_unrepaired(random: Random, files: Files) -> None:
    name = _model(files)
    files[name] = mutate_bytes(random, files[name])  # type: ignore[arg-type] # likewise


def _golden_picture(random: Random, files: Files) -> None:
    """Put a mutated picture of any format in the place of a golden one; the hash is right."""
    name = random.choice(list(seeds()))
    repaired(files, "golden/0.png", mutated(random, name, seeds()[name]).content)


def _members(random: Random, files: Files) -> None:
    """Take files away, exchange them, or put something else in their place."""
    name = random.choice(sorted(files))
    content = files[name]
    way = random.choice(MEMBER_WAYS)
    if way == "missing":
        del files[name]
    elif way == "empty":
        files[name] = b""
    elif way == "longer" and isinstance(content, bytes):
        files[name] = content + bytes(random.choice((1, 100_000)))
    elif way == "exchanged":
        other = random.choice(sorted(files))
        files[name], files[other] = files[other], files[name]
    elif way == "link":
        inside = (name, os.path.basename(name), *files, *(f"../{other}" for other in files))
        files[name] = Odd("link", random.choice((*OUTSIDE, *inside)))
    elif way == "sparse":
        files[name] = Odd("sparse", str(random.choice((2**21, 2**31, 2**36))))
    elif way == "more":
        files[random.choice(("extra", "golden/extra", "model.onnx", "model.xml", ".hidden"))] = random.randbytes(100)
    elif way == "linked folder":
        for inside in [key for key in files if key.startswith("golden/")]:
            del files[inside]
        files["golden"] = Odd("link", random.choice(("/etc", "/proc/self/fd", ".", "/dev")))
    elif way in ("pipe", "folder"):
        files[name] = Odd(way)


OUTSIDE = ("/etc/passwd", "/dev/zero", "/dev/random", "/proc/self/mem", "/nowhere", "a" * 300, "..", ".") * 2
MEMBER_WAYS = (
    "missing",
    "empty",
    "longer",
    "exchanged",
    "link",
    "link",
    "pipe",
    "folder",
    "sparse",
    "more",
    "linked folder",
)

MUTATORS: dict[str, Callable[[Random, Files], None]] = {
    "manifest": _tree_of(MANIFEST),
    "model bytes, hash right": _model_bytes,
    "model objects, hash right": _model_schema,
    "model, hash wrong": _model_unrepaired,
    "golden picture, hash right": _golden_picture,
    "golden numbers, hash right": _tree_of("golden/0.json"),
    "familiarity, hash right": _tree_of(FAMILIARITY),
    "signature": _tree_of(SIGNATURE),
    "members": _members,
}
"""Name -> what it does to the files of a bundle."""

ENGINES_OWN = frozenset(name for name in MUTATORS if name.startswith("model") and name.endswith("right"))
"""Mutators whose bytes reach an engine."""

_WEIGHTS = (5, 2, 3, 1, 1, 2, 1, 1, 3)


def bundle(wholes: Mapping[str, Mapping[str, bytes]], seed: int, number: int) -> Hostile:
    """Return a case by its number."""
    return mutated_bundle(Random(f"bundles {seed} {number}"), wholes)


def mutated_bundle(random: Random, wholes: Mapping[str, Mapping[str, bytes]]) -> Hostile:
    """Return a bundle after one mutator; in one of six cases the manifest or a member is spoilt as well."""
    whole = random.choice(sorted(wholes))
    files: Files = dict(wholes[whole])
    (first,) = random.choices(list(MUTATORS), _WEIGHTS)
    if first.startswith("familiarity"):
        whole, files = "full", dict(wholes["full"])
    chosen = [first, *([random.choice(("manifest", "members"))] if random.random() < 1 / 6 else [])]
    for name in chosen:
        MUTATORS[name](random, files)
    return Hostile(whole, tuple(chosen), files, first in ENGINES_OWN)


def lay_out(case: Hostile, folder: Path) -> None:
    """Write a case to an empty folder: files first, so that none is written through a link."""
    for name, content in case.files.items():
        if isinstance(content, bytes):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for name, content in case.files.items():
        if isinstance(content, Odd):
            with suppress(FileExistsError):  # a folder with files in it
                _lay_out_odd(content, folder / name)


def _lay_out_odd(odd: Odd, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if odd.what == "link":
        path.symlink_to(odd.target)
    elif odd.what == "pipe":
        os.mkfifo(path)
    elif odd.what == "folder":
        path.mkdir()
    else:
        with path.open("xb") as stream:
            stream.truncate(int(odd.target))
