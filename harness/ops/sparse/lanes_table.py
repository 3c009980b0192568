"""Lane-packed convolution with its weights as a table (nn_lanes_table.h)."""

from __future__ import annotations

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.bytes import pieces
from harness.ops.sparse.common import filters_of, finish_of, shared_function
from harness.ops.sparse.lanes import (
    FILTER_CODE,
    FINISH_CODE,
    LAYER_CODE,
    WINDOW_CODE,
    LanesForm,
    lane_offsets,
    scratch_bytes,
    trailing,
    units,
    window_instructions,
    windowed,
)

# Bits of an offset in an entry: as many as the weights leave, or one more where the rows are long.
_OFFSET_BITS = (11, 12)

# Bytes of the function that computes a row.
_ROW_CODE = 40


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
        entries, finish = sum(map(len, self._table(layer, site))), finish_of(layer)
        bits = self._bits(layer, site)
        rows, _, filters = site.output_shape
        steps = rows * units(site)
        return Cost(
            2 * entries + finish.bytes,
            scratch_bytes(layer, site),
            steps * (14 * entries + 30 * filters) + 30 * rows * filters + window_instructions(layer, site),
            LAYER_CODE + (WINDOW_CODE if windowed(layer, site) else 0),
            {
                f"nn_lanes_filter_{bits}": FILTER_CODE,
                f"lanes_table_{bits}": _ROW_CODE,
                f"lanes_finish_{finish.suffix}": FINISH_CODE,
            },
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        entries = [entry for row in self._table(layer, site) for entry in row]
        bits = self._bits(layer, site)
        row = f"lanes_table_{bits}"
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_table.h",
            row=row,
            functions={
                row: shared_function(
                    row,
                    "const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums",
                    f"nn_lanes_table_row(filters, rows, sums, nn_lanes_filter_{bits});",
                )
            },
            constants=(Constant("entries", "uint16_t", np.array(entries, np.uint16)),),
            weights={"weights": Reference("entries")},
            steps=(1, units(site)),
        )

    def _bits(self, layer: Conv2d, site: Site) -> int:
        bits = offset_bits(lane_offsets(layer, site))
        assert bits is not None
        return bits

    def _table(self, layer: Conv2d, site: Site) -> list[list[int]]:
        return encode_table(filters_of(layer), lane_offsets(layer, site), self._bits(layer, site))
