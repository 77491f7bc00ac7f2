"""Annotation readers: data sets whose labels stand in tables, boxes or names that have to be taken apart.

As in `train.source_readers`, what comes in is the root folder of a data set as published and what goes out are its
samples and remarks. A table that is missing or has not the published columns is a `DataError`, for without it no
picture has a label; a single row or name that makes no sense is a `Remark`, and the picture is left out.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edge_runtime.preprocess import Box

from .errors import DataError
from .source_readers import Found, Remark, Sample, existing, folders_in, pictures_in, walk


def _table(path: Path, columns: tuple[str, ...], source: str) -> list[dict[str, str]]:
    """Read a CSV table; with a byte order mark or without.

    Raises:
        DataError: missing, or without one of `columns`.
    """
    expected = f"a table with the columns {', '.join(columns)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, head = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise DataError(f"{source}: no table {path}", got=error.strerror, expected=expected) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: {path}: not a table", got=error, expected=expected) from None
    if not set(columns) <= set(head) or any(row[column] is None for row in rows for column in columns):
        raise DataError(f"{source}: {path}: not the published table", got=", ".join(head), expected=expected)
    return rows


def read_deepapl(root: Path) -> Found:
    """AML and APL: ``Data/All/Patient_NN/[<date>/]Signed slides/<cell type>/*.jpg``; diagnosis in ``master.csv``."""
    table = _table(root / "Data" / "master.csv", ("Patient_ID", "Diagnosis"), "deepapl")
    diagnoses = {row["Patient_ID"]: row["Diagnosis"] for row in table}
    for patient in folders_in(root / "Data" / "All", "deepapl"):
        signed = [path for path in pictures_in(patient) if path.parent.parent.name == "Signed slides"]
        if not signed:
            yield Remark(f"deepapl: {patient}: no picture below a folder 'Signed slides'")
        for path in signed:
            yield Sample(path, path.parent.name, patient.name, diagnoses.get(patient.name))


C_NMC_NAME = re.compile(r"UID_(H?\d+)_\d+_\d+_(all|hem)")
C_NMC_PRELIMINARY = "C-NMC_test_prelim_phase_data"


def read_c_nmc(root: Path) -> Found:
    """Single cells on black, ALL (all) and normal (hem), with the subject in the file name.

    ``fold_{0,1,2}/{all,hem}/UID_<subject>_<image>_<cell>_<all|hem>.bmp`` are the training phase, and the numbered
    pictures of ``C-NMC_test_prelim_phase_data`` get subject and label from ``C-NMC_test_prelim_phase_data_labels.csv``
    (``Patient_ID,new_names,labels``, 1 = all). TCIA and Kaggle wrap these in differently named folders, so they are
    looked for below the root; pictures of the final phase have no published labels and are not read. Relied on:
    published readers of both copies; the data itself was not at hand.

    Raises:
        DataError: no fold, or preliminary pictures without their table.
    """
    places = list(walk(existing(root, "c_nmc")))
    folds = sorted(folder for folder, _ in places if re.fullmatch(r"fold_\d", folder.name))
    if not folds:
        raise DataError(f"c_nmc: no folder fold_0 below {root}", expected="C-NMC 2019 as on TCIA or Kaggle")
    for label in (folder for fold in folds for folder in folders_in(fold, "c_nmc")):
        pictures = pictures_in(label)
        if not pictures:
            yield Remark(f"c_nmc: {label}: no picture in this folder")
        for path in pictures:
            yield _c_nmc_sample(path, path.stem, label.name)
    folders = [folder for folder, _ in places if folder.name == C_NMC_PRELIMINARY]
    if folders:
        name = f"{C_NMC_PRELIMINARY}_labels.csv"
        table = min((folder / name for folder, names in places if name in names), default=min(folders).parent / name)
        files = {path.name: path for folder in folders for path in pictures_in(folder)}
        for row in _table(table, ("Patient_ID", "new_names", "labels"), "c_nmc"):
            path = files.get(row["new_names"], min(folders) / row["new_names"])
            label = {"1": "all", "0": "hem"}.get(row["labels"], row["labels"])
            yield _c_nmc_sample(path, Path(row["Patient_ID"]).stem, label)


def _c_nmc_sample(path: Path, name: str, label: str) -> Sample | Remark:
    parts = C_NMC_NAME.fullmatch(name)
    if parts is None:
        return Remark(f"c_nmc: {path}: its name {name} has no subject (UID_<subject>_<image>_<cell>_<all|hem>)")
    if parts[2] != label:
        return Remark(f"c_nmc: {path}: is labelled {label}, but named {name}")
    return Sample(path, label, group=parts[1])


SEGMENTATION_WBC_CLASSES = {
    "1": "neutrophil",
    "2": "lymphocyte",
    "3": "monocyte",
    "4": "eosinophil",
    "5": "basophil",
}


def read_segmentation_wbc(root: Path) -> Found:
    """100 cells with expert masks: ``Dataset 2/NNN.jpg`` and class numbers 1..5 in a table beside the folder."""
    table = root / "Class Labels of Dataset 2.csv"
    for row in _table(table, ("image ID", "class"), "segmentation_wbc"):
        path = root / "Dataset 2" / f"{row['image ID'].strip().zfill(3)}.jpg"
        number = row["class"].strip()
        yield Sample(path, SEGMENTATION_WBC_CLASSES.get(number, f"class {number}"))


def read_bccd(root: Path) -> Found:
    """Fields with VOC boxes: every box of ``BCCD/Annotations/*.xml`` is a sample WBC, RBC or Platelets."""
    folder = existing(root / "BCCD" / "Annotations", "bccd")
    for annotation in sorted(path for path in folder.iterdir() if path.suffix == ".xml"):
        path = root / "BCCD" / "JPEGImages" / f"{annotation.stem}.jpg"
        try:
            things = list(ElementTree.parse(annotation).iterfind("object"))
            for thing in things:
                left, top, right, bottom = (
                    int(float(thing.findtext(f"bndbox/{edge}", ""))) for edge in ("xmin", "ymin", "xmax", "ymax")
                )
                box = (left, top, right - left, bottom - top)
                yield Sample(path, thing.findtext("name", ""), group=path.stem, box=box)
        except (ElementTree.ParseError, ValueError, LookupError, OverflowError) as error:  # Lookup: an encoding
            yield Remark(f"bccd: {annotation}: not a VOC annotation ({error})")


LEUKEMIA_ATTRI_SUBSET = re.compile(r"[HL]_100X_C[12]", re.IGNORECASE)
LEUKEMIA_ATTRI_NAME = re.compile(r"(\d+)_.+_([A-Za-z]+)")
WINDOW = 2.0
"""Side of the square cut around a cell / longer side of the authors' tight box: about what single-cell crops show."""


def read_leukemia_attri(root: Path) -> Found:
    """Fields of leukemia patients, labelled by diagnosis, and the cells boxed in them, labelled by type.

    ``<H|L>_100X_<C1|C2>/Images/<train|test>/<patient>_<field>_<magnification>_<diagnosis>.png`` with COCO boxes in
    ``json_labels/<train|test>.json`` beside ``Images``; diagnoses ALL, AML, APML, CLL and CML. The four subsets are the
    same slides through two microscopes and two cameras; the 40X and 10X subsets, the same cells blurred, are not read.
    The authors' split is not used: it is patient-wise within a subset only. Relied on: the authors' README and file
    names in their repository, and published readers of the download; the data itself was not at hand, so the scale of
    the boxes against other single-cell sets is not known.

    Raises:
        DataError: no subset, or a subset without a COCO file for its pictures.
    """
    subsets = [folder for folder in folders_in(root, "leukemia_attri") if LEUKEMIA_ATTRI_SUBSET.fullmatch(folder.name)]
    if not subsets:
        raise DataError(f"leukemia_attri: no subset in {root}", expected="folders H_100X_C1, H_100X_C2, L_100X_C1, ...")
    for folder in (part for subset in subsets for part in folders_in(subset / "Images", "leukemia_attri")):
        cells = _cells(folder.parent.parent / "json_labels" / f"{folder.name}.json")
        pictures = pictures_in(folder)
        for missing in sorted(set(cells) - {path.name for path in pictures}):
            yield Remark(f"leukemia_attri: {folder / missing}: has boxes, but is not there")
        for path in pictures:
            name = LEUKEMIA_ATTRI_NAME.fullmatch(path.stem)
            if name is None:
                yield Remark(f"leukemia_attri: {path}: its name has no patient and diagnosis")
                continue
            yield Sample(path, name[2], group=name[1])
            for label, box in cells.get(path.name, []):
                yield Sample(path, label, group=name[1], diagnosis=name[2], box=box)


def _coco(path: Path) -> dict[str, Any]:
    expected = "a COCO file with images, annotations and categories"
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(coco[key], list) for key in ("images", "annotations", "categories")):
            return dict(coco)
    except OSError as error:
        raise DataError(f"leukemia_attri: no table {path}", got=error.strerror, expected=expected) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"leukemia_attri: {path}: not the published table", expected=expected)


def _cells(path: Path) -> dict[str, list[tuple[str, Box]]]:
    """Return file name -> (cell type, square around the cell) of every box in a COCO file."""
    coco = _coco(path)
    try:
        names = {image["id"]: image["file_name"] for image in coco["images"]}
        types = {category["id"]: category["name"] for category in coco["categories"]}
        if wrong := [name for name in (*names.values(), *types.values()) if not isinstance(name, str)]:
            raise TypeError(f"{wrong[0]} for a name")
        cells: dict[str, list[tuple[str, Box]]] = {}
        for annotation in coco["annotations"]:
            left, top, width, height = annotation["bbox"]
            side = WINDOW * max(width, height)
            box = (round(left + (width - side) / 2), round(top + (height - side) / 2), round(side), round(side))
            cells.setdefault(names[annotation["image_id"]], []).append((types[annotation["category_id"]], box))
        return cells
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"leukemia_attri: {path}: does not fit together", got=repr(error)) from None
