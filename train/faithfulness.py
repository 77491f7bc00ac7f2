"""Faithfulness: what a heatmap is worth, as numbers.

What come in are heatmaps at the picture's size, masks of cells that people or a renderer drew, and the network; what
goes out are numbers per picture: does the heat lie on the cell, does the answer fall when the hottest places go, do two
maps agree, does a map stay when nothing that matters has changed, does it go when the network's knowledge goes. How
maps are made is `train.attribution`'s business.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import nn

from edge_runtime.masks import Mask
from edge_runtime.preprocess import Pixels

from .attribution import Heat
from .network import SelfExplaining
from .treatments import MILD, restained

TOP = 0.20
"""Share of a picture's pixels that are its hottest."""

GRID = 28
"""Side to which maps are averaged before they are compared: four times as fine as the class map."""

STEPS = 16
"""Steps of deletion and insertion."""

SHIFT_PX = 8
"""Of a 224 px picture, a quarter of a class map's cell; scaled with the side."""

JPEG_QUALITY = 60


def top_weights(heat: Heat, share: float = TOP) -> npt.NDArray[np.float32]:
    """Say which pixels are the hottest `share` of all: (H, W) 0..1; places that tie for the last rank share it."""
    count = share * heat.size
    last = heat.size - max(1, math.ceil(count))
    threshold = np.partition(heat.ravel(), last)[last]
    above, ties = heat > threshold, heat == threshold
    weights: npt.NDArray[np.float32] = (above + (count - above.sum()) / ties.sum() * ties).astype(np.float32)
    return weights


def localisation(heat: Heat, mask: Mask) -> dict[str, float]:
    """Measure how much of a heatmap lies on a mask.

    Args:
        heat: (H, W).
        mask: (H, W) bool.

    Returns:
        ``pointing``: 1 where the hottest place lies inside (Zhang et al. 2018), a share where several are equal;
        ``top_share``: share of the hottest `TOP` of all pixels that lies inside; ``top_ceiling``: the most that it
        could be, as a mask smaller than `TOP` cannot hold them all; ``heat_share``: share of the sum of the heat, NaN
        where there is none.
    """
    hottest, top = heat == heat.max(), top_weights(heat)
    return {
        "pointing": float(mask[hottest].mean()),
        "top_share": float(top[mask].sum() / top.sum()),
        "top_ceiling": float(min(1.0, mask.mean() / TOP)),
        "heat_share": float(heat[mask].sum() / heat.sum()) if heat.any() else float("nan"),
    }


def deletion_insertion(network: SelfExplaining, pixels: Pixels, heat: Heat, k: int) -> dict[str, float]:
    """Measure how the probability of class `k` goes when the hottest places go, or come (Petsiuk et al. 2018).

    Args:
        network: in eval mode.
        pixels: (H, W, 3) uint8.
        heat: (H, W).
        k: class number.

    Returns:
        ``deletion``: area under the probability while the hottest pixels are painted with empty field first, lower is
        better; ``insertion``: the same while they are put into a blurred picture, higher is better; both 0..1.
    """
    height, width = pixels.shape[:2]
    ranked = np.random.default_rng(0).permutation(height * width)  # ties fall at random, always in the same way
    ranked = ranked[np.argsort(-heat.ravel()[ranked], kind="stable")]
    field = np.percentile(pixels, 95, axis=(0, 1))
    blurred = gaussian_filter(pixels.astype(np.float32), (height / 20, width / 20, 0))
    whole = pixels.astype(np.float32).reshape(-1, 3)
    stages = []
    for before, after in ((whole, np.broadcast_to(field, whole.shape)), (blurred.reshape(-1, 3), whole)):
        for step in range(STEPS + 1):
            stage = np.array(before, dtype=np.float32)
            gone = ranked[: round(len(ranked) * step / STEPS)]
            stage[gone] = after[gone]
            stages.append(stage.reshape(pixels.shape))
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack(stages)).to(device))[0]
    p = logits.double().softmax(1)[:, k].cpu().numpy()
    areas = [float(np.trapezoid(curve, dx=1 / STEPS)) for curve in (p[: STEPS + 1], p[STEPS + 1 :])]
    return {"deletion": areas[0], "insertion": areas[1]}


