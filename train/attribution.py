"""Attribution: ways to ask a network where it saw a class, as one table; pixels in, a heatmap out.

What comes in is a `Question` - a network, one picture's pixels and a class; what goes out is a heatmap, (H, W) float32,
0..1, laid over the picture: cells of a feature map stand where they look, see `train.geometry`. Grad-CAM, HiResCAM,
occlusion and integrated gradients are captum's, LIME is its authors' own on SLIC superpixels; the class map is this
project's. What a heatmap is worth is measured by `train.faithfulness`; `BASELINES` are the maps that it is measured
against, which never ask a network.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement, heatmap
from edge_runtime.preprocess import Pixels
from edge_runtime.stain import optical_density, purple

from .geometry import placement
from .network import SelfExplaining

Heat = npt.NDArray[np.float32]
"""(H, W) float32, 0..1, at the picture's size; all zeros where nothing speaks for the class."""

LIME_SAMPLES = 500
"""Pictures with superpixels painted with empty field that LIME fits its linear model to."""

ROUNDING = 1e-9
"""LIME's weights are shares of a probability; below this they are the arithmetic's."""

SUPERPIXELS = 60
OCCLUSION_PX, OCCLUSION_STRIDE_PX = 32, 16
"""Side and step of the patch, pixels of a 224 px picture; scaled with the side."""

UNMOVED = 1e-5
"""Of the largest logit: a patch that changes the answer by less has changed nothing but the order of additions."""

IG_STEPS = 32
BATCH = 32


@dataclass(frozen=True)
class Question:
    """What is asked of a network.

    Attributes:
        network: in eval mode.
        pixels: (H, W, 3) uint8, prepared for it.
        k: class number.
        layer: of ``network.features``, by name; "": the last feature map. Only Grad-CAM and HiResCAM look at it.
        seed: of LIME's samples.
        place: where the cells of the layer's feature map lie, for networks that share it; None: it is worked out.
    """

    network: SelfExplaining
    pixels: Pixels
    k: int
    layer: str = ""
    seed: int = 0
    place: Placement | None = None

    @property
    def placement(self) -> Placement:
        """Where the cells of the layer's feature map lie in the picture."""
        return self.place or placement(self.network.features, self.layer, len(self.pixels))

    @property
    def module(self) -> nn.Module:
        """The layer; see `layer_of`."""
        return layer_of(self.network, self.layer)

    def tensor(self) -> Tensor:
        """Return the pixels as (1, H, W, 3) float32, 0..255, on the network's device."""
        device = next(self.network.parameters()).device
        return torch.from_numpy(np.array(self.pixels, dtype=np.float32))[None].to(device)

    def empty_field(self) -> Tensor:
        """Return the colour of "nothing there", (1, 1, 1, 3): the 95th percentile of each channel, the bright field."""
        field = np.percentile(self.pixels, 95, axis=(0, 1)).astype(np.float32)
        return torch.from_numpy(field)[None, None, None].to(next(self.network.parameters()).device)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: as its authors call it.
        passes: forward passes for one heatmap, backward ones (which cost about two) included; "" where it varies.
        explain: does it.
        source: paper.
        options: of the question, beyond network, pixels and class, that it looks at.
        placed: its heat lies on cells of a feature map, so it needs their `Question.placement`.
    """

    title: str
    passes: str
    explain: Callable[[Question], Heat]
    source: str
    options: tuple[str, ...] = ()
    placed: bool = False


def layer_of(network: SelfExplaining, name: str) -> nn.Module:
    """Return a layer of ``network.features``; "": all of it, which gives the last feature map.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return network.features.get_submodule(name)
    except AttributeError:
        names = [name for name, _ in network.features.named_children()]
        raise UsageError("no such layer", got=name, expected=f"{', '.join(names)}, or one within them") from None


def logits_of(network: SelfExplaining) -> Callable[[Tensor], Tensor]:
    """Return the network as captum wants it: (N, H, W, 3) -> logits (N, K)."""

    def forward(pixels: Tensor) -> Tensor:
        logits: Tensor = network(pixels)[0]
        return logits

    return forward


