"""Halve: from ONNX in full precision to one that computes in float16, uint8 pixels in and float32 out as before."""

from __future__ import annotations

from .errors import ExportError


def halve_onnx(model: bytes) -> bytes:
    """Convert a graph's weights and arithmetic to float16.

    The grey levels stay exact: (pixel - 128) / 128 has at most eight significant bits, float16 has eleven.

    Args:
        model: ONNX in float32.

    Raises:
        ExportError: the converter refuses the graph.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        # the type of its Cast from uint8 is an attribute, which the converter turns, too
        halved = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
        onnx.checker.check_model(halved, full_check=True)
    except Exception as error:  # noqa: BLE001 - the converter raises anything
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise ExportError("the graph cannot be halved", got=got) from None
    content: bytes = halved.SerializeToString(deterministic=True)
    return content
