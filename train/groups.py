"""Groups: which pictures must stay together when the data is split.

A patient where the authors name one. Elsewhere, pictures that are near duplicates of each other or share a colour
cluster (one slide, one stain batch) are held together, so that a network cannot score by recognising the slide.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels

from .colour import colour_numbers
from .index import COLOUR_CLUSTER_SIZE, NEAR_DUPLICATE_BITS, Row

CLUSTER = "cluster-"
"""How the name of a group begins that is no patient."""


def perceptual_hashes(pixels: Pixels) -> list[str]:
    """Hash pictures so that near duplicates have near hashes (pHash, 16 x 16 low DCT frequencies).

    Args:
        pixels: (N, H, W, 3) uint8.

    Returns:
        N strings of 64 hex digits (256 bits).
    """
    import imagehash
    from PIL import Image
    from tqdm import tqdm

    return [
        str(imagehash.phash(Image.fromarray(picture), hash_size=16))
        for picture in tqdm(pixels, desc="hash", unit="picture", disable=None)
    ]


def assign_groups(rows: list[Row], pixels: Pixels) -> list[Row]:
    """Fill in the group of every row that has no patient.

    Args:
        rows: N rows.
        pixels: (N, H, W, 3) uint8.

    Returns:
        The rows, each with a group.
    """
    filled = list(rows)
    for source in sorted({row.source for row in rows if not row.group}):
        numbers = [i for i, row in enumerate(rows) if row.source == source and not row.group]
        clusters = _clusters(pixels[numbers], [rows[i].phash for i in numbers])
        for i, cluster in zip(numbers, clusters, strict=True):
            filled[i] = dataclasses.replace(rows[i], group=f"{source}:{CLUSTER}{cluster:03d}")
    return filled


def _clusters(pixels: Pixels, phashes: list[str]) -> npt.NDArray[np.int32]:
    """Join colour clusters with near-duplicate pairs; return a component number per picture, (N,) int32."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    n = len(pixels)
    features = StandardScaler().fit_transform(colour_numbers(pixels))
    count = max(2, n // COLOUR_CLUSTER_SIZE)
    colour = KMeans(min(count, n), n_init=4, random_state=0).fit_predict(features)
    first, second = near_duplicate_pairs(phashes)
    # a node per picture, then a node per colour cluster
    edges_from = np.concatenate([first, np.arange(n)])
    edges_to = np.concatenate([second, n + colour])
    size = n + int(colour.max()) + 1
    graph = coo_array((np.ones(len(edges_from)), (edges_from, edges_to)), shape=(size, size))
    components = connected_components(graph, directed=False)[1][:n]
    return np.unique(components, return_inverse=True)[1].astype(np.int32)


def near_duplicate_pairs(phashes: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the pairs (i, j), i < j, whose hashes differ in at most `NEAR_DUPLICATE_BITS` of 256 bits."""
    bits = np.array([np.unpackbits(np.frombuffer(bytes.fromhex(h), dtype=np.uint8)) for h in phashes], dtype=np.float32)
    pairs = []
    for start in range(0, len(bits), 1024):  # blocks bound the memory: 1024 x N distances at a time
        block = bits[start : start + 1024]
        distance = block.sum(1)[:, None] + bits.sum(1)[None] - 2 * block @ bits.T
        i, j = np.nonzero(distance <= NEAR_DUPLICATE_BITS)
        pairs.append(np.stack([i + start, j])[:, i + start < j])
    found = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)
    return found[0], found[1]
