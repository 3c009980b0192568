"""Depthwise convolution on pairs of pixels (nn_depthwise_strided.h): 3x3 kernels with stride 2 on cores with DSP."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import lifting, packed
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage
from harness.ops.passes import pass_function
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.depthwise_conv2d import DepthwiseConv2d

# Bytes of rows that a block may take, where one row of outputs does with less.
_ROWS = 6144

# What fits into instructions: loads of pixels, LDRD of pairs, ADD and SUB of a pitch (bytes).
_LARGEST_LOAD, _LARGEST_PAIR_LOAD, _LARGEST_STEP = 4095, 1020, 4095

# Outputs of a channel up to which there is no loop over rows; steps of a row up to which there is none over them.
_UNROLLED, _STRAIGHT = 12, 5


@dataclass(frozen=True)
class _Kind:
    """How a pass is made: nn_strided_kind of nn_depthwise_strided.h."""

    step: int
    row: int
    bits: int
    padding: int
    width: int
    left: int
    head: int
    turn: int
    turns: int
    tail: int
    columns: int
    pairs: int
    pitch: int
    lines: int
    top: int
    bottom: int
    unrolled: bool
    origin: int
    peeled: int
    steps: int
    loops: int
    distance: int
    zero_point: int
    output_bits: int
    spread: int
    gap: int
    weight_bits: int

    @property
    def name(self) -> str:
        """Of the function; kinds that differ have different ones."""
        values = ",".join(map(str, asdict(self).values()))
        return f"nn_strided_pass_{self.columns}_{self.distance}_{zlib.crc32(values.encode()):08x}"

    @property
    def definition(self) -> str:
        """The C function."""
        return pass_function("nn_strided", self.name, asdict(self))

    def rows_of(self, lines: int) -> list[int]:
        """Of `lines` rows of outputs: with how many rows of the kernel each."""
        rows = [3] * lines
        rows[0] -= self.top
        rows[-1] -= self.bottom
        return rows


@dataclass(frozen=True)
class _Plan:
    """How a layer is computed. block: rows of outputs at a time. whole: whether rows of padding lie in scratch.

    blocks: of each, the rows that it reads of the image, and those of outputs.
    """

    kind: _Kind
    block: int
    whole: bool
    blocks: tuple[tuple[int, int], ...]

    @property
    def bytes(self) -> int:
        """Of scratch."""
        collected = 4 * self.block * self.kind.columns if self.kind.output_bits < 8 else 0
        return (2 * self.block + 1) * self.kind.pitch + collected


class StridedDepthwise(Form["DepthwiseConv2d"]):
    """Two outputs of one channel at a time, from pairs of pixels."""

    name = "strided"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})
    weight_bits = packed.WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        layer = lifting.stored(layer, site.input.bits)
        if not site.target.dsp or layer.weight.shape[1:] != (3, 3) or layer.stride != (2, 2):
            return False
        requantize, channels = layer.requantize, len(layer.weight)
        if requantize is None or not requantize.one_instruction or requantize.bits != site.output.bits:
            return False
        # A bias shares its word with a weight.
        largest = 2 ** (31 - _stored_bits(layer))
        if layer.bias.min() < -largest or layer.bias.max() >= largest:
            return False
        # No window lies in the padding alone.
        if channels % 4 or max(max(edge) for edge in layer.edges) > 2:
            return False
        # Of a group of pixels, the first and the last.
        pairs = _pairs(layer, site)
        reach = (5 if pairs == 3 else 3) * channels * site.input.bits // 8
        return reach <= _LARGEST_LOAD and _pitch(pairs) <= _LARGEST_STEP

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        layer = lifting.stored(layer, site.input.bits)
        plan = self._plan(layer, site)
        kind = plan.kind
        return Cost(
            flash=(16 if kind.weight_bits == 8 else 12) * len(layer.weight),
            scratch=plan.bytes,
            instructions=_instructions(plan, len(layer.weight)),
            code=120,
            shared={kind.name: _code(kind)},
        )

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        layer = lifting.stored(layer, site.input.bits)
        plan = self._plan(layer, site)
        kind = plan.kind
        return Lowering(
            form=self.name,
            header="nn_depthwise_strided.h",
            kernel="nn_depthwise_strided",
            record="nn_depthwise_strided_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "weights": Reference("weights"),
                "weight_bits": kind.weight_bits,
                "pairs": kind.pairs,
                "block": plan.block,
                "origin": kind.origin,
                "whole": plan.whole,
                "pass": kind.name,
            },
            constants=(Constant("weights", "uint32_t", pack(layer)),),
            scratch_bytes=plan.bytes,
            functions={kind.name: kind.definition},
        )

    def _plan(self, layer: DepthwiseConv2d, site: Site) -> _Plan:
        assert layer.requantize is not None
        rows, columns, channels = site.output_shape
        height, width, _ = site.input_shape
        pairs = _pairs(layer, site)
        pitch = _pitch(pairs)
        top = layer.padding[0]
        bottom = max(2 * rows + 1 - top - height, 0)
        fitting = [count for count in range(1, rows + 1) if (2 * count + 1) * pitch <= _ROWS]
        block = -(-rows // -(-rows // max(fitting, default=1)))
        whole = layer.input_zero_point != 0 or block < rows or top > 1 or bottom > 1
        blocks = []
        for line in range(0, rows, block):
            lines = min(block, rows - line)
            read = min(2 * (line + lines) + 1 - top, height) - max(2 * line - top, 0)
            blocks.append((read, lines))
        step = channels * site.input.bits // 8
        row = site.input.row_bytes(width * channels)
        left = layer.padding[1]
        reading = _reading(pairs, width, left, step, row, [read for read, _ in blocks])
        spread = channels * site.output.bits // 8
        computing = _computing(pairs)
        unrolled = not whole and rows * columns <= _UNROLLED and not computing["loops"]
        unrolled = unrolled and pitch * (1 + 2 * rows) + 32 * (pairs // 2 + 1) <= _LARGEST_PAIR_LOAD
        # The last load of a row of outputs moves on to the next row.
        moving = not unrolled and not computing["loops"] and pairs not in (1, 3)
        kind = _Kind(
            step=step,
            bits=site.input.bits,
            padding=layer.input_zero_point,
            **reading,
            columns=columns,
            pairs=pairs,
            pitch=pitch,
            lines=rows if block == rows else 0,
            top=0 if whole else top,
            bottom=0 if whole else bottom,
            unrolled=unrolled,
            origin=32 * computing["peeled"] - (2 * pitch if moving else 0) if computing["loops"] or moving else 0,
            **computing,
            distance=4 if site.output.packed else channels,
            zero_point=layer.requantize.zero_point,
            output_bits=layer.requantize.bits,
            spread=spread,
            gap=site.output.row_bytes(columns * channels) - columns * spread,
            weight_bits=_stored_bits(layer),
        )
        return _Plan(kind, block, whole, tuple(blocks))


def pack(layer: DepthwiseConv2d) -> Array:
    """uint32, flat: of each channel the weights, the bias and the multiplier as nn_depthwise_strided.h has them."""
    assert layer.requantize is not None
    bits, channels = _stored_bits(layer), len(layer.weight)
    flat = layer.weight.reshape(channels, 9).astype(np.int64)
    eight = flat[:, [0, 3, 1, 4, 6, 2, 7, 5]]
    if bits == 8:
        fields = (eight & 0xFF).reshape(channels, 2, 4)
    else:
        fields = ((eight[:, :4] + 8) | (eight[:, 4:] + 8) << 4).reshape(channels, 1, 4)
    weights = (fields << 8 * np.arange(4)).sum(axis=-1)
    bias = layer.bias.astype(np.int64) << bits | flat[:, 8] & 2**bits - 1
    stored: Array = np.concatenate([weights, bias[:, None], layer.requantize.multiplier[:, None]], axis=1)
    return (stored.ravel() & 0xFFFFFFFF).astype(np.uint32)


def _stored_bits(layer: DepthwiseConv2d) -> int:
    """Bits of a stored weight: those of 2 bits take as much room as those of 4."""
    return max(layer.weight_bits, 4)


def _pairs(layer: DepthwiseConv2d, site: Site) -> int:
    """Pairs of a row in scratch: one for each output, and one more where windows reach into it."""
    columns, width = site.output_shape[1], site.input_shape[1]
    return columns + (layer.input_zero_point != 0 or 2 * columns < width + layer.padding[1])


def _pitch(pairs: int) -> int:
    """Bytes of a row in scratch."""
    return 16 * (pairs if pairs in (1, 3) else pairs + pairs % 2)


def _reading(pairs: int, width: int, left: int, step: int, row: int, read: list[int]) -> dict[str, int]:
    """The fields of a _Kind that say how rows are read. read: of each block, how many."""
    groups = 1 if pairs in (1, 3) else -(-pairs // 2)
    places = pairs if pairs in (1, 3) else 2
    if left == 0 and 2 * groups * places == width and row == width * step:
        # Rows follow each other: so do all groups of a block, some of them at a time.
        most = 2 if places == 3 else 4
        every = [groups * count for count in read]
        turn = max(size for size in range(1, most + 1) if all(count % size == 0 for count in every))
        pixels = 2 * places * turn
        return {"row": pixels * step, "width": pixels, "left": 0, "head": turn, "turn": 0, "turns": 0, "tail": 0}
    first = 2 * (pairs % 2) if places == 2 and pairs % 2 else 2 * places
    head = 1 if left or first < 2 * places else 0
    outside = sum(first + 4 * (group - 1) - left + 4 > width for group in range(head, groups))
    middle = groups - head - outside
    turn = next((size for size in (3, 4, 2, 1) if middle >= 2 * size and (4 * size + 1) * step <= _LARGEST_LOAD), 0)
    turns = middle // turn if turn else 0
    tail = groups - head - turn * turns
    return {"row": row, "width": width, "left": left, "head": head, "turn": turn, "turns": turns, "tail": tail}


def _computing(pairs: int) -> dict[str, int]:
    """The fields of a _Kind that say in which steps a row of outputs is computed."""
    steps = 0 if pairs in (1, 3) else (pairs - 1) // 2
    if steps <= _STRAIGHT:
        return {"peeled": steps, "steps": 0, "loops": 0}
    return {"peeled": steps % 2, "steps": 2, "loops": steps // 2}


def _line(kind: _Kind, rows: int) -> int:
    """Instructions of one channel's row of outputs with `rows` rows of the kernel."""
    store = 4 if kind.zero_point else 3
    begin = {1: 2 * rows, 3: 7 * rows + 2 * store}.get(kind.pairs)
    if begin is None:
        begin = 2 * rows if kind.pairs % 2 else 4 * rows + store
    steps = kind.peeled + kind.steps * kind.loops
    looping = 2 * kind.loops + 1 if kind.loops else 0
    last = store if kind.pairs == kind.columns else 0
    moving = kind.loops == 0 and kind.pairs not in (1, 3)
    between = 0 if kind.unrolled else (0 if moving else 1) + (3 if kind.loops or not kind.lines else 2)
    return begin + steps * (5 * rows + 2 * store) + looping + last + between


