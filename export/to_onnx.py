"""To ONNX: from a network to a checked graph, uint8 NHWC pixels in, logits and class map out, batch 1.

Opset 17 through torch's tracing exporter: the newer one writes the same graph with more operators around it, which the
next converter understands less well. Nothing is quantized or folded here.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from .errors import ExportError

if TYPE_CHECKING:
    from torch import nn

INPUT = "pixels"
LOGITS = "logits"
CLASS_MAP = "class_map"
OPSET = 17


def to_onnx(network: nn.Module, input_px: int) -> bytes:
    """Export a network.

    Args:
        network: (1, H, W, 3) uint8 -> logits (1, K) and class map (1, h, w, K); in eval mode.
        input_px: H and W.

    Returns:
        ONNX file, the same bytes for the same weights.

    Raises:
        ExportError: torch cannot export it, or the checker refuses what it wrote.
    """
    import onnx
    import torch

    stream = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracing exporter's own deprecation
            torch.onnx.export(
                network,
                (torch.zeros((1, input_px, input_px, 3), dtype=torch.uint8),),
                stream,  # type: ignore[arg-type]
                input_names=[INPUT],
                output_names=[LOGITS, CLASS_MAP],
                opset_version=OPSET,
                dynamo=False,
            )
        onnx.checker.check_model(onnx.load_from_string(stream.getvalue()), full_check=True)
    except Exception as error:  # noqa: BLE001 - exporters raise anything
        got = f"{type(error).__name__}: {error}"[:300]
        raise ExportError("the network cannot be written as ONNX", got=got) from None
    return stream.getvalue()
