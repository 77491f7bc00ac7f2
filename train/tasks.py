"""Tasks: which question is asked of a picture, as data.

A task names its classes and says, source by source, which of the authors' labels means which class; a label that is
not listed is left out of the task. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class OperatingPoint:
    """A yes/no question on top of the classes, answered at a threshold chosen on the validation split.

    Attributes:
        name: what "yes" means.
        positive: labels whose probabilities are added up.
        min_sensitivity: to be kept on validation, 0..1. The highest threshold that keeps it fixes the specificity; the
            one stored has the same specificity and stands in the middle between the scores on its two sides, so its
            sensitivity is this or higher (see `train.metrics.operating_point`).
    """

    name: str
    positive: tuple[str, ...]
    min_sensitivity: float = 0.95


@dataclass(frozen=True)
class Task:
    """One classification task.

    Attributes:
        name: as on the command line and in the bundle.
        title: for people.
        kind: "field" or "cell": what one picture shows.
        labels: classes, in the order of the network's outputs.
        mapping: source name -> {the authors' label -> class}.
        operating_points: questions with a stored threshold.
        intended: what the model may be shown; goes into the bundle's limits of use.
    """

    name: str
    title: str
    kind: str
    labels: tuple[str, ...]
    mapping: dict[str, dict[str, str]]
    operating_points: tuple[OperatingPoint, ...] = field(default=())
    intended: str = ""

    def missing(self, sources: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return the classes that none of `sources` (default: all mapped ones) holds."""
        held = {c for s in (sources or tuple(self.mapping)) for c in self.mapping.get(s, {}).values()}
        return tuple(label for label in self.labels if label not in held)


def _identity(labels: tuple[str, ...]) -> dict[str, str]:
    return {label: label for label in labels}


_SUBTYPES = ("Benign", "Early", "Pre", "Pro")
_CELLS = (
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

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "all-subtypes",
            "Acute lymphoblastic leukemia: benign (hematogones) or early pre-B, pre-B, pro-B",
            "field",
            _SUBTYPES,
            {"taleqani": _identity(_SUBTYPES), "rendered": _identity(_SUBTYPES)},
            (OperatingPoint("malignant", ("Early", "Pre", "Pro"), 0.99),),
            "one microscope field at 100x, stained smear, about 20-60 leukocytes and red cells in view, as 224 px or "
            "more; one hospital, one microscope, one stain protocol were seen in training",
        ),
        Task(
            "blood-cells",
            "Blood cell types with blasts, single cells",
            "cell",
            _CELLS,
            {
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
                    "neutrophil": "neutrophil",
                    "lymphocyte": "lymphocyte",
                    "monocyte": "monocyte",
                    "eosinophil": "eosinophil",
                    "basophil": "basophil",
                    "erythroblast": "erythroblast",
                    "platelet": "platelet",
                },
                "rendered": _identity(_CELLS),
            },
            (OperatingPoint("blast", ("blast",), 0.95),),
            "one cell in the middle of a square crop of about 26 micrometres (256 px of a CellaVision picture), "
            "Romanowsky stain",
        ),
        Task(
            "leukemia",
            "Five classes: ALL, AML, CLL, CML, healthy (needs a source with CLL and CML)",
            "field",
            ("ALL", "AML", "CLL", "CML", "Healthy"),
            {
                "taleqani": {"Benign": "Healthy", "Early": "ALL", "Pre": "ALL", "Pro": "ALL"},
                "deepapl": {"Blast, no lineage spec": "AML"},
                "pbc": {},
            },
        ),
    )
}
