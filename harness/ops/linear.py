"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Requantization, Shape


@dataclass(frozen=True, eq=False)
class Linear(Operator):
    """y = weight @ x + bias; an (H, W, C) input is taken flattened in that order.

    weight: (O, I) float32 or int8, columns in the order of the flattened NHWC input. bias: (O,) float32, or int32 with
    -input_zero_point * sum(w) folded in. requantize: None in float graphs and where the output stays int32.
    """

    kind: ClassVar[str] = "linear"

    weight: Array
    bias: Array
    relu: bool = False
    input_zero_point: int = 0
    requantize: Requantization | None = None

    @property
    def parameters(self) -> dict[str, Array]:
        stored = {"weight": self.weight, "bias": self.bias}
        if self.requantize is not None:
            stored |= {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}
        return stored

    @property
    def label(self) -> str:
        return self.kind + ("+relu" if self.relu else "")

    def output_shape(self, *inputs: Shape) -> Shape:
        features = int(np.prod(inputs[0]))
        if features != self.weight.shape[1]:
            raise InputError(f"layer {self.name} wants {self.weight.shape[1]} features but its input has {features}")
        return (self.weight.shape[0],)

    def macs(self, *inputs: Shape) -> int:
        return int(self.weight.size)

    def accumulate(self, x: Array) -> Array:
        """The product before clamping, as float64: exact for integers, whose sums stay below 2**53."""
        result: Array = x.reshape(len(x), -1).astype(np.float64) @ self.weight.T.astype(np.float64)
        return result + self.bias.astype(np.float64)

    def reference(self, *inputs: Array) -> Array:
        result = self.accumulate(inputs[0])
        if self.requantize is not None:
            result = self.requantize.apply(result.astype(np.int64))
        elif np.issubdtype(self.weight.dtype, np.integer):
            result = result.astype(np.int32)
        else:
            result = result.astype(np.float32)
        return np.maximum(result, 0) if self.relu else result
