"""The report: one file, nothing from outside, every number with its split, and nothing that was not measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from train.audit import audit_run
from train.augment import AUGMENTATIONS
from train.cautions import cautions
from train.cli import build_parser, main
from train.errors import DataError
from train.evaluate import index_of
from train.external import evaluate_external
from train.page import Commands, Section, Table, Text, render_page
from train.plots import Series, interval_picture, to_svg
from train.report import build_report
from train.reproduce import augmentation_name, commands
from train.run_folder import read_info, read_run
from train.tables import interval_text


class Page(HTMLParser):
    """What a page is made of: elements with their attributes, text, and whether all of them are closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def full_run(rendered_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything: evaluated, audited, tried on an external set (its own test split, for want of another)."""
    folder = shutil.copytree(rendered_run, tmp_path_factory.mktemp("report") / "run & <co>")
    run = read_run(folder)
    index = index_of(run)
    audit_run(run, index, resamples=50)
    run = read_run(folder)
    evaluate_external(run, index, index, "test", resamples=50)
    return folder


@pytest.fixture(scope="module")
def page(full_run: Path) -> str:
    return build_report({str(full_run): read_info(full_run)})


def test_nothing_comes_from_outside(page: str) -> None:
    parsed = Page(page)
    for _, attributes in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,")), attributes
    assert not parsed.all("script") and not parsed.all("link") and not parsed.all("iframe")
    assert not re.search(r"@import|url\((?!#)", page)


def test_it_can_be_read_by_everybody(page: str) -> None:
    parsed = Page(page)
    assert parsed.all("html")[0]["lang"] == "en" and len(parsed.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h\d", tag)]
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert len(parsed.all("caption")) == len(parsed.all("table")) >= 12
    assert all(cell.get("scope") in ("col", "row") for cell in parsed.all("th"))
    pictures = parsed.all("svg")
    assert len(pictures) == len(parsed.all("figure")) == 5
    assert all(one["role"] == "img" and len(one["aria-label"]) > 30 for one in pictures)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in parsed.all("a")} | {a["xlink:href"][1:] for a in parsed.all("use")}
    assert targets <= set(ids)
    assert "width=device-width" in page and "@media print" in page


def test_it_says_what_was_measured(page: str, full_run: Path) -> None:
    text, info = Page(page).text, read_info(full_run)
    test = info["metrics"]["test"]
    for interval in (
        test["macro_f1"],
        test["ece"],
        info["per_group"]["mean_accuracy"],
        info["audit"]["worst"]["macro_f1"],
    ):
        assert interval_text(interval) in text
    for control in info["metrics"]["controls"]:
        assert control["name"] in text and interval_text(control["macro_f1"]) in text
    for row in info["audit"]["rows"]:
        assert row["name"] in text and interval_text(row["macro_f1_difference_pp"], 1) in text
    for row in info["per_group"]["rows"][:10]:
        assert row["group"] in text
    for words in ("not a diagnosis", "Take with care", "Mean accuracy over groups", "torch 2."):
        assert words in text
    assert "run & <co>" in text and "<co>" not in page  # escaped


def test_every_caption_of_a_run_says_split_number_and_interval(page: str) -> None:
    n = r"grouped protocol, test split, \d+ pictures in \d+ groups; 95% percentile bootstrap over groups, \d+ resamples"
    captions = re.findall(r"<caption><span>(.*?)</span>", page)
    for start in ("Figures;", "Class by class; grouped", "The network beside its controls, which", "One thing changed"):
        (caption,) = (caption for caption in captions if caption.startswith(start))
        assert re.search(n, caption), caption
    assert any(re.search(r"external protocol, .* test of its pictures, \d+ pictures", caption) for caption in captions)
    assert any("Wilson" in caption for caption in captions)


def test_same_runs_same_bytes(page: str, full_run: Path) -> None:
    assert build_report({str(full_run): read_info(full_run)}) == page


def test_what_was_not_measured_is_named_with_its_command(rendered_run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(rendered_run), "--out", str(out)]) == 0
    text = Page(out.read_text(encoding="utf-8")).text
    for command in ("audit", "external"):
        assert f"run python -m train {command} {rendered_run}" in text
    assert "not audited for shortcuts" in text and "any other laboratory" in text
    assert "1 runs" in capsys.readouterr().out


def test_two_runs_share_the_data_card(rendered_run: Path, full_run: Path) -> None:
    page = build_report({str(folder): read_info(folder) for folder in (rendered_run, full_run)})
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert sum(title.startswith("Data: ") for title in titles) == 1
    assert sum(title.startswith("Run ") for title in titles) == 2
    Page(page)


def test_what_is_refused(rendered_run: Path, rendered_index: Path, tmp_path: Path, capsys) -> None:
    info = read_info(rendered_run)
    with pytest.raises(DataError, match="not evaluated"):
        build_report({"r": {key: value for key, value in info.items() if key != "metrics"}})
    moved = info | {"index": str(tmp_path / "gone")}
    with pytest.raises(DataError, match=r"its index is not at .*--index"):
        build_report({str(rendered_run): moved})
    assert "Runs side by side" in build_report({str(rendered_run): moved}, [rendered_index])
    (headed := tmp_path / "headed").mkdir()
    (headed / "run.json").write_text(json.dumps(info))
    (headed / "curves.csv").write_text("epoch,train_loss,val_loss,val_macro_f1\n")
    with pytest.raises(DataError, match="no learning curves"):
        build_report({str(headed): info})
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text(json.dumps(info))
    assert main(["report", str(bare), "--out", str(tmp_path / "out.html")]) == 1
    assert "no learning curves" in capsys.readouterr().err and not (tmp_path / "out.html").exists()


def test_commands_make_the_run_again(full_run: Path) -> None:
    info = read_info(full_run)
    lines = [shlex.split(line)[3:] for line in commands(full_run, info)]
    assert [line[0] for line in lines] == ["index", "split", "fit", "evaluate", "audit", "external"]
    parsed = [build_parser().parse_args(line) for line in lines]
    fit = parsed[2]
    for key in ("epochs", "head_epochs", "batch", "small_px", "lr", "patience", "seed"):
        assert getattr(fit, key) == info["config"][key]
    assert (fit.protocol, fit.backbone, fit.augmentation) == ("grouped", "mobilenetv2", "full")
    assert parsed[0].task == "all-subtypes" and parsed[0].sources == ["rendered"] and parsed[0].labels is None
    assert parsed[1].seed == info["split_seed"] and parsed[5].split == "test"
    other = info | {"labels": ["Early", "Pre"], "input_px": 160, "teacher": "0" * 64, "pretrained": "none"}
    other["config"] = info["config"] | {"augmentation": dataclasses.asdict(AUGMENTATIONS["geometry"])}
    lines = [shlex.split(line)[3:] for line in commands(full_run, other)]
    index, fit = (build_parser().parse_args(lines[i]) for i in (0, 2))
    assert index.labels == ["Early", "Pre"] and fit.px == 160 and fit.augmentation == "geometry"
    assert str(fit.teacher) == "TEACHER" and fit.weights == "none"
    assert (fit.background, fit.stain, fit.precision) == ("keep", "keep", "32-true")
    assert index.limit is None and fit.weights_scaling == "tf"
    more = info | {"index_limit": 14, "weights_scaling": "imagenet", "audit_val": {}, "pretrained": "x.safetensors"}
    parsed = [build_parser().parse_args(shlex.split(line)[3:]) for line in commands(full_run, more)]
    assert parsed[0].limit == 14 and parsed[2].weights_scaling == "imagenet"
    assert [audit.split for audit in parsed[4:6]] == ["test", "val"]
    standardised = {"input_px": 224, "background": "neutral-field", "stain": "reinhard"}
    line = commands(full_run, info | {"preprocess": standardised, "precision": "bf16-mixed"})[2]
    fit = build_parser().parse_args(shlex.split(line)[3:])
    assert (fit.background, fit.stain, fit.precision) == ("neutral", "reinhard", "bf16-mixed")


def test_augmentation_is_known_by_its_strengths() -> None:
    for name, row in AUGMENTATIONS.items():
        assert augmentation_name({"config": {"augmentation": dataclasses.asdict(row)}}) == name
    strange = dataclasses.asdict(AUGMENTATIONS["full"]) | {"stain": 0.33}
    assert augmentation_name({"config": {"augmentation": strange}}) == "OTHER"
    assert augmentation_name({"config": {"augmentation": {"wind": 1}}}) == augmentation_name({"config": {}}) == "OTHER"


def test_cautions_follow_the_figures(full_run: Path) -> None:
    info = json.loads(json.dumps(read_info(full_run)))
    card = {"sources": {"a": {}, "b": {}}, "confounding": {"single_source": {"Pro": "b"}}}
    metrics = info["metrics"]
    metrics["test"]["macro_f1"] = {"value": 0.9, "low": 0.85, "high": 0.95}
    for control in metrics["controls"]:
        control["macro_f1"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    fallen = next(row for row in info["audit"]["rows"] if row["expected"] == "falls")
    fallen["balanced_accuracy"] = {"value": 0.3, "low": 0.2, "high": 0.4}
    assert info["audit"]["chance_balanced_accuracy"] == 1 / len(info["labels"]) == 0.25
    info["external"] = {"own": {"sources": {"a": {"trained_on": True}}}}
    for row in metrics["test"]["per_class"].values():
        row["groups"] = 9
    calm = " | ".join(cautions(info, card))
    assert "no skill beyond colour" not in calm and "rests on" not in calm and "is left" not in calm
    assert (
        "not tried on pictures of any other" in calm
        and "Pro comes from b only" in calm
        and "worst case of the audit" in calm
    )
    metrics["controls"][1]["macro_f1"]["value"] = 0.86
    fallen["balanced_accuracy"]["low"] = 0.26
    info["external"]["other"] = {"sources": {"b": {"trained_on": False}}}
    metrics["test"]["per_class"]["Pre"]["groups"] = 2
    loud = " | ".join(cautions(info | {"protocol": "stratified"}, card))
    for words in ("no skill beyond colour", "Pre rests on 2", "where chance gives 0.250", "on both sides"):
        assert words in loud
    assert "not tried on pictures of any other" not in loud


def test_page_escapes_and_lays_out() -> None:
    blocks = [Text(["a < b"]), Text(["one", "two"], points=True), Table("c & d", ["", "x"], [["r", "<i>"]])]
    page = render_page("t", "l", [Section("First", blocks), Section("Second", [Commands(["x > y"])], 3)])
    parsed = Page(page)
    assert "a < b" in parsed.text and "<i>" in parsed.text and not parsed.all("i")
    assert len(parsed.all("li")) == 2 + 1  # two points, and one line of contents: the second heading is below the first
    assert parsed.all("h3") and "x > y" in parsed.text


def test_svg_is_text_and_the_same_again() -> None:
    def draw() -> str:
        values = [{"value": 0.5, "low": 0.4, "high": 0.45}, None]  # a bootstrap interval beside its value
        return to_svg(interval_picture(["one & only", "none"], [Series("s", values)], "share", 0.5), "p", 'say "so"')

    svg = draw()
    assert svg == draw() and svg.startswith('<svg role="img" aria-label="say &quot;so&quot;"')
    assert "one &amp; only" in svg and "<metadata" not in svg
    assert all(name.startswith("p-") for name in re.findall(r'\bid="([^"]+)"', svg))
