"""The fully connected layer with weights of 4 or 2 bits as fields of words (nn_linear_fields.h), for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Storage,
    image_rows,
    requantization_constants,
    requantization_fields,
)

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear


def pack_fields(weight: Array, bits: int) -> Array:
    """(O, I) int8 -> uint32: groups of four rows, word by word, in the order of nn_linear_fields.h."""
    outputs, inputs = weight.shape
    per_word = 32 // bits
    padded = np.zeros((-(-outputs // 4) * 4, -(-inputs // per_word) * per_word), np.int64)
    padded[:outputs, :inputs] = weight
    # (row, word, four elements, which of two, even or odd) -> pairs (0, 2), (1, 3) of each four.
    fours = (padded + 2 ** (bits - 1)).reshape(len(padded), -1, per_word // 4, 2, 2)
    low, high = fours[..., 0, :], fours[..., 1, :]
    fields = (low | high << 16).reshape(*fours.shape[:2], per_word // 2)
    words = (fields << (bits * np.arange(per_word // 2))).sum(axis=-1)
    packed: Array = words.reshape(-1, 4, words.shape[1]).transpose(0, 2, 1).ravel().astype(np.uint32)
    return packed


class FieldsLinear(Form["Linear"]):
    """Four rows at a time, two weights taken out of a word by one shift and mask."""

    name = "fields"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2, Storage.I32})
    weight_bits = frozenset({4, 2})

    def applicable(self, layer: Linear, site: Site) -> bool:
        if not site.target.dsp or site.input is Storage.I32 or site.output.packed:
            return False
        rows, elements = image_rows(site.input_shape)
        return not site.input.packed or rows == 1 or elements * site.input.bits % 32 == 0

    def cost(self, layer: Linear, site: Site) -> Cost:
        words, groups = self._words(layer), -(-len(layer.weight) // 4)
        pairs = 16 // layer.weight_bits
        return Cost(
            flash=16 * groups * words + 8 * len(layer.weight),
            scratch=4 * words * pairs,
            instructions=groups * (words * (9 * pairs + 8) + 70) + words * pairs * 6,
            code=500,
        )

    def reads(self, layer: Linear, site: Site) -> Storage:
        return site.input

    def lower(self, layer: Linear, site: Site) -> Lowering:
        from harness.ops.linear import linear_shape

        return Lowering(
            form=self.name,
            header="nn_linear_fields.h",
            kernel="nn_linear_fields",
            record="nn_linear_fields_layer",
            fields={
                "shape": linear_shape(layer, site),
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", pack_fields(layer.weight, layer.weight_bits)),
                Constant("bias", "int32_t", layer.bias.astype(np.int32)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=4 * self._words(layer) * 16 // layer.weight_bits,
        )

    def _words(self, layer: Linear) -> int:
        """Words of a row of weights."""
        return -(-int(layer.weight.shape[1]) * layer.weight_bits // 32)
