"""Lane-packed convolution with one byte for each weight (nn_lanes_bytes.h)."""

from __future__ import annotations

import numpy as np

from harness.codegen.text import initialiser
from harness.ops.base import Array
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
        if (longest := max(map(len, _filters(layer, site, bits)))) > _ENTRIES:
            return f"a filter takes {longest} entries, more than {_ENTRIES}"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        bits, finish = self._bits(layer, site), finish_of(layer)
        entries = sum(map(len, _filters(layer, site, bits)))
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
        bits = self._bits(layer, site)
        filters = _filters(layer, site, bits)
        stream = [byte for entries in filters for byte in (len(entries), *entries)]
        kernel = layer.weight.shape[2]
        weights = initialiser(
            {
                "stream": Reference("stream"),
                "kernel": kernel,
                "skipped": site.input_shape[1] + 2 * layer.padding[1] - kernel,
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

    def _bits(self, layer: Conv2d, site: Site) -> int:
        bits = offset_bits(lane_offsets(layer, site))
        assert bits is not None
        return bits


def _filters(layer: Conv2d, site: Site, bits: int) -> list[list[int]]:
    """Each filter's entries, at least one."""
    return [entries or [0] for entries in encode_bytes(_in_memory_order(layer, site), 15 - bits)]


def _in_memory_order(layer: Conv2d, site: Site) -> Array:
    """(O, KH * C * KW) weights in the order of their offsets in hcw rows."""
    return filters_of(layer)[:, np.argsort(lane_offsets(layer, site), kind="stable")]
