"""The graph's input: takes the normalisation off a float TFLite graph, and gives the INT8 graph its uint8 pixels back.

Every network normalises by (pixel - 128) / 128, whose INT8 form with scale 1/128 and zero point 0 is pixel - 128: the
same byte with its top bit flipped. A quantizer does not know that; it quantizes the pixels, the centre and the factor
one by one, four operators that are exact only while their measured ranges happen to fall well. So the arithmetic is cut
off before quantization (after checking that it is that formula, value by value) and a single QUANTIZE from uint8 takes
its place afterwards (after checking scale and zero point): exact by construction, and `exact_levels` shows it on the
file that ships. It is not for speed: with LiteRT 2.3 on x86 both forms take the same time within 2 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ExportError
from .to_onnx import INPUT

CENTRE = 128
NORMALISED = "normalised"
"""The tensor that holds (pixel - 128) / 128 once the arithmetic is off."""

RANGES = {8: (-1.0, 127.0 / 128.0), 16: (-32767.0 / 16384.0, 32767.0 / 16384.0)}
"""Bits -> range of the normalised pixels: known, so it is not measured. It makes the zero point 0 and the scale 1/128
or, as 16 bits are symmetric and have room to spare, 1/16384: every grey level is a whole number of steps."""


def read_graph(model: bytes) -> Any:
    """Return a TFLite file as a ``ModelT`` of the schema, all weights inside it."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromPackedBuf(model, 0)
    for buffer in graph.buffers:
        if buffer.offset > 1:  # weights behind the flatbuffer: older runtimes do not know that
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return graph


def write_graph(graph: Any) -> bytes:
    """Return a ``ModelT`` as a TFLite file, weights 16-byte aligned as the schema asks for."""
    import flatbuffers

    originals = graph.buffers
    graph.buffers = [_aligned(buffer) for buffer in originals]
    try:
        builder = flatbuffers.Builder(1024)
        builder.Finish(graph.Pack(builder), b"TFL3")
        return bytes(builder.Output())
    finally:
        graph.buffers = originals


