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
_SHIFT_LEVELS = 4
_PAIR_LEVELS = 127
# 3 bits of a stream's byte, which leaves 5 for the distance. Measured on LeNet-5's widest layer: 2 levels and 6 bits
# need no fillers, but lose more accuracy than the weights that fit into those bytes win back. A fourth level would only
# fit in the negative.
_STREAM_LEVELS = 3

# How many instructions of one inference weigh as much as one byte of flash.
_INSTRUCTIONS_PER_BYTE: dict[str, float] = {"size": 1000.0, "balanced": 25.0, "speed": 8.0}


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

    def levels(self, layer: Conv2d | Linear, positions: int) -> tuple[int, bool]:
        """The fewest levels that are worth having: weights are -levels..levels; and whether only powers of two are.

        Asked only where `prunable`. positions: as of `estimate`.
        """

    def estimate(self, layer: Conv2d | Linear, positions: int) -> LayerCost:
        """The cost of an integer layer that is applied at `positions` places of its input."""


# What the positive weights of a filter, and the negative ones, may sum to, so that 16 bits hold any sum with 8-bit
# inputs (128 * 255 < 2**15).
LANE_LIMIT = 128

# Instructions per weight and position: a weight as an instruction on two lanes, in a table, in a list of those of one
# size, as a pair of distance and weight, in a dense kernel; and per weight in a stream. And the bytes of each.
_CODED, _TABLED, _LISTED, _PAIRED, _DENSE, _STREAMED = 0.5, 1.8, 1.1, 3.3, 0.95, 5.5
_CODED_BYTES, _TABLED_BYTES, _LISTED_BYTES, _PAIRED_BYTES = 3.0, 2.0, 1.0, 2.0
# Code loads and unpacks the pixels of an element of the kernel once for so many filters.
_TAP, _TAP_BYTES, _GROUP = 0.8, 6.0, 8
# Lists of a filter: three sizes of either sign. Each takes some instructions, and is empty now and then.
_LISTS, _LIST = 6, 0.6
# Instructions per output before pooling: starting, comparing and finishing it.
_OUTPUT = 4.0


@dataclass(frozen=True)
class StreamCostModel:
    """Convolutions of stride 1 with small kernels in lanes, others as pairs; byte-coded streams for everything else.

    rate: instructions of one inference that weigh as much as one byte, where a layer could be stored in several ways.
    """

    rate: float = 25.0

    @property
    def version(self) -> str:
        return repr(self)

    def prunable(self, layer: Conv2d | Linear) -> bool:
        return True

    def needs_lanes(self, layer: Conv2d | Linear) -> bool:
        # Larger filters could only keep the limit with most weights at zero from the start.
        return isinstance(layer, Conv2d) and layer.stride == (1, 1) and layer.weight[0].size <= 2 * LANE_LIMIT

    def levels(self, layer: Conv2d | Linear, positions: int) -> tuple[int, bool]:
        if not isinstance(layer, Conv2d):
            return _STREAM_LEVELS, False
        if not self.needs_lanes(layer):
            return _PAIR_LEVELS, False
        # As if half of the weights were left: nobody knows yet.
        ways = self._lanes(layer, 0.5 * layer.weight.size, positions)
        powers = min(ways, key=lambda way: way.price(self.rate)).form == "lanes-shifts"
        return (_SHIFT_LEVELS, True) if powers else (_LANE_LEVELS, False)

    def estimate(self, layer: Conv2d | Linear, positions: int) -> LayerCost:
        weight = layer.weight.reshape(len(layer.weight), -1)
        nonzero = int(np.count_nonzero(weight))
        constants = bias_bytes(layer.bias) + (8 if layer.requantize is not None else 0)
        outputs = len(weight) * (10 + _OUTPUT * positions)
        ways = [_Way("dense", 0.0, 0.0, float(weight.size), _DENSE * weight.size * positions)]
        if self.needs_lanes(layer):
            ways += self._lanes(layer, nonzero, positions)
            largest = np.abs(weight.astype(np.int64))
            if (largest & (largest - 1)).any() or largest.max() > _SHIFT_LEVELS:
                ways = [way for way in ways if way.form != "lanes-shifts"]
        elif isinstance(layer, Conv2d):
            ways.append(_Way("pairs", len(weight), 0, _PAIRED_BYTES * nonzero, _PAIRED * nonzero * positions))
        else:
            fillers = _fillers(weight, delta_limit(int(np.abs(weight.astype(np.int64)).max(initial=1))))
            ways.append(
                _Way(
                    "stream",
                    len(weight) + fillers,
                    _STREAMED * fillers * positions,
                    nonzero,
                    _STREAMED * nonzero * positions,
                )
            )
        best = min(ways, key=lambda way: way.price(self.rate))
        return LayerCost(
            best.form,
            round(constants + best.unit_bytes + best.weight_bytes),
            round(constants + best.unit_bytes),
            round(outputs + best.unit_instructions + best.weight_instructions),
            round(outputs + best.unit_instructions),
            _entropy_bytes(weight) + constants,
        )

    def _lanes(self, layer: Conv2d | Linear, nonzero: float, positions: int) -> list[_Way]:
        """What the forms in lanes cost with `nonzero` weights."""
        filters = len(layer.weight)
        taps = -(-filters // _GROUP) * layer.weight[0].size
        return [
            _Way(
                "lanes-code",
                _TAP_BYTES * taps,
                _TAP * taps * positions,
                _CODED_BYTES * nonzero,
                _CODED * nonzero * positions,
            ),
            _Way("lanes-table", 0.0, 0.0, _TABLED_BYTES * nonzero, _TABLED * nonzero * positions),
            _Way(
                "lanes-shifts",
                0.2 * _LISTS * filters,
                _LIST * _LISTS * filters * positions,
                _LISTED_BYTES * nonzero,
                _LISTED * nonzero * positions,
            ),
        ]


@dataclass(frozen=True)
class _Way:
    """What storing a layer in one form takes: as much for each weight as for any other, and besides."""

    form: str
    unit_bytes: float
    unit_instructions: float
    weight_bytes: float
    weight_instructions: float

    def price(self, rate: float) -> float:
        """In bytes."""
        return self.unit_bytes + self.weight_bytes + (self.unit_instructions + self.weight_instructions) / rate


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
