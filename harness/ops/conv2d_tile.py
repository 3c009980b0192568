"""Convolution by tiles of two pixels and four filters (nn_conv2d_tile.h): activations are multiplied as bytes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import lifting, packed, tile
from harness.ops.base import Requantization
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Storage,
    requantization_constants,
)
from harness.ops.packed import STORAGES, WEIGHT_BITS
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# Pixels that an unpacked tile serves at least, where the image has them: unpacking is then little of the work.
_PIXELS = 64

# The same where a max-pool follows: such layers come early and have few weights, but large images.
_POOLED_PIXELS = 16

# And at most of a flat image, whose blocks may end anywhere.
_FLAT_PIXELS = 96


@dataclass(frozen=True)
class _View:
    """How a block lies in scratch (nn_conv2d_tile.h). words: of one output. run: of one run. block: as in C.

    block_bytes: what passes read. window_bytes: what patches are made of.
    """

    name: str
    words: int
    run: int
    block: int
    block_bytes: int
    window_bytes: int = 0


class TileConv2d(Form["Conv2d"]):
    """Two pixels and four filters at a time; weights are unpacked once per block of outputs."""

    name = "tile"
    storages = STORAGES
    weight_bits = WEIGHT_BITS
    asymmetric = True
    widens = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        pooled = layer.pool is not None and (layer.pool.kernel, layer.pool.stride) != ((1, 1), (1, 1))
        return not pooled and self._computes(layer, site)

    def _computes(self, layer: Conv2d, site: Site) -> bool:
        """Whether it can compute the convolution, without what follows it."""
        if not site.target.dsp or layer.weight.shape[0] < 4:
            return False
        if site.output.packed and not self._direct(layer, site):
            return False
        return tile.fits(self._matrix(self._lifted(layer, site)[1]))

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if site.target.dsp and not tile.fits(self._matrix(layer)):
            return "a weight of -128 does not fit its 16-bit pairs"
        return super().refusal(layer, site)

    def reads(self, layer: Conv2d, site: Site) -> Storage:
        return site.input if site.input.packed else Storage.U8

    def writes(self, layer: Conv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output}) if self._direct(layer, site) else super().writes(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        view = self._view(layer, site)
        one_pass = self._pass(layer, site)
        groups = -(-len(layer.weight) // 4)
        rows, columns = layer.convolved(site.input_shape)
        flat = view.name == "FLAT"
        total = rows * columns if flat else rows
        blocks = -(-total // view.block)
        passes = rows if view.name == "ROWS" else blocks
        pairs = rows * -(-columns // 2) if view.name == "ROWS" else -(-rows * columns // 2)
        if view.name == "PATCHES":
            fill = float(
                rows * columns * (3 * view.words + 20) + blocks * view.window_bytes * (8 if site.input.packed else 1)
            )
        else:
            fill = view.block_bytes // 4 * blocks * (9 if site.input.packed else 3.5)
        unpacking = view.words * tile.UNPACKING[one_pass.weight_bits] + tile.GROUP
        return Cost(
            flash=groups * (4 * self._packed_words(layer, view) + 32),
            scratch=self._scratch(view),
            instructions=groups * (pairs * one_pass.pair_instructions + blocks * unpacking)
            + (groups if one_pass.runs else 1) * passes * 45
            + int(fill),
            code=560 if view.name == "FLAT" else 800,
            shared={one_pass.name: one_pass.bytes},
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        view, direct = self._view(layer, site), self._direct(layer, site)
        one_pass, lifted = self._pass(layer, site), self._lifted(layer, site)[1]
        return Lowering(
            form=self.name,
            header="nn_conv2d_tile.h",
            kernel="nn_conv2d_tile",
            record="nn_conv2d_tile_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "packed_words": self._packed_words(layer, view),
                "constants": Reference("constants"),
                "view": f"NN_TILE_{view.name}",
                "block": view.block,
                "words": view.words,
                "pass": one_pass.name,
                "direct": direct,
                "requantize": tile.requantization(layer.requantize, direct=direct),
            },
            constants=(
                Constant("weights", "uint32_t", tile.pack(self._matrix(layer), one_pass.weight_bits)),
                Constant("constants", "int32_t", tile.constants(self._matrix(lifted), lifted.bias, lifted.requantize)),
                *(() if direct else requantization_constants(layer.requantize)),
            ),
            scratch_bytes=self._scratch(view),
            functions={one_pass.name: one_pass.definition},
        )

    def _direct(self, layer: Conv2d, site: Site) -> bool:
        """Whether the pass itself requantises and stores."""
        if len(layer.weight) % 4 or layer.requantize is None or layer.requantize.bits != site.output.bits:
            return False
        _, lifted = lifting.unpacked(layer, site.input.bits)
        return tile.rounds(lifted.weight, lifted.bias, lifted.requantize, site.input.bits)

    def _lifted(self, layer: Conv2d, site: Site) -> tuple[int, Conv2d]:
        """As lifting.unpacked, where the pass requantises."""
        return lifting.unpacked(layer, site.input.bits) if self._direct(layer, site) else (0, layer)

    def _pass(self, layer: Conv2d, site: Site) -> tile.Pass:
        view = self._view(layer, site)
        return tile.Pass(
            view.run,
            layer.weight.shape[1] if view.name == "ROWS" else 0,
            tile.unroll(view.run, site.target),
            tile.bits(layer),
            layer.requantize if self._direct(layer, site) else None,
            lift=self._lifted(layer, site)[0],
            dual=self.dual,
            apart=self.apart,
        )

    def _flat(self, layer: Conv2d, site: Site) -> bool:
        """Whether outputs read what lies at their own place alone, and rows have no gaps between them."""
        if (*layer.weight.shape[1:3], *layer.stride) != (1, 1, 1, 1) or np.any(layer.edges):
            return False
        ends = ((site.input, site.input_shape), (site.output, site.output_shape))
        return all(stored.bits * shape[1] * shape[2] % 32 == 0 or not stored.packed for stored, shape in ends)

    def _matrix(self, layer: Conv2d) -> Array:
        """(O, elements) int8: weights in the order in which a pass reads activations, padded to words."""
        filters, rows, columns, channels = layer.weight.shape
        lines = layer.weight.reshape(filters, rows, columns * channels)
        if channels % 4 == 0:
            return lines.reshape(filters, -1)
        whole = columns * channels // 4 * 4
        parts = [lines[:, :, :whole].reshape(filters, -1), lines[:, :, whole:].reshape(filters, -1)]
        matrix = np.concatenate(parts, axis=1)
        return np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 4)))

    def _packed_words(self, layer: Conv2d, view: _View) -> int:
        """Words of packed weights of four filters."""
        return view.words * tile.bits(layer) // 2

    def _scratch(self, view: _View) -> int:
        """Bytes of the tile and its constants, the block and the window."""
        return 32 * view.words + 32 + view.block_bytes + view.window_bytes

    def _view(self, layer: Conv2d, site: Site) -> _View:
        rows, columns = layer.convolved(site.input_shape)
        kernel_rows, kernel_columns, channels = layer.weight.shape[1:]
        words = self._matrix(layer).shape[1] // 4
        pairs = -(-columns // 2)
        if channels % 4 == 0 and self._flat(layer, site):
            block = min(rows * columns, _FLAT_PIXELS)
            block = -(-rows * columns // -(-rows * columns // block))
            return _View("FLAT", words, words, block, -(-block // 2) * 8 * words)
        pooled = layer.pool is not None and layer.pool.kernel != (1, 1)
        block = min(rows, -(-(_POOLED_PIXELS if pooled else _PIXELS) // columns))
        if channels % 4 and site.output.packed and columns * len(layer.weight) * site.output.bits % 32:
            block = 1  # rows of outputs have gaps between them
        together = layer.pool.kernel[0] if layer.pool is not None else 1
        block = -(-rows // -(-rows // block))
        block = -(-block // together) * together
        height = (block - 1) * layer.stride[0] + kernel_rows
        if channels % 4:
            used = ((columns - 1) * layer.stride[1] + kernel_columns) * channels
            pitch = -(-(-layer.padding[1] * channels % 4 + used) // 4) * 4
            return _View("PATCHES", words, words, block, block * pairs * 8 * words, height * pitch)
        pitch = 2 * channels * ((pairs - 1) * layer.stride[1] + kernel_columns)
        return _View("ROWS", words, kernel_columns * channels // 4, block, height * pitch)


class DualTileConv2d(TileConv2d):
    """More instructions in fewer cycles, for cores that issue two at once: loads beside multiplications."""

    name = "tile-dual"
    dual = True


class ApartTileConv2d(TileConv2d):
    """More instructions in fewer cycles, for cores with pipelined loads: some loads are instructions of their own."""

    name = "tile-apart"
    apart = True


class PooledTileConv2d(TileConv2d):
    """The same with a max-pool behind it, for narrow weights or activations: nn_conv2d_tile_pool.h.

    Without a pool it packs outputs that passes cannot: of filters that are not in fours, or where scales want other
    shifts than 32.
    """

    name = "tile-pool"
    widens = False

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        pool, requantize = layer.pool, layer.requantize
        if pool is None or (pool.kernel, pool.stride) == ((1, 1), (1, 1)):
            if not site.output.packed or self._direct(layer, site):
                return False  # a tile alone does it
        elif pool.kernel != pool.stride or pool.padding != (0, 0):
            return False
        if layer.weight_bits == 8 and not site.input.packed and not site.output.packed:
            return False  # there are faster ones
        if requantize is None or requantize.bits != site.output.bits or layer.weight.shape[0] < 4:
            return False
        if any(size % window for size, window in zip(layer.convolved(site.input_shape), _window(layer), strict=True)):
            return False
        conv, where = self._unpooled(layer, site)
        return self._computes(conv, where) and self._view(conv, where).name != "FLAT"

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        conv, where = self._unpooled(layer, site)
        cost = super().cost(conv, where)
        window, filters = int(np.prod(_window(layer))), len(layer.weight)
        four = 4 * window + (14 if filters % 4 == 0 else 40)
        return dataclasses.replace(
            cost,
            instructions=cost.instructions + four * int(np.prod(site.output_shape[:2])) * -(-filters // 4),
            scratch=cost.scratch + self._collected(conv, where),
            code=cost.code + 200,
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        conv, where = self._unpooled(layer, site)
        lowering = super().lower(conv, where)
        return dataclasses.replace(
            lowering,
            header="nn_conv2d_tile_pool.h",
            kernel="nn_conv2d_tile_pool",
            record="nn_conv2d_tile_pool_layer",
            fields={
                "conv": lowering.fields,
                "collected": lowering.scratch_bytes,
                "pool": _window(layer),
                "filters": len(layer.weight),
                "output": site.output.value,
            },
            scratch_bytes=lowering.scratch_bytes + self._collected(conv, where),
        )

    def _unpooled(self, layer: Conv2d, site: Site) -> tuple[Conv2d, Site]:
        """The convolution alone, to 8 bits, and where it stands. Its pool says how many rows a block must be of.

        Filters are in whole fours, the missing ones 0, so that passes store what four yield.
        """
        assert layer.requantize is not None
        missing = -len(layer.weight) % 4
        conv = dataclasses.replace(
            layer,
            weight=np.pad(layer.weight, ((0, missing), (0, 0), (0, 0), (0, 0))),
            bias=np.pad(layer.bias, (0, missing)),
            requantize=Requantization(
                np.pad(layer.requantize.multiplier, (0, missing), constant_values=1),
                np.pad(layer.requantize.shift, (0, missing), constant_values=32),
                layer.requantize.zero_point,
            ),
        )
        shape = (*layer.convolved(site.input_shape), len(conv.weight))
        return conv, dataclasses.replace(site, output_shape=shape, output=Storage.U8)

    def _collected(self, conv: Conv2d, where: Site) -> int:
        """Bytes of a block's rows, in whole words."""
        return packed.words(self._view(conv, where).block * where.output_shape[1] * where.output_shape[2])


class DualPooledTileConv2d(PooledTileConv2d):
    """More instructions in fewer cycles, as DualTileConv2d."""

    name = "tile-pool-dual"
    dual = True


def _window(layer: Conv2d) -> tuple[int, int]:
    """Rows and columns of the pool, where there is one."""
    return (1, 1) if layer.pool is None else layer.pool.kernel
