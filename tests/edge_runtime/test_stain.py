"""Density of known pixels; purple keeps nuclei of any hue and no red cell; Otsu's threshold is scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.stain import optical_density, otsu, purple


def field(*colours: tuple[int, int, int]) -> np.ndarray:
    """A white field with a patch of each colour: (16, 16 n, 3)."""
    pixels = np.full((16, 256, 3), 250, np.uint8)
    for number, colour in enumerate(colours):
        pixels[:, number : number + 1] = colour
    return pixels


def test_density_is_beer_lamberts_against_the_empty_field() -> None:
    density = optical_density(field((250, 25, 0)))
    assert density.dtype == np.int32
    assert density[0, 0].tolist() == [0, pytest.approx(1000 * np.log10(251 / 26), abs=1), pytest.approx(2400, abs=1)]
    assert not density[0, 1:].any()


def test_what_is_brighter_than_the_field_absorbs_nothing() -> None:
    assert not optical_density(field((255, 255, 255)))[0, 0].any()


@pytest.mark.parametrize(
    "nucleus", [(90, 40, 140), (120, 60, 170), (100, 80, 200), (230, 120, 210)], ids=["dark", "purple", "blue", "pink"]
)
@pytest.mark.parametrize("red_cell", [(200, 160, 150), (225, 190, 185), (170, 185, 195), (150, 150, 160)])
def test_nuclei_are_purple_and_red_cells_are_not(nucleus: tuple[int, int, int], red_cell: tuple[int, int, int]) -> None:
    stain = purple(optical_density(field(nucleus, red_cell)))[0]
    assert stain[0] > 120 > 60 > stain[1]


def test_otsu_is_scikit_images() -> None:
    from skimage.filters import threshold_otsu

    random = np.random.default_rng(0)
    for low, high, share in ((100, 500, 0.1), (20, 300, 0.5), (50, 900, 0.02)):
        values = np.concatenate([random.normal(low, 20, 5000), random.normal(high, 60, int(5000 * share))])
        values = values.clip(0).astype(np.int32)
        assert otsu(values, step=1) == pytest.approx(threshold_otsu(values), abs=2)
        assert otsu(values) == pytest.approx(threshold_otsu(values), abs=12)


def test_otsu_of_values_that_are_all_alike() -> None:
    assert otsu(np.zeros(0, np.int32)) == 0
    assert otsu(np.full(7, 300, np.int32)) == 0
