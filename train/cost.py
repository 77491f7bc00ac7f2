"""Cost: what one picture costs an architecture - parameters, multiply-accumulates, milliseconds on this CPU.

All three belong to the shape of a network, not to its weights: they are measured on untrained ones, so that runs whose
weights lie elsewhere can be compared, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

Shape = tuple[str, int, int]
"""Backbone, classes, input size in pixels."""

ROUNDS = 30
"""Timed calls of every network, after some that are not counted."""

WARM_UP = 5


def measure_costs(shapes: Sequence[Shape], threads: int, rounds: int = ROUNDS) -> dict[Shape, dict[str, Any]]:
    """Count parameters and multiply-accumulates, and time one picture on the CPU.

    Networks are timed by turns, so that whatever else the machine does falls on all of them: trust the ratios more than
    the milliseconds.

    Args:
        shapes: architectures; equal ones are measured once.
        threads: of torch.
        rounds: timed calls of each.

    Returns:
        Per shape ``parameters``, ``macs``, ``latency_p50_ms`` and ``latency_threads``.
    """
    import torch
    from tqdm import tqdm

    from .backbones import BACKBONES, count_cost
    from .network import SelfExplaining

    networks = {shape: SelfExplaining(BACKBONES[shape[0]], shape[1]).eval() for shape in dict.fromkeys(shapes)}
    costs: dict[Shape, dict[str, Any]] = {shape: count_cost(net, shape[2]) for shape, net in networks.items()}
    times_ms: dict[Shape, list[float]] = {shape: [] for shape in networks}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for turn in tqdm(range(WARM_UP + rounds), desc="latency", unit="round", leave=False, disable=None):
                for shape, network in networks.items():
                    pixels = torch.full((1, shape[2], shape[2], 3), 128, dtype=torch.uint8)
                    started = time.perf_counter()
                    network(pixels)
                    if turn >= WARM_UP:
                        times_ms[shape].append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(before)
    for shape, cost in costs.items():
        cost |= {"latency_p50_ms": median(times_ms[shape]), "latency_threads": threads}
    return costs
