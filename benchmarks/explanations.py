"""`python -m benchmarks.explanations`: what every heatmap is worth, beside masks, other methods and no method.

What comes in are the shipped references and bundles, pictures with masks - experts' (segmentation_WBC), weak ones
(Taleqani's threshold pictures), rendered ones, which need no data - and, for the sanity checks, the index that a
reference was trained on; what goes out is ``results/explanations.json``, of which ``docs/explanations.md`` is written.
How each number is defined stands in `train.faithfulness`. Every method is asked about the class that its own model
answers with. Beside the methods stand maps that never ask a model - cells lie in the middle, and nuclei are dark - and
the class map laid out as an even grid, which shows what it is worth to know where its cells look.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from edge_runtime.classifier import Classifier, Prediction, softmax
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from edge_runtime.heatmap import Placement, heatmap
from edge_runtime.preprocess import Pixels, Preprocess
from export.interleave import interleave, latency, ratio
from train.attribution import BASELINES, METHODS, Heat, Question
from train.backbones import BACKBONES
from train.faithfulness import agreement, moved, randomised
from train.geometry import placement
from train.heatmap_quality import RANDOMISED, Masked, interval, measure_ways, sanity, spoilt_title
from train.index import Index, read_index
from train.network import SelfExplaining
from train.pixels import load_pixels, prepare_picture
from train.render import render_cell
from train.run_folder import Run, read_run
from train.sources import SOURCES

from .cell_finder import CELL, DATA, NUCLEUS
from .cost import ROOT, machine

RESULTS = Path(__file__).parent / "results" / "explanations.json"
THRESHOLDED = 30
"""Grey level of a threshold picture above which it shows a nucleus: all else is black, but for its compression."""

RENDERED_LABELS = ("blast", "neutrophil", "lymphocyte", "monocyte", "eosinophil")
INNER_LAYER = "13"
"""Of MobileNetV2: the last feature map of 14 x 14 places."""

FIELDS = 20
"""Threshold pictures that are measured, of all classes by turns."""

BESIDE = 3
"""Every third cell is shown to the networks beside the shipped one."""

LIME_SEEDS = 3
SLOW = ("integrated-gradients", "occlusion", "lime")
SAME_PICTURES = "class map, the slow methods' pictures"

Explain = Callable[[Pixels], Heat]


@dataclasses.dataclass(frozen=True)
class Model:
    """Something that answers pixels and explains itself.

    Attributes:
        answer: (px, px, 3) uint8 -> logits (K,) and class map (h, w, K).
        placement: where the class map's cells lie in the picture.
        network: behind it, where there is one to differentiate.
        inner_layer: of the network, to ask Grad-CAM and HiResCAM at; "": they are not asked.
    """

    answer: Callable[[Pixels], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    placement: Placement
    network: SelfExplaining | None = None
    inner_layer: str = ""

    def explain(self, pixels: Pixels, k: int) -> Heat:
        """Return the heatmap of class `k`, laid over the picture."""
        return self.placement.enlarge(heatmap(self.answer(pixels)[1], k), len(pixels))

    def explain_as_grid(self, pixels: Pixels, k: int) -> Heat:
        """Return the same as if cells shared the picture out evenly."""
        small, px = heatmap(self.answer(pixels)[1], k), len(pixels)
        return Placement.grid(len(small), px).enlarge(small, px)


def expert_cells(data: Path, preprocess: Preprocess) -> list[Masked]:
    """Read segmentation_WBC's cells and masks, as the network sees them.

    Raises:
        UsageError: not there; a network that sees them standardised, for which a change of stain is no change.
    """
    require_plain(preprocess)
    px = preprocess.input_px
    folder = data / "segmentation_wbc" / "Dataset 2"
    if not folder.is_dir():
        raise UsageError("no expert masks", got=folder, expected="the data set segmentation_wbc as published")
    central = SOURCES["segmentation_wbc"].central_px
    found = []
    for path in sorted(folder.glob("*.jpg")):
        pixels = prepare_picture(path, None, central, preprocess)
        mask = Image.open(path.with_suffix(".png")).convert("L")
        if central is not None and min(mask.size) > central:
            left, top = (mask.width - central) // 2, (mask.height - central) // 2
            mask = mask.crop((left, top, left + central, top + central))
        side = min(mask.size)
        left, top = (mask.width - side) // 2, (mask.height - side) // 2
        square = mask.crop((left, top, left + side, top + side)).resize((px, px), Image.Resampling.NEAREST)
        found.append(_masked(pixels, np.asarray(square)))
    return found


def rendered_cells(per_label: int, px: int) -> list[Masked]:
    """Draw cells of five types whose masks are known exactly."""
    found = []
    for label in RENDERED_LABELS:
        for number in range(per_label):
            drawn = render_cell(label, np.random.default_rng([7, number, *label.encode()]), px)
            found.append(Masked(drawn.pixels, drawn.nucleus, drawn.cell))
    return found


def threshold_fields(data: Path, preprocess: Preprocess, count: int = FIELDS) -> list[Masked]:
    """Read Taleqani's fields with their authors' threshold pictures: nuclei, weakly.

    Args:
        data: the data sets' folder.
        preprocess: the network's.
        count: at most so many, of all classes by turns.

    Raises:
        UsageError: not there; a network that sees them standardised.
    """
    require_plain(preprocess)
    folder = data / "taleqani" / "Segmented"
    if not folder.is_dir():
        raise UsageError("no threshold pictures", got=folder, expected="the data set taleqani as published")
    classes = [sorted(one.glob("*.jpg")) for one in sorted(folder.iterdir())]
    found: list[Masked] = []
    for path in (path for turn in zip_longest(*classes) for path in turn if path is not None):
        original = data / "taleqani" / "Original" / path.parent.name / path.name
        if not original.is_file():
            continue
        px = preprocess.input_px
        shown = Image.open(path).convert("L").resize((px, px), Image.Resampling.BILINEAR)
        nucleus = np.asarray(shown) > THRESHOLDED
        if nucleus.any():
            found.append(Masked(prepare_picture(original, None, None, preprocess), nucleus, nucleus))
        if len(found) == count:
            break
    return found


def require_plain(preprocess: Preprocess) -> None:
    """Raise `UsageError` where a network sees pictures standardised: masks and changes are of pictures as they are."""
    if preprocess.standardises:
        raise UsageError("a run on standardised pictures", got=preprocess, expected="background and stain kept")


def _masked(pixels: Pixels, mask: npt.NDArray[np.uint8]) -> Masked:
    return Masked(pixels, mask > NUCLEUS, mask > CELL)


def torch_model(network: SelfExplaining, px: int) -> Model:
    """Return a network whose input is `px` pixels wide as a `Model`."""

    def answer(pixels: Pixels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        with torch.inference_mode():
            logits, class_map = network(torch.from_numpy(np.array(pixels[None])))
        return logits[0].numpy(), class_map[0].numpy()

    return Model(answer, placement(network.features, "", px), network)


def bundle_model(classifier: Classifier) -> Model:
    """Return a bundle, as the device runs it, as a `Model`: its cells lie where it says itself."""

    def answer(pixels: Pixels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        prediction = classifier.classify_pixels(pixels)
        return prediction.logits, prediction.class_map

    px = classifier.preprocess.input_px
    return Model(answer, classifier.classify_pixels(np.zeros((px, px, 3), np.uint8)).placement)


def shifted_passes(model: Model) -> Model:
    """Return a model whose class map is twice as fine: (2h, 2w, K), from four passes over moved pictures.

    They are moved by a quarter of a cell's step, left or right and up or down. A cell then sees what lies a quarter on
    the other side of where it looks, and all four interleave to cells of half the step. The logits are the mean.
    """
    place = model.placement
    shift = round(place.step_px / 4)

    def answer(pixels: Pixels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        passes = [  # the picture moved down shows, in the same cell, what lies above
            [model.answer(np.ascontiguousarray(moved(pixels, dx, dy))) for dx in (shift, -shift)]
            for dy in (shift, -shift)
        ]
        logits = np.mean([logits for row in passes for logits, _ in row], axis=0)
        maps = np.array([[class_map for _, class_map in row] for row in passes])  # (2, 2, h, w, K)
        _, _, height, width, classes = maps.shape
        return logits, maps.transpose(2, 0, 3, 1, 4).reshape(2 * height, 2 * width, classes)

    return Model(answer, Placement(place.first_px - shift, place.step_px / 2, place.input_px), model.network)


def output_stride_16(network: SelfExplaining) -> SelfExplaining:
    """Return a MobileNetV2 whose last halving is undone: its stride becomes 1, the filters behind it are dilated by 2.

    The weights are as they are (Chen et al. 2017, arXiv:1706.05587, section 3.1): the class map is twice as fine.
    """
    changed, seen = copy.deepcopy(network), False
    for name, module in changed.features.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and int(name.split(".")[0]) >= 14:
            if module.stride == (2, 2):
                module.stride, seen = (1, 1), True
            elif seen:
                module.dilation, module.padding = (2, 2), (2, 2)
    assert seen
    return changed


def ways_of(model: Model, fine: Model | None, k: int, with_slow: bool) -> dict[str, Explain]:
    """Return what explains class `k` of a model.

    Args:
        model: whose answer.
        fine: the same at output stride 16.
        k: class number.
        with_slow: the slow methods, too, and beside them the class map under a name of its own, so that a row of the
            same pictures stands beside theirs.

    Returns:
        Name -> pixels to heatmap.
    """
    shifted = shifted_passes(model)
    ways: dict[str, Explain] = {
        "class map": lambda pixels: model.explain(pixels, k),
        "class map, even grid": lambda pixels: model.explain_as_grid(pixels, k),
        "class map, 4 shifted passes": lambda pixels: shifted.explain(pixels, k),
    }
    if (network := model.network) is not None:
        for name in ("gradcam", "hirescam") if model.inner_layer else ():
            method = METHODS[name]
            ways[f"{method.title}, 14 x 14"] = lambda pixels, explain=method.explain: explain(
                Question(network, pixels, k, model.inner_layer)  # its placement is remembered
            )
        if with_slow:
            ways[SAME_PICTURES] = ways["class map"]
        for method in (*BASELINES.values(), *(METHODS[name] for name in SLOW if with_slow)):
            ways[method.title] = lambda pixels, explain=method.explain: explain(Question(network, pixels, k))
    if fine is not None:
        ways["class map, output stride 16"] = lambda pixels: fine.explain(pixels, k)
    return ways


def measure_model(model: Model, pictures: Sequence[Masked], slow: int, title: str) -> dict[str, Any]:
    """Measure every way of explaining a model's answers, see `train.heatmap_quality.measure_ways`.

    Args:
        model: whose answers.
        pictures: with masks.
        slow: how many of them, evenly spread, the slow methods are asked about.
        title: of the progress bar.
    """
    fine = None
    if model.network is not None and model.inner_layer == INNER_LAYER:
        fine = torch_model(output_stride_16(model.network), model.placement.input_px)
    asked = evenly(len(pictures), slow)
    return measure_ways(
        model.network,
        lambda k, number: ways_of(model, fine, k, number in asked),
        pictures,
        title,
        lambda pixels: int(model.answer(pixels)[0].argmax()),
        [SAME_PICTURES, *(METHODS[name].title for name in SLOW)],
    )


def evenly(count: int, wanted: int) -> list[int]:
    """Return `wanted` of the numbers 0..count-1, or all, evenly spread."""
    wanted = min(count, wanted)
    return [round((i + 0.5) * count / wanted - 0.5) for i in range(wanted)]


def quantization(reference: Model, device: Model, index: Index, numbers: Sequence[int]) -> dict[str, Any]:
    """Compare the device's heatmap with autograd Grad-CAM of the full-precision network, class by class.

    Both explain the class that the full-precision network answers with; maps are compared place by place, (h, w).

    Returns:
        Class, and "all" -> ``n``, ``median`` and ``p5`` of Spearman's rank correlation, ``same_peak``: share of the
        pictures whose hottest place is the same.
    """
    from scipy.stats import spearmanr

    from train.network import autograd_gradcam

    assert reference.network is not None
    pixels = load_pixels(index)
    rows: dict[str, list[tuple[float, bool]]] = {}
    for number in tqdm(numbers, desc="INT8 against fp32", unit="picture", leave=False, disable=None):
        picture = np.array(pixels[number])
        k = int(reference.answer(picture)[0].argmax())
        full = autograd_gradcam(reference.network, torch.from_numpy(picture[None]), k).numpy()
        small = heatmap(device.answer(picture)[1], k)
        flat = np.ptp(full) == 0 or np.ptp(small) == 0
        rho = 0.0 if flat else float(spearmanr(full.ravel(), small.ravel()).statistic)
        for name in ("all", index.task.labels[k]):
            rows.setdefault(name, []).append((rho, int(full.argmax()) == int(small.argmax())))
    return {
        name: {
            "n": len(found),
            "median": float(np.median([rho for rho, _ in found])),
            "p5": float(np.percentile([rho for rho, _ in found], 5)),
            "same_peak": float(np.mean([same for _, same in found])),
        }
        for name, found in rows.items()
    }


def shuffled_labels(run: Run, index: Index, pictures: int = 512, epochs: int = 8) -> SelfExplaining:
    """Train a copy of a run's network on its own pictures with labels dealt out at random.

    Args:
        run: whose network; its classifier starts anew.
        index: it was trained on.
        pictures: of the train split, drawn at random.
        epochs: over them.
    """
    random, network = np.random.default_rng(0), copy.deepcopy(run.network)
    nn.init.normal_(network.classifier.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    numbers = random.choice(index.select(run.protocol, "train"), pictures, replace=False)
    targets = torch.from_numpy(random.permutation(index.targets(numbers.tolist())))
    pixels = torch.from_numpy(np.array(load_pixels(index)[np.sort(numbers)]))
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=6e-4)
    for _ in tqdm(range(epochs), desc="shuffled labels", unit="epoch", leave=False, disable=None):
        for batch in torch.from_numpy(random.permutation(pictures)).split(32):
            loss = nn.functional.cross_entropy(network(pixels[batch])[0], targets[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return network.eval()


def lime_stability(network: SelfExplaining, pictures: Sequence[Masked]) -> dict[str, Any]:
    """Compare LIME's heatmaps of the same picture between seeds.

    Returns:
        ``n``, ``seeds``; ``spearman`` and ``overlap``: intervals over pictures of the mean over all pairs of seeds.
    """
    lime, model = METHODS["lime"], torch_model(network, len(pictures[0].pixels))
    rows: dict[str, list[float]] = {"spearman": [], "overlap": []}
    for one in tqdm(pictures, desc="LIME, seeds", unit="picture", leave=False, disable=None):
        k = int(model.answer(one.pixels)[0].argmax())
        heats = [lime.explain(Question(network, one.pixels, k, seed=seed)) for seed in range(LIME_SEEDS)]
        pairs = [agreement(*pair) for pair in combinations(heats, 2)]
        for key, values in rows.items():
            values.append(float(np.mean([pair[key] for pair in pairs])))
    return {"n": len(pictures), "seeds": LIME_SEEDS} | {key: interval(values) for key, values in rows.items()}


def cost(network: SelfExplaining, classifier: Classifier, pixels: Pixels, rounds: int) -> dict[str, Any]:
    """Time what an explanation costs over classification alone, on the device's engine and in PyTorch, on one thread.

    Every way's answer is checked before it is timed.

    Args:
        network: full precision.
        classifier: its bundle, opened with one thread.
        pixels: one picture.
        rounds: of the timing.

    Returns:
        ``rounds``, ``threads``; ``ways``: name -> percentiles in ms and ``ratio`` to classification alone on the same
        engine, all ways by turns; ``slow``: method -> ``p50_ms``, the median of three, and ``ratio``, timed afterwards.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _cost(network, classifier, pixels, rounds)
    finally:
        torch.set_num_threads(threads)


