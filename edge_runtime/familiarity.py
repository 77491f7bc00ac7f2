"""Familiarity: how far a picture is from what the network was trained on, as one number.

What comes in are the pixels that the network saw and the class map it made of them; what goes out is a distance, which
the bundle gives a limit. Two kinds of numbers describe a picture: the class map's mean and spread for each class, which
say what the network made of it, and coarse statistics of the pixels, which say what was put before it; a network that
is sure of itself on noise is caught by the second, a cell of an unknown kind by the first. The distance is
Mahalanobis', to the nearest class (Lee et al. 2018, arXiv:1807.03888, there on pooled features), divided by the root of
how many numbers there are, so that pictures like the training pictures have about 1. Statistics come
from reduced pixels and from histograms, so that a device pays little. Nothing is fitted here: ``export`` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .json_reader import Node, load_object
from .preprocess import Pixels

Floats = npt.NDArray[np.float64]

FORMAT = "leukoscope-familiarity"
VERSION = 1
MAX_BYTES = 4 * 1024 * 1024

REDUCED_PX = 56
"""Side to which pixels are reduced, at least, for all but texture."""

_CHANNELS = ("red", "green", "blue")
_STATISTICS = ("mean", "spread", "5 %", "median", "95 %")

PIXEL_FEATURES = (
    *(f"{channel}: {name}" for channel in _CHANNELS for name in _STATISTICS),
    *(f"correlation of {one} and {other}" for one, other in (("red", "green"), ("red", "blue"), ("green", "blue"))),
    *(f"texture at 1/{scale}" for scale in (1, 2, 4)),
    "share of white",
    "share of black",
)
"""What `describe` says of pixels: grey levels 0..255, correlations -1..1, natural logarithms of the rest."""

_FARTHEST = 1e6


def feature_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the numbers of `describe`, for a bundle with these labels."""
    return (
        *(f"class map: mean of {label}" for label in labels),
        *(f"class map: spread of {label}" for label in labels),
        *PIXEL_FEATURES,
    )


def describe(pixels: Pixels, class_map: npt.NDArray[np.float32]) -> Floats:
    """Describe what the network saw and what it made of it.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        class_map: (h, w, K) float32, finite.

    Returns:
        (D,) float64, as `feature_names` names them; D = 2 K + 23.
    """
    return joined(describe_pixels(pixels), class_map)


def joined(described: Floats, class_map: npt.NDArray[np.float32]) -> Floats:
    """Put what `describe_pixels` said and what `describe` says of the class map together, as `describe` returns it."""
    flat = class_map.reshape(-1, class_map.shape[-1]).astype(np.float64)
    return np.concatenate([flat.mean(axis=0), flat.std(axis=0), described])


def describe_pixels(pixels: Pixels) -> Floats:
    """Return the part of `describe` that can be said before the network has run: (23,) float64, `PIXEL_FEATURES`."""
    picture = Image.fromarray(pixels)
    factor = max(1, min(picture.size) // REDUCED_PX)
    small = picture.reduce(factor)
    counts = np.array(small.histogram(), np.float64).reshape(3, 256)
    below = counts.cumsum(axis=1)
    levels, pixel_count = np.arange(256.0), below[0, -1]
    mean = counts @ levels / pixel_count
    spread = np.sqrt(np.maximum(counts @ levels**2 / pixel_count - mean**2, 0.0))
    found: list[float] = []
    for c in range(3):
        found += [mean[c], spread[c], *np.searchsorted(below[c], np.array((0.05, 0.5, 0.95)) * pixel_count)]
    values = np.asarray(small, np.float64).reshape(-1, 3) - mean
    scaled = values.T @ values / pixel_count / np.maximum(np.outer(spread, spread), 1e-3)
    found += [scaled[0, 1], scaled[0, 2], scaled[1, 2]]
    grey = picture.convert("L")
    del picture  # what follows has room in its place: fetching new pages would cost as much as the sums
    found += [float(np.log(0.1 + _steepness(grey.reduce(step) if step > 1 else grey))) for step in (1, 2, 4)]
    found += [float(np.log(1e-3 + share)) for share in (counts[:, 254:].sum(), counts[:, :2].sum()) / pixel_count / 3]
    return np.array(found)


def _steepness(grey: Image.Image) -> float:
    """Return the mean difference of neighbours, to the right and below, in grey levels."""
    levels = np.asarray(grey, np.int16)
    return _mean_step(levels.T) + _mean_step(levels)


def _mean_step(levels: npt.NDArray[np.int16]) -> float:
    steps = levels[1:] - levels[:-1]
    # Row by row into int32: a sum that widened every value by itself would take twice the time.
    return int(np.abs(steps, out=steps).sum(axis=0, dtype=np.int32).sum(dtype=np.int64)) / max(1, steps.size)


@dataclass(frozen=True)
class Familiarity:
    """What a bundle knows of the pictures its network was trained on.

    Attributes:
        means: (K, D) float64, of `describe` for each class.
        whitening: (D, D) float64: the length of ``whitening @ (described - mean)`` is Mahalanobis' distance.
    """

    means: Floats = field(repr=False)
    whitening: Floats = field(repr=False)

    def distance(self, described: Floats) -> float:
        """Return how far a picture is from the nearest class; about 1 where it is like the training pictures.

        Args:
            described: (D,) of `describe`.

        Returns:
            0 to 1e6.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # a bundle may state any finite numbers
            away = (described - self.means) @ self.whitening.T  # (K, D)
            nearest = np.sqrt((away**2).mean(axis=1).min())
        return float(np.nan_to_num(nearest, nan=_FARTHEST).clip(max=_FARTHEST))

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the file of a bundle that `parse_familiarity` reads."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "features": list(feature_names(labels)),
            "means": [[float(f"{value:.7g}") for value in row] for row in self.means],
            "whitening": [[float(f"{value:.7g}") for value in row] for row in self.whitening],
        }


def parse_familiarity(text: bytes, source: str, labels: Sequence[str]) -> Familiarity:
    """Parse and check the file that a bundle keeps this in.

    Args:
        text: its bytes.
        source: what errors call it.
        labels: of the bundle, in the order of the logits.

    Raises:
        BundleError: anything ``docs/bundle-format.md`` does not allow; names the key.
    """
    top = Node(load_object(text, source, MAX_BYTES), source, "")
    top.version(FORMAT, VERSION)
    names = feature_names(labels)
    if top.texts("features") != names:
        raise top.wrong("features", "others", f"the {len(names)} that version {VERSION} has for these labels")
    return Familiarity(_table(top, "means", len(labels), len(names)), _table(top, "whitening", len(names), len(names)))


def _table(top: Node, key: str, rows: int, columns: int) -> Floats:
    """Return a list of lists of finite numbers as (rows, columns) float64."""
    found = [Node({place: row}, top.source, top.path).numbers(place) for place, row in top.items(key)]
    if len(found) != rows or any(len(row) != columns for row in found):
        raise top.wrong(key, "another shape", f"{rows} rows of {columns} numbers")
    return np.array(found, np.float64)
