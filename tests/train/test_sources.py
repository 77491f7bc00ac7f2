"""Every source is read from a miniature of its published layout, and every odd input in it is answered by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from train.cli import main
from train.collect import collect
from train.errors import DataError
from train.index import build_index, read_index
from train.source_readers import Remark, Sample, pictures_in
from train.sources import SOURCES
from train.tasks import TASKS

Facts = tuple[str, str, str | None, str | None]
"""What a reader should say of a picture: path below the root, label, patient, diagnosis."""


def draw(path: Path, side: int = 24) -> Path:
    """Write a picture of coloured tiles that no other path gets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(list(str(path).encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(tiles).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path


def class_folders(pattern: str, labels: tuple[str, ...]) -> Callable[[Path], list[Facts]]:
    """Return a writer of three pictures per class; `pattern` has the label and the number to fill in."""

    def write(root: Path) -> list[Facts]:
        paths = [(pattern.format(label=label, n=n), label) for label in labels for n in (1, 2, 3)]
        return [(draw(root / path).relative_to(root).as_posix(), label, None, None) for path, label in paths]

    return write


def write_deepapl(root: Path) -> list[Facts]:
    rows = []
    for n, (label, diagnosis) in enumerate((("Monocyte", "AML"), ("Basophil", "APL")), 7):
        for m, date in enumerate(("", "2018-01-02/", "2018-01-03/")):
            path = f"Data/All/Patient_{n:02d}/{date}Signed slides/{label}/X_{m}.jpg"
            draw(root / path)
            rows.append((path, label, f"Patient_{n:02d}", diagnosis))
    draw(root / "Data/All/Patient_07/Unsigned slides/Monocyte/X_9.jpg")
    (root / "Data/master.csv").write_text(
        "Patient_ID,Diagnosis,Cohort\nPatient_07,AML,Discovery\nPatient_08,APL,Validation\n"
    )
    return rows


def write_c_nmc(root: Path) -> list[Facts]:
    base = root / "C-NMC_Leukemia"
    rows: list[Facts] = []
    for fold, label, subject in ((0, "all", "11"), (0, "hem", "H14"), (1, "all", "57"), (2, "hem", "H2")):
        path = base / f"training_data/fold_{fold}/{label}/UID_{subject}_2_3_{label}.bmp"
        rows.append((draw(path).relative_to(root).as_posix(), label, subject, None))
    table = ["Patient_ID,new_names,labels"]
    for n, (label, number, subject) in enumerate((("all", "1", "58"), ("hem", "0", "H49")), 1):
        path = base / f"validation_data/C-NMC_test_prelim_phase_data/{n}.bmp"
        rows.append((draw(path).relative_to(root).as_posix(), label, subject, None))
        table.append(f"UID_{subject}_29_1_{label}.bmp,{n}.bmp,{number}")
    (base / "validation_data/C-NMC_test_prelim_phase_data_labels.csv").write_text("\n".join(table) + "\n")
    draw(base / "testing_data/C-NMC_test_final_phase_data/1.bmp")  # no labels: not read
    return rows


def write_all_idb1(root: Path) -> list[Facts]:
    rows = class_folders("ALL_IDB1/im/Im00{n}_{label}.jpg", ("0", "1"))(root)
    for path, label, _, _ in rows:
        centres = root / "ALL_IDB1" / "xyc" / f"{Path(path).stem}.xyc"
        centres.parent.mkdir(exist_ok=True)
        centres.write_text("886 726\n12 40\n" if label == "1" else "")
    return rows


def write_segmentation_wbc(root: Path) -> list[Facts]:
    rows: list[Facts] = []
    for n in range(1, 7):
        path = f"Dataset 2/{n:03d}.jpg"
        draw(root / path)
        draw(root / path).with_suffix(".png").write_bytes(b"a mask, not a sample")
        rows.append((path, "eosinophil" if n % 2 else "basophil", None, None))
    table = ["image ID,class", *(f"{n},{4 if n % 2 else 5}" for n in range(1, 7))]
    (root / "Class Labels of Dataset 2.csv").write_text("\n".join(table) + "\n", encoding="utf-8-sig")
    return rows


def write_bccd(root: Path) -> list[Facts]:
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>15</xmax><ymax>22</ymax></bndbox></object>"
        for name in ("WBC", "RBC")
    )
    draw(root / "BCCD/JPEGImages/B_1.jpg")
    (root / "BCCD/Annotations").mkdir()
    (root / "BCCD/Annotations/B_1.xml").write_text(f"<annotation>{boxes}</annotation>")
    return [("BCCD/JPEGImages/B_1.jpg", name, "B_1", None) for name in ("WBC", "RBC")]


def write_leukemia_attri(root: Path) -> list[Facts]:
    rows: list[Facts] = []
    for subset, part, patients in (
        ("H_100X_C1", "train", (4, 5)),
        ("H_100X_C1", "test", (6,)),
        ("L_100X_C2", "train", (4,)),
    ):
        coco: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
        coco["categories"] = [{"id": 1, "name": "lymphoblast"}]
        for patient in patients:
            for n in (1, 2) if patient != 6 else (1, 2, 3):
                diagnosis = {4: "ALL", 5: "CLL", 6: "CLL"}[patient]
                name = f"{patient}_{n}_1000_{diagnosis}.png"
                path = f"{subset}/Images/{part}/{name}"
                draw(root / path, 64)
                rows.append((path, diagnosis, str(patient), None))
                coco["images"].append({"id": 10 * patient + n, "file_name": name})
                if n == 1:
                    box = {"image_id": 10 * patient + n, "category_id": 1, "bbox": [20.0, 30.0, 8.0, 10.0]}
                    coco["annotations"].append(box)
                    rows.append((path, "lymphoblast", str(patient), diagnosis))
        table = root / subset / "json_labels" / f"{part}.json"
        table.parent.mkdir(exist_ok=True)
        table.write_text(json.dumps(coco))
    draw(root / "H_10X_C1/Images/train/4_1_100_ALL.png")  # the same cells, blurred: not read
    return rows


def write_folder(root: Path) -> list[Facts]:
    rows = class_folders("{label}/scan {n}.jpg", ("cml",))(root)
    for n, patient in enumerate(("Ann", "Ann", "Bo")):
        path = f"Healthy/{patient}/{n}.png"
        draw(root / path)
        rows.append((path, "Healthy", patient, None))
    return rows


def write_rendered(root: Path) -> list[Facts]:
    rows = class_folders("{label}/000{n}.png", ("blast", "other"))(root)
    draw(root / "masks/blast/0001.png")
    return [(path, label, f"{label}-{Path(path).stem}", None) for path, label, _, _ in rows]


@dataclass(frozen=True)
class Miniature:
    """A source's layout in small.

    Attributes:
        write: writes it below a root and returns what should be read.
        task: one that uses the source with two classes or more of it; None: no task does.
        table: a file without which no picture has a label; None: there is no such file.
        class_folder: a folder of pictures of one class; None: classes are no folders.
        stranger: a picture with a label that no task knows, and that label; None: the table decides.
    """

    write: Callable[[Path], list[Facts]]
    task: str | None
    table: str | None = None
    class_folder: str | None = None
    stranger: tuple[str, str] | None = None


MINIATURES = {
    "taleqani": Miniature(
        class_folders("Original/{label}/WBC-{label}-00{n}.jpg", ("Benign", "Early")),
        "all-subtypes",
        class_folder="Original/Early",
        stranger=("Original/Erly/a.jpg", "Erly"),
    ),
    "c_nmc": Miniature(
        write_c_nmc,
        "all-vs-healthy",
        table="C-NMC_Leukemia/validation_data/C-NMC_test_prelim_phase_data_labels.csv",
        class_folder="C-NMC_Leukemia/training_data/fold_1/all",
    ),
    "all_idb1": Miniature(write_all_idb1, "all-vs-healthy", stranger=("ALL_IDB1/im/Im009_7.jpg", "7")),
    "all_idb2": Miniature(
        class_folders("ALL_IDB2/img/Im00{n}_{label}.tif", ("0", "1")),
        "blast",
        stranger=("ALL_IDB2/img/Im009_x.tif", "x"),
    ),
    "deepapl": Miniature(
        write_deepapl,
        "blood-cells",
        table="Data/master.csv",
        class_folder="Data/All/Patient_08",
        stranger=("Data/All/Patient_07/Signed slides/Plasma cells/a.jpg", "Plasma cells"),
    ),
    "lmu": Miniature(
        class_folders("AML-Cytomorphology_LMU/{label}/{label}_000{n}.tiff", ("MYO", "MYB")),
        "blood-cells",
        class_folder="AML-Cytomorphology_LMU/MYB",
        stranger=("AML-Cytomorphology_LMU/UNC/UNC_0001.tiff", "UNC"),
    ),
    "pbc": Miniature(
        class_folders("PBC_dataset_normal_DIB/{label}/MY_{n}.jpg", ("ig", "platelet")),
        "blood-cells",
        class_folder="PBC_dataset_normal_DIB/ig",
        stranger=("PBC_dataset_normal_DIB/artefact/a.jpg", "artefact"),
    ),
    "raabin": Miniature(
        lambda root: (
            class_folders("Train/{label}/9{n}-5-12-1_18_1.jpg", ("Basophil", "Lymphocyte"))(root)
            + class_folders("TestB/{label}/2019052{n}_162951_0.jpg", ("Lymphocyte",))(root)
        ),
        "blood-cells",
        class_folder="Train/Basophil",
        stranger=("TestA/Burst/a.jpg", "Burst"),
    ),
    "segmentation_wbc": Miniature(write_segmentation_wbc, "blood-cells", table="Class Labels of Dataset 2.csv"),
    "leukemia_attri": Miniature(
        write_leukemia_attri,
        "leukemia",
        table="H_100X_C1/json_labels/test.json",
        stranger=("H_100X_C1/Images/test/7_1_1000_MDS.png", "MDS"),
    ),
    "bccd": Miniature(write_bccd, None),
    "folder": Miniature(write_folder, "leukemia", class_folder="cml", stranger=("cll or not/a.jpg", "cll or not")),
    "rendered": Miniature(write_rendered, "blast", stranger=("blasts/0001.png", "blasts")),
}


def read(name: str, root: Path) -> tuple[list[Sample], list[str]]:
    found = list(SOURCES[name].read(root))
    return [f for f in found if isinstance(f, Sample)], [f.text for f in found if isinstance(f, Remark)]


def having(attribute: str) -> list[str]:
    return [name for name, miniature in MINIATURES.items() if getattr(miniature, attribute) is not None]


def test_every_source_has_a_miniature_and_a_row_in_the_readme() -> None:
    assert set(MINIATURES) == set(SOURCES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {
        name for row in re.findall(r"^\| (`.*?`) \|", readme, re.MULTILINE) for name in re.findall("`([^`]+)`", row)
    }
    assert set(SOURCES) - {"rendered"} <= rows


@pytest.mark.parametrize("name", SOURCES)
def test_native_layout_is_read(name: str, tmp_path: Path) -> None:
    expected = MINIATURES[name].write(tmp_path)
    samples, remarks = read(name, tmp_path)
    got = [(s.path.relative_to(tmp_path).as_posix(), s.raw_label, s.group, s.diagnosis) for s in samples]
    assert sorted(got, key=str) == sorted(expected, key=str)
    assert not remarks


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_data_set_is_one_clear_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name}: no ") as caught:
        read(name, tmp_path / "nowhere")
    assert "\n" not in str(caught.value) and "nowhere" in str(caught.value)


@pytest.mark.parametrize("name", having("table"))
def test_a_missing_or_foreign_table_is_named(name: str, tmp_path: Path) -> None:
    MINIATURES[name].write(tmp_path)
    table = tmp_path / str(MINIATURES[name].table)
    for wrong in (b'{"images": []}', b"name,value\na,1\n", b"\xff\xfe\x00", b""):
        table.write_bytes(wrong)
        with pytest.raises(DataError, match=r"not (the published|a) table"):
            read(name, tmp_path)
    table.unlink()
    with pytest.raises(DataError, match=f"{name}: no table .*{table.name}"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", having("class_folder"))
def test_an_empty_folder_is_named(name: str, tmp_path: Path) -> None:
    MINIATURES[name].write(tmp_path)
    folder = tmp_path / str(MINIATURES[name].class_folder)
    for path in folder.rglob("*.*"):
        path.unlink()
    _, (remark,) = read(name, tmp_path)
    assert f"{name}: {folder}: no picture" in remark


@pytest.mark.parametrize("name", having("stranger"))
def test_a_label_that_is_no_class_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, miniature = tmp_path / "data", MINIATURES[name]
    expected = miniature.write(data / name)
    assert miniature.stranger and miniature.task
    path, label = miniature.stranger
    draw(data / name / path)
    classes = sorted({c for _, raw, _, _ in expected if (c := TASKS[miniature.task].class_of(name, raw))})
    options = ["--task", miniature.task, "--data", str(data), "--out", str(tmp_path / "i"), "--sources", name]
    assert main(["index", *options, "--labels", *classes]) == 0
    told = capsys.readouterr().err
    assert f"left out: 1 labelled {name}: {label}, which is no class here, as {name}/{path}" in told.splitlines()


@pytest.mark.parametrize("name", having("task"))
def test_damaged_repeated_and_contradictory_pictures_are_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, miniature = tmp_path / "data", MINIATURES[name]
    task = TASKS[str(miniature.task)]
    by_class: dict[str, list[str]] = {}
    for path, raw_label, _, _ in miniature.write(data / name):
        if label := task.class_of(name, raw_label):
            by_class.setdefault(label, []).append(f"{name}/{path}")
    (first, (one, twin, other, *_)), (second, (liar, broken, whole, *_)) = sorted(by_class.items())
    (data / twin).write_bytes((data / one).read_bytes())
    (data / liar).write_bytes((data / other).read_bytes())
    (data / broken).write_bytes((data / broken).read_bytes()[:60])

    options = ["--task", task.name, "--data", str(data), "--out", str(tmp_path / "index"), "--sources", name]
    assert main(["index", *options, "--labels", first, second]) == 0
    told = capsys.readouterr().err.splitlines()
    index = read_index(tmp_path / "index")
    kept = {row.path for row in index.rows}
    assert whole in kept and len({one, twin} & kept) == 1
    assert not {other, liar, broken} & kept
    assert any(line.startswith("left out: ") and broken in line for line in told)
    assert any(f"left out: {twin}: the same picture as {one}" == line or
               f"left out: {one}: the same picture as {twin}" == line for line in told)  # fmt: skip
    assert any(line.startswith("left out, one picture under two labels: ") and liar in line and other in line
               for line in told)  # fmt: skip


# ------------------------------------------------------------------------------------------------ odd names


def test_c_nmc_names_that_contradict_their_place_are_left_out_by_name(tmp_path: Path) -> None:
    write_c_nmc(tmp_path)
    training = tmp_path / "C-NMC_Leukemia/training_data"
    liar = draw(training / "fold_0/all/UID_H14_1_1_hem.bmp")
    nameless = draw(training / "fold_0/hem/cell 7.bmp")
    samples, remarks = read("c_nmc", tmp_path)
    assert not {liar, nameless} & {sample.path for sample in samples}
    assert [remark for remark in remarks if str(liar) in remark and "labelled all" in remark]
    assert [remark for remark in remarks if str(nameless) in remark and "no subject" in remark]


def test_c_nmc_as_on_tcia(tmp_path: Path) -> None:
    draw(tmp_path / "C-NMC_training_data/fold_2/hem/UID_H2_1_1_hem.bmp")
    draw(tmp_path / "C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data/1.bmp")
    (tmp_path / "C-NMC_test_prelim_phase_data_labels.csv").write_text(
        "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_57_29_2_all.bmp,2.bmp,1\n"
    )
    samples, remarks = read("c_nmc", tmp_path)
    assert [(s.path.name, s.raw_label, s.group) for s in samples] == [
        ("UID_H2_1_1_hem.bmp", "hem", "H2"),
        ("1.bmp", "all", "57"),
        ("2.bmp", "all", "57"),  # is not there: the index names it as unreadable
    ]
    assert not remarks


def test_all_idb_names_and_centres_are_checked(tmp_path: Path) -> None:
    write_all_idb1(tmp_path)
    draw(tmp_path / "ALL_IDB1/im/smear.jpg")
    (tmp_path / "ALL_IDB1/xyc/Im002_1.xyc").write_text("\n")
    _, remarks = read("all_idb1", tmp_path)
    assert len(remarks) == 2
    assert "smear.jpg: is not named ImNNN_C" in "".join(remarks)
    assert "Im002_1.jpg: is named ALL, but Im002_1.xyc marks no blast" in "".join(remarks)


def test_leukemia_attri_boxes_are_squares_around_the_cell(tmp_path: Path) -> None:
    write_leukemia_attri(tmp_path)
    draw(tmp_path / "H_100X_C1/Images/train/field.png")
    (tmp_path / "H_100X_C1/Images/train/5_1_1000_CLL.png").unlink()
    samples, remarks = read("leukemia_attri", tmp_path)
    assert {sample.box for sample in samples if sample.box} == {(14, 25, 20, 20)}  # of (20, 30, 8, 10), twice as large
    assert [remark for remark in remarks if "field.png: its name has no patient" in remark]
    assert [remark for remark in remarks if "5_1_1000_CLL.png: has boxes, but is not there" in remark]


@pytest.mark.parametrize(("key", "entry"), [
    ("annotations", {"image_id": 41, "category_id": 99, "bbox": [1, 1, 1, 1]}),
    ("annotations", {"image_id": 41, "category_id": 1, "bbox": [1, 1, float("inf"), 1]}),
    ("annotations", {"image_id": 41, "category_id": 1, "bbox": [1, 1, 1]}),
    ("annotations", "a box"),
    ("images", {"id": 77, "file_name": 5}),
    ("images", ["id", "file_name"]),
    ("categories", {"id": 2, "name": None}),
    ("categories", {"id": [2], "name": "blast"}),
])  # fmt: skip
def test_a_coco_file_that_does_not_fit_together_is_named(key: str, entry: object, tmp_path: Path) -> None:
    write_leukemia_attri(tmp_path)
    table = tmp_path / "H_100X_C1/json_labels/train.json"
    coco = json.loads(table.read_text())
    coco[key].append(entry)
    table.write_text(json.dumps(coco))
    with pytest.raises(DataError, match="does not fit together") as caught:
        read("leukemia_attri", tmp_path)
    assert str(table) in str(caught.value)


@pytest.mark.parametrize("text", [
    "<annotation><object>",
    "<annotation><object><name>WBC</name></object></annotation>",
    "<?xml version='1.0' encoding='martian'?><annotation/>",
    "<?xml version='1.0' encoding='utf-7'?><annotation/>",
    *(
        f"<annotation><object><name>WBC</name><bndbox><xmin>{number}</xmin><ymin>6</ymin><xmax>15</xmax>"
        "<ymax>22</ymax></bndbox></object></annotation>"
        for number in ("inf", "nan", "five")
    ),
])  # fmt: skip
def test_a_damaged_voc_annotation_is_named(text: str, tmp_path: Path) -> None:
    write_bccd(tmp_path)
    (tmp_path / "BCCD/Annotations/B_2.xml").write_text(text)
    samples, (remark,) = read("bccd", tmp_path)
    assert [sample.box for sample in samples] == [(5, 6, 10, 16)] * 2
    assert "B_2.xml: not a VOC annotation" in remark


# ------------------------------------------------------------------------------------------------ odd folders


def test_pictures_behind_links_are_read_and_circles_are_not_run_in(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere/deep/b.png")
    folder = tmp_path / "set/Early"
    draw(folder / "c.png")
    draw(folder / "B/a.png")
    (folder / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for place, target in (("self", folder), ("B/up", tmp_path / "set")):
        (folder / place).symlink_to(target, target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(folder, target_is_directory=True)
    found = [path.relative_to(folder).as_posix() for path in pictures_in(folder)]
    assert found == ["B/a.png", "a/deep/b.png", "c.png"], "in the order of their whole paths"


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, scandir = tmp_path / "data", os.scandir
    MINIATURES["taleqani"].write(data / "taleqani")
    closed = data / "taleqani/Original/Early/closed"
    draw(closed / "a.jpg")

    def refuse(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # tests may run as root, whom no mode keeps out
    options = ["--data", str(data), "--out", str(tmp_path / "index"), "--labels", "Benign", "Early"]
    assert main(["index", "--task", "all-subtypes", *options]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {closed}: cannot be listed: got Permission denied") and told.count("\n") == 1


def test_names_that_are_not_utf8_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, root = tmp_path / "data", tmp_path / "data/folder"
    write_folder(root)
    try:
        for odd in (b"cml/odd-\xff.jpg", b"cml/patient-\xfe/1.jpg", b"class-\xfd/1.jpg"):
            path = Path(os.fsdecode(os.path.join(os.fsencode(root), odd)))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((root / "cml/scan 1.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    options = ["--data", str(data), "--out", str(tmp_path / "index"), "--labels", "CML", "Healthy"]
    assert main(["index", "--task", "leukemia", *options]) == 0
    told = capsys.readouterr().err.splitlines()
    for name in (r"odd-\udcff.jpg", r"patient-\udcfe/1.jpg", r"class-\udcfd/1.jpg"):
        assert any(line.startswith("note: ") and f"{name}: its name is not UTF-8" in line for line in told)
    index = read_index(tmp_path / "index")
    assert len(index.rows) == 6 and len(index.info["remarks"]) == 3


def test_a_table_cannot_lead_out_of_the_data_folder(tmp_path: Path) -> None:
    root = tmp_path / "data/segmentation_wbc"
    write_segmentation_wbc(root)
    table = root / "Class Labels of Dataset 2.csv"
    table.write_text(table.read_text(encoding="utf-8-sig") + f"{tmp_path / 'other'},4\n")
    task = TASKS["blood-cells"].restricted(["eosinophil", "basophil"])
    found = collect(task, tmp_path / "data", ["segmentation_wbc"])
    assert found.remarks == [f"segmentation_wbc: {tmp_path / 'other.jpg'}: lies outside the data folder"]


def test_a_picture_outside_the_class_folders_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    draw(tmp_path / "IMG_1.JPG")
    _, (remark,) = read("folder", tmp_path)
    assert "IMG_1.JPG: lies in no class folder" in remark


def test_a_class_number_the_table_does_not_explain_is_left_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_segmentation_wbc(data / "segmentation_wbc")
    table = data / "segmentation_wbc" / "Class Labels of Dataset 2.csv"
    table.write_text(table.read_text(encoding="utf-8-sig").replace("2,5", "2,9"))
    task = TASKS["blood-cells"].restricted(["eosinophil", "basophil"])
    index = build_index(task, data, tmp_path / "index", ["segmentation_wbc"])
    assert index.info["labels_left_out"] == {"segmentation_wbc: class 9": 1}


def test_every_real_source_is_read(shared_data: Path) -> None:
    there = [name for name in SOURCES if (shared_data / name).is_dir()]
    found = {name: read(name, shared_data / name) for name in there}
    counts = {name: len(samples) for name, (samples, _) in found.items()}
    assert {name: counts[name] for name in ("taleqani", "deepapl", "pbc", "segmentation_wbc")} == {
        "taleqani": 2905,
        "deepapl": 4289,
        "pbc": 4700,
        "segmentation_wbc": 100,
    }
    assert counts["bccd"] > 288
    assert len({sample.group for sample in found["deepapl"][0]}) == 82
    assert not [remark for _, remarks in found.values() for remark in remarks]
