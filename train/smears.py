"""Smears: the stains and fields of rendered pictures, and which cells they show, as tables.

Nothing here draws or reads a file: `train.render` sets the scenes, with the cells of `train.morphology`. Lengths are
micrometres, shares are 0..1, and every pair (lo, hi) is drawn uniformly per picture. A new class or stain is a row. The
numbers were set by eye and by colour and area statistics of published smears; they are plausible, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .morphology import Range

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """A stain protocol with its light and camera, for Beer-Lambert: I = I0 * 10 ** -(amounts @ dyes).

    Attributes:
        lights: alternatives for I0, the empty background, RGB 0..255; two of them are mixed.
        dna: RGB optical densities per amount of azure B-eosin on DNA (purple, the Romanowsky effect).
        rna: the same for azure B on RNA (blue).
        eosin: the same for eosin on basic proteins (orange to pink).
        red: the same for red cells (haemoglobin with eosin).
        red_amount: dye amount of a red cell's rim.
        variation: standard deviation of the logarithm of each dye's amount per picture; half of it for each band.
        shade: RGB optical densities of the darkest corner.
    """

    lights: tuple[RGB, ...]
    dna: RGB
    rna: RGB
    eosin: RGB
    red: RGB
    red_amount: Range
    variation: float
    shade: RGB = (0.03, 0.03, 0.03)


@dataclass(frozen=True)
class Field:
    """One class of microscope field.

    Attributes:
        stain: row of `STAINS`.
        leukocytes: smallest and largest number in a field of `FIELD_UM`.
        mix: row of `MORPHOLOGIES` -> weight.
        red_cells: smallest and largest number.
        overlap: how far red cells may overlap, 0 apart .. 1 on top of each other.
        crowding: share of leukocytes that touch another one, 0..1.
        scale: size of every cell / its table size; fields differ in how flat the cells dried.
        squeeze: width / height of what the camera saw; published fields were resized to squares.
    """

    stain: str
    leukocytes: tuple[int, int]
    mix: dict[str, float] = field(default_factory=dict)
    red_cells: tuple[int, int] = (110, 240)
    overlap: Range = (0.1, 0.7)
    crowding: float = 0.3
    scale: Range = (0.93, 1.07)
    squeeze: float = 1.2


CELL_UM = 26.0  # side of a crop
FIELD_UM = 110.0  # height of a field; its width is `squeeze` times that
RED_CELL_UM: Range = (6.7, 7.9)

_WARM = (
    *((254.0, 231.0, 202.0), (254.0, 229.0, 200.0), (254.0, 232.0, 205.0), (253.0, 230.0, 204.0)) * 2,
    *((252.0, 242.0, 226.0), (234.0, 232.0, 240.0)),
)
_WHITE = ((250.0, 255.0, 245.0), (248.0, 255.0, 254.0), (255.0, 255.0, 252.0))

STAINS: dict[str, Stain] = {
    # May-Gruenwald-Giemsa or Wright-Giemsa seen by a CellaVision-like camera
    "crop": Stain(
        _WARM,
        dna=(0.58, 1.0, 0.20),
        rna=(1.0, 0.95, 0.22),
        eosin=(0.34, 1.0, 0.75),
        red=(0.62, 0.95, 0.70),
        red_amount=(0.10, 0.19),
        variation=0.09,
        shade=(0.015, 0.02, 0.02),
    ),
    # the same stain through a field camera, from many laboratories
    "field romanowsky": Stain(
        (*_WARM, *_WHITE),
        dna=(0.55, 0.92, 0.18),
        rna=(0.92, 0.86, 0.20),
        eosin=(0.32, 0.92, 0.66),
        red=(0.62, 0.95, 0.70),
        red_amount=(0.10, 0.20),
        variation=0.16,
        shade=(0.05, 0.05, 0.04),
    ),
    # one bone marrow stain under a field camera: washed-out red, so that purple turns blue and red cells turn grey
    "field grey": Stain(
        _WHITE,
        dna=(0.42, 0.62, 0.015),
        rna=(0.72, 0.60, 0.02),
        eosin=(0.18, 0.62, 0.28),
        red=(0.90, 0.82, 0.50),
        red_amount=(0.12, 0.19),
        variation=0.16,
        shade=(0.06, 0.05, 0.03),
    ),
    "field lilac": Stain(
        _WHITE[1:],
        dna=(0.39, 0.58, 0.0),
        rna=(0.62, 0.58, 0.0),
        eosin=(0.18, 0.60, 0.22),
        red=(0.95, 0.86, 0.46),
        red_amount=(0.12, 0.18),
        variation=0.07,
        shade=(0.04, 0.03, 0.01),
    ),
    "field blue": Stain(
        _WHITE[1:],
        dna=(0.37, 0.55, 0.0),
        rna=(0.50, 0.46, 0.0),
        eosin=(0.15, 0.60, 0.08),
        red=(1.20, 0.82, 0.25),
        red_amount=(0.10, 0.17),
        variation=0.07,
        shade=(0.12, 0.07, 0.01),
    ),
    "field pink": Stain(
        _WHITE[2:],
        dna=(0.09, 0.27, 0.0),
        rna=(0.30, 0.28, 0.0),
        eosin=(0.05, 0.60, 0.10),
        red=(1.0, 0.80, 0.40),
        red_amount=(0.09, 0.14),
        variation=0.10,
        shade=(0.03, 0.05, 0.01),
    ),
}

CELL_STAIN = "crop"
CELL_LABELS: tuple[str, ...] = (
    "blast",
    "immature granulocyte",
    "neutrophil",
    "lymphocyte",
    "monocyte",
    "eosinophil",
    "basophil",
    "erythroblast",
    "platelet",
    "smudge cell",
)
CELL_MIXES: dict[str, dict[str, float]] = {"other": {label: 1.0 for label in CELL_LABELS if label != "blast"}}
"""Crop labels that stand for one of several rows of `MORPHOLOGIES`, with their weights."""


def _blood(leukocytes: tuple[int, int], mix: dict[str, float]) -> Field:
    """Return a field of peripheral blood."""
    return Field("field romanowsky", leukocytes, mix, red_cells=(90, 200), overlap=(0.0, 0.5), crowding=0.2)


FIELDS: dict[str, Field] = {
    # The stain goes with the class because in the published fields it does.
    "Benign": Field(
        "field grey",
        (5, 10),
        {"hematogone": 6, "neutrophil": 1, "eosinophil": 1, "immature granulocyte": 2, "smudge cell": 1, "ghost": 1},
        red_cells=(110, 260),
        overlap=(0.3, 0.9),
    ),
    "Early": Field(
        "field lilac",
        (6, 14),
        {"early blast": 12, "ghost": 0.7, "lymphocyte": 0.5},
        red_cells=(130, 210),
        overlap=(0.1, 0.7),
        crowding=0.35,
    ),
    "Pre": Field(
        "field blue",
        (20, 46),
        {"pre blast": 12, "ghost": 1.2},
        red_cells=(65, 130),
        overlap=(0.2, 0.5),
        crowding=0.5,
    ),
    "Pro": Field(
        "field pink",
        (5, 12),
        {"pro blast": 9, "ghost": 1, "neutrophil": 0.3},
        red_cells=(110, 215),
        overlap=(0.2, 0.6),
        crowding=0.35,
        scale=(0.85, 1.0),
    ),
    # Here stain and red cells are the same in every class: only the leukocytes tell them apart.
    "ALL": _blood((8, 20), {"lymphoblast": 12, "lymphocyte": 1, "neutrophil": 0.5}),
    "AML": _blood((6, 16), {"myeloblast": 12, "neutrophil": 1, "monocyte": 0.5, "erythroblast": 0.4}),
    "CLL": _blood((9, 22), {"cll lymphocyte": 10, "smudge cell": 3, "neutrophil": 0.5}),
    "CML": _blood(
        (8, 20), {"neutrophil": 5, "immature granulocyte": 5, "basophil": 1.5, "eosinophil": 1, "myeloblast": 0.4}
    ),
    "Healthy": _blood((4, 10), {"neutrophil": 6, "lymphocyte": 3, "monocyte": 0.8, "eosinophil": 0.4, "basophil": 0.1}),
}
