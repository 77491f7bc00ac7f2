"""The converters' table counts operators right, and is where its command says it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.converters import operators

TINY = Path(__file__).parents[1] / "edge_runtime" / "fixtures" / "tiny_float32.tflite"


def test_operators_are_counted_by_name() -> None:
    found = operators(TINY.read_bytes())
    assert found["CONV_2D"] >= 1 and found["MEAN"] == 1 and found["TRANSPOSE"] == 0
