"""The sum of two tensors of 8 bits on pairs of halves (nn_add_pairs.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.base import INT32_LIMIT
from harness.ops.lowering import Cost, Form, Lowering, Site, Storage, image_rows
from harness.ops.packed import words

if TYPE_CHECKING:
    from harness.ops.add import Add

_HIGHEST = 255


class PairsAdd(Form["Add"]):
    """Four elements at a time, one multiplication for both inputs of each."""

    name = "pairs"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})

    def applicable(self, layer: Add, site: Site) -> bool:
        if not site.target.dsp or layer.requantize is None or not _gapless(site):
            return False
        multipliers, shift = layer.requantize.multiplier, int(layer.requantize.shift[0])
        # Only the inputs' zero points make sums smaller: without them, sums are largest.
        largest = _HIGHEST * int(multipliers.sum()) + (1 << shift) * (layer.requantize.zero_point + 1)
        lowest = self._offset(layer)
        return bool((multipliers < 2**15).all()) and shift < 32 and largest < INT32_LIMIT and lowest >= -INT32_LIMIT

    def cost(self, layer: Add, site: Site) -> Cost:
        packed = sum(8 * stored.packed for stored in _stored(site))
        fours = int(np.prod(site.output_shape)) // 4
        return Cost(0, 0, (22 + packed) * fours + 40, code=150, overlap=trailing(site))

    def lower(self, layer: Add, site: Site) -> Lowering:
        assert layer.requantize is not None and site.second_input is not None
        first, second = layer.requantize.multiplier.tolist()
        return Lowering(
            form=self.name,
            header="nn_add_pairs.h",
            kernel="nn_add_pairs",
            record="nn_add_pairs_layer",
            fields={
                "elements": int(np.prod(site.output_shape)),
                "input": site.input.value,
                "second": site.second_input.value,
                "output": site.output.value,
                "multipliers": first | second << 16,
                "offset": self._offset(layer),
                "shift": int(layer.requantize.shift[0]),
                "bits": layer.requantize.bits,
            },
            overlap=trailing(site),
        )

    def _offset(self, layer: Add) -> int:
        """What does not depend on the inputs: half a step, and the zero points of the inputs and of the output."""
        assert layer.requantize is not None
        multipliers, shift = layer.requantize.multiplier.tolist(), int(layer.requantize.shift[0])
        zero = sum(point * factor for point, factor in zip(layer.input_zero_points, multipliers, strict=True))
        return int((1 << (shift - 1)) - zero + (layer.requantize.zero_point << shift))


def trailing(site: Site) -> int:
    """How far before an input the output must start, in bytes: by what its rows are longer, all together."""
    assert site.second_input is not None
    read = min(stored.size(site.output_shape) for stored in (site.input, site.second_input))
    return words(max(0, site.output.size(site.output_shape) - read))


def _stored(site: Site) -> tuple[Storage, Storage, Storage]:
    assert site.second_input is not None
    return site.input, site.second_input, site.output


def _gapless(site: Site) -> bool:
    """Whether all elements of each tensor follow each other, in fours unless all are bytes."""
    rows, elements = image_rows(site.output_shape)
    stored = _stored(site)
    if not any(one.packed for one in stored):
        return True
    return rows * elements % 4 == 0 and all(
        rows == 1 or elements * one.bits % 32 == 0 or not one.packed for one in stored
    )
