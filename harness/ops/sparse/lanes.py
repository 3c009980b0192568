"""What the lane-packed forms of convolution share (nn_lanes.h): the proof of their bounds, record and window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.codegen.text import initialiser
from harness.ops.base import Array, Operator
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Form, Interleaving, Layout, Lowering, Reference, Site, Value
from harness.ops.max_pool2d import Window
from harness.ops.shapes import conv_shape
from harness.ops.sparse.common import (
    ACTIVATION_LIMIT,
    SparseForm,
    consumed_rows,
    filters_of,
    finish_of,
    overlap,
    plain_storage,
    refuse_common_finish,
    shared_function,
    trailing_distance,
    window_height,
    window_pitch,
    window_step,
)

# Lanes begin at 0x8000: a sum may rise to 0xFFFF and fall to 0.
_RISE, _FALL = 0x7FFF, 0x8000

# The most words of lanes in a row of outputs that are on the stack: more are in scratch.
_STACKED = 64

POOL = Window((2, 2), (2, 2))

# Bytes of a layer's own code and record, of what a window adds, and of the function that multiplies by a table.
LAYER_CODE, WINDOW_CODE, FILTER_CODE = 72, 150, 110
FINISH_CODE = 110


def refuse_lanes(layer: Conv2d) -> str | None:
    """Why a filter's sums might leave 16 bits with some activations. The proof is over the actual integers."""
    filters = filters_of(layer)
    rise = int(np.where(filters > 0, filters, 0).sum(axis=1).max(initial=0)) * ACTIVATION_LIMIT
    fall = int(np.where(filters < 0, -filters, 0).sum(axis=1).max(initial=0)) * ACTIVATION_LIMIT
    if rise > _RISE or fall > _FALL:
        return f"its sums may reach +{rise} and -{fall}, which lanes of 16 bits cannot hold"
    return None


def windowed(layer: Conv2d, site: Site) -> bool:
    """Whether the layer reads its rows through a window in scratch."""
    planar = site.input_layout is Layout.HCW or site.input_shape[2] == 1
    return any(layer.padding) or not planar


def window_bytes(layer: Conv2d, site: Site) -> int:
    """Bytes of that window, with what is read behind it."""
    return (
        (layer.weight.shape[1] + 1) * window_pitch(layer, site) + overread(layer, site) if windowed(layer, site) else 0
    )


def words(site: Site) -> int:
    """Words of lanes in a row of outputs."""
    return units(site) * int(site.output_shape[2])


def scratch_bytes(layer: Conv2d, site: Site) -> int:
    """Bytes of scratch: lanes that are too many for the stack, and the window."""
    return (4 * words(site) if words(site) > _STACKED else 0) + window_bytes(layer, site)


def overwrite(layer: Conv2d, site: Site) -> int:
    """Bytes that are written behind a row of outputs: the second lane of a last, odd column."""
    return site.output_shape[1] % 2 * (1 if site.output_layout is Layout.HCW else site.output_shape[2])


def trailing(layer: Conv2d, site: Site) -> int | None:
    """How far before its input the output must start (Lowering.overlap)."""
    return overlap(layer, site, windowed=windowed(layer, site), buffered=True, overwrite=overwrite(layer, site))


def window_instructions(layer: Conv2d, site: Site) -> int:
    """About what copying rows into the window and down it takes."""
    rows, pitch = site.output_shape[0], window_pitch(layer, site)
    return rows * pitch * (2 * 12 + 5 * (layer.weight.shape[1] - 1)) if windowed(layer, site) else 0


def overread(layer: Conv2d, site: Site) -> int:
    """Bytes behind its last row that a kernel may read: columns of an incomplete unit, and the rest of a word."""
    # Code reads a word at each position, the last one a pixel further to the right than a table does.
    last = 4 * (units(site) - 1) + 1 + layer.weight.shape[2] - 1 + 3
    return max(int(last) - (site.input_shape[1] + 2 * layer.padding[1] - 1), 0)


def lane_offsets(layer: Conv2d, site: Site) -> Array:
    """(KH * KW * C,) bytes from a kernel's corner to its elements in hcw rows, in the order of the layer's weights."""
    _, rows, columns, channels = layer.weight.shape
    width = site.input_shape[1] + 2 * layer.padding[1]
    y, x, c = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(channels), indexing="ij")
    return np.asarray(y * window_pitch(layer, site) + c * width + x).ravel()


