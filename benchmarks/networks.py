"""Networks with seeded random parameters, in the shapes that benchmarks and tests of kernels want. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window

POOL2 = Window((2, 2), (2, 2))


class Builder:
    """Layers one after the other, each with random parameters that keep activations inside their range."""

    def __init__(self, shape: tuple[int, ...], *, integer: bool, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._integer = integer
        self._layers: list[Operator] = []
        self._input = self._tensor("x", shape)
        self._last = self._input
        self._tensors = {"x": self._input}

    def conv2d(self, filters: int, kernel: int, **options: Any) -> Builder:
        """A convolution with ReLU; options: stride, padding, pool of Conv2d."""
        channels = self._last.shape[2]
        weight, bias, requantize = self._parameters((filters, kernel, kernel, channels))
        name = f"conv{len(self._layers) + 1}"
        return self._add(
            Conv2d(name, (self._last.name,), name, weight, bias, relu=True, requantize=requantize, **options)
        )

    def linear(self, outputs: int, *, last: bool = False) -> Builder:
        """A fully connected layer with ReLU, or one that ends the network in int32 or raw floats."""
        weight, bias, requantize = self._parameters((outputs, self._last.elements))
        name = f"fc{len(self._layers) + 1}"
        requantize = None if last else requantize
        return self._add(Linear(name, (self._last.name,), name, weight, bias, relu=not last, requantize=requantize))

    def build(self, name: str) -> Graph:
        return build(name, self._input, tuple(self._layers), self._tensors)

    def _parameters(self, shape: tuple[int, ...]) -> tuple[Array, Array, Requantization | None]:
        random, fan_in = self._random, int(np.prod(shape[1:]))
        if not self._integer:
            weight = random.normal(0, 1 / np.sqrt(fan_in), shape).astype(np.float32)
            return weight, random.normal(0, 0.1, shape[0]).astype(np.float32), None
        weight = np.clip(np.rint(random.normal(0, 40, shape)), -127, 127).astype(np.int8)
        bias = random.integers(-2000, 2000, shape[0]).astype(np.int32)
        scales = random.uniform(0.5, 1.5, shape[0]) * 60 / (40 * 128 * np.sqrt(fan_in))
        return weight, bias, Requantization.from_scales(scales, 0)

    def _tensor(self, name: str, shape: tuple[int, ...], *, accumulators: bool = False) -> Tensor:
        if not self._integer:
            return Tensor(name, shape, "float32")
        return Tensor(name, shape, "int32", 1e-4, bits=32) if accumulators else Tensor(name, shape, "uint8", 1 / 255)

    def _add(self, layer: Conv2d | Linear) -> Builder:
        shape = layer.output_shape(self._last.shape)
        self._last = self._tensor(layer.output, shape, accumulators=layer.requantize is None)
        self._tensors[layer.output] = self._last
        self._layers.append(layer)
        return self


def lenet5(*, integer: bool) -> Graph:
    network = Builder((32, 32, 1), integer=integer).conv2d(6, 5, pool=POOL2).conv2d(16, 5, pool=POOL2)
    return network.linear(120).linear(84).linear(10, last=True).build("lenet5")


def cifar_net(*, integer: bool) -> Graph:
    network = Builder((32, 32, 3), integer=integer)
    for filters in (32, 16, 32):
        network.conv2d(filters, 5, padding=(2, 2), pool=POOL2)
    return network.linear(10, last=True).build("cifar_net")


def single(shape: tuple[int, int, int], filters: int, kernel: int, **options: Any) -> Graph:
    """One integer convolution."""
    return Builder(shape, integer=True).conv2d(filters, kernel, **options).build("single")


NETWORKS: dict[str, Callable[[], Graph]] = {
    "lenet5-int8": lambda: lenet5(integer=True),
    "lenet5-fp32": lambda: lenet5(integer=False),
    "cifar_net-int8": lambda: cifar_net(integer=True),
    "cifar_net-fp32": lambda: cifar_net(integer=False),
    "3x3-16-16-int8": lambda: single((32, 32, 16), 16, 3, padding=(1, 1)),
    "3x3-64-64-int8": lambda: single((8, 8, 64), 64, 3, padding=(1, 1)),
    "pointwise-64-64-int8": lambda: single((25, 5, 64), 64, 1),
    "first-3-8-s2-int8": lambda: single((96, 96, 3), 8, 3, stride=(2, 2), padding=(1, 1)),
    "fc-640-128-int8": lambda: Builder((640,), integer=True).linear(128).build("fc"),
}
