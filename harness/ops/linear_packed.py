"""The fully connected layer with weights and activations of 2, 4 or 8 bits (nn_linear_packed.h), for every core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.ops.lowering import (
    Cost,
    Form,
    Lowering,
    Site,
    Storage,
    finish_constants,
    requantization_fields,
)
from harness.ops.packed import (
    STORAGES,
    WEIGHT_BITS,
    input_rows,
    row_buffer,
    weight_fields,
    weights_bytes,
    weights_constant,
    words,
)
from harness.ops.shapes import linear_shape

if TYPE_CHECKING:
    from harness.ops.linear import Linear


class PackedLinear(Form["Linear"]):
    """One multiplication at a time, on inputs and rows of weights that are made bytes before."""

    name = "packed"
    storages = STORAGES
    weight_bits = WEIGHT_BITS

    def applicable(self, layer: Linear, site: Site) -> bool:
        return site.input is not Storage.I32

    def cost(self, layer: Linear, site: Site) -> Cost:
        outputs, inputs = layer.weight.shape
        return Cost(
            flash=weights_bytes(outputs, inputs, layer.weight_bits) + 9 * outputs,
            scratch=self._scratch(layer, site),
            instructions=(6 if layer.weight_bits == 8 else 10) * layer.weight.size + 5 * inputs,
            code=350,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        scratch = self._scratch(layer, site)
        return Lowering(
            form=self.name,
            header="nn_linear_packed.h",
            kernel="nn_linear_packed",
            record="nn_linear_packed_layer",
            fields={
                "shape": linear_shape(layer, site),
                "rows": input_rows(site),
                **weight_fields(layer.weight_bits),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                weights_constant(layer.weight, layer.weight_bits),
                *finish_constants(layer),
            ),
            # The kernel takes a scratch in any case.
            scratch_bytes=max(scratch, 4),
        )

    def _scratch(self, layer: Linear, site: Site) -> int:
        """Bytes of the unpacked input, of one row of weights and of the outputs before they are packed."""
        inputs = words(int(layer.weight.shape[1]))
        return inputs * (site.input.packed + (layer.weight_bits < 8)) + row_buffer(site)
