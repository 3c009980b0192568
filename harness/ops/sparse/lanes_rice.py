"""Lane-packed convolution with its weights as a stream of bits (nn_lanes_rice.h)."""

from __future__ import annotations

import numpy as np

from harness.codegen.text import initialiser
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Cost, Lowering, Reference, Site
from harness.ops.sparse import rice
from harness.ops.sparse.common import filters_of, finish_of, shared_function
from harness.ops.sparse.lanes import (
    FILTER_CODE,
    FINISH_CODE,
    LAYER_CODE,
    WINDOW_CODE,
    LanesForm,
    lane_offsets,
    trailing,
    units,
    window_bytes,
    window_instructions,
    windowed,
)

# Bytes of the function that computes a row.
_ROW_CODE = 310

# The most entries of a filter: they are on the stack; the bits of an offset in an entry.
_ENTRIES, _OFFSET_BITS = 128, 11


class LanesRiceConv2d(LanesForm):
    """Golomb-Rice coded gaps and Huffman coded weights, made into a filter's table on the stack for every row."""

    name = "lanes-rice"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if int(lane_offsets(layer, site).max()) >= 2**_OFFSET_BITS:
            return "its rows of activations are too long for the offsets of a table"
        if rice.refuse_weights(layer.weight):
            return rice.refuse_weights(layer.weight)
        if (longest := rice.encode(_in_memory_order(layer, site)).longest(layer.weight[0].size)) > _ENTRIES:
            return f"a filter takes {longest} entries on the stack"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        stream, finish = rice.encode(_in_memory_order(layer, site)), finish_of(layer)
        rows, _, filters = site.output_shape
        steps, nonzeros = rows * units(site), int(np.count_nonzero(layer.weight))
        multiplied = steps * (14 * nonzeros + 30 * filters) + rows * (28 * nonzeros + 60 * filters)
        return Cost(
            stream.bytes + finish.bytes,
            window_bytes(layer, site),
            multiplied + window_instructions(layer, site),
            LAYER_CODE + 20 + (WINDOW_CODE if windowed(layer, site) else 0),
            {
                "nn_lanes_filter_11": FILTER_CODE,
                "lanes_rice": _ROW_CODE,
                f"lanes_finish_{finish.suffix}": FINISH_CODE,
            },
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        ordered = _in_memory_order(layer, site)
        stream = rice.encode(ordered)
        kernel = layer.weight.shape[2]
        weights = initialiser(
            {
                "rice": {"bits": Reference("bits"), "codes": Reference("codes"), "k": stream.k},
                "elements": layer.weight[0].size,
                "kernel": kernel,
                "skipped": site.input_shape[1] + 2 * layer.padding[1] - kernel,
            },
            "@",
        )
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_rice.h",
            row="lanes_rice",
            functions={
                "lanes_rice": shared_function(
                    "lanes_rice",
                    "const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums",
                    "nn_lanes_rice_row(filters, rows, sums);",
                )
            },
            constants=stream.constants,
            weights={"weights": "&@_weights"},
            steps=(1, units(site)),
            source=f"static const nn_lanes_rice @_weights = {{\n{weights}\n}};\n\n",
            sizes={"NN_LANES_ENTRIES": max(stream.longest(ordered.shape[1]), 1)},
        )


def _in_memory_order(layer: Conv2d, site: Site) -> Array:
    """(O, KH * C * KW) weights in the order of their offsets in hcw rows."""
    return filters_of(layer)[:, np.argsort(lane_offsets(layer, site), kind="stable")]