def units(site: Site) -> int:
    """Pairs of pooled columns in a row of outputs."""
    return -(-site.output_shape[1] // 2)


class LanesForm(SparseForm[Conv2d]):
    """A form whose kernels compute a row of outputs from rows of pixels in lanes."""

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if not site.target.dsp:
            return "the core has no UXTB16"
        if layer.stride != (1, 1) or layer.pool != POOL:
            return "it takes a stride of 1 and a max-pool of 2x2"
        if layer.requantize is None:
            return "its outputs are 32-bit accumulators"
        return plain_storage(site) or refuse_common_finish(layer, site) or refuse_lanes(layer)

    def reads_layout(self, layer: Conv2d, site: Site) -> Layout:
        return Layout.HCW

    def writes_layouts(self, layer: Conv2d, site: Site) -> frozenset[Layout]:
        return frozenset(Layout)

    def interleaved(
        self, layer: Conv2d, site: Site, follower_form: Form[Any], follower: Operator, follower_site: Site
    ) -> Interleaving | None:
        if not isinstance(follower_form, LanesForm) or not isinstance(follower, Conv2d):
            return None
        # The second lane of an odd column would be written into the margin.
        if site.output_layout is not Layout.HCW or site.output_shape[1] % 2:
            return None
        second_window = window_height(follower) * window_pitch(follower, follower_site) + overread(
            follower, follower_site
        )
        second_window = -(-second_window // 4) * 4
        most = max(words(site), words(follower_site))
        apart = most > _STACKED
        consumed = []
        for row in range(follower_site.output_shape[0]):
            needed = window_height(follower) + window_step(follower) * row - follower.padding[0]
            made = min(max(needed, 1), site.output_shape[0])
            consumed.append(consumed_rows(layer, site, made - 1, windowed=windowed(layer, site), buffered=True))
        return Interleaving(
            kernel="nn_lanes_interleaved_apart" if apart else "nn_lanes_interleaved",
            argument=second_window,
            margin=follower.padding[1],
            scratch_bytes=4 * most * apart + second_window + window_bytes(layer, site),
            overlap=trailing_distance(site, follower_site, consumed, overwrite(follower, follower_site)),
        )

    def lower_lanes(
        self,
        layer: Conv2d,
        site: Site,
        *,
        header: str,
        row: str,
        functions: Mapping[str, str],
        constants: tuple[Constant, ...],
        weights: Mapping[str, Value],
        steps: tuple[int, int],
        source: str = "",
        code_bytes: int = 0,
        sizes: Mapping[str, int] | None = None,
    ) -> Lowering:
        """The layer. row: the function that computes a row's lanes; functions: it and others that layers share.

        weights: the record's field for them; steps: words of lanes from one unit, and from one filter, to the next.
        """
        finish = finish_of(layer)
        _, columns, filters = site.output_shape
        planar = site.output_layout is Layout.HCW
        record = initialiser(
            {
                **weights,
                "finish": finish.fields,
                "pitch": window_pitch(layer, site),
                "units": units(site),
                "filters": filters,
                "unit": steps[0],
                "filter": steps[1],
                "pixel": 1 if planar else filters,
                "channel": columns + 2 * site.output_margin if planar else 1,
            },
            "@",
            2,
        )
        inside, apart = windowed(layer, site), words(site) > _STACKED
        finish_name = f"lanes_finish_{finish.suffix}"
        return Lowering(
            form=self.name,
            header=header,
            kernel="nn_lanes_apart" if apart else "nn_lanes_windowed" if inside else "nn_lanes_direct",
            record="nn_lanes_layer",
            fields={
                "shape": conv_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "channel_major": site.input_layout is Layout.HCW,
                "windowed": inside,
                "row": row,
                "finish": finish_name,
                "filters": Reference("filters"),
            },
            constants=(*constants, *finish.constants),
            scratch_bytes=scratch_bytes(layer, site),
            source=source + f"static const nn_lanes_filters @_filters[1] = {{\n    {{\n{record}\n    }},\n}};",
            code_bytes=code_bytes,
            functions={
                **functions,
                finish_name: shared_function(
                    finish_name,
                    "const nn_lanes_filters *filters, const uint32_t *sums, uint8_t *output",
                    f"nn_lanes_finish_row(filters, sums, output, {finish.kind});",
                ),
            },
            sizes={**({} if apart else {"NN_LANES_SUMS": words(site)}), **(sizes or {})},
            overread=0 if inside else overread(layer, site),
            overwrite=overwrite(layer, site),
            overlap=trailing(layer, site),
        )
