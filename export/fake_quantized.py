"""Fake-quantized: a network whose weights and activations are rounded as INT8 rounds them, and that can still learn.

What comes in is a trained network; what goes out is the same function with batch norms folded into the convolutions
before them (`fold`), and the same with NNCF's fake quantizers in it (`insert_quantizers`). The choices are those of
``qdq``: weights per output channel and symmetric, activations per tensor and symmetric, uint8 where nothing is
negative. The step of the normalised pixels is not measured but known, 1/128, and so is exact for every grey level. As
a file it is the business of ``fake_to_qdq``.

NNCF compiles its fake quantization with ninja at first use, or else has torch compile it. Neither is needed: `Rounding`
is plain torch, faster than both, and gives the same on a machine without a compiler.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import LeukoscopeError

from .errors import ExportError

if TYPE_CHECKING:
    from edge_runtime.preprocess import Pixels
    from train.network import SelfExplaining

INSTALL = 'pip install "leukoscope[export]"'
INPUT_STEP = 1 / 128
"""Of the normalised pixels (pixel - 128) / 128."""

INPUT = "normalised__0.0"
"""How NNCF's name of the pixels' quantizer ends."""

HOOKS = "__nncf_hooks"
"""Where NNCF keeps what it adds to a module."""

NO_TELEMETRY = "NNCF_CI"
"""Environment variable with which NNCF reports nothing to its makers; without it, it does so unasked."""


class Core(nn.Module):
    """What is quantized of a network: from normalised pixels to the class map, without the mean behind it.

    Args:
        network: its modules are used, not copied.
    """

    def __init__(self, network: SelfExplaining) -> None:
        super().__init__()
        self.features, self.classifier = network.features, network.classifier

    def forward(self, normalised: Tensor) -> Tensor:
        """Turn (N, 3, H, W) into (N, K, h, w)."""
        class_map: Tensor = self.classifier(self.features(normalised))
        return class_map


class Whole(nn.Module):
    """A core with what stands before and behind it: (N, H, W, 3) pixels -> logits (N, K), class map (N, h, w, K).

    Args:
        core: a `Core`, or what NNCF made of it.
        network: whose normalisation and bias.
    """

    def __init__(self, core: nn.Module, network: SelfExplaining) -> None:
        super().__init__()
        self.core, self.bias, self.normalise = core, network.bias, network.normalise

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Classify pixels, as `train.network.SelfExplaining` does."""
        class_map = self.core(self.normalise(pixels)).permute(0, 2, 3, 1)
        return class_map.mean((1, 2)) + self.bias, class_map


class Rounding:
    """Fake quantization and its gradient, under the names that NNCF calls.

    Gradients pass where nothing was clipped; that of the range is the step size's (Esser et al. 2020, "Learned step
    size quantization", eq. 3).
    """

    @staticmethod
    def Quantize_forward(x: Tensor, low: Tensor, width: Tensor, levels: int) -> Tensor:  # noqa: N802
        """Round `x` to the nearest of `levels` values from `low` on, over `width`; both broadcast to x."""
        step = width / (levels - 1)
        first = torch.round(low / step)
        return x.div(step).round_().clamp_(first, first + levels - 1).mul_(step)

    @staticmethod
    def Quantize_backward(  # noqa: N802
        gradient: Tensor,
        x: Tensor,
        low: Tensor,
        width: Tensor,
        levels: int,
        level_low: int,
        level_high: int,
        asymmetric: bool = False,
    ) -> tuple[Tensor, None, Tensor]:
        """Return the gradients of `x`, none of the lower end, and that of the upper end."""
        step = width / (levels - 1)
        exact = x.div(step)
        passed = gradient * ((exact >= level_low) & (exact <= level_high))
        moved = exact.round().clamp_(level_low, level_high).mul_(gradient).sub_(exact.mul_(passed))
        axes = [axis for axis in range(x.dim()) if step.dim() < x.dim() or step.shape[axis] == 1]
        return passed, None, moved.sum(axes).reshape(step.shape) / level_high


