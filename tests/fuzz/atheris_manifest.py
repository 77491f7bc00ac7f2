"""Coverage-guided search in the readers of a bundle's JSON: manifest, familiarity, signature, golden numbers.

What comes in is the corpus, whole documents unless a folder is given; what goes out is a crash file of libFuzzer where
something else than a document or a `BundleError` came out. Mutants are made by ``mutate_bundles``, as trees or texts.

    python -m tests.fuzz.atheris_manifest -max_total_time=300 [CORPUS]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["edge_runtime"], enable_loader_override=False):
    from edge_runtime.errors import BundleError
    from edge_runtime.familiarity import parse_familiarity
    from edge_runtime.golden import parse_expected
    from edge_runtime.manifest import parse_manifest
    from edge_runtime.signature import parse_signature

from .cases import MAX_LINE
from .mutate_bundles import LABELS, make_wholes
from .mutate_json import mutate_text, mutate_tree, written

READERS = (
    lambda text: parse_manifest(text, "manifest.json"),
    lambda text: parse_familiarity(text, "familiarity.json", LABELS),
    parse_signature,
    lambda text: parse_expected(text, LABELS, (4, 4), "golden/0.json"),
)


def one(content: bytes) -> None:
    """Read a text as each kind of document; anything but a document or a `BundleError` of one line is a crash."""
    for read in READERS:
        try:
            read(content)
        except BundleError as error:
            if not 0 < len(str(error)) < MAX_LINE or "\n" in str(error):
                raise ValueError("not one line") from error


def mutate(content: bytes, max_bytes: int, seed: int) -> bytes:
    """Return a mutant, for libFuzzer; where the text is no JSON any more, libFuzzer's own."""
    random = Random(seed)
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return atheris.Mutate(content, max_bytes)
    if random.random() < 0.2 and isinstance(tree, dict) and tree:
        return mutate_text(random, content)[:max_bytes]
    try:
        return written(mutate_tree(random, tree))[:max_bytes]
    except RecursionError:  # an older mutant, nested as deeply as Python's reader allows and its copier does not
        return atheris.Mutate(content, max_bytes)


def main() -> None:
    """Search until told to stop."""
    with tempfile.TemporaryDirectory() as folder:
        make_wholes(Path(folder) / "wholes")
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, path in enumerate(sorted(Path(folder).glob("wholes/*/**/*.[js][si][og]*"))):
            (corpus / str(number)).write_bytes(path.read_bytes())
        options = [*sys.argv, str(corpus)] if all(word.startswith("-") for word in sys.argv[1:]) else sys.argv
        atheris.Setup([*options, "-max_len=65536", "-timeout=60"], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
