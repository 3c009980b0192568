"""The fully connected layer with weights of 4 or 2 bits as fields of words (nn_linear_fields.h), for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.linear_pairs import finish_instructions, fours, prepare_instructions, reach, scratch_bytes
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
from harness.ops.packed import STORAGES, input_rows
from harness.ops.shapes import linear_shape
from harness.ops.tile import rounds

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear

# Inputs whose products lanes hold before they are taken apart.
_LANE_INPUTS = 16

# Fours of inputs with which the sums of four rows fit whatever they are: 8 * 255 * 256 < 2**19.
_SEGMENT = 64

# Words of weights from which on a loop of twice the code costs little beside them.
_LONG = 2048


def lanes_hold(weight_bits: int, input_bits: int) -> bool:
    """Whether the lower row's products with 16 inputs stay below the upper row."""
    return _LANE_INPUTS * ((1 << weight_bits) - 1) * ((1 << input_bits) - 1) < 1 << 16 - weight_bits


def pack_lanes(weight: Array, bias: Array, bits: int) -> Array:
    """(O, I) int8, (O,) int32 -> uint32: pairs of rows, of each its biases, then eight by eight inputs."""
    # (pair, row, eight, four, half, even or odd)
    elements = _padded(weight, 2, 8).reshape(-1, 2, -(-weight.shape[1] // 8), 2, 2, 2)
    low, high = elements[:, 0] + 2 ** (bits - 1), elements[:, 1] & 2**bits - 1
    ends = low | high << 16 - bits
    # (pair, eight, operand) of SMLAD; several share a word, each turned to where the others leave room.
    operands = (ends[..., 0, :] | ends[..., 1, :] << 16).reshape(*ends.shape[:2], 4)
    shared = 8 // bits
    turns = 2 * bits * np.arange(shared)
    operands = operands.reshape(len(ends), -1, shared)
    words = np.bitwise_or.reduce(operands << turns | operands >> 32 - turns, axis=-1)
    own = np.pad(bias.astype(np.int64), (0, len(bias) % 2)).reshape(-1, 2)
    start = np.stack([own[:, 0] + (own[:, 1] << 16 - bits), own[:, 1]], axis=1)
    return _words(np.concatenate([start, words], axis=1).ravel())


def pack_halfwords(weight: Array, bias: Array, *, bounded: bool) -> Array:
    """(O, I) int8 weights of 4 bits, (O,) int32 -> uint32: groups of four rows, two where no more are left; of each its
    biases, which add up where the sums are `bounded`, then four by four inputs."""
    parts = []
    for first in range(0, len(weight), 4):
        rows, own = weight[first : first + 4], bias[first : first + 4].astype(np.int64)
        sharing = _sharing(len(rows))
        own = np.pad(own, (0, sharing - len(own)))
        parts.append(np.cumsum(own << 4 * np.arange(sharing)) if bounded else own)
        # (row, four, half, even or odd)
        elements = _padded(rows, sharing, 4).reshape(sharing, -1, 2, 2)
        fields = elements + 8
        fields[-1] = elements[-1] & 15
        shared = (fields << 4 * np.arange(sharing).reshape(-1, 1, 1, 1)).sum(axis=0)
        if sharing == 4:
            parts.append((shared[:, 0] | shared[:, 1] << 16).ravel())
        else:
            parts.append((shared.reshape(-1, 4) << 8 * np.arange(4)).sum(axis=-1))
    return _words(np.concatenate(parts))


def _words(values: Array) -> Array:
    """int64 -> uint32, modulo 2**32."""
    words: Array = (values % 2**32).astype(np.uint32)
    return words


def _padded(weight: Array, rows: int, columns: int) -> Array:
    """(O, I) -> int64 with whole `rows` and `columns`; what is added is 0."""
    outputs, inputs = weight.shape
    result = np.zeros((-(-outputs // rows) * rows, -(-inputs // columns) * columns), np.int64)
    result[:outputs, :inputs] = weight
    return result


def _sharing(rows: int) -> int:
    """How many rows share the halfwords, or bytes, of a group."""
    return 4 if rows > 2 else 2


class FieldsLinear(Form["Linear"]):
    """Rows that share halfwords are multiplied together, and their sums taken apart."""

    name = "fields"
    storages = STORAGES
    weight_bits = frozenset({4, 2})
    widens = True

    def applicable(self, layer: Linear, site: Site) -> bool:
        if not site.target.dsp or site.input is Storage.I32:
            return False
        return self._lanes(layer, site) or layer.weight_bits == 4

    def cost(self, layer: Linear, site: Site) -> Cost:
        outputs, inputs = layer.weight.shape
        prepared = prepare_instructions(layer, site, summed=True) + 30
        if self._lanes(layer, site):
            eights, pairs = -(-inputs // 8), -(-outputs // 2)
            return Cost(
                flash=2 * pairs * eights * layer.weight_bits + 8 * outputs,
                scratch=self._scratch(layer, site),
                instructions=pairs * (12 * eights + finish_instructions(layer) // 2 + 4) + prepared,
                code=430,
            )
        groups = -(-outputs // 4)
        two = 0 < outputs % 4 < 3
        words = fours(inputs) * (2 * groups - two)
        return Cost(
            flash=4 * words + 8 * outputs,
            scratch=self._scratch(layer, site),
            instructions=8 * words + 3 * fours(inputs) * two + groups * finish_instructions(layer) + prepared,
            code=740 if words >= _LONG else 490,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        lanes, bits = self._lanes(layer, site), min(site.input.bits, 8)
        bounded = _bounded(layer.weight, layer.bias, bits)
        if lanes:
            weights = pack_lanes(layer.weight, layer.bias, layer.weight_bits)
        else:
            weights = pack_halfwords(layer.weight, layer.bias, bounded=bounded)
        return Lowering(
            form=self.name,
            header="nn_linear_fields.h",
            kernel="nn_linear_fields",
            record="nn_linear_fields_layer",
            fields={
                "shape": linear_shape(layer, site),
                "rows": input_rows(site),
                "weight_bits": layer.weight_bits,
                "segment": 0 if lanes or bounded else _SEGMENT,
                "turn": 8 if weights.size >= _LONG else 4,
                "lanes": lanes,
                "narrow": rounds(layer.weight, layer.bias, layer.requantize, bits),
                "weights": Reference("weights"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", weights),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
        )

    def _lanes(self, layer: Linear, site: Site) -> bool:
        """Whether two rows are kept apart by the space between them."""
        return lanes_hold(layer.weight_bits, min(site.input.bits, 8))

    def _scratch(self, layer: Linear, site: Site) -> int:
        """Bytes of the prepared input, and of the outputs before they are packed."""
        missing = fours(int(layer.weight.shape[1])) % 2 if self._lanes(layer, site) else 0
        return scratch_bytes(layer, site) + 8 * missing


def _bounded(weight: Array, bias: Array, input_bits: int) -> bool:
    """Whether the sums of all rows fit in what their place in a halfword leaves of 32 bits."""
    for first in range(0, len(weight), 4):
        rows = weight[first : first + 4].astype(np.int64)
        top = _sharing(len(rows)) - 1
        for place, (row, own) in enumerate(zip(rows, bias[first : first + 4], strict=True)):
            fields = row + 8 * (place < top)
            if reach(fields[None], own[None], input_bits) >= 1 << 31 - 4 * place:
                return False
    return True
