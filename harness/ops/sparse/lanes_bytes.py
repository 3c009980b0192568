"""Lane-packed convolution with one byte for each weight (nn_lanes_bytes.h)."""

from __future__ import annotations

import numpy as np

from harness.codegen.text import initialiser
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.bytes import encode_bytes
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
from harness.ops.sparse.lanes_table import offset_bits

# Bytes of the function that computes a row, and of a layer's second record.
_ROW_CODE, _RECORD = 120, 8

# The most entries of a filter: one byte tells their number, and they are on the stack.
_ENTRIES = 255


class LanesBytesConv2d(LanesForm):
    """One byte per weight, made into a filter's table on the stack for every row of outputs."""

    name = "lanes-bytes"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        bits = offset_bits(lane_offsets(layer, site))
        if bits is None:
            return "its rows of activations are too long for the offsets of a table"
        if (longest := max(map(len, entries_of(layer, site)))) > _ENTRIES:
            return f"a filter takes {longest} entries, more than {_ENTRIES}"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        bits, finish = 15 - weight_bits(layer, site), finish_of(layer)
        entries = sum(map(len, entries_of(layer, site)))
        rows, _, filters = site.output_shape
        multiplied = rows * units(site) * (14 * entries + 30 * filters) + rows * (9 * entries + 50 * filters)
        return Cost(
            entries + filters + finish.bytes,
            scratch_bytes(layer, site),
            multiplied + window_instructions(layer, site),
            LAYER_CODE + _RECORD + (WINDOW_CODE if windowed(layer, site) else 0),
            {
                f"nn_lanes_filter_{bits}": FILTER_CODE,
                f"lanes_bytes_{bits}": _ROW_CODE,
                f"lanes_finish_{finish.suffix}": FINISH_CODE,
            },
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        bits = 15 - weight_bits(layer, site)
        filters = entries_of(layer, site)
        stream = [byte for entries in filters for byte in (len(entries), *entries)]
        weights = initialiser(
            {
                "stream": Reference("stream"),
                "kernel": layer.weight.shape[2],
                "skipped": skipped_bytes(layer, site),
            },
            "@",
        )
        row = f"lanes_bytes_{bits}"
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_bytes.h",
            row=row,
            functions={
                row: shared_function(
                    row,
                    "const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums",
                    f"nn_lanes_bytes_row(filters, rows, sums, {bits}, nn_lanes_filter_{bits});",
                )
            },
            constants=(Constant("stream", "uint8_t", np.array(stream, np.uint8)),),
            weights={"weights": "&@_weights"},
            steps=(1, units(site)),
            source=f"static const nn_lanes_bytes @_weights = {{\n{weights}\n}};\n\n",
            sizes={"NN_LANES_ENTRIES": max(map(len, filters))},
        )


def weight_bits(layer: Conv2d, site: Site) -> int:
    """Bits of an entry's weight, for a layer whose offsets fit a table."""
    bits = offset_bits(lane_offsets(layer, site))
    assert bits is not None
    return 15 - bits


def skipped_bytes(layer: Conv2d, site: Site) -> int:
    """Bytes between the columns of one row or channel of the kernel and the next."""
    return int(site.input_shape[1] + 2 * layer.padding[1] - layer.weight.shape[2])


def entries_of(layer: Conv2d, site: Site) -> list[list[int]]:
    """Each filter's entries, at least one, in the order in which pixels lie in hcw rows."""
    in_memory_order = np.argsort(lane_offsets(layer, site), kind="stable")
    filters = filters_of(layer)[:, in_memory_order]
    return [entries or [0] for entries in encode_bytes(filters, weight_bits(layer, site))]
