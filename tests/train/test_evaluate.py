"""Evaluate, end to end: generated pictures, an untrained network, and every number where it belongs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from edge_runtime.errors import UsageError
from train import evaluate
from train.backbones import BACKBONES
from train.bundle_evaluation import evaluate_bundle
from train.errors import DataError
from train.evaluate import index_of, measure, network_outputs
from train.index import Index, Row, build_index, read_index, write_index
from train.metrics import fit_temperature, positive_scores, probabilities
from train.network import SelfExplaining
from train.pixels import load_pixels
from train.run_folder import Run, read_info, read_run, write_info, write_run
from train.tables import bundle_report, run_report
from train.tasks import TASKS

LABELS = TASKS["all-subtypes"].labels
PER_CLASS = 10
SPLITS = ("train",) * 5 + ("val",) * 2 + ("test",) * 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten noisy 64 px fields per class, whose colour betrays the class; both protocols dealt by hand."""
    data, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for k, label in enumerate(LABELS):
        folder = data / "taleqani" / "Original" / label
        folder.mkdir(parents=True)
        for i in range(PER_CLASS):
            field = rng.integers(120, 200, (64, 64, 3))
            field[..., k % 3] -= 40 * (1 + k // 3)
            Image.fromarray(field.astype(np.uint8)).save(folder / f"{i}.png")
    index = build_index(TASKS["all-subtypes"], data, tmp_path_factory.mktemp("index") / "all-subtypes")
    rows = []
    for row in index.rows:
        i = int(Path(row.path).stem)
        rows.append(
            dataclasses.replace(
                row, group=f"{row.label}-{i}", grouped=SPLITS[i], stratified=SPLITS[(i + 4) % PER_CLASS]
            )
        )
    write_index(dataclasses.replace(index, rows=tuple(rows), info=index.info | {"split_seed": 5}))
    return index.folder


def make_run(folder: Path, index: Index, protocol: str = "grouped") -> Path:
    torch.manual_seed(0)
    network = SelfExplaining(BACKBONES["mobilenetv2"], len(LABELS))
    torch.nn.init.normal_(network.classifier.weight, std=0.2)
    with torch.inference_mode():  # batch norms that know these pictures: logits then differ from one to the other
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(torch.from_numpy(np.array(load_pixels(index)[::2])))
    write_run(
        folder,
        network,
        {
            "format": "leukoscope-run",
            "version": 1,
            "task": "all-subtypes",
            "labels": list(LABELS),
            "backbone": "mobilenetv2",
            "input_px": 224,
            "protocol": protocol,
            "seed": 0,
            "index": str(index.folder),
            "data_sha256": index.sha256,
            "config": {},
        },
    )
    return folder


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def evaluated(index_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "grouped", read_index(index_folder))
    evaluate.run(arguments(folder))
    return folder


def test_run_folder_gains_what_export_reads(evaluated: Path) -> None:
    info = read_info(evaluated)
    json.dumps(info, allow_nan=False)
    assert 0.05 <= info["temperature"] <= 20
    (point,) = info["operating_points"]
    assert point["name"] == "malignant" and point["positive"] == ["Early", "Pre", "Pro"]
    assert point["sensitivity"] >= 0.99 and 0 <= point["threshold"] <= 1 and 0 <= point["specificity"] <= 1
    assert set(info["metrics"]) >= {"protocol", "validation", "test", "per_source", "operating_points", "controls"}
    assert info["metrics"]["protocol"]["name"] == "grouped"
    assert info["metrics"]["protocol"]["split_seed"] == 5
    assert info["metrics"]["protocol"]["pictures"] == {"train": 20, "val": 8, "test": 12}
    assert info["metrics"]["validation"]["n"] == 8 and info["metrics"]["test"]["n"] == 12
    for name in ("confusion.png", "reliability.png"):
        with Image.open(evaluated / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_numbers_are_those_of_the_network_on_the_test_files(evaluated: Path, index_folder: Path) -> None:
    info, run = read_info(evaluated), read_run(evaluated)
    index = read_index(index_folder)
    test, val = index.select("grouped", "test"), index.select("grouped", "val")
    with torch.inference_mode():
        logits = {
            name: run.network(torch.from_numpy(load_pixels(index)[rows]))[0].numpy()
            for name, rows in (("test", test), ("val", val))
        }
    right = logits["test"].argmax(1) == index.targets(test)
    assert info["metrics"]["test"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert sum(map(sum, info["metrics"]["test"]["confusion"])) == 12
    by_group = info["per_group"]["rows"]
    assert sum(row["right"] for row in by_group) == right.sum() and sum(row["n"] for row in by_group) == 12
    assert {row["group"] for row in by_group} == {index.rows[i].group for i in test}
    assert info["temperature"] == pytest.approx(fit_temperature(logits["val"], index.targets(val)), rel=1e-3)
    assert abs(np.log(info["temperature"])) > 0.1
    (point,) = info["operating_points"]
    scores = positive_scores(probabilities(logits["val"], info["temperature"]), (1, 2, 3))
    positive = index.targets(val) > 0
    lowest = scores[positive].min()  # 6 positives: a sensitivity of 0.99 keeps them all
    below = scores[~positive & (scores < lowest)].max(initial=0)
    assert below < point["threshold"] < lowest
    assert point["specificity"] == (scores[~positive] < lowest).mean()


def test_controls_stand_beside_the_network(evaluated: Path) -> None:
    rows = {row["name"]: row for row in read_info(evaluated)["metrics"]["controls"]}
    assert rows["colour, LDA"]["macro_f1"]["value"] == 1.0  # the planted colour
    assert rows["majority"]["macro_f1"]["value"] == pytest.approx(0.1)
    assert "macro_f1_difference_pp" in rows["network, burnt-in mark blanked"]
    assert not any(row["asks"] == "source" for row in rows.values())


def test_two_runs_share_one_table(evaluated: Path, index_folder: Path, tmp_path: Path, capsys) -> None:
    other = make_run(tmp_path / "stratified", read_index(index_folder), "stratified")
    copy = tmp_path / "grouped"
    shutil.copytree(evaluated, copy)
    evaluate.run(arguments(copy, other))
    text = capsys.readouterr().out
    lines = text.splitlines()
    head = next(line for line in lines if "grouped: macro-F1" in line)
    assert "stratified: macro-F1" in head
    for name in ("network", "majority", "colour, 1-NN", "background ring, LDA", "network, burnt-in mark blanked"):
        (line,) = (line for line in lines if line.startswith(f"{name}  "))
        assert line.count("[") == 4, line  # macro-F1 and balanced accuracy, twice, with intervals
    assert "malignant: sensitivity" in text and "whole groups" in text
    again, before = read_info(copy), read_info(evaluated)
    assert again["metrics"]["test"]["macro_f1"] == before["metrics"]["test"]["macro_f1"]  # same run, same numbers
    assert again["metrics"]["controls"][:5] == before["metrics"]["controls"][:5]


def test_json_is_one_object_on_stdout(evaluated: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "run"
    shutil.copytree(evaluated, copy)
    evaluate.run(arguments(copy, "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found[str(copy)]["metrics"] == read_info(copy)["metrics"]


def test_another_index_is_refused_even_when_named(evaluated: Path, index_folder: Path, tmp_path: Path) -> None:
    index = read_index(index_folder)
    rows = list(index.rows)
    rows[0], rows[-1] = (
        dataclasses.replace(rows[0], grouped=rows[-1].grouped),
        dataclasses.replace(rows[-1], grouped=rows[0].grouped),
    )
    other = dataclasses.replace(index, folder=tmp_path / "other", rows=tuple(rows))
    write_index(other)
    run = read_run(evaluated)
    with pytest.raises(DataError, match=r"may hold training pictures.*sha256.*--index"):
        index_of(run, tmp_path / "other")
    with pytest.raises(DataError, match="may hold training pictures"):
        evaluate.run(arguments(evaluated, "--index", tmp_path / "other"))
    moved = shutil.copytree(index_folder, tmp_path / "moved")
    assert index_of(run, moved).sha256 == index.sha256


def test_index_that_is_gone_is_named(evaluated: Path, tmp_path: Path) -> None:
    run = read_run(evaluated)
    lost = Run(run.folder, run.network, run.task, run.info | {"index": str(tmp_path / "gone")})
    with pytest.raises(DataError, match=r"gone.*--index FOLDER"):
        index_of(lost)


@pytest.mark.parametrize("words", [("a", "b", "--bundle", "c"), ("a", "--out", "x.json"), ("a", "--engine", "litert")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        evaluate.run(arguments(*words))


def test_network_outputs_keep_order_and_do_not_depend_on_the_batch(index_folder: Path, evaluated: Path) -> None:
    pixels, network = load_pixels(read_index(index_folder)), read_run(evaluated).network
    network.train()  # must be put into eval mode
    logits, class_map = network_outputs(network, pixels, [3, 0, 7], batch=2, progress=None)
    assert logits.dtype == class_map.dtype == np.float32
    assert logits.shape == (3, 4) and class_map.shape == (3, 7, 7, 4)
    assert np.allclose(class_map.mean((1, 2)) + network.bias.detach().numpy(), logits, atol=1e-5)
    alone, _ = network_outputs(network, pixels, [0], progress=None)
    assert np.allclose(alone[0], logits[1], atol=1e-4)
    assert not np.allclose(logits[0], logits[1], atol=1e-3)


def test_measure_within_each_source() -> None:
    """Blasts come from DeepAPL alone: over both sources the source helps, so each is stated on its own."""
    task, rng = TASKS["blood-cells"], np.random.default_rng(0)
    labels = [*["blast"] * 40, *["lymphocyte"] * 40, *["lymphocyte"] * 120]
    sources = ["deepapl"] * 80 + ["pbc"] * 120
    rows = tuple(
        Row(str(i), None, s, k, k, "", f"{s}:{i // 4}", f"{i:064x}", "", "test", "test")
        for i, (s, k) in enumerate(zip(sources, labels, strict=True))
    )
    index = Index(Path(), Path(), task, rows, {})
    logits = np.full((200, 10), -9.0, np.float32)
    logits[:, 3] = 0
    logits[:80, 0] = rng.normal(size=80) + 0.5 * np.repeat([1, 0], 40)  # little skill among DeepAPL's own cells
    points = [{"name": "blast", "positive": ["blast"], "threshold": 0.5}]
    found = measure(logits, index, list(range(200)), 1.0, points, resamples=50)
    (point,) = found["operating_points"]
    alone, pooled = point["per_source"]["deepapl"]["auroc"]["value"], point["test"]["auroc"]["value"]
    assert pooled > alone + 0.15
    assert point["per_source"]["pbc"]["auroc"] is None and point["per_source"]["pbc"]["specificity"]["value"] == 1
    score = logits[:80, 0] - logits[:80, 3]
    pairs = score[:40, None] > score[None, 40:]
    assert alone == pytest.approx(pairs.mean(), abs=1e-9)
    assert found["per_source"]["deepapl"]["n"] == 80 and found["per_source"]["pbc"]["n"] == 120


class Runtime:
    """Stands for an open bundle: the run's own network, seen through the runtime's interface."""

    def __init__(self, run: Run, change=lambda logits: logits, **training: str) -> None:
        stated = {"weights_sha256": run.info["weights_sha256"]} | training
        points = [SimpleNamespace(**point) for point in run.info["operating_points"]]
        manifest = SimpleNamespace(
            task=SimpleNamespace(labels=run.task.labels),
            raw={"training": stated},
            temperature=run.info["temperature"],
            operating_points=points,
        )
        self.bundle = SimpleNamespace(id="tiny@0123", manifest=manifest)
        self.engine = SimpleNamespace(name="torch")
        self.preprocess = evaluate_preprocess()
        self.network, self.change = run.network, change

    def classify_pixels(self, pixels: np.ndarray) -> SimpleNamespace:
        logits, _ = network_outputs(self.network, pixels[None], [0], progress=None)
        return SimpleNamespace(logits=self.change(logits[0]))


def evaluate_preprocess():
    from edge_runtime.preprocess import Preprocess

    return Preprocess(224)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def put(runtime: Runtime) -> None:
        from edge_runtime.classifier import Classifier

        monkeypatch.setattr(Classifier, "open", lambda bundle, engine=None: runtime)

    return put


def test_equal_bundle_has_no_difference(evaluated: Path, opened, tmp_path: Path, capsys) -> None:
    run = read_run(evaluated)
    opened(Runtime(run))
    evaluate.run(arguments(evaluated, "--bundle", "tiny", "--out", tmp_path / "tiny.json"))
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["pixels_as_trained"] == 1.0
    assert found["paired"]["macro_f1_difference_pp"] == {"value": 0, "low": 0, "high": 0}
    assert found["paired"]["top1_agreement"]["value"] == 1
    assert found["test"]["confusion"] == run.info["metrics"]["test"]["confusion"]
    for name in ("accuracy", "macro_f1", "macro_auroc", "ece", "nll"):
        assert found["test"][name]["value"] == pytest.approx(run.info["metrics"]["test"][name]["value"], abs=1e-4)
    text = capsys.readouterr().out
    assert "tiny@0123 through torch" in text and "macro-F1 difference, pp" in text
    (line,) = (line for line in text.splitlines() if line.startswith("macro-F1  "))
    assert line.count("[") == 2  # reference and bundle side by side
    assert all(f"\n{name}  " in text for name in ("reference", "bundle", "colour, 1-NN"))


def test_bundle_with_swapped_classes_is_seen(evaluated: Path, index_folder: Path, opened) -> None:
    run = read_run(evaluated)
    opened(Runtime(run, change=lambda logits: logits[::-1].copy()))
    found = evaluate_bundle(run, read_index(index_folder), "tiny", resamples=50)
    assert found["paired"]["top1_agreement"]["value"] < 0.5
    assert np.array(found["test"]["confusion"]).tolist() == np.fliplr(run.info["metrics"]["test"]["confusion"]).tolist()
    assert "class by class" in bundle_report(run.info["metrics"], found)


def test_bundle_of_another_run_is_refused(evaluated: Path, index_folder: Path, opened) -> None:
    run = read_run(evaluated)
    opened(Runtime(run, weights_sha256="0" * 64))
    with pytest.raises(DataError, match=r"not a bundle of .*weights_sha256"):
        evaluate_bundle(run, read_index(index_folder), "tiny")


def test_bundle_needs_an_evaluated_run_and_unchanged_pictures(
    evaluated: Path, index_folder: Path, opened, tmp_path: Path
) -> None:
    run, index = read_run(evaluated), read_index(index_folder)
    opened(Runtime(run))
    bare = Run(run.folder, run.network, run.task, {k: v for k, v in run.info.items() if k != "metrics"})
    with pytest.raises(DataError, match=r"not evaluated.*python -m train evaluate"):
        evaluate_bundle(bare, index, "tiny")
    data = shutil.copytree(index.data, tmp_path / "data")
    victim = data / index.rows[index.select("grouped", "test")[0]].path
    Image.open(victim).rotate(90).save(victim)
    with pytest.raises(DataError, match="has changed"):
        evaluate_bundle(run, dataclasses.replace(index, data=data), "tiny", resamples=20)


def test_report_of_two_runs_under_one_protocol_names_them(evaluated: Path) -> None:
    info = read_info(evaluated)
    text = run_report({"runs/a": info, "runs/b": info})
    assert "grouped (runs/a): macro-F1" in text and "grouped (runs/b): macro-F1" in text


def test_class_of_one_group_shows_no_interval(evaluated: Path) -> None:
    info = read_info(evaluated)
    assert "[one group]" not in run_report({"a": info})
    info["metrics"]["test"]["per_class"]["Pro"]["groups"] = 1
    (line,) = (line for line in run_report({"a": info}).splitlines() if "[one group]" in line)
    assert line.startswith("Pro")


def test_run_that_cannot_be_measured_is_left_as_it_was(index_folder: Path, tmp_path: Path) -> None:
    index = read_index(index_folder)
    folder = make_run(tmp_path / "broken", index)
    run = read_run(folder)
    with torch.no_grad():
        run.network.bias[0] = float("nan")
    write_run(folder, run.network, run.info)
    before = (folder / "run.json").read_bytes()
    with pytest.raises(DataError, match="finite"):
        evaluate.run(arguments(folder))
    assert (folder / "run.json").read_bytes() == before
    write_info(folder, read_info(folder) | {"data_sha256": "0" * 64})
    with pytest.raises(DataError, match="train again"):
        evaluate.run(arguments(folder))
