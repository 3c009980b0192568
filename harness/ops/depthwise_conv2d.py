"""Depthwise convolution: every channel has a kernel of its own. The other half of a separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Requantization, Shape, finished, padding_edges, relu_label
from harness.ops.lowering import Form


@dataclass(frozen=True, eq=False)
class DepthwiseConv2d(Operator):
    """Depthwise convolution on (H, W, C): as many groups as channels, one filter each, dilation 1.

    weight: (C, KH, KW) float32 or int8. bias: (C,) float32, or int32 with -input_zero_point * sum(w) folded in.
    The other fields are those of Conv2d.
    """

    kind: ClassVar[str] = "depthwise_conv2d"

    weight: Array
    bias: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    relu: bool = False
    input_zero_point: int = 0
    requantize: Requantization | None = None
    padding_after: tuple[int, int] | None = None
    clip: float | None = None
    weight_bits: int = 8

    @property
    def edges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding as ((top, bottom), (left, right))."""
        return padding_edges(self.padding, self.padding_after)

    @property
    def integer(self) -> bool:
        """Whether weights are integers."""
        return bool(np.issubdtype(self.weight.dtype, np.integer))

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        return ()

    @property
    def parameters(self) -> dict[str, Array]:
        stored = {"weight": self.weight, "bias": self.bias}
        if self.requantize is not None:
            stored |= {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}
        return stored

    @property
    def label(self) -> str:
        return self.kind + relu_label(self.relu, self.clip)

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width, channels = inputs[0]
        expected, kernel_height, kernel_width = self.weight.shape
        if channels != expected:
            raise InputError(f"layer {self.name} wants {expected} channels but its input has {channels}")
        vertical, horizontal = self.edges
        rows = (height + sum(vertical) - kernel_height) // self.stride[0] + 1
        columns = (width + sum(horizontal) - kernel_width) // self.stride[1] + 1
        if rows < 1 or columns < 1:
            raise InputError(
                f"layer {self.name}: a {kernel_height}x{kernel_width} kernel does not fit into {height}x{width}"
            )
        return rows, columns, channels

    def macs(self, *inputs: Shape) -> int:
        rows, columns, _ = self.output_shape(*inputs)
        return int(rows * columns * self.weight.size)

    def accumulate(self, x: Array) -> Array:
        """The convolution before clamping, as float64, tap by tap: exact for integers, whose sums stay below 2**53."""
        rows, columns, channels = self.output_shape(x.shape[1:])
        padded = np.pad(x, ((0, 0), *self.edges, (0, 0)), constant_values=x.dtype.type(self.input_zero_point))
        result = np.empty((len(x), rows, columns, channels))
        result[:] = self.bias.astype(np.float64)
        _, kernel_height, kernel_width = self.weight.shape
        weight = self.weight.astype(np.float64)
        for y in range(kernel_height):
            for x_offset in range(kernel_width):
                taps = padded[:, y :: self.stride[0], x_offset :: self.stride[1]][:, :rows, :columns]
                result += taps * weight[:, y, x_offset]
        return result

    def reference(self, *inputs: Array) -> Array:
        return finished(
            self.accumulate(inputs[0]), self.requantize, integer=self.integer, relu=self.relu, clip=self.clip
        )
