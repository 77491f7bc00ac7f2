"""Coverage-guided search in `decode`: atheris keeps what reaches new lines of Pillow's Python and of ours.

What comes in is the corpus, the seeds unless a folder is given; what goes out is a crash file of libFuzzer where
something else than a picture or an `ImageError` came out. Mutants are made by ``mutate_pictures``, so they stay
pictures enough to reach deep. atheris' own options follow (``-runs=``, ``-max_total_time=``, ``-rss_limit_mb=``):

    python -m tests.fuzz.atheris_pictures -max_total_time=300 [CORPUS]
"""

from __future__ import annotations

import sys
import tempfile
from random import Random

import atheris

with atheris.instrument_imports(include=["PIL", "edge_runtime"], enable_loader_override=False):
    from PIL import Image

    Image.init()  # the plugins
    from edge_runtime.errors import ImageError
    from edge_runtime.preprocess import Preprocess, decode, prepare

from .cases import MAX_LINE
from .make_seeds import SEEDS
from .mutate_pictures import mutated
from .worker import MEMORY_MIB, limit_memory

MARKS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"II": "tif", b"MM": "tif", b"BM": "bmp", b"RI": "webp"}
"""First two bytes -> format."""


def one(content: bytes) -> None:
    """Decode and prepare; anything but a picture or an `ImageError` of one line is a crash."""
    try:
        prepared = prepare(decode(content), Preprocess(32))
    except ImageError as error:
        if not 0 < len(str(error)) < MAX_LINE or "\n" in str(error):
            raise ValueError("not one line") from error
    else:
        if prepared.shape != (32, 32, 3):
            raise ValueError(prepared.shape)


def mutate(content: bytes, max_bytes: int, seed: int) -> bytes:
    """Return a mutant, for libFuzzer; half of the time it is libFuzzer's own."""
    random = Random(seed)
    kind = MARKS.get(content[:2])
    if kind is None or random.random() < 0.5:
        return atheris.Mutate(content, max_bytes)
    return mutated(random, f"corpus.{kind}", content).content[:max_bytes]


def main() -> None:
    """Search until told to stop."""
    limit_memory(MEMORY_MIB)
    with tempfile.TemporaryDirectory() as found:  # libFuzzer writes to the first folder and only reads the others
        folders = [found, str(SEEDS)] if all(word.startswith("-") for word in sys.argv[1:]) else []
        atheris.Setup([*sys.argv, *folders, "-max_len=65536", "-timeout=60"], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
