"""ResNet-8: the image classification network of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.initial import keep_variance


class ResNet8(nn.Module):
    """Three stacks of two 3x3 convolutions, 16, 32 and 64 filters. Input (N, 3, 32, 32) float32; returns (N, 10).

    Padding is Keras's "same", as in the reference model: at stride 2 one row below and one column on the right.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.stack1 = _Stack(16, 16, 1)
        self.stack2 = _Stack(16, 32, 2)
        self.stack3 = _Stack(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class _Stack(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the stride is not 1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        padded = x if self.stride == 1 else F.pad(x, (0, 1, 0, 1))
        y: Tensor = F.relu(self.bn1(self.conv1(padded)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))