def coarse(heat: Heat) -> Heat:
    """Average a heatmap to (`GRID`, `GRID`)."""
    picture = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32))
    return np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32)


def is_flat(heat: Heat) -> bool:
    """Whether a map is the same everywhere."""
    return bool(np.ptp(heat) < 1e-6)  # of 0..1; averaging a constant can leave a rounding


def agreement(one: Heat, other: Heat) -> dict[str, float]:
    """Compare two heatmaps.

    Returns:
        ``spearman``: rank correlation over `GRID` x `GRID` places; ``overlap``: intersection over union of the hottest
        `TOP`. Both are NaN where one of the maps is flat: it says nothing that another could agree with.
    """
    a, b = coarse(one), coarse(other)
    if is_flat(a) or is_flat(b):
        return {"spearman": float("nan"), "overlap": float("nan")}
    first, second = top_weights(a), top_weights(b)
    return {
        "spearman": float(spearmanr(a.ravel(), b.ravel()).statistic),
        "overlap": float(np.minimum(first, second).sum() / np.maximum(first, second).sum()),
    }


def moved(pixels: npt.NDArray[Any], dx: int, dy: int) -> npt.NDArray[Any]:
    """Move a picture or map, repeating its edge where nothing was: the same shape."""
    height, width = pixels.shape[:2]
    rows, columns = (np.arange(height) - dy).clip(0, height - 1), (np.arange(width) - dx).clip(0, width - 1)
    found: npt.NDArray[Any] = pixels[rows][:, columns]
    return found


def _shift(pixels: Pixels) -> int:
    return max(1, round(SHIFT_PX * len(pixels) / 224))


def _jpeg(pixels: Pixels) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(stream))


CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], Callable[[Heat, int], Heat]]] = {
    "shift": (lambda x: moved(x, _shift(x), _shift(x)), lambda heat, step: moved(heat, -step, -step)),
    "JPEG": (_jpeg, lambda heat, step: heat),
    "stain": (lambda x: restained(x[None], MILD, 1 / MILD)[0], lambda heat, step: heat),
}
"""Name -> what is done to the picture, and what then is to be done to the heatmap to lie where it lay."""


def stability(explain: Callable[[Pixels], Heat], pixels: Pixels, heat: Heat) -> dict[str, float]:
    """Compare a heatmap with those of the same picture after changes that must not matter.

    Args:
        explain: pixels -> heatmap, of the same class.
        pixels: (H, W, 3) uint8.
        heat: of them.

    Returns:
        Name of the change -> Spearman, see `agreement`.
    """
    step = _shift(pixels)
    found = {}
    for name, (change, back) in CHANGES.items():
        again = back(explain(np.ascontiguousarray(change(pixels))), step)
        found[name] = agreement(heat, again)["spearman"]
    return found


def randomised(network: SelfExplaining, share: float, seed: int = 0) -> SelfExplaining:
    """Return a copy whose last filters are drawn by chance (Adebayo et al. 2018, cascading randomisation).

    They are drawn about 0 with the spread that each layer's have, and normalisations stay as they are: the network
    answers as loudly as before, and only what it has learnt to look for is gone.

    Args:
        network: whose copy.
        share: of its convolutions, from the answer backwards: 0 the classifier only, 1 all of them.
        seed: of the new weights.
    """
    changed, chance = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    layers = [module for module in changed.features.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for module in (*layers[len(layers) - round(share * len(layers)) :], changed.classifier):
            weight = module.weight
            weight.copy_(torch.randn(weight.shape, generator=chance) * weight.std().cpu())
    return changed.eval()
