"""Max-pooling, alone or as the last step of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Shape


@dataclass(frozen=True)
class Window:
    """A pooling window: kernel and stride as (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that come out of (height, width); partial windows at the border are dropped."""
        return (
            (height - self.kernel[0]) // self.stride[0] + 1,
            (width - self.kernel[1]) // self.stride[1] + 1,
        )

    def slide(self, x: Array) -> Array:
        """(N, H, W, C) -> a view (N, H', W', C, kh, kw) of the windows."""
        windows = np.lib.stride_tricks.sliding_window_view(x, self.kernel, axis=(1, 2))
        return windows[:, :: self.stride[0], :: self.stride[1]]

    def maximum(self, x: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C), same dtype."""
        result: Array = self.slide(x).max(axis=(-2, -1))
        return result


@dataclass(frozen=True, eq=False)
class MaxPool2d(Operator):
    """Max-pooling without padding on (H, W, C). It commutes with requantisation, so it needs no scale of its own."""

    kind: ClassVar[str] = "max_pool2d"

    window: Window

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width, channels = inputs[0]
        rows, columns = self.window.pooled(height, width)
        if rows < 1 or columns < 1:
            raise InputError(f"layer {self.name}: a {self.window.kernel} window does not fit into {height}x{width}")
        return rows, columns, channels

    def macs(self, *inputs: Shape) -> int:
        return 0

    def reference(self, *inputs: Array) -> Array:
        return self.window.maximum(inputs[0])
