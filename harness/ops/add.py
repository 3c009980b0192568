"""The sum of two tensors: the end of a residual block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.add_pairs import PairsAdd, trailing
from harness.ops.base import Array, Operator, Requantization, Shape, relu_label
from harness.ops.lowering import Cost, Form, Lowering, Site, Storage, clip_field, image_rows
from harness.ops.packed import STORAGES

# Bits of the larger multiplier: with activations of up to 8 bits both products fit one SMLAD of 16-bit pairs. The sum
# is then off by less than 255 * 2**-15 steps of the larger input, far below the rounding that follows.
MULTIPLIER_BITS = 15


@dataclass(frozen=True, eq=False)
class Add(Operator):
    """Element by element a + b on two tensors of one shape, (H, W, C) or (C,).

    In integers both are brought to the output's scale under one shift, with one rounding:
    y = clamp(z_y + (((a - z_a) * M_a + (b - z_b) * M_b + 2**(T-1)) >> T), 0, 2**bits - 1)

    input_zero_points: z_a, z_b. requantize: multiplier (2,) is M_a, M_b; shift (2,) is T, twice. relu, clip: of floats.
    """

    kind: ClassVar[str] = "add"

    relu: bool = False
    clip: float | None = None
    input_zero_points: tuple[int, int] = (0, 0)
    requantize: Requantization | None = None

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        return (PlainAddF32(),) if self.requantize is None else (PairsAdd(), PlainAdd())

    @property
    def parameters(self) -> dict[str, Array]:
        if self.requantize is None:
            return {}
        return {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}

    @property
    def label(self) -> str:
        return self.kind + relu_label(self.relu, self.clip)

    def output_shape(self, *inputs: Shape) -> Shape:
        if inputs[0] != inputs[1]:
            raise InputError(f"layer {self.name} adds tensors of different shapes, {inputs[0]} and {inputs[1]}")
        return inputs[0]

    def macs(self, *inputs: Shape) -> int:
        return 0

    def reference(self, *inputs: Array) -> Array:
        if self.requantize is None:
            total: Array = (inputs[0].astype(np.float64) + inputs[1]).astype(np.float32)
            total = np.maximum(total, 0) if self.relu else total
            return total if self.clip is None else np.minimum(total, np.float32(self.clip))
        shift = self.requantize.shift[0]
        acc = np.full(inputs[0].shape, np.int64(1) << (shift - 1))
        for x, zero_point, multiplier in zip(
            inputs, self.input_zero_points, self.requantize.multiplier.tolist(), strict=True
        ):
            acc += (x.astype(np.int64) - zero_point) * multiplier
        acc >>= shift
        result: Array = np.clip(acc + self.requantize.zero_point, 0, 2**self.requantize.bits - 1).astype(np.uint8)
        return result

    @staticmethod
    def requantization(scales: tuple[float, float], zero_point: int, bits: int = 8) -> Requantization:
        """The multipliers for real factors `scales` of a and b, both > 0 and below 2**14."""
        shift = 1
        while shift < 62 and round(max(scales) * 2.0 ** (shift + 1)) < 2**MULTIPLIER_BITS:
            shift += 1
        multiplier = np.array([round(scale * 2.0**shift) for scale in scales], np.int64)
        return Requantization(multiplier, np.full(2, shift, np.int64), zero_point, bits)


class PlainAdd(Form[Add]):
    """One element at a time, of any width."""

    name = "plain"
    storages = STORAGES - {Storage.I32}

    def applicable(self, layer: Add, site: Site) -> bool:
        return True

    def cost(self, layer: Add, site: Site) -> Cost:
        return Cost(0, 0, 25 * int(np.prod(site.output_shape)), code=200, overlap=trailing(site))

    def lower(self, layer: Add, site: Site) -> Lowering:
        assert layer.requantize is not None and site.second_input is not None
        rows, elements = image_rows(site.output_shape)
        multipliers, shift = layer.requantize.multiplier.tolist(), int(layer.requantize.shift[0])
        zero = sum(point * factor for point, factor in zip(layer.input_zero_points, multipliers, strict=True))
        return Lowering(
            form=self.name,
            header="nn_add.h",
            kernel="nn_add",
            record="nn_add_layer",
            fields={
                "rows": rows,
                "elements": elements,
                "input": site.input.value,
                "second": site.second_input.value,
                "output": site.output.value,
                "multiplier": tuple(multipliers),
                "offset": (1 << (shift - 1)) - zero,
                "shift": shift,
                "zero_point": layer.requantize.zero_point,
                "bits": layer.requantize.bits,
            },
            overlap=trailing(site),
        )


class PlainAddF32(Form[Add]):
    """Floats, one element at a time."""

    name = "plain"
    clips = True

    def applicable(self, layer: Add, site: Site) -> bool:
        return True

    def cost(self, layer: Add, site: Site) -> Cost:
        return Cost(0, 0, 8 * int(np.prod(site.output_shape)), overlap=0)

    def lower(self, layer: Add, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_add.h",
            kernel="nn_add_f32",
            record="nn_add_f32_layer",
            fields={"elements": int(np.prod(site.output_shape)), "relu": layer.relu, **clip_field(layer.clip)},
            overlap=0,
        )
