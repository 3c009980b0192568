"""Convolution stored and computed by 16-bit pairs (nn_conv2d_pairs.h): the dense form for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Storage,
    finish_constants,
    requantization_fields,
)
from harness.ops.max_pool2d import Window
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array, Shape
    from harness.ops.conv2d import Conv2d

# Positions that unpacked weights serve at least, where the image has them: unpacking is then little of the work.
_POSITIONS = 16

# What fits into instructions: ADDW from a row of the kernel to the next, LDRD from a position to its neighbour (bytes).
_LARGEST_SKIP, _LARGEST_NEXT = 4095, 1020


def pack_pairs(weight: Array) -> Array:
    """(O, KH, KW, I) int8 -> (ceil(O / 2), words) uint32: each pair of filters as nn_dot.h unpacks it.

    A row of the kernel is KW * I elements, padded to words of two. Two words of the first filter alternate with two of
    the second; a last single word of each comes at the row's end. A packed word makes two such words: its bytes 0 and 2
    the first, its bytes 1 and 3 the second. The words of a pair are padded to an even number.
    """
    filters, rows, columns, channels = weight.shape
    words = -(-columns * channels // 2)
    padded = np.zeros((filters + filters % 2, rows, 2 * words), np.int8)
    padded[:filters, :, : columns * channels] = weight.reshape(filters, rows, columns * channels)
    pairs = padded.reshape(-1, 2, rows, words, 2)
    # Words of the tile: (pair, row, word of the tile, 2 elements).
    double = words // 2 * 2
    body = pairs[..., :double, :].reshape(len(pairs), 2, rows, double // 2, 2, 2).transpose(0, 2, 3, 1, 4, 5)
    tile = [body.reshape(len(pairs), rows, 2 * double, 2)]
    if words % 2:
        tile.append(pairs[..., double:, :].reshape(len(pairs), 2, rows, 2).transpose(0, 2, 1, 3))
    stream = np.concatenate(tile, axis=2).reshape(len(pairs), -1, 2, 2)
    # (pair, packed word, which word of the tile, which half) -> bytes 0 and 2 are the first word's halves.
    packed = np.ascontiguousarray(stream.transpose(0, 1, 3, 2)).reshape(len(pairs), -1, 4)
    if packed.shape[1] % 2:
        packed = np.concatenate([packed, np.zeros((len(pairs), 1, 4), np.int8)], axis=1)
    return np.ascontiguousarray(packed).view("<u4").reshape(len(pairs), -1)


def dot_instructions(shape: Shape) -> int:
    """Of nn_dot_2x2 for a kernel (O, KH, KW, I), with what goes with it: two filters at two positions."""
    _, rows, columns, channels = shape
    words = -(-columns * channels // 2)
    return int(rows) * (11 * (words // 2) + 7 * (words % 2) + 4) + 30


class PairsConv2d(Form["Conv2d"]):
    """Two filters at two positions at a time, weights as int8 in flash, unpacked into a tile of one pair of filters."""

    name = "pairs"
    widens = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        if not site.target.dsp or self._pitch(layer, site) > _LARGEST_SKIP:
            return False
        if not self._shifted(layer):
            return 2 * layer.stride[1] * int(layer.weight.shape[3]) <= _LARGEST_NEXT
        # Of two neighbours the first must lie at an even position, where the unshifted rows are read.
        aligned = layer.pool is None or layer.pool.kernel == (1, 1) or layer.pool.stride[1] % 2 == 0
        return aligned and self._pitch(layer, site) <= _LARGEST_NEXT

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        pairs, packed_words = pack_pairs(layer.weight).shape
        rows, columns = layer.convolved(site.input_shape)
        unpackings = 1 if self._direct(layer, site) else -(-site.output_shape[0] // self._block(layer, site))
        products = rows * -(-columns // 2) * pairs
        return Cost(
            flash=4 * pairs * packed_words + 8 * len(layer.bias),
            scratch=self._scratch(layer, site, packed_words),
            instructions=products * dot_instructions(layer.weight.shape)
            + unpackings * pairs * packed_words * 5
            + 12 * int(np.prod(site.output_shape))
            + 3 * int(np.prod(site.input_shape)),
            code=850,
        )

    def reads(self, layer: Conv2d, site: Site) -> Storage:
        return Storage.U8_IN_16 if layer.padding == (0, 0) and layer.weight.shape[3] % 2 == 0 else site.input

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        packed = pack_pairs(layer.weight)
        return Lowering(
            form=self.name,
            header="nn_conv2d_pairs.h",
            kernel="nn_conv2d_pairs",
            record="nn_conv2d_pairs_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "packed_words": packed.shape[1],
                "block": self._block(layer, site),
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", packed.ravel()),
                *finish_constants(layer),
            ),
            scratch_bytes=self._scratch(layer, site, packed.shape[1]),
        )

    def _direct(self, layer: Conv2d, site: Site) -> bool:
        """Whether the kernel reads the input where it is; nn_conv2d_pairs_direct in C."""
        return site.input is Storage.U8_IN_16 and self.reads(layer, site) is Storage.U8_IN_16

    def _pitch(self, layer: Conv2d, site: Site) -> int:
        """Bytes from one row of the window to the next; nn_conv2d_pairs_layout in C."""
        _, width, channels = site.input_shape
        row = 4 * (((width + 2 * layer.padding[1]) * channels + 2) // 2)
        return 2 * row if self._shifted(layer) else row

    def _shifted(self, layer: Conv2d) -> bool:
        """Whether a step to the right is an odd number of elements, so that the window needs shifted copies of rows."""
        return layer.stride[1] * int(layer.weight.shape[3]) % 2 == 1

    def _block(self, layer: Conv2d, site: Site) -> int:
        """Rows of outputs that the window serves at a time."""
        rows, columns = layer.convolved(site.input_shape)
        positions = columns * -(-rows // site.output_shape[0])
        return min(-(-_POSITIONS // positions), site.output_shape[0])

    def _scratch(self, layer: Conv2d, site: Site, packed_words: int) -> int:
        """Bytes of the tile and of the window."""
        tile = 8 * packed_words
        if self._direct(layer, site):
            return tile
        pool = layer.pool or Window((1, 1), (1, 1))
        height = (pool.kernel[0] - 1) * layer.stride[0] + int(layer.weight.shape[1])
        height += (self._block(layer, site) - 1) * pool.stride[0] * layer.stride[0]
        return tile + height * self._pitch(layer, site)