def _cost(network: SelfExplaining, classifier: Classifier, pixels: Pixels, rounds: int) -> dict[str, Any]:
    full, fine = (torch_model(one, len(pixels)) for one in (network, output_stride_16(network)))
    device = bundle_model(classifier)
    shifted, engine, temperature = shifted_passes(device), classifier.engine, classifier.bundle.manifest.temperature
    k = int(full.answer(pixels)[0].argmax())
    asked = Question(network, pixels, k, place=full.placement)
    ways: dict[str, Callable[[], Any]] = {
        "INT8: classify": lambda: softmax(engine.run(pixels)[0], temperature),
        "INT8: classify, with the heatmap": lambda: _with_heatmap(engine.run(pixels), temperature),
        "INT8: a whole Prediction": lambda: classifier.classify_pixels(pixels),
        "INT8: classify, with the heatmap laid over the picture": lambda: device.explain(pixels, k),
        "INT8: classify, with the heatmap of 4 shifted passes": lambda: shifted.explain(pixels, k),
        "fp32: classify": lambda: full.answer(pixels),
        "fp32: classify, with the heatmap laid over the picture": lambda: full.explain(pixels, k),
        "fp32: classify, output stride 16": lambda: fine.answer(pixels),
        "fp32: Grad-CAM by autograd": lambda: METHODS["gradcam"].explain(asked),
    }
    _require_right(k, *(way() for way in ways.values()))
    times = interleave(ways, rounds)
    found: dict[str, Any] = {"rounds": rounds, "threads": torch.get_num_threads(), "ways": {}, "slow": {}}
    for name, ms in times.items():
        value, low, high = ratio(ms, times[f"{name.partition(':')[0]}: classify"])
        found["ways"][name] = dataclasses.asdict(latency(ms)) | {"ratio": {"value": value, "low": low, "high": high}}
    alone = found["ways"]["fp32: classify"]["p50_ms"]
    for name in SLOW:
        assert METHODS[name].explain(asked).max() == 1  # untimed: the first call imports
        spent = []
        for _ in range(3):
            started = time.perf_counter()
            METHODS[name].explain(asked)
            spent.append(1000 * (time.perf_counter() - started))
        p50_ms = float(np.median(spent))
        found["slow"][METHODS[name].title] = {"p50_ms": p50_ms, "ratio": p50_ms / alone}
    return found


