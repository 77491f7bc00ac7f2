"""Torch to TFLite, worker: the converter's own process - ``python -m export.torch_to_tflite_worker``.

What comes in are the folder of the converter's packages, a ``.pt2``, where to write, and the input size; what goes out
is the file. Everything the converter says goes to the streams, whose last line is the error where there is one.

One thing is done to the graph. The converter would fold the normalisation into a first convolution that does not pad
(InceptionV3, Xception): its weights then meet pixels of 0..255 and its bias takes back most of that, which costs
digits in float32, and nothing behind could tell any more that it is (pixel - 128) / 128. A barrier stands between them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import GraphModule


def convert(packages: str, network: str, written: str, input_px: str) -> None:
    """Convert ``network`` to ``written``; the converter's packages stand behind all others."""
    sys.path.append(packages)
    import litert_torch
    import torch

    module = torch.export.load(network).module(check_guards=False)
    keep_normalisation(module)
    pixels = torch.zeros((1, int(input_px), int(input_px), 3), dtype=torch.uint8)
    litert_torch.convert(module, (pixels,)).export(written)


def keep_normalisation(module: GraphModule) -> None:
    """Put a barrier behind what is done to the input value by value, before anything else happens to it."""
    import operator

    import torch
    from litert_torch.backend import optimization_barrier

    graph = module.graph
    pixels = last = next(node for node in graph.nodes if node.op == "placeholder")
    while len(readers := [user for user in last.users if user.users]) == 1:  # torch's own checks give nothing on
        (reader,) = readers
        value = reader.meta.get("val")
        alone = reader.all_input_nodes == [last]
        if not alone or not isinstance(value, torch.Tensor) or value.shape != pixels.meta["val"].shape:
            break
        last = reader
    readers = list(last.users)
    with graph.inserting_after(last):  # of two values: what it gives for one cannot be taken apart
        barrier = graph.call_function(optimization_barrier.optimization_barrier_op, ([last, pixels],))
    with graph.inserting_after(barrier):
        behind = graph.call_function(operator.getitem, (barrier, 0))
    for reader in readers:
        reader.replace_input_with(last, behind)
    module.recompile()


if __name__ == "__main__":
    try:
        convert(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - converters raise anything
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(f"{type(error).__name__}: {said[0] if said else 'no reason given'}")
