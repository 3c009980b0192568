"""Convolution of one channel, four outputs of a filter at a time (nn_conv2d_gray.h): for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.conv2d_pairs import dot_instructions, pack_pairs
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    finish_constants,
    requantization_fields,
)
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# The widest window whose next row one ADDW reaches, in pixels.
_LARGEST_WIDTH = 1000


def stacked(weight: Array) -> Array:
    """(O, KH, KW, 1) int8 -> (2 O, KH // 2 + 1, KW, 2): for outputs one below the other, on pairs of rows.

    Filter 2 f is filter f for the upper output, with a row of zeros below; filter 2 f + 1 the same for the lower one,
    with a row of zeros above. The last axis has the two rows of a pair.
    """
    filters, rows, columns, _ = weight.shape
    result = np.zeros((filters, 2, 2 * (rows // 2 + 1), columns), np.int8)
    result[:, 0, :rows] = weight[..., 0]
    result[:, 1, 1 : rows + 1] = weight[..., 0]
    return result.reshape(2 * filters, -1, 2, columns).transpose(0, 1, 3, 2)


class GrayConv2d(Form["Conv2d"]):
    """Two rows and two columns of outputs at a time, pixels paired one below the other."""

    name = "gray"
    widens = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        if not site.target.dsp or layer.weight.shape[3] != 1 or layer.stride != (1, 1):
            return False
        pooled = layer.pool is not None and (layer.pool.kernel, layer.pool.stride) == ((2, 2), (2, 2))
        plain = layer.pool is None or (layer.pool.kernel, layer.pool.stride) == ((1, 1), (1, 1))
        return (pooled or plain) and self._width(layer, site) <= _LARGEST_WIDTH

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        shape = stacked(layer.weight).shape
        filters, packed_words = pack_pairs(stacked(layer.weight)).shape
        rows, columns = (-(-size // 2) for size in layer.convolved(site.input_shape))
        return Cost(
            flash=4 * filters * packed_words + 8 * filters,
            scratch=self._scratch(layer, site, packed_words),
            instructions=filters * rows * (columns * dot_instructions(shape) + packed_words * 5)
            + 8 * int(np.prod(site.output_shape))
            + 4 * int(np.prod(site.input_shape)),
            code=850,
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        packed = pack_pairs(stacked(layer.weight))
        return Lowering(
            form=self.name,
            header="nn_conv2d_gray.h",
            kernel="nn_conv2d_gray",
            record="nn_conv2d_gray_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "packed_words": packed.shape[1],
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", packed.ravel()),
                *finish_constants(layer),
            ),
            scratch_bytes=self._scratch(layer, site, packed.shape[1]),
        )

    def _width(self, layer: Conv2d, site: Site) -> int:
        """Words of one row of the window."""
        return int(site.input_shape[1]) + 2 * layer.padding[1]

    def _scratch(self, layer: Conv2d, site: Site, packed_words: int) -> int:
        """Bytes of the tile and of the window."""
        return 8 * packed_words + 4 * (int(layer.weight.shape[1]) // 2 + 1) * self._width(layer, site)
