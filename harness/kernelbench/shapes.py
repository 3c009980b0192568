"""The layers of the networks that kernels are measured on: shapes alone, with seeded random parameters.

The networks are those of the MLPerf Tiny benchmark (MobileNetV1 0.25 at 96x96 for visual wake words, ResNet-8, DS-CNN,
the anomaly-detection autoencoder). A shape that occurs several times in a network is listed once, with its count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window
from harness.ops.packing import WEIGHT_RANGES

KINDS = ("3x3", "pointwise", "first", "depthwise", "linear", "add", "avg_pool")


@dataclass(frozen=True)
class LayerShape:
    """One layer. kind: of KINDS. input: (H, W, C), or (C,). filters: of convolutions and linear layers.

    kernel, stride: (vertical, horizontal). before, after: padding. count: how often the network has it.
    weight_bits: of the weights. symmetric: whether those of 4 and 2 bits leave out the most negative value. input_bits,
    output_bits: of the activations.
    """

    network: str
    kind: str
    input: Shape
    filters: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    count: int = 1
    weight_bits: int = 8
    input_bits: int = 8
    output_bits: int = 8
    symmetric: bool = False

    @property
    def name(self) -> str:
        """What a table calls it: `3x3 16->32 s2 on 32x32`."""
        extent = "x".join(map(str, self.input[:-1]))
        kernel = "x".join(map(str, self.kernel))
        channels = f"{self.input[-1]}->{self.filters}" if self.filters else f"{self.input[-1]}"
        what = {"linear": "fully connected", "add": "add", "avg_pool": f"average {kernel}"}.get(self.kind, kernel)
        what = "pointwise" if self.kind == "pointwise" else f"depthwise {kernel}" if self.kind == "depthwise" else what
        stride = f" s{self.stride[0]}" if self.stride != (1, 1) and self.kind != "avg_pool" else ""
        return f"{what} {channels}{stride}" + (f" on {extent}" if extent else "")

    @property
    def widths(self) -> str:
        """Bits of activations and weights: 8x8, 4x2; 4x4s with symmetric weights; 8x8>4 where the output has others."""
        weights = f"{self.weight_bits}{'s' if self.symmetric else ''}"
        return f"{self.input_bits}x{weights}" + (f">{self.output_bits}" if self.output_bits != self.input_bits else "")

    def graph(self) -> Graph:
        """A network of this layer alone, or of a layer that doubles its input for a sum. Deterministic."""
        random = np.random.default_rng(len(self.name))
        source = Tensor("x", self.input, "uint8", 0.05, 0, self.input_bits)
        layer = self._layer(random)
        shape = layer.output_shape(*(self.input for _ in layer.inputs))
        return build(self.name, source, (layer,), {"y": Tensor("y", shape, "uint8", 0.05, 0, self.output_bits)})

    def _layer(self, random: np.random.Generator) -> Operator:
        wide = None if self.after == self.before else self.after
        if self.kind == "add":
            ratio = 2.0 ** (self.output_bits - self.input_bits)
            scales = (0.6 * ratio, 0.4 * ratio)
            return Add("layer", ("x", "x"), "y", requantize=Add.requantization(scales, 0, self.output_bits))
        if self.kind == "avg_pool":
            scale = np.array([2.0 ** (self.output_bits - self.input_bits) / (self.kernel[0] * self.kernel[1])])
            requantize = Requantization.from_scales(scale, 0, self.output_bits)
            return AvgPool2d("layer", ("x",), "y", Window(self.kernel, self.kernel), 0, requantize)
        if self.kind == "linear":
            weight, bias, requantize = self._parameters(random, (self.filters, self.input[0]))
            return Linear("layer", ("x",), "y", weight, bias, True, requantize=requantize, weight_bits=self.weight_bits)
        depthwise = self.kind == "depthwise"
        filters = (self.input[2], *self.kernel) if depthwise else (self.filters, *self.kernel, self.input[2])
        weight, bias, requantize = self._parameters(random, filters)
        return (DepthwiseConv2d if depthwise else Conv2d)(
            "layer",
            ("x",),
            "y",
            weight,
            bias,
            self.stride,
            self.before,
            True,
            requantize=requantize,
            padding_after=wide,
            weight_bits=self.weight_bits,
        )

    def _parameters(self, random: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array, Requantization]:
        """Weights, biases and scales that keep outputs in their range. No zeros: they would invite sparse forms."""
        lowest, highest = WEIGHT_RANGES[self.weight_bits]
        lowest = -highest if self.symmetric else lowest
        weight = random.integers(lowest, highest + 1, shape).astype(np.int8)
        spread = highest * 2 ** (self.input_bits - 1) * np.sqrt(weight[0].size)
        bias = random.integers(-int(spread), int(spread), shape[0]).astype(np.int32)
        scales = random.uniform(0.5, 1.5, shape[0]) * 100 / 2 ** (8 - self.output_bits) / spread
        return weight, bias, Requantization.from_scales(np.minimum(scales, 0.45), 0, self.output_bits)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding (before, after) of Keras' "same"."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _convolution(
    network: str, kind: str, shape: Shape, filters: int, kernel: int | tuple[int, int], stride: int = 1, count: int = 1
) -> LayerShape:
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    edges = [_same(shape[axis], sizes[axis], stride) for axis in (0, 1)]
    return LayerShape(
        network,
        kind,
        shape,
        filters,
        sizes,
        (stride, stride),
        (edges[0][0], edges[1][0]),
        (edges[0][1], edges[1][1]),
        count,
    )


def _mobilenet() -> Iterator[LayerShape]:
    """MobileNetV1 0.25 on 96x96x3 (visual wake words)."""
    name = "mobilenet"
    yield _convolution(name, "first", (96, 96, 3), 8, 3, 2)
    size, channels = 48, 8
    for filters, stride, count in (
        (16, 1, 1),
        (32, 2, 1),
        (32, 1, 1),
        (64, 2, 1),
        (64, 1, 1),
        (128, 2, 1),
        (128, 1, 5),
        (256, 2, 1),
        (256, 1, 1),
    ):
        yield _convolution(name, "depthwise", (size, size, channels), 0, 3, stride, count)
        size //= stride
        yield _convolution(name, "pointwise", (size, size, channels), filters, 1, count=count)
        channels = filters
    yield LayerShape(name, "avg_pool", (3, 3, 256), kernel=(3, 3))
    yield LayerShape(name, "linear", (256,), 2)


def _resnet8() -> Iterator[LayerShape]:
    """ResNet-8 on 32x32x3 (image classification)."""
    name = "resnet8"
    yield _convolution(name, "first", (32, 32, 3), 16, 3)
    yield _convolution(name, "3x3", (32, 32, 16), 16, 3, count=2)
    yield LayerShape(name, "add", (32, 32, 16))
    for size, channels in ((32, 16), (16, 32)):
        half, filters = size // 2, 2 * channels
        yield _convolution(name, "3x3", (size, size, channels), filters, 3, 2)
        yield _convolution(name, "3x3", (half, half, filters), filters, 3)
        yield _convolution(name, "pointwise", (size, size, channels), filters, 1, 2)
        yield LayerShape(name, "add", (half, half, filters))
    yield LayerShape(name, "avg_pool", (8, 8, 64), kernel=(8, 8))
    yield LayerShape(name, "linear", (64,), 10)


def _ds_cnn() -> Iterator[LayerShape]:
    """DS-CNN on 49x10 features (keyword spotting)."""
    name = "ds-cnn"
    yield _convolution(name, "first", (49, 10, 1), 64, (10, 4), 2)
    yield _convolution(name, "depthwise", (25, 5, 64), 0, 3, count=4)
    yield _convolution(name, "pointwise", (25, 5, 64), 64, 1, count=4)
    yield LayerShape(name, "avg_pool", (25, 5, 64), kernel=(25, 5))
    yield LayerShape(name, "linear", (64,), 12)


def _autoencoder() -> Iterator[LayerShape]:
    """The fully connected autoencoder on 640 features (anomaly detection)."""
    for inputs, outputs, count in ((640, 128, 1), (128, 128, 6), (128, 8, 1), (8, 128, 1), (128, 640, 1)):
        yield LayerShape("autoencoder", "linear", (inputs,), outputs, count=count)


NETWORKS = {"mobilenet": _mobilenet, "resnet8": _resnet8, "ds-cnn": _ds_cnn, "autoencoder": _autoencoder}


def of(network: str) -> tuple[LayerShape, ...]:
    """The layers of one of NETWORKS, in its order, each shape once."""
    return tuple(NETWORKS[network]())


def narrower(shape: LayerShape, weight_bits: int, activation_bits: int = 8, *, symmetric: bool = False) -> LayerShape:
    """The same layer with other widths; the first layer of a network still reads an image of 8 bits."""
    input_bits = 8 if shape.kind == "first" else activation_bits
    return replace(
        shape, weight_bits=weight_bits, input_bits=input_bits, output_bits=activation_bits, symmetric=symmetric
    )
