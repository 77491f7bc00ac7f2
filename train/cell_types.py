"""Cell types: what each data set calls the cells that the single-cell tasks know.

Nothing here reads a file. A label that is not listed - plasma cells, artefacts, types too few to learn - is left out of
a task, by name.
"""

from __future__ import annotations

CELL_TYPES = (
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

_FIVE = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")

CELL_NAMES: dict[str, dict[str, str]] = {
    "deepapl": {
        "Blast, no lineage spec": "blast",
        "Promonocyte": "blast",
        "Promyelocyte": "immature granulocyte",
        "Myelocyte": "immature granulocyte",
        "Metamyelocyte": "immature granulocyte",
        "Band neutrophils": "neutrophil",
        "Segmented neutrophils": "neutrophil",
        "Lymphocyte": "lymphocyte",
        "Lymphocyte, variant": "lymphocyte",
        "Monocyte": "monocyte",
        "Eosinophils": "eosinophil",
        "Basophil": "basophil",
        "Erythroblast": "erythroblast",
        "Smudge cells": "smudge cell",
    },
    "pbc": {
        "ig": "immature granulocyte",
        "erythroblast": "erythroblast",
        "platelet": "platelet",
        **{name: name for name in _FIVE},
    },
    "lmu": {
        "MYO": "blast",  # myeloblast
        "MOB": "blast",  # monoblast
        "PMO": "immature granulocyte",  # promyelocyte
        "PMB": "immature granulocyte",  # promyelocyte, bilobed
        "MYB": "immature granulocyte",  # myelocyte
        "MMZ": "immature granulocyte",  # metamyelocyte
        "NGB": "neutrophil",  # band
        "NGS": "neutrophil",  # segmented
        "LYT": "lymphocyte",  # typical
        "LYA": "lymphocyte",  # atypical
        "MON": "monocyte",
        "EOS": "eosinophil",
        "BAS": "basophil",
        "EBO": "erythroblast",
        "KSC": "smudge cell",
    },
    "raabin": {name.capitalize(): name for name in _FIVE},
    "segmentation_wbc": {name: name for name in _FIVE},
    "leukemia_attri": {
        "myeloblast": "blast",
        "lymphoblast": "blast",
        "monoblast": "blast",
        "promonocyte": "blast",
        "abnormal promyelocyte": "immature granulocyte",
        "myelocyte": "immature granulocyte",
        "metamyelocyte": "immature granulocyte",
        "atypical lymphocyte": "lymphocyte",
        **{name: name for name in _FIVE},
    },
}
"""Source -> {the authors' label -> one of `CELL_TYPES`}."""
