"""3x3 convolution by Winograd's F(2x2, 3x3), exact in integers (nn_conv2d_winograd.h): fewer products, more scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops import lifting, tile
from harness.ops.base import INT32_LIMIT
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Storage,
    requantization_constants,
    requantization_fields,
)
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# Tiles that transformed weights serve at least, where the image has them.
_TILES = 16


def pack_taps(weight: Array, bits: int) -> Array:
    """(O, 3, 3, I) int8 -> uint32: words of four channels, as (four filters, four channels, filter, tap).

    Filters of 4 and 2 bits share their words, two or four of them, the first in the highest bits of each byte.
    """
    filters, _, _, channels = weight.shape
    shared = 8 // bits
    fours = weight.reshape(filters // 4, 4, 9, channels // 4, 4).transpose(0, 3, 1, 2, 4)
    fields = (np.ascontiguousarray(fours).view(np.uint8) & np.uint8(2**bits - 1)).view("<u4")
    fields = fields.reshape(filters // 4, channels // 4, 4 // shared, shared, 9)
    shifts = bits * np.arange(shared - 1, -1, -1, dtype=np.uint32)
    packed: Array = np.bitwise_or.reduce(fields << shifts[:, None], axis=3).ravel()
    return packed


class WinogradConv2d(Form["Conv2d"]):
    """Two by two outputs from 16 products instead of 36."""

    name = "winograd"
    storages = frozenset({Storage.U8, Storage.U8_IN_16, Storage.U4, Storage.U2, Storage.I32})
    weight_bits = frozenset({8, 4, 2})
    asymmetric = True
    widens = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        filters, rows, columns, channels = layer.weight.shape
        if not site.target.dsp or (rows, columns, *layer.stride) != (3, 3, 1, 1) or layer.pool is not None:
            return False
        if filters % 4 or channels % 4 or (site.output.packed and not self._direct(layer, site)):
            return False
        # Four times every sum of products has to fit, with weights at the top of their bytes.
        reach = np.abs(layer.weight.astype(np.int64)).reshape(filters, -1).sum(axis=1).max() * (2**site.input.bits - 1)
        return bool(reach << 10 - layer.weight_bits < INT32_LIMIT)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        filters, channels = layer.weight.shape[0], layer.weight.shape[3]
        down, across, chunk = self._tiles(layer, site)
        chunks, pairs, tiles = -(-down // chunk), -(-chunk * across // 2), down * across
        words = channels // 2
        turns = words // _unroll(words)
        pair = (14 * words + 7 * turns if self.dual else 11 * words + 3 * turns) + 9
        one_pass = 16 * (pairs * pair + 9) + 30
        return Cost(
            flash=9 * filters * channels * layer.weight_bits // 8 + 8 * filters + 32,
            scratch=self._scratch(layer, site),
            instructions=chunks * filters // 4 * (one_pass + channels * (210 if layer.weight_bits == 8 else 245) + 60)
            + tiles * (150 + channels // 4 * 220)
            + tiles * filters * ((64 if site.output.packed else 60) if self._direct(layer, site) else 84),
            code=3000,
            shared={self._pass(layer)[0]: 150 + (52 if self.dual else 44) * _unroll(words)},
        )

    def reads(self, layer: Conv2d, site: Site) -> Storage:
        return site.input

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        one_pass, definition = self._pass(layer)
        direct = self._direct(layer, site)
        lift, lifted = lifting.unpacked(layer, site.input.bits) if direct else (0, layer)
        return Lowering(
            form=self.name,
            header="nn_conv2d_winograd.h",
            kernel="nn_conv2d_winograd",
            record="nn_conv2d_winograd_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "bias": Reference("bias"),
                "requantize": requantization_fields(lifted.requantize),
                "chunk": self._tiles(layer, site)[2],
                "zeros": Reference("zeros"),
                "pass": one_pass,
                "direct": direct,
                "lift": lift,
            },
            constants=(
                Constant("weights", "uint32_t", pack_taps(layer.weight, layer.weight_bits)),
                Constant("bias", "int32_t", lifted.bias.astype(np.int32)),
                Constant("zeros", "uint32_t", np.zeros(8, np.uint32)),
                *requantization_constants(lifted.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
            functions={one_pass: definition},
        )

    def _direct(self, layer: Conv2d, site: Site) -> bool:
        """Whether outputs are rounded, clamped and stored several at a time."""
        if layer.requantize is None or layer.requantize.bits != site.output.bits:
            return False
        _, lifted = lifting.unpacked(layer, site.input.bits)
        return tile.rounds(lifted.weight, lifted.bias, lifted.requantize, site.input.bits)

    def _pass(self, layer: Conv2d) -> tuple[str, str]:
        """The name and the definition of the C function that sums up products."""
        unroll = _unroll(int(layer.weight.shape[3]) // 2)
        name = f"nn_winograd_pass_{unroll}" + ("_dual" if self.dual else "")
        call = f"nn_winograd_run(pass, {unroll}, {'true' if self.dual else 'false'});"
        return name, f"NN_SHARED void {name}(const nn_winograd_pass *pass)\n{{\n    {call}\n}}"

    def _tiles(self, layer: Conv2d, site: Site) -> tuple[int, int, int]:
        """Rows and columns of tiles, and rows of them at a time."""
        rows, columns, _ = site.output_shape
        down, across = -(-rows // 2), -(-columns // 2)
        chunks = -(-down // min(down, -(-_TILES // across)))
        return down, across, -(-down // chunks)

    def _scratch(self, layer: Conv2d, site: Site) -> int:
        """Bytes of transformed inputs and weights, and of sums."""
        _, across, chunk = self._tiles(layer, site)
        channels, pairs = int(layer.weight.shape[3]), -(-chunk * across // 2)
        return 64 * pairs * channels + 128 * channels + 512 * pairs


class DualWinogradConv2d(WinogradConv2d):
    """More instructions in fewer cycles, for cores that issue two at once: loads beside multiplications."""

    name = "winograd-dual"
    dual = True


def _unroll(words: int) -> int:
    """Words per turn of the loop: the most that divides them, up to sixteen."""
    return max(size for size in range(1, 17) if words % size == 0)
