"""The fully connected layer with weights of 4 or 2 bits, two rows at a time (nn_linear_narrow.h); needs DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.base import INT32_LIMIT
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Site,
    Storage,
    image_rows,
    requantization_constants,
    requantization_fields,
)
from harness.ops.packed import row_buffer, weight_fields
from harness.ops.packing import pack_rows

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear


def pack_pairs_of_rows(weight: Array, bits: int) -> Array:
    """(O, I) int8 -> (ceil(O / 2) * 2 * words,) uint32: pairs of rows, word by word; an odd last row's other is 0."""
    rows = np.pad(weight, ((0, len(weight) % 2), (0, 0)))
    words = pack_rows(rows, bits)
    return np.ascontiguousarray(words.reshape(-1, 2, words.shape[1]).swapaxes(1, 2)).ravel()


class NarrowLinear(Form["Linear"]):
    """Weights are multiplied as they come out of their words: at the top of bytes, with a factor that sums share."""

    name = "narrow"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2, Storage.I32})
    weight_bits = frozenset({4, 2})

    def applicable(self, layer: Linear, site: Site) -> bool:
        if not site.target.dsp or site.input is Storage.I32:
            return False
        largest = int(np.abs(layer.weight.astype(np.int64)).sum(axis=1).max(initial=0)) * ((1 << site.input.bits) - 1)
        return largest << (8 - layer.weight_bits) < INT32_LIMIT

    def refusal(self, layer: Linear, site: Site) -> str | None:
        if site.target.dsp and not self.applicable(layer, site):
            return "its sums do not fit 32 bits beside the factor of its weights"
        return super().refusal(layer, site)

    def cost(self, layer: Linear, site: Site) -> Cost:
        outputs, inputs = layer.weight.shape
        rows, words, per_byte = outputs + outputs % 2, -(-inputs * layer.weight_bits // 32), 8 // layer.weight_bits
        return Cost(
            flash=4 * rows * words + 9 * outputs,
            scratch=self._scratch(layer, site),
            instructions=rows * words * (6 * per_byte + 3) + 15 * inputs + 25 * outputs,
            code=330,
        )

    def writes(self, layer: Linear, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})

    def lower(self, layer: Linear, site: Site) -> Lowering:
        from harness.ops.linear import linear_shape

        return Lowering(
            form=self.name,
            header="nn_linear_narrow.h",
            kernel="nn_linear_narrow",
            record="nn_linear_narrow_layer",
            fields={
                "shape": linear_shape(layer, site),
                "rows": image_rows(site.input_shape)[0] if site.input.packed else 1,
                **weight_fields(layer.weight_bits),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", pack_pairs_of_rows(layer.weight, layer.weight_bits)),
                Constant("bias", "int32_t", layer.bias.astype(np.int32)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
        )

    def _scratch(self, layer: Linear, site: Site) -> int:
        """Bytes of the inputs in 16 bits each, and of the outputs before they are packed."""
        per_word = 32 // layer.weight_bits
        return 2 * per_word * -(-int(layer.weight.shape[1]) // per_word) + row_buffer(site)
