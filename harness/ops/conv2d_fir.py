"""Convolution by the two-parallel fast FIR algorithm (nn_conv2d_fir.h): fewer products for tall kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops import tile
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage
from harness.ops.packed import WEIGHT_BITS, words
from harness.ops.passes import pass_function, pass_name
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# Units of two outputs that a block has, about: unpacked weights serve them all. Half as many where half of them take
# more bytes than this.
_UNITS, _UNIT_BYTES = 32, 8192

# Words per turn of a loop, at most: three loops of six and what is between them just fit the 1 kB of instruction cache
# that microcontrollers have; cores that issue two instructions at once come with larger ones.
_LONGEST_TURN, _LONGEST_DUAL_TURN = 6, 12


class FirConv2d(Form["Conv2d"]):
    """Two outputs, one above the other, from three quarters of the products."""

    name = "fir"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})
    weight_bits = WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        if not site.target.dsp or site.input is not Storage.U8 or layer.pool is not None:
            return False
        if len(layer.weight) % 4 or layer.requantize is None or layer.requantize.bits != site.output.bits:
            return False
        return self._saves(layer) and self._rounds(layer)

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if not self._saves(layer):
            return "its kernel has too few rows to save products"
        if layer.requantize is not None and not self._rounds(layer):
            return "its rounded sums do not fit in 16 bits, or its scales want other shifts than 32"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        parts = self._parts(layer)
        blocks, block = self._blocks(layer, site)
        groups, units = len(layer.weight) // 4, -(-site.output_shape[0] // 2) * site.output_shape[1]
        lengths = [self._turn(part, site) for part in parts]
        turns = sum(part // length for part, length in zip(parts, lengths, strict=True))
        pair = (14 if self.dual else 11) * sum(parts) + (7 if self.dual else 3) * turns + 58
        kernel_words = layer.weight.shape[1] * self._fours(layer)
        unpacking = 4 * kernel_words * (8 if layer.weight_bits == 8 else 12)
        return Cost(
            flash=groups * (2 * layer.weight_bits * kernel_words + 32),
            scratch=self._scratch(layer, site),
            instructions=groups * ((units + 1) // 2 * pair + blocks * (unpacking + 60))
            + units * (4 * sum(parts) + 20)
            + blocks * self._window(layer, site, block),
            code=1240,
            shared={self._pass(layer, site)[0]: 260 + (52 if self.dual else 44) * sum(lengths)},
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        one_pass, definition = self._pass(layer, site)
        matrix = layer.weight.reshape(len(layer.weight), -1)
        # Biases as they are: what the tile's bytes would add to them, these factors do not.
        constants = tile.constants(np.zeros_like(matrix), layer.bias, layer.requantize)
        return Lowering(
            form=self.name,
            header="nn_conv2d_fir.h",
            kernel="nn_conv2d_fir",
            record="nn_conv2d_fir_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "constants": Reference("constants"),
                "block": self._blocks(layer, site)[1],
                "requantize": tile.requantization(layer.requantize, direct=True),
                "pass": one_pass,
            },
            constants=(
                Constant("weights", "uint32_t", pack_kernels(layer.weight, layer.weight_bits)),
                Constant("constants", "int32_t", constants),
            ),
            scratch_bytes=self._scratch(layer, site),
            functions={one_pass: definition},
        )

    def _saves(self, layer: Conv2d) -> bool:
        """Whether a fifth of the products or more are saved: fewer do not pay for 16 bits of every factor."""
        return 5 * sum(self._parts(layer)) <= 4 * 4 * int(layer.weight.shape[1]) * self._fours(layer)

    def _rounds(self, layer: Conv2d) -> bool:
        return tile.rounds(layer.weight, layer.bias, layer.requantize, 8)

    def _fours(self, layer: Conv2d) -> int:
        """Words of four bytes in a row of the kernel."""
        return -(-int(np.prod(layer.weight.shape[2:])) // 4)

    def _parts(self, layer: Conv2d) -> tuple[int, int, int]:
        """Words of factors: in common, of the lower output, of the upper one."""
        stride, kernel_rows = layer.stride[0], layer.weight.shape[1]
        rows = [-(-(kernel_rows - phase) // stride) for phase in range(min(stride, kernel_rows))]
        each = 2 * self._fours(layer)
        common = each * sum(-(-count // 2) for count in rows)
        return common, each * sum(count // 2 for count in rows), common

    def _pair_bytes(self, layer: Conv2d) -> int:
        """Bytes of the factors of two units, and of where their outputs go."""
        return 8 * sum(self._parts(layer)) + 16

    def _blocks(self, layer: Conv2d, site: Site) -> tuple[int, int]:
        """Blocks, and rows of units in each."""
        rows, columns, _ = site.output_shape
        total = -(-rows // 2)
        units = _UNITS if _UNITS // 2 * self._pair_bytes(layer) <= _UNIT_BYTES else _UNITS // 2
        blocks = -(-total // min(total, -(-units // columns)))
        return blocks, -(-total // blocks)

    def _window(self, layer: Conv2d, site: Site, block: int) -> int:
        """Bytes of the window of a block, with what is read behind its last row."""
        kernel_rows, kernel_columns, channels = layer.weight.shape[1:]
        height = (2 * block - 1) * layer.stride[0] + kernel_rows
        used = ((site.output_shape[1] - 1) * layer.stride[1] + kernel_columns) * channels
        return int(height * words(-layer.padding[1] * channels % 4 + used)) + 4

    def _scratch(self, layer: Conv2d, site: Site) -> int:
        """Bytes of weights, pairs and window."""
        block = self._blocks(layer, site)[1]
        pairs = -(-block * site.output_shape[1] // 2)
        return 16 * sum(self._parts(layer)) + pairs * self._pair_bytes(layer) + self._window(layer, site, block)

    def _turn(self, part: int, site: Site) -> int:
        """Words per turn of the loop over a part: the most that divides it."""
        longest = _LONGEST_DUAL_TURN if site.target.dual_issue else _LONGEST_TURN
        return max(size for size in range(1, longest + 1) if part % size == 0)

    def _pass(self, layer: Conv2d, site: Site) -> tuple[str, str]:
        """The name and the definition of the C function that sums up products."""
        assert layer.requantize is not None
        kind: dict[str, int | bool] = {}
        for name, part in zip(("common", "lower", "upper"), self._parts(layer), strict=True):
            turn = self._turn(part, site)
            kind |= {name: turn, f"{name}_turns": turn < part}
        kind |= {"dual": self.dual, "centred": layer.requantize.zero_point != 0, "bits": layer.requantize.bits}
        name = pass_name("nn_fir", kind)
        return name, pass_function("nn_fir", name, kind)


class DualFirConv2d(FirConv2d):
    """More instructions in fewer cycles, for cores that issue two at once: loads beside multiplications."""

    name = "fir-dual"
    dual = True


def pack_kernels(weight: Array, bits: int) -> Array:
    """(O, KH, KW, I) int8 -> uint32: rows of kernels in words of four bytes, as (four filters, filter, row, word).

    Filters of 4 and 2 bits, with the offset 2**(bits - 1), share their words, two or four of them.
    """
    filters, rows = weight.shape[:2]
    shared = 8 // bits
    lines = weight.reshape(filters, rows, -1)
    lines = np.pad(lines, ((0, 0), (0, 0), (0, -lines.shape[2] % 4)))
    offset = 0 if bits == 8 else 2 ** (bits - 1)
    fields = np.ascontiguousarray(lines + np.int8(offset), np.int8).view("<u4")
    fields = fields.reshape(filters // shared, shared, -1)
    shifts = bits * np.arange(shared, dtype=np.uint32)
    packed: Array = np.bitwise_or.reduce(fields << shifts[:, None], axis=1).ravel()
    return packed
