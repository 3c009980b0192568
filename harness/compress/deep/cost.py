"""What sparse integer layers will cost in flash and in instructions: the objective of the search, not a measurement.

Code generation has its own, exact costs; these formulas only have to rank networks in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from harness.errors import unknown_name
from harness.graph.graph import Graph
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear

Prefer = Literal["size", "speed", "balanced"]

_LANE_LEVELS = 7
_PAIR_LEVELS = 127
# 3 bits of a stream's byte, which leaves 5 for the distance. Measured on LeNet-5's widest layer: 2 levels and 6 bits
# need no fillers, but lose more accuracy than the weights that fit into those bytes win back.
_STREAM_LEVELS = 4

# How many instructions of one inference weigh as much as one byte of flash.
_INSTRUCTIONS_PER_BYTE: dict[str, float] = {"size": 1000.0, "balanced": 60.0, "speed": 12.0}


@dataclass(frozen=True)
class LayerCost:
    """One layer. form: how it would be stored ("dense" where nothing sparse is smaller).

    bytes: of all its constants. unit_bytes: the share that does not fall with each weight but with each output that is
    dropped: biases, row lengths, and the fillers of thin rows (about as many in a row of three weights as of ten).
    instructions, unit_instructions: of one inference, in the same way.
    entropy_bytes: the bound for an entropy coder that knows mask and value frequencies, with biases.
    """

    form: str
    bytes: int
    unit_bytes: int
    instructions: int
    unit_instructions: int
    entropy_bytes: int


class CostModel(Protocol):
    """What the search has to know about storage forms."""

    @property
    def version(self) -> str:
        """Changes whenever an estimate does: results are cached under it."""

    def prunable(self, layer: Conv2d | Linear) -> bool:
        """Whether some sparse form covers a layer of this shape; others stay dense int8."""

    def needs_lanes(self, layer: Conv2d | Linear) -> bool:
        """Whether the cheapest form sums this layer in 16-bit lanes, so that `lane_limit` binds each filter."""

    def levels(self, layer: Conv2d | Linear) -> int:
        """The fewest levels that are worth having: weights are -levels..levels. Asked only where `prunable`."""

    def estimate(self, layer: Conv2d | Linear, positions: int) -> LayerCost:
        """The cost of an integer layer that is applied at `positions` places of its input."""


@dataclass(frozen=True)
class StreamCostModel:
    """Lane-packed tables for small convolutions of stride 1, pairs of distance and weight for other convolutions,
    byte-coded streams for everything else.

    lane_bytes: of one nonzero weight in a lane-packed table. lane_limit: what the positive weights of a filter, and the
    negative ones, may sum to, so that 16 bits hold any sum with 8-bit inputs (128 * 255 < 2**15).
    """

    lane_bytes: float = 1.5

    @property
    def version(self) -> str:
        return repr(self)

    def prunable(self, layer: Conv2d | Linear) -> bool:
        return True

    def needs_lanes(self, layer: Conv2d | Linear) -> bool:
        # Larger filters could only keep to the limit with most of their weights at zero from the start.
        return isinstance(layer, Conv2d) and layer.stride == (1, 1) and layer.weight[0].size <= 2 * LANE_LIMIT

    def levels(self, layer: Conv2d | Linear) -> int:
        if self.needs_lanes(layer):
            return _LANE_LEVELS
        return _PAIR_LEVELS if isinstance(layer, Conv2d) else _STREAM_LEVELS

    def estimate(self, layer: Conv2d | Linear, positions: int) -> LayerCost:
        weight = layer.weight.reshape(len(layer.weight), -1)
        nonzero = int(np.count_nonzero(weight))
        constants = bias_bytes(layer.bias) + (8 if layer.requantize is not None else 0)
        fixed_instructions = len(weight) * (10 + 8 * positions)
        entropy = _entropy_bytes(weight) + constants
        dense = LayerCost(
            "dense", weight.size + constants, constants, int(1.3 * weight.size * positions), fixed_instructions, entropy
        )
        fixed = constants + len(weight)
        if self.needs_lanes(layer):
            # Two positions per MLA, plus the share of loading and unpacking.
            stored = LayerCost(
                "lanes",
                fixed + round(self.lane_bytes * nonzero),
                fixed,
                fixed_instructions + round(1.2 * nonzero * positions / 2),
                fixed_instructions,
                entropy,
            )
        elif isinstance(layer, Conv2d):
            # Each entry is read once for the positions of a pooling window.
            stored = LayerCost(
                "pairs",
                fixed + 2 * nonzero,
                fixed,
                fixed_instructions + round(3.3 * nonzero * positions),
                fixed_instructions,
                entropy,
            )
        else:
            fillers = _fillers(weight, delta_limit(int(np.abs(weight.astype(np.int64)).max(initial=1))))
            fixed += fillers
            fixed_instructions += 5 * fillers * positions
            stored = LayerCost(
                "stream",
                fixed + nonzero,
                fixed,
                fixed_instructions + 5 * nonzero * positions,
                fixed_instructions,
                entropy,
            )
        rate = _INSTRUCTIONS_PER_BYTE["balanced"]
        return min(stored, dense, key=lambda cost: cost.bytes + cost.instructions / rate)


LANE_LIMIT = 128


def instructions_per_byte(prefer: str) -> float:
    """The exchange rate of a preference; InputError for an unknown one."""
    if prefer not in _INSTRUCTIONS_PER_BYTE:
        raise unknown_name("preference", prefer, _INSTRUCTIONS_PER_BYTE)
    return _INSTRUCTIONS_PER_BYTE[prefer]


def positions(graph: Graph, layer: Conv2d | Linear) -> int:
    """At how many places of its input a layer's weights are applied."""
    if isinstance(layer, Conv2d):
        rows, columns = layer.convolved(*graph.input_shapes(layer))
        return rows * columns
    return 1


def delta_limit(levels: int) -> int:
    """The columns that one byte of a stream spans: what is left of its bits once they tell 2 * levels values apart.

    A difference of 0 cannot occur between weights: it marks a filler, which takes no value away.
    """
    value_bits = max(1, levels).bit_length() + (0 if levels & (levels - 1) == 0 else 1)
    return int(2 ** (8 - min(value_bits, 7)) - 1)


def bias_bytes(bias: Array) -> int:
    """Bytes of integer biases: all 8 bits under one common shift, else all 16, else all 32 bits wide."""
    values = bias.astype(np.int64)
    for size in (1, 2):
        limit = 2 ** (8 * size - 1)
        common = np.bitwise_or.reduce(np.abs(values), initial=0)
        shift = int(common & -common).bit_length() - 1 if common and size == 1 else 0
        if ((values >> shift >= -limit) & (values >> shift < limit)).all():
            return size * len(values)
    return 4 * len(values)


def _fillers(weight: Array, limit: int) -> int:
    """Entries without a weight that a stream of column differences needs, because one spans at most `limit` columns."""
    count = 0
    for row in weight:
        gaps = np.diff(np.flatnonzero(row), prepend=-1)
        count += int(((gaps - 1) // limit).sum())
    return count


def _entropy_bytes(weight: Array) -> int:
    """Mask and values under an ideal coder of zeroth order."""
    _, counts = np.unique(weight, return_counts=True)
    share = counts / weight.size
    return int(np.ceil(-(counts * np.log2(share)).sum() / 8))
