"""Depthwise convolution on planes of 16-bit elements (nn_depthwise_planes.h): 3x3, stride 1, on cores with DSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import lifting, packed
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage
from harness.ops.passes import pass_function, pass_name
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.depthwise_conv2d import DepthwiseConv2d

_STORAGES = frozenset({Storage.U8, Storage.U4, Storage.U2})

# What fits into instructions: LDRD from a row of a plane to the last that a pass reads, SUB of two outputs (bytes).
_LARGEST_LOAD, _LARGEST_STEP = 1020, 4095

# Bytes of planes that a block of rows may take, where two rows do with less.
_PLANES = 6144


@dataclass(frozen=True)
class _Block:
    """What of the outputs is computed at a time. words: of a row of a plane. height: rows of a plane."""

    rows: int
    words: int
    height: int

    @property
    def bytes(self) -> int:
        return 16 * self.words * self.height


class PlanesDepthwise(Form["DepthwiseConv2d"]):
    """Four outputs at a time from pairs of elements, one channel after the other."""

    name = "planes"
    storages = _STORAGES
    weight_bits = packed.WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        layer = lifting.stored(layer, site.input.bits)
        requantize = layer.requantize
        if not site.target.dsp or layer.weight.shape[1:] != (3, 3) or layer.stride != (1, 1):
            return False
        if requantize is None or not requantize.one_instruction or requantize.bits != site.output.bits:
            return False
        pitch = 4 * self._block(layer, site).words
        channels = len(layer.weight)
        return channels % 4 == 0 and 2 * channels <= _LARGEST_STEP and 3 * pitch + 4 <= _LARGEST_LOAD

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        layer = lifting.stored(layer, site.input.bits)
        channels, block = len(layer.weight), self._block(layer, site)
        rows, columns, _ = site.output_shape
        blocks = -(-rows // block.rows)
        quads = -(-rows // 2) * -(-columns // 2)
        # Per word of the planes of four channels; rows of padding take as long.
        filled = blocks * block.height * (14 * block.words + 40) * channels // 4
        packing = 0 if site.output is Storage.U8 else 3 * rows * columns * channels
        setup = 90 if layer.weight_bits == 8 else 130
        return Cost(
            flash=packed.weights_bytes(9, channels, layer.weight_bits) + 8 * channels,
            scratch=self._scratch(layer, site),
            instructions=channels * (quads * 48 + 4 * rows + blocks * setup) + filled + packing,
            code=750,
            shared={self._pass(layer, site)[0]: 330},
        )

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        layer = lifting.stored(layer, site.input.bits)
        assert layer.requantize is not None
        one_pass, definition = self._pass(layer, site)
        constants = np.stack([layer.bias.astype(np.int32), layer.requantize.multiplier.astype(np.int32)], axis=1)
        return Lowering(
            form=self.name,
            header="nn_depthwise_planes.h",
            kernel="nn_depthwise_planes",
            record="nn_depthwise_planes_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "constants": Reference("constants"),
                "block": self._block(layer, site).rows,
                "pass": one_pass,
            },
            constants=(
                packed.weights_constant(layer.taps, layer.weight_bits),
                Constant("constants", "int32_t", constants.ravel()),
            ),
            scratch_bytes=self._scratch(layer, site),
            functions={one_pass: definition},
            overwrite=0 if site.output.packed else len(layer.weight),
        )

    def _pass(self, layer: DepthwiseConv2d, site: Site) -> tuple[str, str]:
        """The name and the definition of the C function that computes one channel's outputs."""
        assert layer.requantize is not None
        kind = {
            "pitch": 4 * self._block(layer, site).words,
            "distance": 4 if site.output.packed else len(layer.weight),
            "zero_point": layer.requantize.zero_point,
            "bits": layer.requantize.bits,
        }
        name = pass_name("nn_planes", kind)
        return name, pass_function("nn_planes", name, kind)

    def _block(self, layer: DepthwiseConv2d, site: Site) -> _Block:
        rows, columns, _ = site.output_shape
        words = -(-columns // 2) + 1

        def of(count: int) -> _Block:
            return _Block(count, words, -(-count // 2) * 2 + 2)

        fitting = [of(count) for count in (rows, *range(2, rows, 2)) if of(count).bytes <= _PLANES]
        most = max((block.rows for block in fitting), default=min(rows, 2))
        even = -(-rows // -(-rows // most))
        return of(rows if most == rows else min(most, even + even % 2))

    def _scratch(self, layer: DepthwiseConv2d, site: Site) -> int:
        """Bytes of the planes, and of outputs that are packed in the end, with what is written behind them."""
        block = self._block(layer, site)
        collected = block.rows * site.output_shape[1] * 4 + 4 if site.output.packed else 0
        return block.bytes + collected
