"""The heatmap: numbers that say where the model saw its answer. Class map in, values 0..1 out; pictures: ``overlay``.

The logits are the spatial mean of the class map, so ReLU of one class's map is Grad-CAM in closed form, up to scale
(Selvaraju et al. 2017, section 3): no gradient is needed, and the explanation cannot drift from the decision.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def heatmap(class_map: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
    """Return where class `k` was seen.

    Args:
        class_map: (h, w, K) float, finite.
        k: index of the class.

    Returns:
        (h, w) float32, 0..1 with peak 1; all zeros where nothing speaks for the class.
    """
    positive = np.maximum(class_map[..., k], np.float32(0)).astype(np.float32)
    peak = positive.max(initial=np.float32(0))
    return np.asarray(positive / peak if peak > 0 else positive, dtype=np.float32)


def upsample(values: npt.NDArray[np.float32], px: int) -> npt.NDArray[np.float32]:
    """Enlarge a heatmap bilinearly.

    Args:
        values: (h, w) float32.
        px: wanted height and width, pixels.

    Returns:
        (px, px) float32.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))  # (h, w) float32: mode F
    return np.asarray(picture.resize((px, px), Image.Resampling.BILINEAR), dtype=np.float32)
