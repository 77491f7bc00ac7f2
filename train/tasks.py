"""Tasks: which question is asked of a picture, as data.

A task names its classes and says, source by source, which of the authors' labels means which class; a label that is
not listed is left out of the task. Nothing here reads a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from .cell_types import CELL_NAMES, CELL_TYPES
from .errors import DataError


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
        external: mapped sources that are another laboratory's test set: indexed only where they are named, so that
            no training meets them by default.
    """

    name: str
    title: str
    kind: str
    labels: tuple[str, ...]
    mapping: dict[str, dict[str, str]]
    operating_points: tuple[OperatingPoint, ...] = field(default=())
    intended: str = ""
    external: tuple[str, ...] = ()

    def class_of(self, source: str, raw_label: str) -> str | None:
        """Return the class that a source's label means, verbatim or in small letters; None: not of this task."""
        known = self.mapping[source]
        return known.get(raw_label, known.get(raw_label.casefold()))

    def restricted(self, labels: Sequence[str]) -> Task:
        """Return this task with some of its classes only, in its own order.

        Sources that hold none of them go, as do questions that all or none of them answer.

        Raises:
            DataError: a label that is not the task's, or fewer than two.
        """
        unknown = [label for label in labels if label not in self.labels]
        if unknown or len(set(labels)) < 2:
            raise DataError(
                f"task {self.name}: cannot be restricted to these classes",
                got=", ".join(unknown or labels) or "none",
                expected=f"two or more of {', '.join(self.labels)}",
            )
        kept = tuple(label for label in self.labels if label in labels)
        mapping = {
            source: chosen
            for source, names in self.mapping.items()
            if (chosen := {name: label for name, label in names.items() if label in kept})
        }
        asked = (
            dataclasses.replace(point, positive=tuple(label for label in point.positive if label in kept))
            for point in self.operating_points
        )
        points = tuple(point for point in asked if 0 < len(point.positive) < len(kept))
        return dataclasses.replace(self, labels=kept, mapping=mapping, operating_points=points)


def _own(labels: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return the mapping of the sources whose labels are the task's own."""
    return {"folder": {label.casefold(): label for label in labels}, "rendered": {label: label for label in labels}}


def _each(names: dict[str, str] | tuple[str, ...], label: str) -> dict[str, str]:
    return dict.fromkeys(names, label)


_SUBTYPES = ("Benign", "Early", "Pre", "Pro")
_LEUKEMIAS = ("ALL", "AML", "CLL", "CML", "Healthy")
_ALL = ("ALL", "Healthy")
_BLAST = ("blast", "other")
_ALL_SOURCES = {
    "taleqani": {"Early": "ALL", "Pre": "ALL", "Pro": "ALL", "Benign": "Healthy"},
    "c_nmc": {"all": "ALL", "hem": "Healthy"},
    "all_idb1": {"1": "ALL", "0": "Healthy"},
    "all_idb2": {"1": "ALL", "0": "Healthy"},
}
_HEMATOGONES = "Healthy includes Taleqani's Benign, which are patients with hematogones, not healthy donors"
_OTHER_LABORATORIES = ("raabin", "segmentation_wbc", "leukemia_attri")
_CROP = (
    "one cell in the middle of a square crop of about 26 micrometres (256 px of a CellaVision picture), "
    "Romanowsky stain"
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "all-subtypes",
            "Acute lymphoblastic leukemia: benign (hematogones) or early pre-B, pre-B, pro-B",
            "field",
            _SUBTYPES,
            {"taleqani": {label: label for label in _SUBTYPES}, **_own(_SUBTYPES)},
            (OperatingPoint("malignant", ("Early", "Pre", "Pro"), 0.99),),
            "one microscope field at 100x, stained smear, about 20-60 leukocytes and red cells in view, as 224 px or "
            "more; one hospital, one microscope, one stain protocol were seen in training",
        ),
        Task(
            "blood-cells",
            "Blood cell types with blasts, single cells",
            "cell",
            CELL_TYPES,
            {**CELL_NAMES, **_own(CELL_TYPES)},
            (OperatingPoint("blast", ("blast",), 0.95),),
            _CROP,
            external=_OTHER_LABORATORIES,
        ),
        Task(
            "blast",
            "Blast or any other cell, single cells",
            "cell",
            _BLAST,
            {
                **{
                    source: {name: "blast" if label == "blast" else "other" for name, label in names.items()}
                    for source, names in CELL_NAMES.items()
                },
                "all_idb2": {"1": "blast", "0": "other"},
                **_own(_BLAST),
            },
            (OperatingPoint("blast", ("blast",), 0.95),),
            f"{_CROP}; other is every other cell, platelets, smudge cells and promyelocytes included",
            external=(*_OTHER_LABORATORIES, "all_idb2"),
        ),
        Task(
            "leukemia",
            "Leukemia by type: ALL, AML, CLL, CML, or healthy",
            "field",
            _LEUKEMIAS,
            {
                **_ALL_SOURCES,
                "deepapl": {"Blast, no lineage spec": "AML", "Promonocyte": "AML"},
                "lmu": {"MYO": "AML", "MOB": "AML"},
                "pbc": _each(CELL_NAMES["pbc"], "Healthy"),
                "raabin": _each(CELL_NAMES["raabin"], "Healthy"),
                "leukemia_attri": {"ALL": "ALL", "AML": "AML", "APML": "AML", "CLL": "CLL", "CML": "CML"},
                **_own(_LEUKEMIAS),
            },
            (OperatingPoint("leukemia", ("ALL", "AML", "CLL", "CML")),),
            "a microscope field (ALL, CLL, CML and some of Healthy) or a single blast or normal cell (AML and most of "
            "Healthy): public sets do not show the classes in one way, so how a picture was taken tells much of its "
            f"class; {_HEMATOGONES}",
            external=("all_idb2",),
        ),
        Task(
            "all-vs-healthy",
            "Acute lymphoblastic leukemia or not",
            "field",
            _ALL,
            {**_ALL_SOURCES, **_own(_ALL)},
            (OperatingPoint("ALL", ("ALL",)),),
            "a microscope field (Taleqani, ALL-IDB1) or a single cell cut out on black (C-NMC), stained as there; "
            f"{_HEMATOGONES}",
            external=("all_idb2",),
        ),
    )
}
