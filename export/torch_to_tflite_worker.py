"""Torch to TFLite, worker: the converter's own process - ``python -m export.torch_to_tflite_worker``.

What comes in are the folder of the converter's packages, a ``.pt2``, where to write, and the input size; what goes out
is the file. Everything the converter says goes to the streams, whose last line is the error where there is one.

Two things are done to the graph. The converter would fold the normalisation into a first convolution that does not pad
(InceptionV3, Xception): its weights then meet pixels of 0..255 and its bias takes back most of that, which costs
digits in float32, and nothing behind could tell any more that it is (pixel - 128) / 128. A barrier stands between them.
And it makes three operators of a batch normalisation that has no convolution in front to go into (DenseNet-121 has 62),
where two do; in 8 bits each costs time and digits.
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
    join_batch_normalisations(module)
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


def join_batch_normalisations(module: GraphModule) -> None:
    """Turn every batch normalisation that is not behind a convolution into one factor and one summand per channel."""
    import operator

    import torch

    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target != aten.batch_norm.default or node.args[0].target == aten.conv2d.default:
            continue
        source, *constants, training, _, eps, _ = node.args
        if training or any(getattr(constant, "op", None) != "get_attr" for constant in constants):
            continue
        weight, bias, mean, variance = (operator.attrgetter(c.target)(module).detach().double() for c in constants)
        factor = weight / (variance + eps).sqrt()
        names = f"{node.name}_factor", f"{node.name}_summand"
        for name, value in zip(names, (factor, bias - mean * factor), strict=True):
            module.register_buffer(name, value.float().view(1, -1, 1, 1))
        with graph.inserting_before(node):
            product = graph.call_function(aten.mul.Tensor, (source, graph.get_attr(names[0])))
            result = graph.call_function(aten.add.Tensor, (product, graph.get_attr(names[1])))
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    module.recompile()


if __name__ == "__main__":
    try:
        convert(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - converters raise anything
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(f"{type(error).__name__}: {said[0] if said else 'no reason given'}")
