"""MNasNet-B1 (Tan et al. 2019, arXiv 1807.11626): the found network without squeeze-and-excitation.

Parameters have torchvision's names, so that a state dict of torchvision.models.mnasnet1_0 can be loaded.
"""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.initial import keep_variance

# Inputs, outputs, kernel, stride, expansion, blocks: figure 7 of the paper, B1 as its authors publish it.
_STAGES = (
    (16, 24, 3, 2, 3, 3),
    (24, 40, 5, 2, 3, 3),
    (40, 80, 5, 2, 6, 3),
    (80, 96, 3, 1, 6, 2),
    (96, 192, 5, 2, 6, 4),
    (192, 320, 3, 1, 6, 1),
)


class MNasNetB1(nn.Module):
    """Depth multiplier 1. Input (N, 3, 224, 224) float32; returns logits (N, classes). 4,344,392 weights with 1,000."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(3, 32, 3, stride=2),
            *_convolution(32, 32, 3, groups=32),
            *_convolution(32, 16, 1, activation=False),
            *(_stage(*stage) for stage in _STAGES),
            *_convolution(320, 1280, 1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.layers(x)).flatten(1))
        return logits


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project without an activation; add the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.layers = nn.Sequential(
            *_convolution(inputs, hidden, 1),
            *_convolution(hidden, hidden, kernel, stride=stride, groups=hidden),
            *_convolution(hidden, outputs, 1, activation=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _stage(inputs: int, outputs: int, kernel: int, stride: int, expansion: int, blocks: int) -> nn.Sequential:
    first = _InvertedResidual(inputs, outputs, kernel, stride, expansion)
    return nn.Sequential(first, *(_InvertedResidual(outputs, outputs, kernel, 1, expansion) for _ in range(1, blocks)))


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, momentum=3e-4),
    ]
    return [*layers, nn.ReLU()] if activation else layers
