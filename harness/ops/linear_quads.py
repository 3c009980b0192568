"""The fully connected layer four rows at a time (nn_linear_quads.h): the dense form for cores with DSP."""

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
from harness.ops.packed import STORAGES, WEIGHT_BITS, input_rows
from harness.ops.shapes import linear_shape
from harness.ops.tile import rounds

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear

# What the sums of a pair's second row may reach, and the fours of inputs with which they cannot reach it.
_REACH, _SEGMENT = 2**23, 64

# Layers of at most so many outputs read their input as it is: a copy of it would not pay. Those of at most so many take
# narrow weights as bytes: whatever reads fields of them wants that copy, which is larger than what bytes add.
_FEW, _FEWEST = 8, 2


def fits(weight: Array) -> bool:
    """Whether the pairs a + 256 b of (O, I) weights fit in 16 bits: b = -128 only beside a >= 0."""
    paired = weight[: len(weight) // 2 * 2].astype(np.int64)
    return bool((paired[::2] + 256 * paired[1::2] >= -(2**15)).all())


def pack_quads(weight: Array) -> Array:
    """(O, I) int8 -> (O * ceil(I / 4),) uint32: groups of four rows as nn_linear_quads.h has them."""
    outputs, inputs = weight.shape
    padded = np.zeros((outputs, fours(inputs) * 4), np.int64)
    padded[:, :inputs] = weight
    # (row, four, inputs 0 and 1 or 2 and 3, even or odd)
    elements = padded.reshape(outputs, -1, 2, 2)
    groups = []
    for first in range(0, outputs, 4):
        rows = elements[first : first + 4]
        pairs = len(rows) // 2
        both = rows[: 2 * pairs : 2] + 256 * rows[1 : 2 * pairs : 2] & 0xFFFF
        # (four, pair, even or odd)
        words = (both[:, :, 0] | both[:, :, 1] << 16).transpose(1, 0, 2).reshape(elements.shape[1], 2 * pairs)
        alone = (rows[2 * pairs :] & 0xFF).reshape(-1, elements.shape[1], 4) << 8 * np.arange(4)
        groups.append(np.concatenate([words, alone.sum(axis=-1).T], axis=1).ravel())
    return np.concatenate(groups).astype(np.uint32)


def paired_bias(bias: Array, *, bounded: bool) -> Array:
    """(O,) int32 in the order of nn_linear_quads.h: of rows a and b, a + 256 b modulo 2**32 and a, or else b and a."""
    wide = bias.astype(np.int64)
    paired = len(wide) // 2 * 2
    first, second = wide[:paired:2].copy(), wide[1:paired:2].copy()
    wide[:paired:2] = first + 256 * second if bounded else second
    wide[1:paired:2] = first
    wrapped: Array = (wide % 2**32).astype(np.uint32).view(np.int32)
    return wrapped


class QuadsLinear(Form["Linear"]):
    """Four rows at a time, pairs of int8 weights multiplied as they lie in flash."""

    name = "quads"
    storages = STORAGES
    weight_bits = WEIGHT_BITS
    widens = True

    def applicable(self, layer: Linear, site: Site) -> bool:
        if layer.weight_bits < 8 and (len(layer.weight) > _FEWEST or not self._direct(layer, site)):
            return False
        return site.target.dsp and site.input is not Storage.I32 and fits(layer.weight)

    def refusal(self, layer: Linear, site: Site) -> str | None:
        if site.target.dsp and not fits(layer.weight):
            return "a weight of -128 does not fit beside another one"
        return super().refusal(layer, site)

    def cost(self, layer: Linear, site: Site) -> Cost:
        outputs, inputs = layer.weight.shape
        words, groups = fours(inputs), -(-outputs // 4)
        direct = self._direct(layer, site)
        prepared = 0 if direct else prepare_instructions(layer, site, summed=False)
        per_word = 3 * outputs + (5 if direct else 3) * groups - (outputs % 4 == 2)
        return Cost(
            flash=4 * outputs * words + 8 * outputs,
            scratch=self._scratch(layer, site),
            instructions=words * per_word + groups * finish_instructions(layer) + 20 + prepared,
            code=340,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        direct = self._direct(layer, site)
        bits = min(site.input.bits, 8)
        bounded = reach(layer.weight[1::2], layer.bias[1::2], bits) < _REACH
        return Lowering(
            form=self.name,
            header="nn_linear_quads.h",
            kernel="nn_linear_quads_direct" if direct else "nn_linear_quads",
            record="nn_linear_quads_layer",
            fields={
                "shape": linear_shape(layer, site),
                "rows": input_rows(site),
                "segment": 0 if bounded else _SEGMENT,
                "direct": direct,
                "narrow": rounds(layer.weight, layer.bias, layer.requantize, bits),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", pack_quads(layer.weight)),
                Constant("bias", "int32_t", paired_bias(layer.bias, bounded=bounded)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
            overread=-int(layer.weight.shape[1]) % 4 if direct else 0,
        )

    def _direct(self, layer: Linear, site: Site) -> bool:
        """Whether the input is read as it is."""
        return len(layer.weight) <= _FEW and site.input is Storage.U8 and not site.output.packed

    def _scratch(self, layer: Linear, site: Site) -> int:
        """Bytes of the prepared input, and of the outputs before they are packed."""
        return 0 if self._direct(layer, site) else scratch_bytes(layer, site)
