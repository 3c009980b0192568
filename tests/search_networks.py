"""Networks that tests of the search share: MobileNetV1's tensors without its arrays, and a small trained network."""

from __future__ import annotations

import itertools
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from harness.compress.deep.qat import deterministic
from harness.data import digits
from harness.data.base import Dataset
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.search.tensors import Activation, Step, Table, Weights

# Channels at width 1, stride: table 1 of arXiv 1704.04861.
_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def mobilenet_v1(width: float, resolution: int) -> Table:
    """The chain of MobileNetV1's tensors: one convolution, thirteen separable ones, average pool, 1,000 classes."""
    side, channels = resolution // 2, int(32 * width)
    weights = [Weights("conv", 27 * channels, channels)]
    activations = [Activation("input", resolution**2 * 3, None), Activation("conv", side**2 * channels, "conv")]
    for number, (outputs, stride) in enumerate(_BLOCKS):
        side //= stride
        depthwise, pointwise = f"dw{number}", f"pw{number}"
        weights.append(Weights(depthwise, 9 * channels, channels))
        activations.append(Activation(depthwise, side**2 * channels, depthwise))
        narrowed = int(outputs * width)
        weights.append(Weights(pointwise, channels * narrowed, narrowed))
        activations.append(Activation(pointwise, side**2 * narrowed, pointwise))
        channels = narrowed
    activations += [Activation("pool", channels, "pool"), Activation("fc", 1000, None, 32)]
    weights.append(Weights("fc", channels * 1000, 1000))
    steps = tuple(
        Step(after.name, (before,), after, (before, after)) for before, after in itertools.pairwise(activations)
    )
    return Table(f"mobilenet-v1-{width}-{resolution}", tuple(weights), steps)


class Small(nn.Module):
    """All operators that have widths: convolution, depthwise one, sum, both pools, fully connected."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, stride=4, padding=2)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pw = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 24, 3)
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AvgPool2d(3)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        y = F.relu(self.dw(x))
        x = F.relu(x + self.pw(y))
        x = F.relu(self.wide(x))
        return self.fc(self.mean(self.pool(x)).flatten(1))


class Normed(nn.Module):
    """BatchNorm after every kind of layer that it can be folded into, and a layer without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_norm = nn.Conv2d(1, 8, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(8)
        self.dw, self.dw_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.wide, self.wide_norm = nn.Conv2d(8, 24, 3), nn.BatchNorm2d(24)
        self.pool = nn.MaxPool2d(2)
        self.fc, self.fc_norm = nn.Linear(216, 16), nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv_norm(self.conv(x)))
        x = F.relu(self.dw_norm(self.dw(x)))
        x = self.pool(F.relu(self.wide_norm(self.wide(x))))
        x = F.relu(self.fc_norm(self.fc(x.flatten(1))))
        return self.last(x)


@cache
def small() -> Graph:
    """A float network that knows scikit-learn's digits, more or less."""
    dataset = digits.load()
    with deterministic(1):
        return trace(_trained(Small, dataset), (32, 32, 1), "small")


@cache
def normed() -> nn.Module:
    """One that does with BatchNorm, not traced yet."""
    with deterministic(1):
        return _trained(Normed, digits.load())


def _trained(factory: type[nn.Module], dataset: Dataset) -> nn.Module:
    torch.manual_seed(0)
    module = factory()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x = torch.from_numpy(dataset.network_input(dataset.train.x)).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(dataset.train.y)
    for _ in range(12):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module