def scaled(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Keep what is positive and scale it to peak 1: (h, w) float32."""
    return heatmap(np.asarray(values, dtype=np.float32)[..., None], 0)


def class_map(asked: Question) -> Heat:
    """The head's own class map: Grad-CAM at the last feature map in closed form, see `train.network`."""
    with torch.inference_mode():
        _, found = asked.network(asked.tensor())
    own = dataclasses.replace(asked, layer="", place=None if asked.layer else asked.place).placement
    return own.enlarge(heatmap(found[0].float().cpu().numpy(), asked.k), len(asked.pixels))


def gradcam(asked: Question) -> Heat:
    """Grad-CAM: channels weighted by their mean gradient."""
    from captum.attr import LayerGradCam

    return _laid_out(asked, LayerGradCam(logits_of(asked.network), asked.module).attribute(asked.tensor(), asked.k))


def hirescam(asked: Question) -> Heat:
    """HiResCAM: gradient times activation, summed over channels, place by place."""
    from captum.attr import LayerGradientXActivation

    attribution = LayerGradientXActivation(logits_of(asked.network), asked.module)
    return _laid_out(asked, attribution.attribute(asked.tensor(), asked.k))


def _laid_out(asked: Question, attribution: Any) -> Heat:
    """Sum a layer's attribution over its channels and lay it over the picture."""
    return asked.placement.enlarge(scaled(attribution.detach()[0].sum(0).cpu().numpy()), len(asked.pixels))


def integrated_gradients(asked: Question) -> Heat:
    """Integrated gradients from the empty field to the picture, summed over channels."""
    from captum.attr import IntegratedGradients

    pixels = asked.tensor()
    found = IntegratedGradients(logits_of(asked.network)).attribute(
        pixels, asked.empty_field().expand_as(pixels), asked.k, n_steps=IG_STEPS, internal_batch_size=BATCH
    )
    return scaled(found.detach()[0].sum(-1).cpu().numpy())


def occlusion(asked: Question) -> Heat:
    """How much the logit falls when a patch of empty field covers a place; below `UNMOVED` it does not."""
    from captum.attr import Occlusion

    logits_at, sizes = logits_of(asked.network), []

    def forward(given: Tensor) -> Tensor:
        logits = logits_at(given)
        sizes.append(float(logits.abs().max()))
        return logits

    pixels = asked.tensor()
    side = pixels.shape[1]
    patch, stride = (max(1, round(px * side / 224)) for px in (OCCLUSION_PX, OCCLUSION_STRIDE_PX))
    with torch.inference_mode():
        found = Occlusion(forward).attribute(
            pixels,
            sliding_window_shapes=(patch, patch, 3),
            strides=(stride, stride, 3),
            baselines=asked.empty_field().expand_as(pixels),
            target=asked.k,
            perturbations_per_eval=BATCH,
        )
    fallen = found[0].mean(-1)  # a patch covers all three channels
    fallen[fallen.abs() < UNMOVED * max(sizes)] = 0
    return scaled(fallen.cpu().numpy())


def superpixels(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Cut a picture into about `SUPERPIXELS` of even colour (SLIC): (H, W) numbers from 0."""
    from skimage.segmentation import slic

    found: npt.NDArray[np.int64] = slic(pixels, n_segments=SUPERPIXELS, compactness=10, sigma=1, start_label=0)
    return found


def lime(asked: Question) -> Heat:
    """LIME: superpixels whose presence a linear model finds to speak for the class; where absent, empty field stands.

    Args:
        asked: its ``seed`` makes the samples; the same one gives the same bits.
    """
    from lime.lime_image import LimeImageExplainer

    segments = superpixels(asked.pixels)
    device = next(asked.network.parameters()).device

    def probabilities(pictures: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            logits = asked.network(torch.from_numpy(pictures).to(device))[0]
        found: npt.NDArray[np.float64] = logits.double().softmax(1).cpu().numpy()
        return found

    explainer = LimeImageExplainer(random_state=asked.seed)
    with redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        explained = explainer.explain_instance(
            np.array(asked.pixels, dtype=np.float32),
            probabilities,
            labels=(asked.k,),
            hide_color=asked.empty_field().flatten().cpu().numpy(),  # lime's own would be each superpixel's mean
            top_labels=None,
            num_samples=LIME_SAMPLES,
            batch_size=BATCH,
            segmentation_fn=lambda _: segments,
            random_seed=asked.seed,
        )
    weights = np.zeros(segments.max() + 1)
    for number, weight in explained.local_exp[asked.k]:
        weights[number] = weight
    weights[np.abs(weights) < ROUNDING] = 0  # else a network that nothing moves would seem to look somewhere
    return scaled(weights[segments])


METHODS: dict[str, Method] = {
    "class-map": Method("class map (closed-form Grad-CAM)", "1", class_map, "this project", placed=True),
    "gradcam": Method("Grad-CAM", "1 + backward", gradcam, "Selvaraju et al. 2017, arXiv:1610.02391", ("layer",), True),
    "hirescam": Method(
        "HiResCAM", "1 + backward", hirescam, "Draelos & Carin 2020, arXiv:2011.08891", ("layer",), True
    ),
    "integrated-gradients": Method(
        "Integrated gradients",
        f"{IG_STEPS} + backward",
        integrated_gradients,
        "Sundararajan et al. 2017, arXiv:1703.01365",
    ),
    "occlusion": Method("Occlusion", "170", occlusion, "Zeiler & Fergus 2014, arXiv:1311.2901"),
    "lime": Method("LIME", str(LIME_SAMPLES), lime, "Ribeiro et al. 2016, arXiv:1602.04938", ("seed",)),
}
"""Name on the command line -> method."""


def centre(asked: Question) -> Heat:
    """A Gaussian in the middle, its standard deviation a sixth of the side: cells sit there."""
    height, width = asked.pixels.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    spread = 2 * (min(height, width) / 6) ** 2
    return scaled(np.exp(-((y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2) / spread))


def darkness(pixels: Pixels) -> Heat:
    """How purple each pixel is: nuclei are."""
    return scaled(purple(optical_density(np.ascontiguousarray(pixels))))


def noise(asked: Question) -> Heat:
    """Chance, in 7 x 7 places; seeded by question and sum of the pixels, so that a changed picture's differs."""
    seed = [asked.seed, int(asked.pixels.astype(np.uint64).sum())]
    px = len(asked.pixels)
    return Placement.grid(7, px).enlarge(scaled(np.random.default_rng(seed).random((7, 7))), px)


BASELINES: dict[str, Method] = {
    "centre": Method("centre Gaussian", "0", centre, "baseline"),
    "darkness": Method("stain darkness", "0", lambda asked: darkness(asked.pixels), "baseline"),
    "random": Method("random", "0", noise, "baseline", ("seed",)),
}
"""Maps that know nothing of the network: a method is worth what it has over them."""