def _instructions(plan: _Plan, channels: int) -> int:
    """Of one inference."""
    kind = plan.kind
    places = kind.pairs if kind.pairs in (1, 3) else 2
    group = (8 if kind.bits == 8 else 7) * places + 1
    piece = (kind.head + kind.turn * kind.turns + kind.tail) * group + 3 * kind.turns + (4 if kind.pairs == 3 else 3)
    groups = kind.pitch // (16 * places)
    pieces_per_row = groups / (kind.head + kind.turn * kind.turns + kind.tail)
    total = 0.0
    for read, lines in plan.blocks:
        computing = sum(_line(kind, rows) for rows in kind.rows_of(lines))
        channel = (9 if kind.weight_bits == 8 else 13) + computing + (4 if kind.unrolled else 5)
        four = read * pieces_per_row * piece + 10 + 4 * channel
        four += 0 if kind.output_bits == 8 else 5 + 6 * lines * kind.columns
        beside = 2 * lines + 1 - read if plan.whole else 0
        total += 40 + beside * kind.pitch // 4 * 5 + channels // 4 * four
    return int(total)


def _code(kind: _Kind) -> int:
    """Bytes of the function of a kind."""
    places = kind.pairs if kind.pairs in (1, 3) else 2
    group = 4 * (8 if kind.bits == 8 else 7) * places + 4
    special = [3 - kind.top] * (kind.top > 0) + [3 - kind.bottom] * (kind.bottom > 0)
    whole = max(kind.lines - len(special), 0) if kind.unrolled else 1
    once = _Kind(**{**asdict(kind), "loops": min(kind.loops, 1)})
    lines = sum(_line(once, rows) for rows in [*special, *([3] * whole)])
    packing = 0 if kind.output_bits == 8 else 80
    return (kind.head + kind.turn + kind.tail) * group + 4 * lines + packing + 150
