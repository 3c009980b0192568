"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Requantization, Shape, Weighted, exact_float, finished, relu_label
from harness.ops.linear_f32_rows import RowsLinearF32
from harness.ops.linear_fields import FieldsLinear
from harness.ops.linear_packed import PackedLinear
from harness.ops.linear_quads import QuadsLinear
from harness.ops.lowering import (
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Value,
    clip_field,
    float_constants,
    plain_constants,
    requantization_fields,
)


@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """y = weight @ x + bias; an (H, W, C) input is taken flattened in that order.

    weight: (O, I) float32 or int8, columns in the order of the flattened NHWC input. bias: (O,) float32, or int32 with
    -input_zero_point * sum(w) folded in. requantize: None in float graphs and where the output stays int32.
    clip, weight_bits: as Conv2d has them.
    """

    kind: ClassVar[str] = "linear"

    weight: Array
    bias: Array
    relu: bool = False
    input_zero_point: int = 0
    requantize: Requantization | None = None
    clip: float | None = None
    weight_bits: int = 8

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        if self.integer:
            return QuadsLinear(), FieldsLinear(), PlainLinear(), PackedLinear()
        return RowsLinearF32(), PlainLinearF32()

    @property
    def label(self) -> str:
        return self.kind + relu_label(self.relu, self.clip)

    def output_shape(self, *inputs: Shape) -> Shape:
        features = int(np.prod(inputs[0]))
        if features != self.weight.shape[1]:
            raise InputError(f"layer {self.name} wants {self.weight.shape[1]} features but its input has {features}")
        return (self.weight.shape[0],)

    def macs(self, *inputs: Shape) -> int:
        return int(self.weight.size)

    def accumulate(self, x: Array) -> Array:
        """The product before clamping, as float64: exact for integers, whose sums stay below 2**53."""
        kind = exact_float(self.weight)
        products: Array = x.reshape(len(x), -1).astype(kind) @ self.weight.T.astype(kind)
        return products + self.bias.astype(np.float64)

    def reference(self, *inputs: Array) -> Array:
        return finished(
            self.accumulate(inputs[0]), self.requantize, integer=self.integer, relu=self.relu, clip=self.clip
        )


def linear_shape(layer: Linear, site: Site) -> dict[str, Value]:
    """The initialiser of an nn_linear_shape."""
    return {
        "inputs": layer.weight.shape[1],
        "outputs": layer.weight.shape[0],
        "relu": layer.relu,
        "input": site.input.value,
        "output": site.output.value,
    }


class PlainLinear(Form[Linear]):
    """Weights as they are, one multiplication at a time: for cores without SIMD."""

    name = "plain"

    def applicable(self, layer: Linear, site: Site) -> bool:
        return True

    def cost(self, layer: Linear, site: Site) -> Cost:
        return Cost(layer.weight.size + 4 * len(layer.bias), 0, 5 * layer.weight.size)

    def lower(self, layer: Linear, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_linear.h",
            kernel="nn_linear",
            record="nn_linear_layer",
            fields={
                "shape": linear_shape(layer, site),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=plain_constants(layer.weight, layer.bias, layer.requantize),
        )


class PlainLinearF32(Form[Linear]):
    """Floats, one multiplication at a time."""

    name = "plain"
    clips = True

    def applicable(self, layer: Linear, site: Site) -> bool:
        return True

    def cost(self, layer: Linear, site: Site) -> Cost:
        return Cost(4 * (layer.weight.size + len(layer.bias)), 0, 4 * layer.weight.size)

    def lower(self, layer: Linear, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_linear.h",
            kernel="nn_linear_f32",
            record="nn_linear_f32_layer",
            fields={
                "shape": linear_shape(layer, site),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                **clip_field(layer.clip),
            },
            constants=float_constants(layer.weight, layer.bias),
        )
