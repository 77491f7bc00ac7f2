"""The graph of an isolated engine: loaded and run in a child, which is asked and never believed.

What comes in is what a loader of ``graphs`` takes; what goes out is a `Graph` like theirs, whose `run` asks the child.
``engines`` compares and checks what the child says exactly as it does a graph of this process. Here the child's answers
are taken apart, and it is started again after a death. Its process is in ``child``, what it gives up in ``lockdown``;
what that prevents on which system, in ``docs/isolation.md``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, EngineGoneError
from ..graphs import Graph, Tensor
from ..json_reader import is_number
from ..manifest import IOSpec
from . import Layer
from .child import Child

_OUTPUT_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2}
_MAX_TENSORS, _MAX_SIDES = 64, 8
_MAX_NUMBER = 2**31  # of a scale or zero point: Python's integers have no end, numpy's do


@dataclass(frozen=True)
class Limits:
    """What an isolated engine may take.

    Attributes:
        spare_bytes: address space beyond what its package takes and four times the model's size.
        start_s: until the package is imported and the process locked in.
        load_s: until the model is loaded.
        run_s: for one inference.
        deaths: so often in a row, without an answer between, it may die or fall silent before it is started no more.
    """

    spare_bytes: int = 2**30
    start_s: float = 60.0
    load_s: float = 120.0
    run_s: float = 60.0
    deaths: int = 3


def load_isolated(
    engine: str, files: Mapping[str, bytes], threads: int, io: IOSpec, where: str, limits: Limits | None = None
) -> tuple[Graph, tuple[Layer, ...]]:
    """Load a model in a process of its own.

    Args:
        engine: of `engines.ENGINES`, installed.
        files: the model's, checked.
        threads: for one inference.
        io: what the model must look like; no more than its outputs need is ever read from the child.
        where: what errors call the model.
        limits: default: `Limits()`.

    Returns:
        The graph, not yet believed, and what holds the child in.

    Raises:
        UsageError: this system cannot do it.
        EngineError: the child died, said nothing in time or nonsense, or cannot load the model.
    """
    return _Isolated(engine, files, threads, io, where, limits or Limits()).graph()


def layers_here() -> tuple[Layer, ...]:
    """Try what holds on this machine, on a process that is thrown away.

    Raises:
        UsageError: this system cannot do it.
        EngineError: the trial failed.
    """
    return _enter(Child("a trial"), None, 1, Limits())


class _Isolated:
    """A model and the child that runs it now; after a death, the next picture gets a new child."""

    def __init__(
        self, engine: str, files: Mapping[str, bytes], threads: int, io: IOSpec, where: str, limits: Limits
    ) -> None:
        self._engine, self._files, self._threads, self._io = engine, files, threads, io
        self._where, self._limits, self._deaths = where, limits, 0
        self._child: Child | None = None
        self._spare_bytes = limits.spare_bytes + 4 * sum(map(len, files.values()))

    def graph(self) -> tuple[Graph, tuple[Layer, ...]]:
        child, layers, stated = self._start()
        self._child = child
        inputs, outputs = (_tensors(stated.get(side), child) for side in ("inputs", "outputs"))
        return Graph(inputs, outputs, self._run), layers

    def _start(self) -> tuple[Child, tuple[Layer, ...], dict[str, Any]]:
        child = Child(self._where)
        layers = _enter(child, self._engine, self._threads, Limits(self._spare_bytes, self._limits.start_s))
        asked = {"files": list(self._files)}
        stated, _ = child.ask(asked, list(self._files.values()), self._limits.load_s)
        if "error" in stated:
            raise child.failed("the isolated engine cannot load it", stated)
        return child, layers, stated

    def _run(
        self, input_name: str, output_names: tuple[str, str], pixels: npt.NDArray[np.uint8]
    ) -> list[npt.NDArray[Any]]:
        if self._deaths >= self._limits.deaths:
            times = f"{self._deaths} time{'s' * (self._deaths > 1)} in a row"
            raise EngineGoneError(f"{self._where}: the engine died {times} and is not started again")
        io = self._io
        asked = {"input": input_name, "outputs": output_names, "shape": pixels.shape}
        most = (4 * io.classes, 4 * io.classes * io.map_height * io.map_width)
        self._deaths += 1  # unless it answers
        if self._child is None or self._child.ended:
            self._child = self._start()[0]
        child = self._child
        stated, blobs = child.ask(asked, [pixels.data.cast("B")], self._limits.run_s, most)
        if "error" in stated:
            self._deaths = 0
            raise EngineError(f"{self._where}: the isolated engine failed on a picture", got=stated["error"])
        described = stated.get("outputs")
        if not isinstance(described, list) or len(described) != 2 or len(blobs) != 2:
            raise child.nonsense()
        arrays = [_array(about, blob, child) for about, blob in zip(described, blobs, strict=True)]
        self._deaths = 0
        return arrays


def _enter(child: Child, engine: str | None, threads: int, limits: Limits) -> tuple[Layer, ...]:
    """Let a child import its engine and lock itself in."""
    asked = {"engine": engine, "threads": threads, "extra_bytes": limits.spare_bytes, "parent": os.getpid()}
    stated, _ = child.ask(asked, (), limits.start_s)
    if "error" in stated:
        raise child.failed("the isolated engine did not start", stated)
    match stated.get("layers"):
        case [*rows]:
            return tuple(_layer(row, child) for row in rows)
    raise child.nonsense()


def _layer(row: object, child: Child) -> Layer:
    match row:
        case {"name": str(name), "held": bool(held), "detail": str(detail)}:
            return Layer(name, held, detail)
    raise child.nonsense()


def _tensors(rows: object, child: Child) -> dict[str, Tensor]:
    if not isinstance(rows, list) or len(rows) > _MAX_TENSORS:
        raise child.nonsense()
    return {tensor.name: tensor for tensor in (_tensor(row, child) for row in rows)}


def _tensor(row: object, child: Child) -> Tensor:
    match row:
        case {"name": str(name), "shape": [*shape], "dtype": str(dtype), "scale": scale, "zero_point": int(zero)}:
            sides = all(side is None or isinstance(side, int | str) for side in shape)
            small = scale is None or (is_number(scale) and abs(scale) <= _MAX_NUMBER)
            if sides and small and abs(zero) <= _MAX_NUMBER:
                return Tensor(name, tuple(shape), dtype, None if scale is None else float(scale), zero)
    raise child.nonsense()


def _array(about: object, blob: bytes, child: Child) -> npt.NDArray[Any]:
    """Return an output, of the shape and type that the child says it has if its bytes are as many."""
    match about:
        case {"dtype": str(dtype), "shape": [*shape]} if dtype in _OUTPUT_BYTES:
            whole = len(shape) <= _MAX_SIDES and all(isinstance(side, int) and side > 0 for side in shape)
            if whole and math.prod(shape) * _OUTPUT_BYTES[dtype] == len(blob):
                return np.frombuffer(blob, dtype).reshape(shape)
    raise child.nonsense()
