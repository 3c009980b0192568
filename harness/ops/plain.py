"""The plain forms of layers with weights, integers of 8 bits or floats: for cores without SIMD, and for odd shapes."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, TypeVar

import numpy as np

from harness.ops.base import Array, Weighted
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Value,
    clip_field,
    finish_constants,
    requantization_fields,
)

W = TypeVar("W", bound=Weighted)


class PlainForm(Form[W]):
    """Weights as they are, one multiplication at a time.

    header, kernel: in firmware/nn/; the record is called as the kernel, with _layer. instructions: of a
    multiply-accumulate.
    """

    name = "plain"
    asymmetric = True

    header: ClassVar[str]
    kernel: ClassVar[str]
    instructions: ClassVar[int]

    @abstractmethod
    def geometry(self, layer: W, site: Site) -> dict[str, Value]:
        """The record's fields before the weights: the layer's shape, and what its padding holds."""

    def weights(self, layer: W) -> Array:
        """The weights in the order in which the kernel reads them."""
        return layer.weight

    def applicable(self, layer: W, site: Site) -> bool:
        return True

    def cost(self, layer: W, site: Site) -> Cost:
        weight_bytes = (1 if layer.integer else 4) * layer.weight.size
        return Cost(weight_bytes + 4 * len(layer.bias), 0, self.instructions * layer.macs(site.input_shape))

    def lower(self, layer: W, site: Site) -> Lowering:
        weights = self.weights(layer).ravel()
        constants: tuple[Constant, ...]
        finish: dict[str, Value]
        if layer.integer:
            constants = (Constant("weights", "int8_t", weights.astype(np.int8)), *finish_constants(layer))
            finish = {"requantize": requantization_fields(layer.requantize)}
        else:
            bias = Constant("bias", "float", layer.bias.astype(np.float32))
            constants = (Constant("weights", "float", weights.astype(np.float32)), bias)
            finish = clip_field(layer.clip)
        return Lowering(
            form=self.name,
            header=self.header,
            kernel=self.kernel,
            record=f"{self.kernel}_layer",
            fields={
                **self.geometry(layer, site),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                **finish,
            },
            constants=constants,
        )
