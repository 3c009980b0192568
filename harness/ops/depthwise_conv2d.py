"""Depthwise convolution: every channel has a kernel of its own. The other half of a separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.ops.base import Array, Requantization, Shape
from harness.ops.convolution import Convolution
from harness.ops.depthwise_planes import PlanesDepthwise
from harness.ops.depthwise_strided import StridedDepthwise
from harness.ops.depthwise_strips import StripsDepthwise
from harness.ops.lowering import Form, Site, Value
from harness.ops.packed_convolution import PackedConvolution
from harness.ops.plain import PlainForm
from harness.ops.shapes import conv_shape


@dataclass(frozen=True, eq=False)
class DepthwiseConv2d(Convolution):
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
    def channels(self) -> int:
        return len(self.weight)

    @property
    def taps(self) -> Array:
        """(KH * KW, C): the weights of each position of the kernel side by side, as they meet (H, W, C) inputs."""
        return np.ascontiguousarray(self.weight.reshape(len(self.weight), -1).T)

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        if not self.integer:
            return (PlainDepthwiseF32(),)
        return StridedDepthwise(), StripsDepthwise(), PlanesDepthwise(), PlainDepthwise()

    def output_shape(self, *inputs: Shape) -> Shape:
        return *self.convolved(*inputs), self.channels

    def accumulate(self, x: Array) -> Array:
        rows, columns, channels = self.output_shape(x.shape[1:])
        padded = self.padded(x)
        result = np.empty((len(x), rows, columns, channels))
        result[:] = self.bias.astype(np.float64)
        _, kernel_height, kernel_width = self.weight.shape
        weight = self.weight.astype(np.float64)
        for y in range(kernel_height):
            for x_offset in range(kernel_width):
                taps = padded[:, y :: self.stride[0], x_offset :: self.stride[1]][:, :rows, :columns]
                result += taps * weight[:, y, x_offset]
        return result


class PlainDepthwise(PackedConvolution[DepthwiseConv2d]):
    """All weights are made bytes once."""

    name = "plain"
    header = "nn_depthwise.h"
    kernel = "nn_depthwise"
    code = 500

    def rows(self, layer: DepthwiseConv2d) -> Array:
        return layer.taps

    def unpacked(self, layer: DepthwiseConv2d) -> int:
        return int(layer.weight.size)

    def unpacking(self, layer: DepthwiseConv2d, site: Site) -> int:
        return 0  # little beside the rest


class PlainDepthwiseF32(PlainForm[DepthwiseConv2d]):
    """Floats."""

    header = "nn_depthwise.h"
    kernel = "nn_depthwise_f32"
    instructions = 12
    clips = True

    def weights(self, layer: DepthwiseConv2d) -> Array:
        return layer.taps

    def geometry(self, layer: DepthwiseConv2d, site: Site) -> dict[str, Value]:
        return {"shape": conv_shape(layer, site)}
