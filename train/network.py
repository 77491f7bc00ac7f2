"""Network: the seven backbones' common shape - pixels in, logits and the class map they are the mean of, out.

``(N, H, W, 3)`` uint8 -> (pixel - 128) / 128 -> backbone -> feature map (N, C, h, w) -> 1x1 convolution with the
classifier's weights -> class map (N, h, w, K) -> spatial mean + bias -> logits (N, K). Pooling and a linear layer
commute, so this is the usual classifier, and ReLU(class map) is its Grad-CAM (Selvaraju et al. 2017, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .backbones import Backbone

PIXEL_CENTRE = 128.0
"""Normalisation of every network: (pixel - 128) / 128. Its INT8 form is exactly pixel - 128, with no rounding."""


class SelfExplaining(nn.Module):
    """A backbone with the self-explaining head.

    Args:
        backbone: row of `train.backbones.BACKBONES`.
        classes: K.
        pretrained: load ImageNet weights from the hub.
    """

    def __init__(self, backbone: Backbone, classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.features = backbone.build(pretrained)
        self.classifier = nn.Conv2d(backbone.channels, classes, kernel_size=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.classifier.weight, std=0.01)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (N, H, W, 3) pixels 0..255 into the backbone's (N, 3, H, W), -1 .. 0.992."""
        return ((pixels.float() - PIXEL_CENTRE) / PIXEL_CENTRE).permute(0, 3, 1, 2)

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the feature map (N, C, h, w) into logits (N, K) and class map (N, h, w, K)."""
        class_map = self.classifier(features).permute(0, 2, 3, 1)
        return class_map.mean((1, 2)) + self.bias, class_map

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Classify pixels.

        Args:
            pixels: (N, H, W, 3), uint8 or float, 0..255.

        Returns:
            Logits (N, K) and class map (N, h, w, K); logits are its spatial mean plus the bias.
        """
        return self.head(self.features(self.normalise(pixels)))


def autograd_gradcam(network: SelfExplaining, pixels: Tensor, k: int) -> Tensor:
    """Compute Grad-CAM of class `k` at the last feature map the usual way, with a backward pass.

    Args:
        network: in eval mode.
        pixels: (1, H, W, 3) uint8.
        k: class number.

    Returns:
        (h, w) float32, ReLU and scaled to peak 1 (all zero where nothing is positive): Selvaraju et al. 2017, eq. 1-2.
    """
    features = network.features(network.normalise(pixels)).detach().requires_grad_(True)
    logits, _ = network.head(features)
    (gradient,) = torch.autograd.grad(logits[0, k], features)
    weights = gradient.mean((2, 3), keepdim=True)  # alpha_k^c
    heat = torch.relu((weights * features).sum(1))[0].detach()
    peak = heat.max()
    return heat / peak if peak > 0 else heat
