"""Morphology: what the cells of a rendered smear look like, as a table.

Nothing here draws or reads a file: `train.paint` turns a row into dye, and `train.smears` says which cells a picture
shows. Lengths are micrometres, amounts of dye are optical densities in the green channel (the dye with the strongest
band there), shares are 0..1, and every pair (lo, hi) is drawn uniformly per cell. A new cell type is a row. The numbers
were set by eye and by colour and area statistics of published smears; they are plausible, not measured morphometry.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Nucleus:
    """A nucleus: a chain of lobes along an arc. One lobe is a round nucleus, a thick chain a kidney or a band.

    Attributes:
        share: nucleus area / cell area, 0..1.
        lobes: smallest and largest number of lobes.
        bend_deg: turn of the arc from first to last lobe, degrees.
        waist: radius of the bridge between two lobes / radius of a lobe, 0..1.
        spacing: distance of neighbouring lobes / radius of a lobe.
        dna: dye amount, optical density.
        grain_um: size of chromatin clumps.
        contrast: relative depth of the chromatin texture, 0..1.
        border: how much darker the nuclear border is, relative.
        nucleoli: smallest and largest number of pale nucleoli.
        wobble: irregularity of the outline, relative to its size.
        off_centre: 0 central, 1 touching the cell's edge.
    """

    share: Range
    lobes: tuple[int, int] = (1, 1)
    bend_deg: Range = (0.0, 0.0)
    waist: Range = (0.9, 1.0)
    spacing: Range = (0.9, 1.2)
    dna: Range = (0.6, 0.75)
    grain_um: float = 0.3
    contrast: float = 0.22
    border: float = 0.25
    nucleoli: tuple[int, int] = (0, 0)
    wobble: float = 0.05
    off_centre: Range = (0.0, 0.6)


@dataclass(frozen=True)
class Granules:
    """One kind of granule.

    Attributes:
        per_um2: granules per square micrometre.
        radius_um: radius of a granule.
        dna, rna, eosin: dye amounts of a granule, optical density.
        over_nucleus: how many of them also lie over the nucleus, 0..1.
        patchy: 0 evenly spread, 1 in clusters.
    """

    per_um2: Range
    radius_um: float
    dna: float = 0.0
    rna: float = 0.0
    eosin: float = 0.0
    over_nucleus: float = 0.0
    patchy: float = 0.3


@dataclass(frozen=True)
class Morphology:
    """One cell type.

    Attributes:
        diameter_um: diameter of a circle of the cell's area.
        nuclei: alternatives, one is drawn; empty for cells without a nucleus.
        rna, eosin: dye amounts of the cytoplasm, optical density.
        rim: how much bluer the cytoplasm is at the cell's edge, relative.
        granules: kinds of granules; each is drawn.
        vacuoles: smallest and largest number of vacuoles.
        rods: smallest and largest number of Auer rods.
        aspect: long axis / short axis.
        wobble: irregularity of the outline, relative.
        ragged_um: fringe of the outline.
        flattened: smallest and largest number of sides pressed flat by neighbours.
        smeared: 0 intact cell, 1 burst: no cytoplasm, no border, strands of chromatin around.
        company: mean number of neighbours of the same kind that reach into a crop.
    """

    diameter_um: Range
    nuclei: tuple[Nucleus, ...]
    rna: Range = (0.08, 0.16)
    eosin: Range = (0.02, 0.05)
    rim: float = 0.2
    granules: tuple[Granules, ...] = ()
    vacuoles: tuple[int, int] = (0, 0)
    rods: tuple[int, int] = (0, 0)
    aspect: Range = (1.0, 1.15)
    wobble: float = 0.05
    ragged_um: float = 0.08
    flattened: tuple[int, int] = (0, 0)
    smeared: float = 0.0
    company: float = 0.0


_SEGMENTED = Nucleus(
    (0.26, 0.36), (3, 5), (150, 320), (0.12, 0.3), (1.8, 2.35), (0.72, 0.88), 0.18, 0.45, 0.35, wobble=0.14
)
_BAND = Nucleus((0.26, 0.36), (5, 6), (170, 260), (0.7, 0.9), (1.0, 1.25), (0.72, 0.86), 0.18, 0.45, 0.35, wobble=0.10)
_BILOBED = Nucleus(
    (0.28, 0.38), (2, 3), (60, 170), (0.2, 0.45), (1.7, 2.05), (0.56, 0.70), 0.18, 0.45, 0.35, wobble=0.10
)
_HORSESHOE = Nucleus(
    (0.34, 0.46), (5, 6), (170, 260), (0.9, 1.0), (0.8, 1.0), (0.42, 0.56), 0.2, 0.42, 0.4, wobble=0.13
)
_KIDNEY = Nucleus((0.36, 0.50), (4, 5), (120, 190), (0.9, 1.0), (0.65, 0.85), (0.42, 0.56), 0.2, 0.42, 0.4, wobble=0.12)
_AZUROPHIL = Granules((0.8, 3.0), 0.17, dna=0.30, eosin=0.05, over_nucleus=0.5)
_BLAST = Nucleus(
    (0.62, 0.86), dna=(0.44, 0.62), grain_um=0.13, contrast=0.26, border=0.35, nucleoli=(0, 3), wobble=0.10
)

MORPHOLOGIES: dict[str, Morphology] = {
    "blast": Morphology(
        (14.5, 18.5),
        (
            _BLAST,
            Nucleus(
                (0.55, 0.75), (2, 3), (30, 140), (0.9, 1.0), (0.5, 0.8), (0.44, 0.60), 0.13, 0.26, 0.35, wobble=0.1
            ),
        ),
        rna=(0.12, 0.24),
        eosin=(0.0, 0.03),
        rim=0.9,
        vacuoles=(0, 4),
        aspect=(1.0, 1.25),
        wobble=0.05,
        flattened=(0, 4),
        company=0.3,
    ),
    "immature granulocyte": Morphology(
        (13.0, 17.5),
        (
            Nucleus(
                (0.45, 0.68), (1, 2), (0, 60), (0.95, 1.0), (0.5, 0.8), (0.52, 0.68), 0.17, 0.48, 0.35, wobble=0.06
            ),
            Nucleus((0.40, 0.55), (3, 3), (80, 160), (0.9, 1.0), (0.8, 1.1), (0.54, 0.70), 0.17, 0.48, 0.35),
        ),
        rna=(0.07, 0.17),
        eosin=(0.03, 0.08),
        rim=0.3,
        granules=(_AZUROPHIL, Granules((0.2, 1.5), 0.25, dna=0.5, over_nucleus=0.6, patchy=0.6)),
        aspect=(1.0, 1.25),
        wobble=0.06,
        flattened=(0, 2),
    ),
    "neutrophil": Morphology(
        (12.3, 15.2),
        (_SEGMENTED, _SEGMENTED, _BAND),
        rna=(0.03, 0.06),
        eosin=(0.04, 0.075),
        rim=0.1,
        granules=(Granules((6.0, 11.0), 0.13, dna=0.13), Granules((0.1, 0.6), 0.18, dna=0.2)),
        aspect=(1.0, 1.2),
    ),
    "lymphocyte": Morphology(
        (8.3, 11.3),
        (Nucleus((0.62, 0.90), dna=(0.62, 0.80), grain_um=0.17, contrast=0.40, border=0.35, wobble=0.06),),
        rna=(0.09, 0.20),
        eosin=(0.0, 0.04),
        rim=0.5,
        aspect=(1.0, 1.2),
        flattened=(0, 1),
    ),
    "monocyte": Morphology(
        (15.0, 20.0),
        (
            _HORSESHOE,
            _HORSESHOE,
            _KIDNEY,
            Nucleus((0.40, 0.55), (2, 3), (20, 140), (0.6, 0.9), (1.0, 1.3), (0.45, 0.58), 0.2, 0.42, 0.4, wobble=0.12),
        ),
        rna=(0.11, 0.21),
        eosin=(0.04, 0.09),
        rim=0.2,
        granules=(Granules((1.5, 4.0), 0.13, dna=0.12, rna=0.03),),
        vacuoles=(0, 12),
        aspect=(1.0, 1.3),
        wobble=0.07,
        ragged_um=0.12,
    ),
    "eosinophil": Morphology(
        (12.5, 15.5),
        (_BILOBED,),
        rna=(0.03, 0.09),
        eosin=(0.10, 0.15),
        granules=(Granules((5.0, 8.0), 0.22, eosin=0.14, over_nucleus=0.1, patchy=0.2),),
        aspect=(1.0, 1.15),
    ),
    "basophil": Morphology(
        (11.2, 14.5),
        (Nucleus((0.45, 0.65), (2, 3), (30, 180), (0.6, 0.9), (0.9, 1.5), (0.42, 0.55), 0.2, 0.35, 0.1, wobble=0.1),),
        rna=(0.03, 0.09),
        eosin=(0.02, 0.06),
        granules=(
            Granules((2.0, 4.5), 0.32, dna=0.34, rna=0.24, over_nucleus=0.8, patchy=0.5),
            Granules((2.0, 6.0), 0.2, dna=0.36, rna=0.06, over_nucleus=0.5, patchy=0.5),
        ),
        aspect=(1.0, 1.25),
        ragged_um=0.18,
    ),
    "erythroblast": Morphology(
        (8.3, 12.0),
        (Nucleus((0.30, 0.62), dna=(0.85, 1.05), grain_um=0.24, contrast=0.32, border=0.12, wobble=0.03),),
        rna=(0.10, 0.26),
        eosin=(0.05, 0.09),
        rim=0.15,
        aspect=(1.0, 1.2),
        wobble=0.05,
    ),
    "platelet": Morphology(
        (3.4, 6.8),
        (),
        rna=(0.10, 0.18),
        eosin=(0.05, 0.09),
        rim=-0.3,
        granules=(Granules((0.5, 1.0), 0.7, dna=0.26, eosin=0.05), Granules((5.0, 9.0), 0.2, dna=0.30, patchy=0.5)),
        aspect=(1.0, 1.4),
        wobble=0.09,
        ragged_um=0.15,
    ),
    "smudge cell": Morphology(
        (12.5, 18.0),
        (Nucleus((0.70, 0.80), dna=(0.30, 0.58), grain_um=0.16, contrast=0.2, border=0.06, wobble=0.2),),
        eosin=(0.03, 0.08),
        aspect=(1.0, 1.7),
        wobble=0.13,
        ragged_um=0.2,
        smeared=1.0,
    ),
    # ---- cells of the fields: acute lymphoblastic leukemia and its benign look-alike
    "hematogone": Morphology(
        (7.5, 14.5),
        (Nucleus((0.74, 0.94), dna=(0.42, 0.72), grain_um=0.4, contrast=0.22, border=0.1, wobble=0.06),),
        rna=(0.2, 0.4),
        rim=0.6,
        aspect=(1.0, 1.2),
        flattened=(0, 1),
    ),
    "early blast": Morphology(
        (12.3, 15.8),
        (Nucleus((0.84, 0.95), dna=(0.33, 0.49), grain_um=0.40, contrast=0.22, border=0.12, wobble=0.05),),
        rna=(0.18, 0.32),
        rim=0.6,
        aspect=(1.0, 1.15),
        wobble=0.04,
        flattened=(0, 2),
    ),
    "pre blast": Morphology(
        (11.0, 16.5),
        (
            Nucleus(
                (0.82, 0.94), dna=(0.34, 0.50), grain_um=0.40, contrast=0.22, border=0.14, nucleoli=(0, 2), wobble=0.04
            ),
        ),
        rna=(0.14, 0.26),
        rim=0.6,
        aspect=(1.0, 1.12),
        wobble=0.03,
        flattened=(0, 1),
    ),
    "pro blast": Morphology(
        (10.5, 14.0),
        (Nucleus((0.86, 0.96), dna=(0.40, 0.65), grain_um=0.4, contrast=0.20, border=0.1, wobble=0.06),),
        rna=(0.05, 0.15),
        rim=0.4,
        aspect=(1.0, 1.45),
        wobble=0.05,
        flattened=(0, 2),
    ),
    # ---- cells of the fields: leukemia by type
    "lymphoblast": Morphology(
        (9.5, 13.5),
        (
            Nucleus((0.80, 0.93), dna=(0.46, 0.62), grain_um=0.2, contrast=0.2, border=0.2, nucleoli=(0, 1)),
            Nucleus((0.78, 0.90), (2, 2), (0, 60), (0.95, 1.0), (0.3, 0.5), (0.46, 0.62), 0.2, 0.2, 0.2, (0, 1)),
        ),
        rna=(0.16, 0.30),
        eosin=(0.0, 0.03),
        rim=0.5,
        aspect=(1.0, 1.2),
        flattened=(0, 1),
    ),
    "myeloblast": Morphology(
        (15.0, 20.0),
        (
            Nucleus(
                (0.55, 0.74), dna=(0.40, 0.55), grain_um=0.13, contrast=0.22, border=0.3, nucleoli=(1, 4), wobble=0.09
            ),
        ),
        rna=(0.10, 0.20),
        eosin=(0.01, 0.04),
        rim=0.7,
        granules=(Granules((0.3, 1.6), 0.17, dna=0.30, eosin=0.05, over_nucleus=0.2, patchy=0.7),),
        vacuoles=(0, 2),
        rods=(0, 2),
        aspect=(1.0, 1.25),
        flattened=(0, 2),
    ),
    "cll lymphocyte": Morphology(
        (8.5, 11.0),
        (Nucleus((0.80, 0.93), dna=(0.64, 0.82), grain_um=0.45, contrast=0.5, border=0.3, wobble=0.04),),
        rna=(0.10, 0.20),
        eosin=(0.0, 0.04),
        rim=0.4,
        aspect=(1.0, 1.12),
    ),
    "ghost": Morphology(  # a cell that burst long ago: a pale pink cloud
        (13.0, 20.0),
        (Nucleus((0.75, 0.9), dna=(0.02, 0.07), grain_um=0.5, contrast=0.25, border=0.0, wobble=0.2),),
        eosin=(0.08, 0.17),
        aspect=(1.0, 1.7),
        wobble=0.18,
        ragged_um=0.6,
        smeared=1.0,
    ),
}
