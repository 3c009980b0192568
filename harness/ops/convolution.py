"""What dense and depthwise convolutions share: a kernel that slides over a padded image."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Shape, Weighted

if TYPE_CHECKING:
    from harness.ops.max_pool2d import Window


class Convolution(Weighted):
    """A convolution on (H, W, C) with weights (filters, KH, KW, ...). Fields are the subclasses' own.

    pool: what is fused behind it; a class that cannot have that leaves it None.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    padding_after: tuple[int, int] | None
    pool: Window | None = None

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of the input."""

    @property
    def edges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding as ((top, bottom), (left, right))."""
        bottom, right = self.padding if self.padding_after is None else self.padding_after
        return (self.padding[0], bottom), (self.padding[1], right)

    def convolved(self, *inputs: Shape) -> tuple[int, int]:
        """Rows and columns of the convolution itself, before a fused max-pool; InputError when it does not fit."""
        height, width, channels = inputs[0]
        if channels != self.channels:
            raise InputError(f"layer {self.name} wants {self.channels} channels but its input has {channels}")
        kernel_height, kernel_width = self.weight.shape[1:3]
        vertical, horizontal = self.edges
        rows = (height + sum(vertical) - kernel_height) // self.stride[0] + 1
        columns = (width + sum(horizontal) - kernel_width) // self.stride[1] + 1
        if rows < 1 or columns < 1:
            raise InputError(
                f"layer {self.name}: a {kernel_height}x{kernel_width} kernel does not fit into {height}x{width}"
            )
        return rows, columns

    def macs(self, *inputs: Shape) -> int:
        rows, columns = self.convolved(*inputs)
        return int(rows * columns * self.weight.size)

    def padded(self, x: Array) -> Array:
        """(N, H, W, C) with the padding around it, which holds the input's zero point."""
        return np.pad(x, ((0, 0), *self.edges, (0, 0)), constant_values=x.dtype.type(self.input_zero_point))
