"""Mutate bundles: from whole bundles and a source of randomness to one hostile folder, the same for the same number.

What comes in are the bundles of `make_wholes`, signed by the key of `trusted`; what goes out is a `Hostile`: names ->
bytes, or what else can lie in a folder, to be laid out by `lay_out`. Where a mutator says "hash right", size and hash
in the manifest are right again, so that the bytes reach whoever reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from .mutate_json import mutate_text, mutate_tree, written
from .mutate_models import mutate_bytes, mutate_schema
from .mutate_pictures import mutated, seeds

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
        whole: of `make_wholes`.
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
            as_text = random.random() < 0.2 and isinstance(tree, dict) and tree
            changed = mutate_text(random, text) if as_text else written(mutate_tree(random, tree))
        except (ValueError, RecursionError):  # another mutator was there
            return
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
