"""Lane-packed convolution with its weights as a stream of bits (nn_lanes_rice.h)."""

from __future__ import annotations

import numpy as np

from harness.codegen.text import initialiser
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Cost, Lowering, Reference, Site
from harness.ops.sparse import rice
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

# Bytes of the function that computes a row.
_ROW_CODE = 330

# NN_LANES_ENTRIES; the bits of an offset in an entry.
_ENTRIES, _OFFSET_BITS = 128, 11


class LanesRiceConv2d(LanesForm):
    """Golomb-Rice coded gaps and Huffman coded weights, made into a filter's table on the stack for every row."""

    name = "lanes-rice"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if int(lane_offsets(layer, site).max()) >= 2**_OFFSET_BITS:
            return "its rows of activations are too long for the offsets of a table"
        if rice.refuse_weights(layer.weight):
            return rice.refuse_weights(layer.weight)
        # Weights of 0 that split long gaps take entries, too.
        if int((filters_of(layer) != 0).sum(axis=1).max(initial=0)) > _ENTRIES // 2 or layer.weight[0].size > 4096:
            return f"a filter has more than {_ENTRIES // 2} weights"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        stream, bias = rice.encode(_in_memory_order(layer, site)), narrow_bias(layer.bias)
        rows, _, filters = site.output_shape
        inside = windowed(layer, site)
        copied = site.input_shape[0] * window_pitch(layer, site) if inside else 0
        steps, nonzeros = rows * units(site), int(np.count_nonzero(layer.weight))
        return Cost(
            stream.bytes + sum(c.bytes for c in finish_constants(layer, bias)),
            window_bytes(layer, site),
            steps * (14 * nonzeros + 32 * filters) + rows * (28 * nonzeros + 40 * filters) + 12 * copied,
            LAYER_CODE + 20 + (WINDOW_CODE if inside else 0),
            {"nn_lanes_filter_11": FILTER_CODE, self._kernel(layer): _ROW_CODE},
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        stream = rice.encode(_in_memory_order(layer, site))
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
            kernel=self._kernel(layer),
            constants=stream.constants,
            fields={"weights": "&@_weights"},
            source=f"static const nn_lanes_rice @_weights = {{\n{weights}\n}};\n\n",
        )

    def _kernel(self, layer: Conv2d) -> str:
        return f"nn_lanes_rice_b{8 * narrow_bias(layer.bias).bytes}"


def _in_memory_order(layer: Conv2d, site: Site) -> Array:
    """(O, KH * C * KW) weights in the order of their offsets in hcw rows."""
    return filters_of(layer)[:, np.argsort(lane_offsets(layer, site), kind="stable")]
