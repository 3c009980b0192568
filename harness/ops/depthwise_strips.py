"""Depthwise convolution on strips of a row (nn_depthwise_strips.h): 3x3 kernels, stride 1, on cores with DSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import lifting, packed
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.depthwise_conv2d import DepthwiseConv2d

# What fits into instructions: LDRD from a line to the next but one, ADD of a strip's outputs (bytes).
_LARGEST_LOAD, _LARGEST_STEP = 1020, 4095

# Bytes of lines that a block of rows may take, where one row of outputs does with less.
_LINES = 6144

# Bytes of the weights and constants of four channels.
_WEIGHTS = 128

# Pixels of a strip. Above six, parameters are kept in memory, which costs more than its instructions.
_TILES = (8, 7, 6, 5, 4, 3, 2)
_SHORT, _LONG_COSTS = 6, 1.03

# Words of packed weights of four channels.
_PACKED_WORDS = {8: 9, 4: 5, 2: 3}


@dataclass(frozen=True)
class _Plan:
    """How an image is cut. tile: pixels of a strip. strips: of a row; over: pixels of these behind the row.

    edges: whether lines have padding on their sides. whole: whether the image is one pass. block: rows of outputs at a
    time. pitch: bytes of a line. collected: bytes of packed outputs of a block. fill, finish: instructions for a row of
    four channels' pixels in scratch, and for a row of one channel's outputs.
    """

    tile: int
    strips: int
    over: int
    edges: bool
    whole: bool
    block: int
    pitch: int
    collected: int
    fill: int
    finish: int

    @property
    def scratch(self) -> int:
        """Bytes of weights, lines and collected outputs."""
        lines = 3 if self.whole else self.block + 2
        return _WEIGHTS + lines * self.pitch + self.slot + self.collected

    @property
    def slot(self) -> int:
        """Bytes of padding between lines."""
        return self.pitch // (self.strips + 1) if self.edges else 0


class StripsDepthwise(Form["DepthwiseConv2d"]):
    """Up to eight neighbouring outputs of one channel at a time, from pairs of pixels."""

    name = "strips"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})
    weight_bits = packed.WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        layer = lifting.stored(layer, site.input.bits)
        if not site.target.dsp or layer.weight.shape[1:] != (3, 3) or layer.stride != (1, 1):
            return False
        if layer.edges != ((1, 1), (1, 1)) or len(layer.weight) % 4:
            return False
        requantize = layer.requantize
        if requantize is None or not requantize.one_instruction or requantize.bits != site.output.bits:
            return False
        return _plan(layer, site) is not None

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        layer = lifting.stored(layer, site.input.bits)
        plan = _planned(layer, site)
        rows, columns, channels = site.output_shape
        fours, blocks = channels // 4, -(-rows // plan.block)
        outputs = 4 * (rows * plan.finish + 14 * blocks)
        if plan.whole:
            outputs = 4 * (47 + 9 * _per_output(layer))
        if site.output.packed:
            loops = columns if plan.over else plan.strips
            outputs += rows * ((4 if site.output is Storage.U2 else 3) * columns + 4 * loops + 2)
        filled = (rows + 2 * (blocks - 1)) * plan.fill
        padding = blocks * (2 * plan.pitch + (plan.block + 3) * plan.slot) // 2
        unpacked = blocks * {8: 70, 4: 90, 2: 87}[layer.weight_bits]
        code = 500 + (90 if plan.edges else 0) + (40 if plan.over else 0) + (0 if layer.weight_bits == 8 else 75)
        return Cost(
            flash=4 * _PACKED_WORDS[layer.weight_bits] * fours + 8 * channels,
            scratch=plan.scratch,
            instructions=fours * (outputs + filled + unpacked) + padding,
            shared={_name(layer, site, plan): code + 4 * (plan.finish + plan.fill) // plan.strips},
        )

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        layer = lifting.stored(layer, site.input.bits)
        assert layer.requantize is not None
        plan = _planned(layer, site)
        name = _name(layer, site, plan)
        constants = np.stack([layer.bias, layer.requantize.multiplier], axis=1).astype(np.int32)
        fields = ", ".join(f".{field} = {value}" for field, value in _kind(layer, site, plan).items())
        arguments = "const nn_depthwise_strips_layer *layer, const void *input, void *output, void *scratch"
        body = f"nn_strips_run(layer, input, output, scratch, (nn_strips_kind){{{fields}}});"
        return Lowering(
            form=self.name,
            header="nn_depthwise_strips.h",
            kernel="nn_depthwise_strips",
            record="nn_depthwise_strips_layer",
            fields={"weights": Reference("weights"), "constants": Reference("constants"), "run": name},
            constants=(
                Constant("weights", "uint32_t", pack(layer.taps, layer.weight_bits)),
                Constant("constants", "int32_t", constants.ravel()),
            ),
            scratch_bytes=plan.scratch,
            overread=plan.over * site.input.row_bytes(len(layer.weight)),
            overwrite=0 if site.output.packed else plan.over * len(layer.weight),
            functions={name: f"NN_SHARED void {name}({arguments})\n{{\n    {body}\n}}"},
        )


def pack(taps: Array, bits: int) -> Array:
    """(9, C) int8 weights, C in fours -> uint32 words as nn_strips_tap (nn_depthwise_strips.h) reads them."""
    fours = taps.astype(np.int64).reshape(9, -1, 4).transpose(1, 0, 2)
    if bits == 8:
        raw: Array = np.ascontiguousarray(fours.astype(np.int8)).view(np.uint32).ravel()
        return raw
    # Four channels of a tap side by side, then these side by side in words.
    fields = ((fours + 2 ** (bits - 1)) << (bits * np.arange(4))).sum(axis=2)
    order = np.array(
        [[0, 1], [4, 5], [6, 7], [3, 2], [8, 8]] if bits == 4 else [[0, 1, 1, 2], [3, 4, 4, 5], [6, 7, 7, 8]]
    )
    words: Array = (fields[:, order] << (4 * bits * np.arange(order.shape[1]))).sum(axis=2).ravel().astype(np.uint32)
    return words


def _plan(layer: DepthwiseConv2d, site: Site) -> _Plan | None:
    """With the strips that cost least; None where steps are too long."""
    rows, columns, channels = site.output_shape
    plans = []
    for tile in _TILES:
        strips, words = -(-columns // tile), -(-tile // 2)
        edges = strips > 1 or layer.input_zero_point != 0
        slot, over = 16 * words, strips * tile - columns
        pitch = (strips + edges) * slot
        if tile * channels > _LARGEST_STEP or 2 * pitch + slot > _LARGEST_LOAD:
            continue
        whole = (rows, columns, tile) == (3, 3, 3) and not edges
        most = max(_LINES // pitch - 2, 1)
        block = -(-rows // -(-rows // most))
        collected = 4 * (block * columns + over) if site.output.packed else 0
        pairs = (10 if site.input.packed else 8) * words + (9 if words == 4 else 1)
        fill = strips * (pairs + 4) + (5 if edges else 0) + (9 if over else 0)
        line = 2 * tile + 1 + words // 2 + words % 2 + (2 if edges else -2)
        strip = 3 * line + _per_output(layer) * tile + {6: 6, 7: 8, 8: 9}.get(tile, 5)
        turn = (6 if edges else 0) + ((1 if tile < 7 else 2) if over else 0)
        plans.append(_Plan(tile, strips, over, edges, whole, block, pitch, collected, fill, strips * strip + turn))
    longer = {True: _LONG_COSTS, False: 1.0}
    return min(plans, key=lambda plan: longer[plan.tile > _SHORT] * (plan.fill + 4 * plan.finish), default=None)


def _per_output(layer: DepthwiseConv2d) -> int:
    """Instructions that round, clamp and store."""
    return 4 if layer.requantize is not None and layer.requantize.zero_point else 3


def _planned(layer: DepthwiseConv2d, site: Site) -> _Plan:
    plan = _plan(layer, site)
    assert plan is not None
    return plan


def _kind(layer: DepthwiseConv2d, site: Site, plan: _Plan) -> dict[str, str | int]:
    """The initialiser of an nn_strips_kind."""
    assert layer.requantize is not None
    height, width, channels = site.output_shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "tile": plan.tile,
        "edges": "true" if plan.edges else "false",
        "block": plan.block,
        "weight_bits": layer.weight_bits,
        "input": site.input.value,
        "input_zero_point": layer.input_zero_point,
        "output": site.output.value,
        "zero_point": layer.requantize.zero_point,
    }


def _name(layer: DepthwiseConv2d, site: Site, plan: _Plan) -> str:
    """The C function that computes all layers of this kind."""
    kind = _kind(layer, site, plan)
    shape = "x".join(str(kind[field]) for field in ("height", "width", "channels"))
    source = f"u{site.input.bits}_{layer.input_zero_point}"
    return f"nn_strips_{shape}_{source}_s{layer.weight_bits}_u{site.output.bits}_{kind['zero_point']}"