def _with_heatmap(
    outputs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], temperature: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    p = softmax(outputs[0], temperature)
    return p, heatmap(outputs[1], int(p.argmax()))


def _require_right(
    k: int,
    p: npt.NDArray[np.float64],
    explained: tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]],
    prediction: Prediction,
    laid: Heat,
    of_shifted: Heat,
    full: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    full_laid: Heat,
    fine: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    by_autograd: Heat,
) -> None:
    """Assert that all ways of `cost` answer the same question, and rightly."""
    assert np.allclose(p, list(prediction.probabilities.values())) and int(p.argmax()) == k == int(full[0].argmax())
    assert np.array_equal(explained[0], p) and np.array_equal(explained[1], prediction.heatmap)
    assert np.array_equal(laid, prediction.placement.enlarge(prediction.heatmap, len(laid)))
    assert of_shifted.shape == laid.shape and of_shifted.max() > 0.5
    assert np.abs(full_laid - by_autograd).max() < 1e-4
    assert np.abs(fine[1][::2, ::2] - full[1]).max() <= 1e-3 * np.abs(full[1]).max()


def measure(
    data: Path, index_folder: Path | None, beside: Sequence[Path], slow: int, rounds: int
) -> Iterator[tuple[str, Any]]:
    """Measure everything; yield the parts as they are done."""
    yield "machine", machine()
    cells, fields = (read_run(ROOT / "references" / name) for name in ("blood-cells", "all-subtypes"))
    full, full_fields = (
        dataclasses.replace(torch_model(run.network, run.input_px), inner_layer=INNER_LAYER) for run in (cells, fields)
    )
    bundle, bundle_fields = (Classifier.open(name, threads=1) for name in ("blood-cells", "all-subtypes"))
    device, device_fields = bundle_model(bundle), bundle_model(bundle_fields)
    others = [read_run(folder) for folder in beside]
    for run in (cells, fields, *others):
        require_plain(run.preprocess)  # known before, not after
    expert, rendered = expert_cells(data, cells.preprocess), rendered_cells(6, cells.input_px)
    yield "cost", cost(cells.network, bundle, expert[0].pixels, rounds)
    yield "expert masks, fp32", measure_model(full, expert, slow, "expert masks, fp32")
    yield "expert masks, INT8", measure_model(device, expert, 0, "expert masks, INT8")
    yield "rendered masks, fp32", measure_model(full, rendered, 0, "rendered masks, fp32")
    yield "rendered masks, INT8", measure_model(device, rendered, 0, "rendered masks, INT8")
    for other in others:
        title = f"expert masks, {BACKBONES[other.backbone].title}, {other.input_px} px"
        model = torch_model(other.network, other.input_px)
        yield title, measure_model(model, expert_cells(data, other.preprocess)[::BESIDE], 0, title)
    weak = threshold_fields(data, fields.preprocess)
    yield "threshold masks, fp32", measure_model(full_fields, weak, 0, "threshold masks, fp32")
    yield "threshold masks, INT8", measure_model(device_fields, weak, 0, "threshold masks, INT8")
    few = [expert[i] for i in evenly(len(expert), max(2, slow // 4))]
    yield "LIME between seeds", lime_stability(cells.network, few)
    spoilt = {spoilt_title(share): randomised(cells.network, share) for share in RANDOMISED}
    if index_folder is not None:
        index = read_index(index_folder)
        spoilt["labels of the training"] = shuffled_labels(cells, index)
        numbers = index.select(cells.protocol, "test")
        yield "INT8 against fp32", quantization(full, device, index, numbers)
    yield "sanity", sanity(cells.network, spoilt, expert)


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explanations", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the data sets' folder (default {DATA.name})")
    parser.add_argument("--index", type=Path, metavar="INDEX", help="of the blood-cells reference: for shuffled labels")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="RUN", help="other blood-cells networks")
    parser.add_argument("--slow", type=int, default=12, metavar="N", help="pictures for the slow methods (default 12)")
    parser.add_argument("--rounds", type=int, default=200, help="of the timing (default 200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default {RESULTS.name} among the results")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    found: dict[str, Any] = {}
    for name, part in measure(args.data, args.index, args.beside, args.slow, args.rounds):
        found[name] = part
        write_text(args.out, json.dumps(found, indent=1) + "\n")  # after every part: they take minutes
        sys.stderr.write(f"{name}: done\n")


if __name__ == "__main__":
    sys.exit(main())
