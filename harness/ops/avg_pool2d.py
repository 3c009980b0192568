"""Average pooling without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Requantization, Shape
from harness.ops.lowering import (
    Cost,
    Form,
    Lowering,
    Site,
    Storage,
    Value,
    requantization_constants,
    requantization_fields,
)
from harness.ops.max_pool2d import Window, pool_instructions
from harness.ops.pool2d_fours import FoursAvgPool2d
from harness.ops.shapes import pool_shape


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
    def forms(self) -> tuple[Form[Any], ...]:
        return FoursAvgPool2d(), PlainAvgPool2d(), PackedAvgPool2d()

    @property
    def parameters(self) -> dict[str, Array]:
        if self.requantize is None:
            return {}
        return {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.window.output_shape(self.name, inputs[0])

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


class PlainAvgPool2d(Form[AvgPool2d]):
    """One loop for every shape."""

    name = "plain"
    widens = True

    def applicable(self, layer: AvgPool2d, site: Site) -> bool:
        return True

    def cost(self, layer: AvgPool2d, site: Site) -> Cost:
        return Cost(0, 0, pool_instructions(layer.window, site))

    def lower(self, layer: AvgPool2d, site: Site) -> Lowering:
        integer = site.input is not Storage.F32
        if integer and layer.requantize is None:
            raise InputError(f"layer {layer.name}: average pooling of integers needs a requantisation")
        fields: dict[str, Value] = {"shape": pool_shape(layer.window, site)}
        if integer:
            fields |= {
                "input_zero_point": layer.input_zero_point,
                "requantize": requantization_fields(layer.requantize),
            }
        return Lowering(
            form=self.name,
            header="nn_pool2d.h",
            kernel="nn_avg_pool2d" if integer else "nn_avg_pool2d_f32",
            record="nn_avg_pool2d_layer",
            fields=fields,
            constants=requantization_constants(layer.requantize),
        )


class PackedAvgPool2d(Form[AvgPool2d]):
    """One loop for integers of 2, 4 or 8 bits (nn_pool2d_packed.h)."""

    name = "packed"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})

    def applicable(self, layer: AvgPool2d, site: Site) -> bool:
        return True

    def cost(self, layer: AvgPool2d, site: Site) -> Cost:
        return Cost(0, 0, 2 * pool_instructions(layer.window, site), code=150)

    def lower(self, layer: AvgPool2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_pool2d_packed.h",
            kernel="nn_avg_pool2d_packed",
            record="nn_avg_pool2d_layer",
            fields={
                "shape": pool_shape(layer.window, site),
                "input_zero_point": layer.input_zero_point,
                "requantize": requantization_fields(layer.requantize),
            },
            constants=requantization_constants(layer.requantize),
        )
