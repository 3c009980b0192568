"""Two-dimensional convolution, with ReLU and a max-pool fused behind it where the network allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Requantization, Shape, exact_float
from harness.ops.conv2d_f32_groups import GroupsConv2dF32
from harness.ops.conv2d_fir import DualFirConv2d, FirConv2d
from harness.ops.conv2d_gray import GrayConv2d
from harness.ops.conv2d_linear import FieldsConv2d, QuadsConv2d
from harness.ops.conv2d_narrow import NarrowConv2d
from harness.ops.conv2d_packed import PackedConv2d
from harness.ops.conv2d_pairs import PairsConv2d
from harness.ops.conv2d_tile import (
    ApartTileConv2d,
    DualPooledTileConv2d,
    DualTileConv2d,
    PooledTileConv2d,
    TileConv2d,
)
from harness.ops.conv2d_winograd import DualWinogradConv2d, WinogradConv2d
from harness.ops.convolution import Convolution
from harness.ops.lowering import Form, Site, Value
from harness.ops.max_pool2d import Window
from harness.ops.plain import PlainForm
from harness.ops.shapes import conv_shape

# Elements of the matrix of windows that is made at a time.
_COLUMN_ELEMENTS = 2**23


@dataclass(frozen=True, eq=False)
class Conv2d(Convolution):
    """Convolution on (H, W, C), dilation 1, one group.

    weight: (O, KH, KW, I) float32 or int8. bias: (O,) float32, or int32 with -input_zero_point * sum(w) folded in.
    padding: rows and columns added on each side; they hold the input's zero point, so the fold is exact at borders.
    padding_after: the same below and to the right, where it differs from above and to the left (Keras' "same").
    relu: clamp at zero (in integers the unsigned range does it: the output's zero point is 0).
    clip: the most that a float output may be (6 for ReLU6); integers end at the top of their range instead.
    weight_bits: 8, 4 or 2 bits of a stored weight; integers are in [-127, 127], [-8, 7] or [-2, 1].
    pool: a max-pool applied to the result; exact on the accumulators because requantisation is monotone.
    requantize: None in float graphs, and in integer graphs whose output stays int32.
    """

    kind: ClassVar[str] = "conv2d"

    weight: Array
    bias: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    relu: bool = False
    pool: Window | None = None
    input_zero_point: int = 0
    requantize: Requantization | None = None
    padding_after: tuple[int, int] | None = None
    clip: float | None = None
    weight_bits: int = 8

    @property
    def channels(self) -> int:
        return int(self.weight.shape[3])

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        if self.integer:
            return (
                GrayConv2d(),
                PairsConv2d(),
                TileConv2d(),
                DualTileConv2d(),
                ApartTileConv2d(),
                PooledTileConv2d(),
                DualPooledTileConv2d(),
                NarrowConv2d(),
                WinogradConv2d(),
                FirConv2d(),
                DualFirConv2d(),
                DualWinogradConv2d(),
                QuadsConv2d(),
                FieldsConv2d(),
                PlainConv2d(),
                PackedConv2d(),
            )
        return GroupsConv2dF32(), PlainConv2dF32()

    @property
    def label(self) -> str:
        return super().label + ("+max_pool2d" if self.pool else "")

    def output_shape(self, *inputs: Shape) -> Shape:
        rows, columns = self.convolved(*inputs)
        if self.pool is not None:
            rows, columns = self.pool.pooled(rows, columns)
            if rows < 1 or columns < 1:
                raise InputError(f"layer {self.name}: its pooling window does not fit into the convolution's result")
        return rows, columns, self.weight.shape[0]

    def accumulate(self, x: Array) -> Array:
        rows, columns = self.convolved(x.shape[1:])
        result = np.empty((len(x), rows, columns, len(self.weight)))
        images = max(1, _COLUMN_ELEMENTS // (rows * columns * self.weight[0].size))
        for start in range(0, len(x), images):
            result[start : start + images] = self._products(x[start : start + images])
        result += self.bias.astype(np.float64)
        return result

    def _products(self, x: Array) -> Array:
        """The convolution of a few images, without the bias."""
        outputs, kernel_height, kernel_width, channels = self.weight.shape
        windows = np.lib.stride_tricks.sliding_window_view(self.padded(x), (kernel_height, kernel_width), axis=(1, 2))
        windows = windows[:, :: self.stride[0], :: self.stride[1]]
        # (N, rows, columns, C, KH, KW) against (O, KH, KW, C)
        kind = exact_float(self.weight)
        columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1).astype(kind)
        weight = self.weight.reshape(outputs, kernel_height * kernel_width * channels).astype(kind)
        result: Array = columns @ weight.T
        return result

    def reference(self, *inputs: Array) -> Array:
        result = super().reference(*inputs)
        return self.pool.maximum(result) if self.pool is not None else result


class PlainConv2d(PlainForm[Conv2d]):
    """Integers of 8 bits."""

    header = "nn_conv2d.h"
    kernel = "nn_conv2d"
    instructions = 6
    widens = True

    def geometry(self, layer: Conv2d, site: Site) -> dict[str, Value]:
        return {"shape": conv_shape(layer, site), "input_zero_point": layer.input_zero_point}


class PlainConv2dF32(PlainForm[Conv2d]):
    """Floats."""

    header = "nn_conv2d.h"
    kernel = "nn_conv2d_f32"
    instructions = 5
    clips = True

    def geometry(self, layer: Conv2d, site: Site) -> dict[str, Value]:
        return {"shape": conv_shape(layer, site)}
