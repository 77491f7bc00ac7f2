"""Sources: where smear pictures come from, and how their authors wrote down labels and patients.

What comes in is the root folder of one public data set, unpacked as published; what goes out is a list of
`Sample`: picture, the authors' own label, and the patient where one is named. Nothing is decoded here and no label is
translated: `train.tasks` maps the authors' words to a task's classes. A new source is a function and a row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from edge_runtime.preprocess import PICTURE_SUFFIXES, Box

from .errors import DataError


@dataclass(frozen=True)
class Sample:
    """One labelled picture, or one labelled box of a picture.

    Attributes:
        path: picture file.
        raw_label: the authors' label, verbatim.
        group: patient, as ``Patient_07``; None where the authors do not say.
        diagnosis: the patient's diagnosis, where it differs from the label; else None.
        box: (left, top, width, height) in pixels where the sample is a part of the picture; else None.
    """

    path: Path
    raw_label: str
    group: str | None = None
    diagnosis: str | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Source:
    """One public data set.

    Attributes:
        name: folder name under the data folder, and the value of the index's ``source`` column.
        title: full name.
        read: lists the samples below the source's root folder.
        central_px: single-cell pictures larger than this are cut to their central square of this side, so that
            cells have one scale; None: whole picture.
        burnt_in: (left, top, width, height), shares of the side, of a mark burnt into every picture; blanked in
            training so that it cannot be learnt. None: no such mark.
        licence: terms of the authors.
        citation: DOI or the like.
    """

    name: str
    title: str
    read: Callable[[Path], Iterator[Sample]]
    central_px: int | None
    burnt_in: tuple[float, float, float, float] | None
    licence: str
    citation: str


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)


def _folders(folder: Path, source: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"{source}: no folder {folder}",
            expected="the data set unpacked as its authors publish it",
            todo=f"put it (or a link to it) there, or leave {source} out with --sources",
        )
    return sorted(p for p in folder.iterdir() if p.is_dir())


def read_taleqani(root: Path) -> Iterator[Sample]:
    """ALL subtypes: ``Original/<Benign|Early|Pre|Pro>/*.jpg``, 224 px fields; patients are not given."""
    for folder in _folders(root / "Original", "taleqani"):
        for path in _pictures(folder):
            yield Sample(path, folder.name)


def read_deepapl(root: Path) -> Iterator[Sample]:
    """AML and APL: ``Data/All/Patient_NN/[<date>/]Signed slides/<cell type>/*.jpg``; diagnosis in ``master.csv``."""
    table = root / "Data" / "master.csv"
    if not table.is_file():
        raise DataError(f"deepapl: no file {table}", expected="Patient_ID,Diagnosis,... per patient")
    with table.open(newline="", encoding="utf-8") as stream:
        diagnoses = {row["Patient_ID"]: row["Diagnosis"] for row in csv.DictReader(stream)}
    for patient in _folders(root / "Data" / "All", "deepapl"):
        for path in _pictures(patient):
            if path.parent.parent.name == "Signed slides":
                yield Sample(path, path.parent.name, patient.name, diagnoses.get(patient.name))


def read_pbc(root: Path) -> Iterator[Sample]:
    """Healthy donors: ``PBC_dataset_normal_DIB/<class>/<type>_<number>.jpg``; donors are not given."""
    for folder in _folders(root / "PBC_dataset_normal_DIB", "pbc"):
        for path in _pictures(folder):
            yield Sample(path, folder.name)


SEGMENTATION_WBC_CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")


def read_segmentation_wbc(root: Path) -> Iterator[Sample]:
    """100 cells with expert masks: ``Dataset 2/NNN.jpg`` and class numbers 1..5 in a table beside the folder."""
    table = root / "Class Labels of Dataset 2.csv"
    if not table.is_file():
        raise DataError(f"segmentation_wbc: no file {table}", expected="image ID,class per picture")
    with table.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream):
            path = root / "Dataset 2" / f"{int(row['image ID']):03d}.jpg"
            yield Sample(path, SEGMENTATION_WBC_CLASSES[int(row["class"]) - 1])


def read_bccd(root: Path) -> Iterator[Sample]:
    """Fields with VOC boxes: every box of ``BCCD/Annotations/*.xml`` is a sample WBC, RBC or Platelets."""
    folder = root / "BCCD" / "Annotations"
    if not folder.is_dir():
        raise DataError(f"bccd: no folder {folder}", expected="VOC annotations, one .xml per picture")
    for annotation in sorted(folder.glob("*.xml")):
        tree = ElementTree.parse(annotation)
        path = root / "BCCD" / "JPEGImages" / f"{annotation.stem}.jpg"
        for thing in tree.iterfind("object"):
            left, top, right, bottom = (
                int(float(thing.findtext(f"bndbox/{edge}", "0"))) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            box = (left, top, right - left, bottom - top)
            yield Sample(path, thing.findtext("name", ""), group=path.stem, box=box)


def read_rendered(root: Path) -> Iterator[Sample]:
    """Pictures of ``python -m train render``: ``<class>/<number>.png``; each stands for itself."""
    for folder in _folders(root, "rendered"):
        if folder.name != "masks":
            for path in _pictures(folder):
                yield Sample(path, folder.name, group=f"{folder.name}-{path.stem}")


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "taleqani",
            "Acute Lymphoblastic Leukemia (ALL) image dataset, Taleqani Hospital",
            read_taleqani,
            None,
            (0.80, 0.84, 0.20, 0.16),
            "as on its Kaggle page; cite",
            "Aria et al. 2021, doi:10.34740/KAGGLE/DSV/2175623",
        ),
        Source(
            "deepapl",
            "DeepAPL: AML and APL, CellaVision single cells, Johns Hopkins",
            read_deepapl,
            256,
            None,
            "copyright Johns Hopkins University; research use",
            "Sidhom et al. 2021, doi:10.1038/s41698-021-00179-y",
        ),
        Source(
            "pbc",
            "PBC: normal peripheral blood cells, CellaVision single cells, Barcelona",
            read_pbc,
            256,
            None,
            "CC BY 4.0",
            "Acevedo et al. 2020, doi:10.1016/j.dib.2020.105474",
        ),
        Source(
            "segmentation_wbc",
            "White blood cells with expert nucleus and cytoplasm masks, data set 2",
            read_segmentation_wbc,
            None,
            None,
            "GPL-3.0 repository; at your own risk",
            "Zheng et al. 2018, doi:10.1016/j.micron.2018.01.010",
        ),
        Source(
            "bccd",
            "BCCD: blood cell count and detection, fields with boxes",
            read_bccd,
            None,
            None,
            "MIT",
            "BCCD data set (Shenggan), 2017",
        ),
        Source(
            "rendered",
            "Rendered smears of this project's own renderer; for trials and tests, no evidence about real cells",
            read_rendered,
            None,
            None,
            "Apache-2.0",
            "leukoscope train.render",
        ),
    )
}
