"""Colour numbers: 21 global statistics of a picture, blind to shape.

They serve twice: to cluster pictures that share a stain where no patient is known, and as the features of the
colour-only control that every reported accuracy stands beside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels

RING_PX = 28
"""Width of the background ring at 224 px: an eighth of the side."""


def colour_numbers(pixels: Pixels, ring_only: bool = False) -> npt.NDArray[np.float32]:
    """Describe pictures by per-channel mean, standard deviation and the 5, 25, 50, 75 and 95 % quantiles.

    Args:
        pixels: (N, H, W, 3) uint8.
        ring_only: look only at the outer ring, an eighth of the side wide.

    Returns:
        (N, 21) float32, in grey levels 0..255.
    """
    side = pixels.shape[1]
    mask = np.ones((side, pixels.shape[2]), dtype=bool)
    if ring_only:
        ring = side * RING_PX // 224
        mask[ring:-ring, ring:-ring] = False
    rows = []
    for picture in pixels:
        chosen = picture[mask].astype(np.float32)  # (P, 3)
        quantiles = np.quantile(chosen, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)  # (5, 3)
        rows.append(np.concatenate([chosen.mean(0), chosen.std(0), quantiles.ravel()]))
    return np.array(rows, dtype=np.float32)
