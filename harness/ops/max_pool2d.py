"""Max-pooling, alone or as the last step of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Shape
from harness.ops.lowering import Cost, Form, Lowering, Site, Storage
from harness.ops.pool2d_fours import FoursMaxPool2d
from harness.ops.shapes import pool_shape


@dataclass(frozen=True)
class Window:
    """A pooling window: kernel and stride as (height, width).

    padding: rows and columns on each side that no maximum sees; less than the kernel, and only for max-pooling.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that come out of (height, width); partial windows at the border are dropped."""
        return (
            (height + 2 * self.padding[0] - self.kernel[0]) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - self.kernel[1]) // self.stride[1] + 1,
        )

    def output_shape(self, layer: str, shape: Shape) -> Shape:
        """(H, W, C) -> (H', W', C) of a layer that pools; InputError that names it when not one window fits."""
        height, width, channels = shape
        rows, columns = self.pooled(height, width)
        if rows < 1 or columns < 1:
            raise InputError(f"layer {layer}: a {self.kernel} window does not fit into {height}x{width}")
        return rows, columns, channels

    def slide(self, x: Array) -> Array:
        """(N, H, W, C) -> a view (N, H', W', C, kh, kw) of the windows."""
        windows = np.lib.stride_tricks.sliding_window_view(x, self.kernel, axis=(1, 2))
        return windows[:, :: self.stride[0], :: self.stride[1]]

    def maximum(self, x: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C), same dtype."""
        if self.padding != (0, 0):
            (rows, columns), lowest = self.padding, _lowest(x.dtype)
            x = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), constant_values=lowest)
        result: Array = self.slide(x).max(axis=(-2, -1))
        return result


def _lowest(dtype: np.dtype[Any]) -> Any:
    """What no element of `dtype` is below: padding that never is the maximum."""
    return -np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).min


@dataclass(frozen=True, eq=False)
class MaxPool2d(Operator):
    """Max-pooling on (H, W, C). It commutes with requantisation, so it needs no scale of its own."""

    kind: ClassVar[str] = "max_pool2d"

    window: Window

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        return FoursMaxPool2d(), PlainMaxPool2d(), PackedMaxPool2d()

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.window.output_shape(self.name, inputs[0])

    def macs(self, *inputs: Shape) -> int:
        return 0

    def reference(self, *inputs: Array) -> Array:
        return self.window.maximum(inputs[0])


def pool_instructions(window: Window, site: Site) -> int:
    """About what a pooling loop takes: a load, the operation and the loop per element, and finishing each output."""
    outputs = int(np.prod(site.output_shape))
    return outputs * (6 * window.kernel[0] * window.kernel[1] + 12)


class PlainMaxPool2d(Form[MaxPool2d]):
    """One loop for every dtype and shape without padding."""

    name = "plain"
    widens = True

    def applicable(self, layer: MaxPool2d, site: Site) -> bool:
        return layer.window.padding == (0, 0)

    def cost(self, layer: MaxPool2d, site: Site) -> Cost:
        return Cost(0, 0, pool_instructions(layer.window, site))

    def lower(self, layer: MaxPool2d, site: Site) -> Lowering:
        kernel = "nn_max_pool2d_f32" if site.input is Storage.F32 else "nn_max_pool2d"
        return Lowering(
            form=self.name,
            header="nn_pool2d.h",
            kernel=kernel,
            record="nn_max_pool2d_layer",
            fields={"shape": pool_shape(layer.window, site)},
        )


class PackedMaxPool2d(Form[MaxPool2d]):
    """One loop for integers of 2, 4 or 8 bits and for floats, with padding (nn_pool2d_packed.h)."""

    name = "packed"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2, Storage.F32})

    def applicable(self, layer: MaxPool2d, site: Site) -> bool:
        return site.input is site.output

    def cost(self, layer: MaxPool2d, site: Site) -> Cost:
        return Cost(0, 0, 2 * pool_instructions(layer.window, site), code=150)

    def lower(self, layer: MaxPool2d, site: Site) -> Lowering:
        kernel = "nn_max_pool2d_padded_f32" if site.input is Storage.F32 else "nn_max_pool2d_packed"
        return Lowering(
            form=self.name,
            header="nn_pool2d_packed.h",
            kernel=kernel,
            record="nn_max_pool2d_packed_layer",
            fields={"shape": pool_shape(layer.window, site), "padding": layer.window.padding},
        )
