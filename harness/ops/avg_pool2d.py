"""Average pooling without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Requantization, Shape
from harness.ops.max_pool2d import Window


@dataclass(frozen=True, eq=False)
class AvgPool2d(Operator):
    """Average pooling on (H, W, C).

    In integers: acc = sum(q) - count * input_zero_point, then one requantisation (one channel's worth: the factor
    1 / count times the change of scale), so there is a single rounding.
    """

    kind: ClassVar[str] = "avg_pool2d"

    window: Window
    input_zero_point: int = 0
    requantize: Requantization | None = None

    @property
    def count(self) -> int:
        """Elements of one window."""
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def parameters(self) -> dict[str, Array]:
        if self.requantize is None:
            return {}
        return {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width, channels = inputs[0]
        rows, columns = self.window.pooled(height, width)
        if rows < 1 or columns < 1:
            raise InputError(f"layer {self.name}: a {self.window.kernel} window does not fit into {height}x{width}")
        return rows, columns, channels

    def macs(self, *inputs: Shape) -> int:
        return 0

    def reference(self, *inputs: Array) -> Array:
        x = inputs[0]
        windows = self.window.slide(x)
        if self.requantize is None:
            mean: Array = windows.mean(axis=(-2, -1), dtype=np.float64).astype(np.float32)
            return mean
        total = windows.sum(axis=(-2, -1), dtype=np.int64) - self.count * self.input_zero_point
        return self.requantize.apply(total)