def _aligned(original: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's name
            vector = None
            if self.data is not None:
                content = np.asarray(self.data, np.uint8).tobytes()
                builder.StartVector(1, len(content), 16)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return int(schema.BufferEnd(builder))

    copy = Buffer()
    copy.data = original.data
    return copy


def take_off_normalisation(model: bytes) -> bytes:
    """Cut CAST and the normalisation off a float graph, so that it takes (pixel - 128) / 128 as float32.

    Args:
        model: TFLite, uint8 in.

    Raises:
        ExportError: what stands between the pixels and the first layer is not (pixel - 128) / 128.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(model)
    main = graph.subgraphs[0]
    (place,) = main.inputs
    values = np.arange(256, dtype=np.float32)
    operators = {
        schema.BuiltinOperator.ADD: np.add,
        schema.BuiltinOperator.SUB: np.subtract,
        schema.BuiltinOperator.MUL: np.multiply,
        schema.BuiltinOperator.DIV: np.divide,
    }
    while (operator := _reader(main, place)) is not None:
        code = operator_code(graph, operator)
        if code in operators:
            sides = [values if side == place else _constant(graph, main.tensors[side]) for side in operator.inputs]
            if any(side.size not in (1, values.size) for side in sides):
                raise ExportError("the normalisation differs between channels", expected="(pixel - 128) / 128")
            values = operators[code](*sides).astype(np.float32)
        elif code != schema.BuiltinOperator.CAST:
            break
        main.operators.remove(operator)
        (place,) = operator.outputs
    wanted = (np.arange(256, dtype=np.float32) - CENTRE) / np.float32(CENTRE)
    if values.shape != wanted.shape or not np.array_equal(values, wanted):
        got = f"0 -> {values.flat[0]:g}, 255 -> {values.flat[-1]:g}"
        wrong = "the graph does not normalise by (pixel - 128) / 128"
        raise ExportError(wrong, got=got, expected="0 -> -1, 255 -> 0.992")
    _set_input(graph, place)
    main.tensors[place].name = NORMALISED.encode()
    return write_graph(without_leftovers(graph))


def put_on_pixels(model: bytes) -> bytes:
    """Put uint8 pixels and one QUANTIZE (or, to float, DEQUANTIZE) in front of a graph that takes normalised pixels.

    Args:
        model: TFLite; int8, int16 or float in.

    Raises:
        ExportError: the graph's input is quantized, but not so that every grey level is exact.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(model)
    main = graph.subgraphs[0]
    (place,) = main.inputs
    normalised = main.tensors[place]
    stated = normalised.quantization
    found = (normalised.type, [float(s) for s in stated.scale], [int(z) for z in stated.zeroPoint]) if stated else None
    in_float = normalised.type == schema.TensorType.FLOAT32 and normalised.name == NORMALISED.encode()
    quantized = [(schema.TensorType.INT8, [1.0 / CENTRE], [0]), (schema.TensorType.INT16, [1.0 / CENTRE**2], [0])]
    if not in_float and found not in quantized:
        wanted = "int8 of scale 1/128 or int16 of scale 1/16384, zero point 0"
        raise ExportError("the quantized input is not pixel - 128", got=found, expected=wanted)
    pixels = schema.TensorT()
    pixels.name, pixels.type = INPUT.encode(), schema.TensorType.UINT8
    pixels.shape, pixels.shapeSignature, pixels.hasRank = normalised.shape, normalised.shapeSignature, True
    pixels.quantization = schema.QuantizationParametersT()
    pixels.quantization.scale = np.array([1.0 / CENTRE], np.float32)
    pixels.quantization.zeroPoint = np.array([CENTRE], np.int64)
    main.tensors.append(pixels)
    code = schema.OperatorCodeT()
    kinds = schema.BuiltinOperator
    code.builtinCode = code.deprecatedBuiltinCode = kinds.DEQUANTIZE if in_float else kinds.QUANTIZE
    code.version = 2  # the first that takes uint8 in and int8 out
    graph.operatorCodes.append(code)
    flip = schema.OperatorT()
    flip.opcodeIndex = len(graph.operatorCodes) - 1
    flip.inputs, flip.outputs = [len(main.tensors) - 1], [place]
    main.operators.insert(0, flip)
    _set_input(graph, len(main.tensors) - 1)
    return write_graph(without_leftovers(graph))


def open_whole(model: bytes, threads: int = 1) -> Any:
    """Return a LiteRT interpreter that keeps every tensor, not the outputs alone; ready to run."""
    import warnings

    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "for debugging only", it says: that is what is done
        interpreter = Interpreter(model_content=model, num_threads=threads, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    return interpreter


def exact_levels(model: bytes) -> int:
    """Count the grey levels 0..255 that a quantized graph turns into exactly (level - 128) / 128, by running it.

    A mean that is off by a few levels moves no class and hardly a heatmap, so nothing downstream would tell.

    Args:
        model: TFLite, uint8 pixels in.
    """
    interpreter = open_whole(model)
    graph = read_graph(model)
    (place,) = graph.subgraphs[0].inputs
    operator = _reader(graph.subgraphs[0], place)
    if operator is None:
        return 0
    first = int(operator.outputs[0])
    scales, zeros = quantization(graph.subgraphs[0].tensors[first])
    if scales.size != 1:
        return 0
    levels = np.resize(np.arange(256, dtype=np.uint8), [int(side) for side in graph.subgraphs[0].tensors[place].shape])
    interpreter.set_tensor(int(place), levels)
    interpreter.invoke()
    found = (interpreter.get_tensor(first).astype(np.float64) - zeros[0]) * scales[0]
    wrong = np.unique(levels[found != (levels - float(CENTRE)) / CENTRE]) if found.shape == levels.shape else levels
    return 256 - len(np.unique(wrong))


def quantization(tensor: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a tensor's scales and zero points, one or one per channel each; 1 and 0 where it is float."""
    stated = tensor.quantization
    if stated is None or stated.scale is None or not len(stated.scale):
        none = int(tensor.type != 0)  # an integer tensor of no scale stands for nothing
        return np.ones(1 - none), np.zeros(1 - none)
    return np.asarray(stated.scale, np.float64), np.asarray(stated.zeroPoint, np.float64)


def _reader(main: Any, place: int) -> Any | None:
    """Return the only operator that reads a tensor, None where there are none or several."""
    readers = [operator for operator in main.operators if place in list(operator.inputs)]
    return readers[0] if len(readers) == 1 else None


def operator_code(graph: Any, operator: Any) -> int:
    """Return which ``BuiltinOperator`` an operator is."""
    row = graph.operatorCodes[operator.opcodeIndex]
    return max(int(row.builtinCode), int(row.deprecatedBuiltinCode))


def _constant(graph: Any, tensor: Any) -> Any:
    data = graph.buffers[tensor.buffer].data
    if tensor.type != 0 or data is None:
        raise ExportError("the normalisation is not made of float constants", got=tensor.name.decode())
    return np.asarray(data, np.uint8).view(np.float32)


def _set_input(graph: Any, place: int) -> None:
    graph.subgraphs[0].inputs = [place]
    for signature in graph.signatureDefs or []:
        for entry in signature.inputs:
            entry.tensorIndex = place


def without_leftovers(graph: Any) -> Any:
    """Drop tensors, buffers and operator codes that nothing refers to any more."""
    main = graph.subgraphs[0]
    used = {*main.inputs, *main.outputs}
    for operator in main.operators:
        used |= {place for place in (*operator.inputs, *operator.outputs) if place >= 0}
    kept = sorted(int(place) for place in used)
    moved = {place: number for number, place in enumerate(kept)} | {-1: -1}
    main.tensors = [main.tensors[place] for place in kept]
    main.inputs = [moved[int(place)] for place in main.inputs]
    main.outputs = [moved[int(place)] for place in main.outputs]
    for operator in main.operators:
        operator.inputs = [moved[int(place)] for place in operator.inputs]
        operator.outputs = [moved[int(place)] for place in operator.outputs]
    for signature in graph.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = moved[int(entry.tensorIndex)]

    buffers = [0, *sorted({t.buffer for t in main.tensors} | {m.buffer for m in graph.metadata or []} - {0})]
    buffers = list(dict.fromkeys(buffers))
    places = {old: new for new, old in enumerate(buffers)}
    graph.buffers = [graph.buffers[old] for old in buffers]
    for thing in (*main.tensors, *(graph.metadata or [])):
        thing.buffer = places[thing.buffer]

    codes = sorted({operator.opcodeIndex for operator in main.operators})
    graph.operatorCodes = [graph.operatorCodes[old] for old in codes]
    for operator in main.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    return graph
