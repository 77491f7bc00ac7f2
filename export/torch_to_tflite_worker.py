"""Torch to TFLite, worker: the converter's own process - ``python -m export.torch_to_tflite_worker``.

What comes in are the folder of the converter's packages, a ``.pt2``, where to write, and the input size; what goes out
is the file. Everything the converter says goes to the streams, whose last line is the error where there is one.
"""

from __future__ import annotations

import sys


def convert(packages: str, network: str, written: str, input_px: str) -> None:
    """Convert ``network`` to ``written``; the converter's packages stand behind all others."""
    sys.path.append(packages)
    import litert_torch
    import torch

    module = torch.export.load(network).module()
    pixels = torch.zeros((1, int(input_px), int(input_px), 3), dtype=torch.uint8)
    litert_torch.convert(module, (pixels,)).export(written)


if __name__ == "__main__":
    convert(*sys.argv[1:])
