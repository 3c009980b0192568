"""Random networks of mixed precision: every operator, width, stride, padding and branch, for the tests of kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.ops.packing import WEIGHT_RANGES

WIDTHS = (2, 4, 8)
KERNELS = ((1, 1), (3, 3), (2, 3), (3, 1), (1, 4))


class MixedNetwork:
    """A chain of random layers with residual sums; `seed` alone decides everything.

    narrow: widths below 8 bits appear; otherwise all tensors have 8.
    """

    def __init__(self, seed: int, *, narrow: bool = True) -> None:
        self._random = np.random.RandomState(seed)
        self._seed, self._widths = seed, WIDTHS if narrow else (8,)
        height, width, channels = self._random.randint(3, 11), self._random.randint(3, 11), self._random.randint(1, 12)
        self._input = self._last = Tensor(
            "x", (height, width, channels), "uint8", 0.05, int(self._random.choice((0, 9)))
        )
        self._layers: list[Operator] = []
        self._tensors: dict[str, Tensor] = {}

    def build(self) -> Graph:
        steps = [self._convolution, self._depthwise, self._residual, self._pool, self._average, self._pointwise]
        for index in range(5):
            steps[(self._seed + index * (1 + self._seed % 5)) % len(steps)]()
        if self._seed % 3:
            self._linear(int(self._random.randint(2, 20)), last=False)
        self._linear(int(self._random.randint(2, 8)), last=True)
        return build(f"mixed {self._seed}", self._input, tuple(self._layers), self._tensors)

    # ---- layers

    def _convolution(self) -> None:
        kernel = self._kernel()
        pool = Window((2, 2), (2, 1)) if self._random.randint(4) == 0 else None
        self._conv(kernel, int(self._random.randint(1, 14)), pool)

    def _pointwise(self) -> None:
        self._conv((1, 1), int(self._random.randint(1, 18)), None)

    def _conv(self, kernel: tuple[int, int], filters: int, pool: Window | None) -> None:
        options = self._weighted((filters, *kernel, self._last.shape[2]))
        layer = Conv2d(self._name("conv"), (self._last.name,), self._name("conv"), **options, **self._geometry(kernel))
        rows, columns = layer.convolved(self._last.shape)
        if pool is not None and min(pool.pooled(rows, columns)) >= 1:
            layer = replace(layer, pool=pool)
        self._add(layer)

    def _depthwise(self) -> None:
        kernel = self._kernel()
        options = self._weighted((self._last.shape[2], *kernel))
        name = self._name("depthwise")
        self._add(DepthwiseConv2d(name, (self._last.name,), name, **options, **self._geometry(kernel)))

    def _residual(self) -> None:
        """Two branches of one tensor, of other widths, and their sum."""
        source = self._last
        kernel = (3, 3)
        same = {"padding": (1, 1), "input_zero_point": source.zero_point}
        name = self._name("branch")
        channels = source.shape[2]
        self._add(Conv2d(name, (source.name,), name, **self._weighted((channels, *kernel, channels)), **same))
        one = self._last
        other = source
        if self._random.randint(2):
            self._last = source
            name = self._name("branch")
            self._add(DepthwiseConv2d(name, (source.name,), name, **self._weighted((channels, *kernel)), **same))
            other = self._last
        name = self._name("add")
        pair = (one, other) if self._random.randint(2) else (other, one)
        bits = int(self._random.choice(self._widths))
        scales = tuple((self._random.uniform(0.3, 1.2, 2) * 2.0 ** (bits - np.array([t.bits for t in pair]))).tolist())
        requantize = Add.requantization(scales, int(self._random.randint(0, 2**bits)), bits)  # type: ignore[arg-type]
        zero_points = pair[0].zero_point, pair[1].zero_point
        self._add(Add(name, (pair[0].name, pair[1].name), name, False, None, zero_points, requantize))

    def _pool(self) -> None:
        height, width, _ = self._last.shape
        kernel = (min(3, height), min(2, width))
        padding = (int(kernel[0] > 2), int(kernel[1] > 1)) if self._random.randint(2) else (0, 0)
        name = self._name("max")
        layer = MaxPool2d(name, (self._last.name,), name, Window(kernel, (2, 1), padding))
        self._add(layer, self._last.bits, self._last.zero_point)

    def _average(self) -> None:
        height, width, _ = self._last.shape
        kernel = (min(2, height), width if self._random.randint(2) else 1)
        bits = int(self._random.choice(self._widths))
        scale = 2.0 ** (bits - self._last.bits) * self._random.uniform(0.5, 1.5) / (kernel[0] * kernel[1])
        name = self._name("average")
        requantize = Requantization.from_scales(np.array([scale]), int(self._random.randint(2)), bits)
        self._add(AvgPool2d(name, (self._last.name,), name, Window(kernel, (1, 1)), self._last.zero_point, requantize))

    def _linear(self, outputs: int, *, last: bool) -> None:
        name = self._name("fc")
        options = self._weighted((outputs, self._last.elements))
        if last:
            options["requantize"] = None
        self._add(Linear(name, (self._last.name,), name, input_zero_point=self._last.zero_point, **options))

    # ---- parts

    def _kernel(self) -> tuple[int, int]:
        height, width, _ = self._last.shape
        kernel = KERNELS[self._random.randint(len(KERNELS))]
        return min(kernel[0], height), min(kernel[1], width)

    def _geometry(self, kernel: tuple[int, int]) -> dict[str, Any]:
        random = self._random
        padding = tuple(random.randint(0, size) for size in kernel)
        after = tuple(random.randint(0, size) for size in kernel) if random.randint(2) else None
        return {
            "stride": tuple(random.choice((1, 1, 2), 2).tolist()),
            "padding": padding,
            "padding_after": None if after == padding else after,
            "input_zero_point": self._last.zero_point,
        }

    def _weighted(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Weights of a random width, biases, and a requantisation to another one that uses its range."""
        random = self._random
        bits, output_bits = int(random.choice(self._widths)), int(random.choice(self._widths))
        lowest, highest = WEIGHT_RANGES[bits]
        weight = random.randint(lowest, highest + 1, shape).astype(np.int8)
        fan_in = int(np.prod(shape[1:]))
        spread = highest * 2**self._last.bits * np.sqrt(fan_in) / 3
        scales = random.uniform(0.5, 2.0, shape[0]) * 2**output_bits / spread
        if random.randint(4) == 0:
            scales[:] = scales[0]
        zero_point = int(random.choice((0, 2 ** (output_bits - 1))))
        return {
            "weight": weight,
            "bias": random.randint(-int(spread), int(spread) + 1, shape[0]).astype(np.int32),
            "requantize": Requantization.from_scales(scales, zero_point, output_bits),
            "weight_bits": bits,
            "relu": bool(random.randint(2)),
        }

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self._layers)}"

    def _add(self, layer: Operator, bits: int = 32, zero_point: int = 0) -> None:
        shapes = [self._input.shape if name == "x" else self._tensors[name].shape for name in layer.inputs]
        requantize = getattr(layer, "requantize", None)
        if requantize is not None:
            bits, zero_point = requantize.bits, requantize.zero_point
        dtype = "int32" if bits == 32 else "uint8"
        tensor = Tensor(layer.output, layer.output_shape(*shapes), dtype, 0.01, zero_point, bits)  # type: ignore[arg-type]
        self._layers.append(layer)
        self._tensors[layer.output] = self._last = tensor


def mixed_network(seed: int, *, narrow: bool = True) -> Graph:
    return MixedNetwork(seed, narrow=narrow).build()


def mixed_inputs(graph: Graph, count: int) -> Array:
    """(count, H, W, C) uint8: the first is all 0, the second all 255."""
    x = np.random.RandomState(0).randint(0, 256, (count, *graph.input_tensor.shape)).astype(np.uint8)
    x[0], x[1] = 0, 255
    return x
