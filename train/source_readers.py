"""Source readers: how the authors of each public data set wrote down labels and patients.

What comes in is the root folder of one data set, unpacked as published; what goes out are its `Sample`s - picture, the
authors' own label, and the patient where one is named - and a `Remark` on everything a user should look at: an empty
folder, a name that contradicts its folder. Nothing is decoded here, no label is translated and no label is made up:
`train.tasks` maps the authors' words to classes. A layout that is not the published one is a `DataError`.

Sets that write labels into folder or file names are read here; `train.annotation_readers` reads those with tables,
boxes or masks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

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
class Remark:
    """What a reader has to say about a file or folder that gives no sample, or a doubtful one.

    Attributes:
        text: one line; names the file or folder.
    """

    text: str


Found = Iterator[Sample | Remark]


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Go through a folder and all below it, through links to folders too, but not round in circles.

    Yields:
        Every folder and the names of the files in it.

    Raises:
        DataError: a folder cannot be listed: what is in it would be missing without a word.
    """

    def refuse(error: OSError) -> NoReturn:
        raise DataError(
            f"{error.filename}: cannot be listed",
            got=error.strerror,
            todo="make it readable, or move it out of the data folder",
        ) from None

    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        where = Path(name)
        for link in [inner for inner in folders if (where / inner).is_symlink()]:
            target = os.path.realpath(where / link)
            if target in map(os.path.realpath, (where, *where.absolute().parents)):
                folders.remove(link)
        yield where, files


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files in a folder and those below it, in order.

    Raises:
        DataError: as `walk`.
    """
    return sorted(
        where / name for where, names in walk(folder) for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES
    )


def existing(folder: Path, source: str) -> Path:
    """Return `folder`.

    Raises:
        DataError: it is not there.
    """
    if not folder.is_dir():
        raise DataError(
            f"{source}: no folder {folder}",
            expected="the data set unpacked as its authors publish it",
            todo=f"put it (or a link to it) there, or leave {source} out with --sources",
        )
    return folder


def folders_in(folder: Path, source: str) -> list[Path]:
    """Return the folders in `folder`, in order.

    Raises:
        DataError: `folder` is not there.
    """
    return sorted(p for p in existing(folder, source).iterdir() if p.is_dir())


def by_class_folder(parent: Path, source: str) -> Found:
    """Read ``<class>/*.jpg``: the folder's name is the label.

    Raises:
        DataError: `parent` is not there.
    """
    for folder in folders_in(parent, source):
        pictures = pictures_in(folder)
        if not pictures:
            yield Remark(f"{source}: {folder}: no picture in this folder")
        for path in pictures:
            yield Sample(path, folder.name)


def read_taleqani(root: Path) -> Found:
    """ALL subtypes: ``Original/<Benign|Early|Pre|Pro>/*.jpg``, 224 px fields; patients are not given."""
    return by_class_folder(root / "Original", "taleqani")


def read_pbc(root: Path) -> Found:
    """Healthy donors: ``PBC_dataset_normal_DIB/<class>/<type>_<number>.jpg``; donors are not given."""
    return by_class_folder(root / "PBC_dataset_normal_DIB", "pbc")


def read_lmu(root: Path) -> Found:
    """AML patients and controls: ``AML-Cytomorphology_LMU/<class>/<class>_NNNN.tiff``, 15 classes of three letters.

    The folder is the first label of TCIA's ``annotations.dat``; its second and third opinions are not used. Which
    picture is a patient's and which a control's is not published, and neither are patients.
    """
    return by_class_folder(root / "AML-Cytomorphology_LMU", "lmu")


def read_raabin(root: Path) -> Found:
    """Normal cells with two experts' labels: ``<Train|TestA|TestB>/<class>/*.jpg``, five classes.

    These are the archives ``Cropped_double_labeled`` of raabindata.com, each unpacked under its own name; TestB was
    taken with another microscope and camera and holds neutrophils and lymphocytes only. People are not given.

    Raises:
        DataError: none of the three folders is there.
    """
    parts = [root / name for name in ("Train", "TestA", "TestB") if (root / name).is_dir()]
    for part in parts or [existing(root / "Train", "raabin")]:
        yield from by_class_folder(part, "raabin")


ALL_IDB_NAME = re.compile(r"Im\d+_(\w+)")


def read_all_idb1(root: Path) -> Found:
    """Fields of ALL patients (1) and others (0): ``ALL_IDB1/im/ImNNN_C.jpg``; people are not given.

    ``ALL_IDB1/xyc/ImNNN_C.xyc`` lists the centres of the blasts, one "x y" a line. A field of class 1 in which no
    blast is marked is remarked upon.

    Raises:
        DataError: the folder is not there.
    """
    for found in _all_idb(root / "ALL_IDB1" / "im", "all_idb1"):
        yield found
        if isinstance(found, Sample) and found.raw_label == "1":
            centres = root / "ALL_IDB1" / "xyc" / f"{found.path.stem}.xyc"
            if centres.is_file() and not centres.read_bytes().split():
                yield Remark(f"all_idb1: {found.path}: is named ALL, but {centres.name} marks no blast")


def read_all_idb2(root: Path) -> Found:
    """Single cells, 257 px: ``ALL_IDB2/img/ImNNN_C.tif``, 1 a blast, 0 another cell; cut out of ALL-IDB1's fields.

    Raises:
        DataError: the folder is not there.
    """
    return _all_idb(root / "ALL_IDB2" / "img", "all_idb2")


def _all_idb(folder: Path, source: str) -> Found:
    for path in pictures_in(existing(folder, source)):
        name = ALL_IDB_NAME.fullmatch(path.stem)
        yield Sample(path, name[1]) if name else Remark(f"{source}: {path}: is not named ImNNN_C, so it has no label")


def read_rendered(root: Path) -> Found:
    """Pictures of ``python -m train render``: ``<class>/<number>.png``; each stands for itself."""
    for folder in folders_in(root, "rendered"):
        if folder.name != "masks":
            for path in pictures_in(folder):
                yield Sample(path, folder.name, group=f"{folder.name}-{path.stem}")


def read_folder(root: Path) -> Found:
    """Anyone's own pictures: ``<class>/*.jpg`` or ``<class>/<patient>/*.jpg``, classes named as the task's.

    Folders of one name in two classes are one patient.
    """
    for path in sorted(p for p in existing(root, "folder").iterdir() if p.suffix.lower() in PICTURE_SUFFIXES):
        yield Remark(f"folder: {path}: lies in no class folder, so it has no label")
    for folder in folders_in(root, "folder"):
        pictures = pictures_in(folder)
        if not pictures:
            yield Remark(f"folder: {folder}: no picture in this folder")
        for path in pictures:
            inner = path.relative_to(folder).parts
            yield Sample(path, folder.name, group=inner[0] if len(inner) > 1 else None)