@contextlib.contextmanager
def quantizers() -> Iterator[Any]:
    """Give NNCF, silent, offline and with `Rounding`, and make one line of what goes wrong inside it.

    Raises:
        ExportError: it is not installed, or raises anything.
    """
    os.environ.setdefault(NO_TELEMETRY, "1")
    try:
        import nncf
        from nncf.torch.quantization import extensions
    except ImportError as error:
        raise ExportError("NNCF is not installed", got=str(error), todo=INSTALL) from None
    nncf.set_log_level(logging.ERROR)
    functions = extensions.QuantizedFunctionsCPU
    compiled, functions._loaded_namespace = functions._loaded_namespace, Rounding
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield nncf
    except LeukoscopeError:
        raise
    except Exception as error:  # noqa: BLE001 - NNCF raises anything
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise ExportError("NNCF cannot quantize the network", got=got) from None
    finally:
        functions._loaded_namespace = compiled


def post_training(nncf: Any, model: Any, dataset: Any, pictures: int, correct_bias: bool, **options: Any) -> Any:
    """Quantize a model after training, as all INT8 of this project is, silently.

    Args:
        nncf: see `quantizers`.
        model: what NNCF takes: a torch module, an ONNX graph.
        dataset: the calibration set, as that model reads it.
        pictures: how many it has.
        correct_bias: let NNCF correct the biases.
        options: more for ``nncf.quantize``.
    """
    from nncf.quantization import advanced_parameters as advanced

    # its progress bars are printed whatever its log level is
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(
            model,
            dataset,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=pictures,
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.DISABLE,  # for CPUs older than what LiteRT needs
                disable_bias_correction=not correct_bias,
                activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
            ),
            **options,
        )


def fold(network: SelfExplaining) -> SelfExplaining:
    """Return a copy, in eval mode, whose batch norms right behind a convolution are part of it; names stay.

    A batch norm that follows something else (DenseNet's, behind a concatenation) stays as it is. A convolution without
    a bias gets one, zero: rounding weights shifts what comes out, and something must take that back.
    """
    from torch.fx import symbolic_trace
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = copy.deepcopy(network).eval().cpu()
    modules = dict(folded.features.named_modules())
    for node in symbolic_trace(folded.features).graph.nodes:
        before = next(iter(node.all_input_nodes), None)
        if before is None or {node.op, before.op} != {"call_module"} or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded.features.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            folded.features.set_submodule(str(node.target), nn.Identity())
    for module in folded.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return folded.eval()


def insert_quantizers(nncf: Any, network: SelfExplaining, pixels: Pixels, signed: bool = False) -> nn.Module:
    """Quantize a folded network's core as post-training quantization does: ranges measured, weights not yet rounded.

    Args:
        nncf: see `quantizers`.
        network: see `fold`; is not changed.
        pixels: (N, H, W, 3) uint8, the calibration set.
        signed: int8 activations throughout, as TensorRT takes them.

    Returns:
        (N, 3, H, W) normalised -> (N, K, h, w), in eval mode; its weights are a copy.
    """
    normalise = network.normalise
    core: nn.Module = post_training(
        nncf,
        copy.deepcopy(Core(network)),
        nncf.Dataset(list(pixels), lambda picture: normalise(torch.from_numpy(np.array(picture[None])))),
        len(pixels),
        correct_bias=False,  # compensated rounding has its own
    )
    with torch.no_grad():
        for name, quantizer in activation_quantizers(core).items():
            if signed:
                quantizer.signed = True
            if name.endswith(INPUT):
                quantizer.signed = True
                quantizer.scale.fill_(quantizer.level_high * INPUT_STEP)
    return core.eval()


def activation_quantizers(core: nn.Module) -> dict[str, Any]:
    """Return the fake quantizers of the activations by NNCF's names; the pixels' own ends in `INPUT`."""
    return {
        name: module
        for name, module in core.named_modules()
        if name.startswith(HOOKS) and hasattr(module, "scale") and ".post_hooks." in name
    }
