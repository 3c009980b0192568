"""Convolution of one channel, four outputs of a filter at a time (nn_conv2d_gray.h): for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.conv2d_pairs import pack_pairs
from harness.ops.lowering import (
    UNPACKED,
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    finish_constants,
    requantization_fields,
)
from harness.ops.packed import STORAGES, WEIGHT_BITS, words
from harness.ops.packing import pack_rows
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# The widest window whose next row one ADDW reaches, in pixels.
_LARGEST_WIDTH = 1000

# Words of kernels and of their rows up to which the inner product is a straight line (nn_dot.h).
_UNROLLED, _STRAIGHT = 24, 17


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


def pack_filters(weight: Array, bits: int) -> Array:
    """(O, KH, KW, 1) int8 -> (O, words) uint32: each filter's tile as nn_gray_unpack has it."""
    packed = pack_pairs(stacked(weight))
    if bits == 8:
        return packed
    # (filter, word of the tile, half): of two words, bytes 0 and 2 are those of the first.
    halves = packed.view(np.int8).reshape(len(packed), -1, 2, 2).transpose(0, 1, 3, 2).reshape(len(packed), -1, 2)
    shared = 16 // bits
    halves = np.pad(halves, ((0, 0), (0, -halves.shape[1] % shared), (0, 0))) + np.int8(2 ** (bits - 1))
    fields = halves.reshape(len(packed), -1, shared, 2).transpose(0, 1, 3, 2)
    return pack_rows(fields.reshape(len(packed), -1), bits)


class GrayConv2d(Form["Conv2d"]):
    """Two rows and two columns of outputs at a time, pixels paired one below the other."""

    name = "gray"
    storages = STORAGES | UNPACKED
    weight_bits = WEIGHT_BITS
    widens = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        if not site.target.dsp or layer.weight.shape[3] != 1 or layer.stride != (1, 1) or site.input.packed:
            return False
        pooled = layer.pool is not None and (layer.pool.kernel, layer.pool.stride) == ((2, 2), (2, 2))
        plain = layer.pool is None or (layer.pool.kernel, layer.pool.stride) == ((1, 1), (1, 1))
        return (pooled or plain) and self._width(layer, site) <= _LARGEST_WIDTH

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        filters, packed_words = pack_filters(layer.weight, layer.weight_bits).shape
        rows, columns = (-(-size // 2) for size in layer.convolved(site.input_shape))
        unpacking = 5 if layer.weight_bits == 8 else 96 // layer.weight_bits
        return Cost(
            flash=4 * filters * packed_words + 8 * filters,
            scratch=self._scratch(layer, site, packed_words),
            instructions=filters * rows * (columns * _four_instructions(layer) + packed_words * unpacking)
            + (14 if site.output.packed else 8) * int(np.prod(site.output_shape))
            + 4 * int(np.prod(site.input_shape)),
            code=850 + 100 * site.output.packed,
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        packed = pack_filters(layer.weight, layer.weight_bits)
        return Lowering(
            form=self.name,
            header="nn_conv2d_gray.h",
            kernel="nn_conv2d_gray",
            record="nn_conv2d_gray_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
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
        """Bytes of the tile, of the window, and of the rows of outputs that are packed at a time."""
        window = 4 * (int(layer.weight.shape[1]) // 2 + 1) * self._width(layer, site)
        rows = 1 if layer.pool is not None and layer.pool.kernel != (1, 1) else 2
        collected = rows * int(np.prod(site.output_shape[1:])) if site.output.packed else 0
        return 64 // layer.weight_bits * packed_words + window + words(collected)


def _four_instructions(layer: Conv2d) -> int:
    """Of nn_dot_2x2 for one filter's four outputs, with what goes with it. Small kernels are a straight line."""
    rows, width = int(layer.weight.shape[1]) // 2 + 1, int(layer.weight.shape[2])
    skip = 1 if rows * width <= _UNROLLED and width <= _STRAIGHT else 4
    return rows * (11 * (width // 2) + 7 * (width % 2) + skip) + 27
