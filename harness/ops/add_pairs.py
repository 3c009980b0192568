"""The sum of two tensors of 8 bits on pairs of halves (nn_add_pairs.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.base import INT32_LIMIT
from harness.ops.lowering import Cost, Form, Lowering, Site, Storage

if TYPE_CHECKING:
    from harness.ops.add import Add

_HIGHEST = 255


class PairsAdd(Form["Add"]):
    """Four elements at a time, one multiplication for both inputs of each."""

    name = "pairs"
    storages = frozenset({Storage.U8})

    def applicable(self, layer: Add, site: Site) -> bool:
        if not site.target.dsp or layer.requantize is None:
            return False
        multipliers, shift = layer.requantize.multiplier, int(layer.requantize.shift[0])
        # Only the inputs' zero points make sums smaller: without them, sums are largest.
        largest = _HIGHEST * int(multipliers.sum()) + (1 << shift) * (layer.requantize.zero_point + 1)
        lowest = self._offset(layer)
        return bool((multipliers < 2**15).all()) and shift < 32 and largest < INT32_LIMIT and lowest >= -INT32_LIMIT

    def cost(self, layer: Add, site: Site) -> Cost:
        return Cost(0, 0, 22 * (int(np.prod(site.output_shape)) // 4) + 40, code=150, overlap=0)

    def writes(self, layer: Add, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})

    def lower(self, layer: Add, site: Site) -> Lowering:
        assert layer.requantize is not None
        first, second = layer.requantize.multiplier.tolist()
        return Lowering(
            form=self.name,
            header="nn_add_pairs.h",
            kernel="nn_add_pairs",
            record="nn_add_pairs_layer",
            fields={
                "elements": int(np.prod(site.output_shape)),
                "multipliers": first | second << 16,
                "offset": self._offset(layer),
                "shift": int(layer.requantize.shift[0]),
                "bits": layer.requantize.bits,
            },
            overlap=0,
        )

    def _offset(self, layer: Add) -> int:
        """What does not depend on the inputs: half a step, and the zero points of the inputs and of the output."""
        assert layer.requantize is not None
        multipliers, shift = layer.requantize.multiplier.tolist(), int(layer.requantize.shift[0])
        zero = sum(point * factor for point, factor in zip(layer.input_zero_points, multipliers, strict=True))
        return int((1 << (shift - 1)) - zero + (layer.requantize.zero_point << shift))
