"""Max- and average-pooling of four channels at a time, side by side in the bytes of a word (nn_pool2d_fours.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import Cost, Form, Lowering, Site, Storage, requantization_fields
from harness.ops.shapes import pool_shape

if TYPE_CHECKING:
    from harness.ops.avg_pool2d import AvgPool2d
    from harness.ops.max_pool2d import MaxPool2d

_STORAGES = frozenset({Storage.U8, Storage.U4, Storage.U2})


def _words(site: Site) -> int:
    """Words of a pixel; 0 where pixels are not whole words."""
    bits = site.input_shape[2] * site.input.bits
    return 0 if bits % 32 else bits // 32


def _overlap(site: Site) -> int | None:
    """The output of a window goes where nothing is read any more: not with padding, nor if outputs are wider."""
    return 0 if site.output.bits <= site.input.bits else None


class FoursMaxPool2d(Form["MaxPool2d"]):
    """Maxima of bytes; any window and padding."""

    name = "fours"
    storages = _STORAGES

    def applicable(self, layer: MaxPool2d, site: Site) -> bool:
        return site.target.dsp and site.input is site.output and _words(site) > 0

    def cost(self, layer: MaxPool2d, site: Site) -> Cost:
        fields = 8 // site.input.bits
        window = layer.window.kernel[0] * layer.window.kernel[1]
        each = 3 if fields == 1 else 1 + 3 * fields
        outputs = site.output_shape[0] * site.output_shape[1]
        padded = layer.window.padding != (0, 0)
        rolled = 2 * layer.window.kernel[0] if max(layer.window.kernel) > 2 else 0
        one = window * (each + padded) + (10 if padded else 4) + fields + rolled
        return Cost(
            0,
            0,
            outputs * (_words(site) * one + 10),
            code=90 + 12 * fields * min(layer.window.kernel[1], 4) + 350 * padded,
            overlap=None if padded else _overlap(site),
        )

    def lower(self, layer: MaxPool2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_pool2d_fours.h",
            kernel="nn_max_pool2d_fours",
            record="nn_max_pool2d_packed_layer",
            fields={"shape": pool_shape(layer.window, site), "padding": layer.window.padding},
            overlap=None if layer.window.padding != (0, 0) else _overlap(site),
        )


class FoursAvgPool2d(Form["AvgPool2d"]):
    """Sums in 16 bits, each scaled by one multiplication."""

    name = "fours"
    storages = _STORAGES

    def applicable(self, layer: AvgPool2d, site: Site) -> bool:
        return site.target.dsp and _words(site) > 0 and self._unsuited_arithmetic(layer, site) is None

    def refusal(self, layer: AvgPool2d, site: Site) -> str | None:
        return self._unsuited_arithmetic(layer, site) or super().refusal(layer, site)

    def cost(self, layer: AvgPool2d, site: Site) -> Cost:
        fields = 8 // site.input.bits
        rows, columns = layer.window.kernel
        flushes = -(-columns // (255 // (2**site.input.bits - 1)))
        line = 3 * columns if fields == 1 else columns * (1 + 2 * fields) + 2 * fields * flushes
        outputs = int(np.prod(site.output_shape[:2]))
        one = rows * (line + 2) + 12 * fields + 3
        one += one * (fields - 1) // 10  # not all sums stay in registers
        code = 44 + 40 * fields + 4 * min(line, 100)
        return Cost(0, 0, outputs * (_words(site) * one + 8), code=code, overlap=_overlap(site))

    def lower(self, layer: AvgPool2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_pool2d_fours.h",
            kernel="nn_avg_pool2d_fours",
            record="nn_avg_pool2d_layer",
            fields={
                "shape": pool_shape(layer.window, site),
                "input_zero_point": layer.input_zero_point,
                "requantize": requantization_fields(layer.requantize),
            },
            overlap=_overlap(site),
        )

    def _unsuited_arithmetic(self, layer: AvgPool2d, site: Site) -> str | None:
        """Why 16 bits of a sum, and one multiplication with the upper bits of its product, are not the reference."""
        if layer.requantize is None or not layer.requantize.one_instruction:
            return "its scale wants another shift than 32"
        lowest = -layer.count * layer.input_zero_point
        highest = lowest + layer.count * (2**site.input.bits - 1)
        if lowest < -(2**15) or highest >= 2**15:
            return "the sums of its windows do not fit in 16 bits"
        return None
