"""Torch to TFLite: the road without ONNX, by LiteRT's own converter, which lives in a folder that only it looks into.

litert-torch asks for jax, transformers and other versions of what the main environment holds. It gets none of that:
what it imports beyond the main environment lies in `FOLDER` at the checkout's root, or in the folder that the
environment variable `VARIABLE` names, and is put behind the main environment's packages in the converter's process
alone. Torch is thus the same on both sides, and the network travels as torch's own ``.pt2``, whose weights are raw
bytes and whose graph is JSON.

Its tensors come back with names of a kilobyte, a list of all the modules around them; `shorten` makes them paths into
the network. A quantized MobileNetV2 is 4 % smaller for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .converter_process import installed_version, run_converter
from .errors import ExportError
from .graph_input import read_graph, write_graph
from .to_onnx import CLASS_MAP, INPUT, LOGITS

if TYPE_CHECKING:
    from torch import nn

NAME = "litert-torch"
FOLDER = ".litert-torch"
VARIABLE = "LEUKOSCOPE_LITERT_TORCH"
NETWORK = "network.pt2"
WRITTEN = "model.tflite"


def packages() -> Path:
    """Return the folder that the converter's packages lie in, whether it is there or not."""
    stated = os.environ.get(VARIABLE)
    return Path(stated).resolve() if stated else Path(__file__).resolve().parents[1] / FOLDER


def litert_torch_version() -> str | None:
    """Return the converter's version, None where it is neither in its own folder nor in the main environment."""
    return installed_version(NAME, packages())


def torch_to_tflite(network: nn.Module, input_px: int) -> bytes:
    """Convert a network.

    Args:
        network: (1, H, W, 3) uint8 -> logits (1, K) and class map (1, h, w, K); in eval mode.
        input_px: H and W.

    Returns:
        TFLite file, full precision, the same bytes for the same network.

    Raises:
        ExportError: torch cannot export the network, or the converter fails.
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as name:
        folder = Path(name)
        pixels = torch.zeros((1, input_px, input_px, 3), dtype=torch.uint8)
        try:
            program = torch.export.export(network, (pixels,), strict=False)
            torch.export.save(program, folder / NETWORK)
        except Exception as error:  # noqa: BLE001 - exporters raise anything
            got = f"{type(error).__name__}: {error}"[:300]
            raise ExportError("torch cannot export the network", got=got) from None
        arguments = [str(packages()), NETWORK, WRITTEN, str(input_px)]
        model = run_converter(NAME, "export.torch_to_tflite_worker", arguments, folder, folder / WRITTEN)
    return name_tensors(model, (INPUT,), (LOGITS, CLASS_MAP))


def name_tensors(model: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Give a graph's inputs and outputs the names they go by here, and all other tensors short ones.

    Args:
        model: TFLite.
        inputs: names, in the order of the network's arguments.
        outputs: names, in the order of what the network returns.

    Raises:
        ExportError: the graph has more or fewer, or several signatures.
    """
    graph = read_graph(model)
    main = graph.subgraphs[0]
    signatures = graph.signatureDefs or []
    found = (len(signatures), len(main.inputs), len(main.outputs))
    wanted = (1, len(inputs), len(outputs))
    if found != wanted:
        raise ExportError("another graph than expected: signatures, inputs, outputs", got=found, expected=wanted)
    (signature,) = signatures
    given: dict[int, str] = {}
    for entries, names, kind in ((signature.inputs, inputs, "args"), (signature.outputs, outputs, "output")):
        for entry in entries:  # named args_0, output_0, output_1, in any order
            number = entry.name.decode().removeprefix(f"{kind}_")
            if not number.isdecimal() or int(number) >= len(names):
                raise ExportError("a signature of unknown names", got=entry.name.decode(), expected=f"{kind}_0 ...")
            entry.name = names[int(number)].encode()
            given[int(entry.tensorIndex)] = names[int(number)]
    taken = set(given.values())
    for place, tensor in enumerate(main.tensors):
        name = given.get(place) or _free(shorten(tensor.name.decode()), taken)
        taken.add(name)
        tensor.name = name.encode()
    return write_graph(graph)


def shorten(name: str) -> str:
    """Turn a tensor's name into a path into the network.

    ``pkg.A;;pkg.Network/pkg.Sequential_features/pkg.Conv2d_0;1`` -> ``features/0``: of the layers that were fused, the
    first; of each layer, its name without its class.
    """
    first = name.split(";;")[-1].split(";")[0]
    elements = [element.rpartition(".")[2].lstrip("_").partition("_")[2] for element in first.split("/")]
    return "/".join(element for element in elements if element) or "network"


def _free(name: str, taken: set[str]) -> str:
    """Return a name that nothing has yet: the one given, or with a number behind."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name};{number}"
    return free
