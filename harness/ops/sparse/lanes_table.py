"""Lane-packed convolution with its weights as a table (nn_lanes_table.h)."""

from __future__ import annotations

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.bytes import pieces
from harness.ops.sparse.common import filters_of, finish_constants, narrow_bias, window_pitch
from harness.ops.sparse.lanes import (
    FILTER_CODE,
    LAYER_CODE,
    WINDOW_CODE,
    LanesForm,
    lane_offsets,
    units,
    window_bytes,
    windowed,
)

# Bits of an offset in an entry: as many as the weights leave, or one more where the rows are long.
_OFFSET_BITS = (11, 12)

# Bytes of the function that computes a row.
_ROW_CODE = 200


def encode_table(filters: Array, offsets: Array, offset_bits: int) -> list[list[int]]:
    """(O, N) weights at byte offsets (N,) -> each filter's entries: weight, mark of the last, offset."""
    weight_bits = 15 - offset_bits
    table = []
    for row in filters:
        entries = [
            (part & (2**weight_bits - 1)) << (offset_bits + 1) | int(offsets[column])
            for column in np.flatnonzero(row)
            for part in pieces(int(row[column]), weight_bits)
        ] or [0]
        entries[-1] |= 1 << offset_bits
        table.append(entries)
    return table


def offset_bits(offsets: Array) -> int | None:
    """The fewest bits of an entry that hold all offsets; None where none does."""
    return next((bits for bits in _OFFSET_BITS if int(offsets.max()) < 2**bits), None)


class LanesTableConv2d(LanesForm):
    """Two bytes per weight, read again for each unit of a row."""

    name = "lanes-table"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if offset_bits(lane_offsets(layer, site)) is None:
            return "its rows of activations are too long for the offsets of a table"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        table, bias = self._table(layer, site), narrow_bias(layer.bias)
        flash = 2 * sum(map(len, table)) + sum(c.bytes for c in finish_constants(layer, bias))
        rows, _, filters = site.output_shape
        inside = windowed(layer, site)
        copied = site.input_shape[0] * window_pitch(layer, site) if inside else 0
        steps = rows * units(site)
        return Cost(
            flash,
            window_bytes(layer, site),
            steps * (14 * sum(map(len, table)) + 32 * filters) + 30 * rows * filters + 12 * copied,
            LAYER_CODE + (WINDOW_CODE if inside else 0),
            {
                f"nn_lanes_filter_{self._bits(layer, site)}": FILTER_CODE,
                self._kernel(layer, site): _ROW_CODE,
            },
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        entries = [entry for row in self._table(layer, site) for entry in row]
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_table.h",
            kernel=self._kernel(layer, site),
            constants=(Constant("entries", "uint16_t", np.array(entries, np.uint16)),),
            fields={"weights": Reference("entries")},
        )

    def _bits(self, layer: Conv2d, site: Site) -> int:
        bits = offset_bits(lane_offsets(layer, site))
        assert bits is not None
        return bits

    def _table(self, layer: Conv2d, site: Site) -> list[list[int]]:
        return encode_table(filters_of(layer), lane_offsets(layer, site), self._bits(layer, site))

    def _kernel(self, layer: Conv2d, site: Site) -> str:
        return f"nn_lanes_table_o{self._bits(layer, site)}_b{8 * narrow_bias(layer.bias).bytes}"
