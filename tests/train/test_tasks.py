"""Tasks map authors' words to classes, can be restricted, and keep test sets of other laboratories out of training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REFERENCES
from train.collect import collect
from train.errors import DataError
from train.run_folder import read_run
from train.sources import SOURCES
from train.tasks import TASKS, Task


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_mappings_lead_from_known_sources_to_the_tasks_classes(task: Task) -> None:
    assert set(task.mapping) <= set(SOURCES)
    assert set(task.external) <= set(task.mapping)
    assert {label for names in task.mapping.values() for label in names.values()} == set(task.labels)
    for point in task.operating_points:
        assert set(point.positive) < set(task.labels)
    assert task.intended
    for label in task.labels:
        assert task.class_of("folder", label.upper()) == task.class_of("rendered", label) == label
    assert task.class_of("rendered", "no such class") is None


def test_every_source_but_one_without_cell_types_is_in_a_task() -> None:
    assert set(SOURCES) - {source for task in TASKS.values() for source in task.mapping} == {"bccd"}
    assert "in no task" in SOURCES["bccd"].title


def test_blast_asks_of_the_same_labels_what_blood_cells_knows() -> None:
    cells, blast = TASKS["blood-cells"], TASKS["blast"]
    for source in ("deepapl", "lmu", "pbc", "raabin", "segmentation_wbc"):
        for name, label in cells.mapping[source].items():
            assert blast.class_of(source, name) == ("blast" if label == "blast" else "other")


def test_munich_abbreviations_are_not_mixed_up() -> None:
    """MYO is the myeloblast; MYB, which looks like one, is the myelocyte."""
    assert TASKS["blood-cells"].class_of("lmu", "MYO") == "blast"
    assert TASKS["blood-cells"].class_of("lmu", "MYB") == "immature granulocyte"
    assert len(TASKS["blood-cells"].mapping["lmu"]) == 15


def test_hematogones_are_called_what_they_are() -> None:
    for name in ("leukemia", "all-vs-healthy"):
        assert TASKS[name].class_of("taleqani", "Benign") == "Healthy"
        assert "hematogones, not healthy donors" in TASKS[name].intended


def test_restriction_keeps_the_tasks_order_and_drops_what_is_left_without_meaning() -> None:
    task = TASKS["blood-cells"].restricted(["lymphocyte", "neutrophil", "platelet"])
    assert task.labels == ("neutrophil", "lymphocyte", "platelet")
    assert task.operating_points == (), "no blasts, no question about them"
    assert set(task.mapping["pbc"].values()) == set(task.labels)
    assert TASKS["leukemia"].restricted(["ALL", "AML"]).operating_points == (), "all of them would say yes"
    assert "pbc" not in TASKS["leukemia"].restricted(["ALL", "AML"]).mapping
    full = TASKS["leukemia"]
    assert full.restricted(full.labels) == full


@pytest.mark.parametrize("labels", [["ALL", "aml"], ["ALL"], ["ALL", "ALL"], []])
def test_restrictions_that_make_no_sense_are_refused(labels: list[str]) -> None:
    with pytest.raises(DataError, match="two or more of ALL, AML, CLL, CML, Healthy"):
        TASKS["leukemia"].restricted(labels)


def _pictures(data: Path, *paths: str) -> None:
    for path in paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(data / path)


def test_another_laboratorys_test_set_is_taken_only_where_it_is_named(tmp_path: Path) -> None:
    _pictures(tmp_path, "raabin/Train/Neutrophil/1.jpg", "raabin/Train/Monocyte/1.jpg")
    _pictures(tmp_path, "pbc/PBC_dataset_normal_DIB/neutrophil/1.jpg", "pbc/PBC_dataset_normal_DIB/monocyte/1.jpg")
    task = TASKS["blood-cells"].restricted(["neutrophil", "monocyte"])
    assert collect(task, tmp_path).sources == ["pbc"]
    assert collect(task, tmp_path, ["raabin"]).sources == ["raabin"]
    assert len(collect(task, tmp_path, ["raabin", "pbc", "pbc"]).samples) == 4, "a source named twice is read once"


def test_cells_and_the_fields_they_were_cut_from_do_not_mix(tmp_path: Path) -> None:
    _pictures(tmp_path, *(f"all_idb1/ALL_IDB1/im/Im00{n}_{n}.jpg" for n in (0, 1)))
    _pictures(tmp_path, *(f"all_idb2/ALL_IDB2/img/Im00{n}_{n}.tif" for n in (0, 1)))
    task = TASKS["all-vs-healthy"]
    assert collect(task, tmp_path).sources == ["all_idb1"]
    with pytest.raises(DataError, match="all_idb2 was cut out of all_idb1"):
        collect(task, tmp_path, ["all_idb1", "all_idb2"])


def test_shipped_models_sources_are_still_the_default(shared_data: Path) -> None:
    for name in ("all-subtypes", "blood-cells"):
        info = json.loads((REFERENCES / name / "run.json").read_text())
        found = collect(TASKS[info["task"]], shared_data)
        assert sorted(found.sources) == sorted(info["sources"])
        assert [label for label in TASKS[info["task"]].labels] == info["labels"]


def _with_labels(folder: Path, labels: list[str]) -> Path:
    """Copy the blood-cells reference with the outputs for `labels` only."""
    from safetensors.numpy import load_file, save

    reference = REFERENCES / "blood-cells"
    shutil.copytree(reference, folder)
    info = json.loads((reference / "run.json").read_text())
    outputs = [info["labels"].index(label) for label in labels]
    weights = load_file(reference / "weights.safetensors")
    for name, tensor in weights.items():
        if tensor.shape[:1] == (len(info["labels"]),):
            weights[name] = np.ascontiguousarray(tensor[outputs])
    encoded = save(weights)
    (folder / "weights.safetensors").write_bytes(encoded)
    info |= {"labels": labels, "weights_sha256": hashlib.sha256(encoded).hexdigest()}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_a_run_of_a_restricted_task_is_read(tmp_path: Path) -> None:
    run = read_run(_with_labels(tmp_path / "run", ["blast", "lymphocyte", "platelet"]))
    assert run.task == TASKS["blood-cells"].restricted(["blast", "lymphocyte", "platelet"])
    assert run.network.classifier.weight.shape[0] == 3


@pytest.mark.parametrize("labels", [["lymphocyte", "blast"], ["blast", "lymphocyte", "blast"]])
def test_a_run_with_labels_out_of_order_is_refused(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(DataError, match="labels are not the task's, in its order"):
        read_run(_with_labels(tmp_path / "run", labels))
