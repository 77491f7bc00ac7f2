"""Region of interest, the reference: white cells found with scikit-image, as it is done in the literature.

What comes in are RGB pixels and how large a red cell is in them; what goes out are numbered nuclei and cells.
Haematoxylin by colour deconvolution (Ruifrok & Johnston 2001), Otsu's threshold, touching nuclei parted by the
watershed of their distance transform, cytoplasm by the watershed of the gradient between nucleus and field.

Training and the device both use `edge_runtime.cells`, which needs none of this and measures the red cells itself. This
is what it is held against: by `benchmarks.cell_finder` on real pictures, and by a test on rendered ones. It is not as
good: it takes the lobes of one nucleus for several, and red cells for nuclei where a camera shows them blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.masks import Labels
from edge_runtime.preprocess import Pixels

# In red-cell diameters.
BLUR, SPECK, LOBE_GAP, NECK, CYTOPLASM = 0.04, 0.15, 0.2, 0.1, 0.9


@dataclass(frozen=True)
class Regions:
    """White cells of a picture.

    Attributes:
        nuclei: (H, W) int32, 0 outside and 1..n on nuclei.
        cells: (H, W) int32, the same numbers on nucleus and cytoplasm.
    """

    nuclei: Labels
    cells: Labels


def find_cells(pixels: Pixels, red_cell_px: float) -> Regions:
    """Find the white cells of a field or crop.

    Args:
        pixels: (H, W, 3) uint8.
        red_cell_px: diameter of a red cell, pixels.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.color import rgb2hed
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label, regionprops
    from skimage.morphology import closing, disk, h_maxima, opening
    from skimage.segmentation import watershed

    haematoxylin = gaussian(rgb2hed(pixels)[:, :, 0], BLUR * red_cell_px)
    dark = haematoxylin > threshold_otsu(haematoxylin)
    dark = opening(dark, disk(round(SPECK * red_cell_px)))
    joined = closing(dark, disk(round(LOBE_GAP * red_cell_px)))
    depth = distance_transform_edt(joined)
    nuclei = watershed(-depth, label(h_maxima(depth, NECK * red_cell_px)), mask=joined)
    smallest = np.pi / 4 * (red_cell_px / 2) ** 2
    large = [region.label for region in regionprops(nuclei) if region.area >= smallest]
    number = np.zeros(nuclei.max() + 1, np.int32)
    number[large] = np.arange(1, len(large) + 1)
    nuclei = number[nuclei]
    return Regions(nuclei, _grown(pixels, nuclei, red_cell_px))


def central_cell(pixels: Pixels, red_cell_px: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Find the cell nearest to the middle of a crop.

    Returns:
        Nucleus and cell, (H, W) bool each; empty where there is none.
    """
    from skimage.measure import regionprops

    found = find_cells(pixels, red_cell_px)
    middle = np.array(pixels.shape[:2]) / 2
    regions = regionprops(found.cells)
    if not regions:
        return found.nuclei > 0, found.cells > 0
    nearest = min(regions, key=lambda region: float(np.hypot(*(np.array(region.centroid) - middle)))).label
    return found.nuclei == nearest, found.cells == nearest


def _grown(pixels: Pixels, nuclei: Labels, red_cell_px: float) -> Labels:
    """Return the cells around nuclei: up to the steepest change between nucleus and what is surely none of it."""
    from scipy.ndimage import distance_transform_edt
    from skimage.color import rgb2gray
    from skimage.filters import gaussian, sobel, threshold_multiotsu
    from skimage.segmentation import watershed

    if not nuclei.any():
        return nuclei
    grey = gaussian(rgb2gray(pixels), BLUR * red_cell_px)
    faint = threshold_multiotsu(grey, 3)[1]
    outside = distance_transform_edt(nuclei == 0)
    background = (outside > CYTOPLASM * red_cell_px) | ((grey > faint) & (outside > BLUR * red_cell_px))
    field = nuclei.max() + 1
    markers = np.where(background & (nuclei == 0), field, nuclei)
    cells = watershed(sobel(grey), markers)
    return np.where(cells == field, 0, cells).astype(np.int32)
