"""Convolution with weights and activations of 2, 4 or 8 bits (nn_conv2d_packed.h): the form that every core runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.ops.packed_convolution import PackedConvolution

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d
    from harness.ops.lowering import Site


class PackedConv2d(PackedConvolution["Conv2d"]):
    """Filters are made bytes one after the other, for each row of outputs anew."""

    name = "packed"
    header = "nn_conv2d_packed.h"
    kernel = "nn_conv2d_packed"
    code = 600

    def rows(self, layer: Conv2d) -> Array:
        return layer.weight.reshape(len(layer.weight), -1)

    def unpacked(self, layer: Conv2d) -> int:
        return int(layer.weight[0].size)

    def unpacking(self, layer: Conv2d, site: Site) -> int:
        return 0 if layer.weight_bits == 8 else 4 * site.output_shape[0] * int(layer.weight.size)
