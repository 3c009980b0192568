"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Requantization, Shape, Weighted, exact_float
from harness.ops.linear_f32_rows import RowsLinearF32
from harness.ops.linear_fields import FieldsLinear
from harness.ops.linear_packed import PackedLinear
from harness.ops.linear_quads import QuadsLinear
from harness.ops.lowering import Form, Site, Value
from harness.ops.plain import PlainForm
from harness.ops.shapes import linear_shape


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

    def output_shape(self, *inputs: Shape) -> Shape:
        features = int(np.prod(inputs[0]))
        if features != self.weight.shape[1]:
            raise InputError(f"layer {self.name} wants {self.weight.shape[1]} features but its input has {features}")
        return (self.weight.shape[0],)

    def macs(self, *inputs: Shape) -> int:
        return int(self.weight.size)

    def accumulate(self, x: Array) -> Array:
        kind = exact_float(self.weight)
        products: Array = x.reshape(len(x), -1).astype(kind) @ self.weight.T.astype(kind)
        return products + self.bias.astype(np.float64)


class PlainLinear(PlainForm[Linear]):
    """Integers of 8 bits."""

    header = "nn_linear.h"
    kernel = "nn_linear"
    instructions = 5
    widens = True

    def geometry(self, layer: Linear, site: Site) -> dict[str, Value]:
        return {"shape": linear_shape(layer, site)}


class PlainLinearF32(PlainForm[Linear]):
    """Floats."""

    header = "nn_linear.h"
    kernel = "nn_linear_f32"
    instructions = 4
    clips = True

    def geometry(self, layer: Linear, site: Site) -> dict[str, Value]:
        return {"shape": linear_shape(layer, site)}
