"""Nonzero weights row by row (nn_sparse_rows.h): two bytes each, for any layer and any core."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d, conv_shape
from harness.ops.linear import Linear, linear_shape
from harness.ops.lowering import (
    Constant,
    Cost,
    Lowering,
    Reference,
    Site,
    Storage,
    Value,
    requantization_constants,
    requantization_fields,
)
from harness.ops.sparse.common import (
    DISTANCE_LIMIT,
    SparseForm,
    filters_of,
    lengths_constant,
    narrow_bias,
    offsets,
    overlap,
    plain_storage,
    refuse_accumulators,
    window_height,
    window_pitch,
)

# Most positions of a pooling window (NN_SPARSE_POSITIONS).
_POSITIONS = 9

_LINEAR_CODE, _CONV_CODE, _WINDOW_CODE = 95, 240, 170


def encode_rows(filters: Array, positions: Array) -> tuple[Array, list[int]]:
    """(O, N) weights at ascending byte positions (N,) -> entries (bytes), and how many each row has."""
    entries: list[int] = []
    lengths = []
    for row in filters:
        start, last = len(entries), 0
        for column in np.flatnonzero(row):
            distance = int(positions[column]) - last
            while distance > DISTANCE_LIMIT:
                entries += [DISTANCE_LIMIT, 0]
                distance -= DISTANCE_LIMIT
            entries += [distance, int(row[column]) & 0xFF]
            last = int(positions[column])
        lengths.append((len(entries) - start) // 2)
    return np.array(entries, np.uint8), lengths


class RowsLinear(SparseForm[Linear]):
    """(distance, weight) pairs, row by row."""

    name = "rows"

    def refusal(self, layer: Linear, site: Site) -> str | None:
        return plain_storage(site) or refuse_accumulators(layer)

    def cost(self, layer: Linear, site: Site) -> Cost:
        entries, lengths = encode_rows(filters_of(layer), np.arange(layer.weight.shape[1]))
        constants = row_constants(layer, entries, lengths)[0]
        return Cost(
            sum(constant.bytes for constant in constants),
            0,
            8 * sum(lengths) + 13 * len(lengths),
            code=_LINEAR_CODE,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        entries, lengths = encode_rows(filters_of(layer), np.arange(layer.weight.shape[1]))
        constants, fields = row_constants(layer, entries, lengths)
        return Lowering(
            form=self.name,
            header="nn_sparse_rows.h",
            kernel="nn_sparse_rows_linear",
            record="nn_sparse_rows_linear_layer",
            fields={"shape": linear_shape(layer, site), **fields},
            constants=constants,
        )

    def writes(self, layer: Linear, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})


class RowsConv2d(SparseForm[Conv2d]):
    """(distance, weight) pairs, filter by filter; each is read once for all positions of a pooling window."""

    name = "rows"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if layer.pool is not None and layer.pool.kernel[0] * layer.pool.kernel[1] > _POSITIONS:
            return f"its pooling window has more than {_POSITIONS} elements"
        return plain_storage(site) or refuse_accumulators(layer)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        entries, lengths = encode_rows(filters_of(layer), offsets(layer, site))
        constants = row_constants(layer, entries, lengths)[0]
        padded = any(layer.padding)
        tile, tiles = tiling(layer, site)
        copied = site.input_shape[0] * window_pitch(layer, site) if padded else 0
        return Cost(
            sum(constant.bytes for constant in constants),
            window_height(layer) * window_pitch(layer, site) if padded else 0,
            tiles * (sum(lengths) * (5 + 2 * tile) + len(lengths) * (12 + 9 * tile)) + 10 * copied,
            code=_CONV_CODE + (_WINDOW_CODE if padded else 0),
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        entries, lengths = encode_rows(filters_of(layer), offsets(layer, site))
        constants, fields = row_constants(layer, entries, lengths)
        padded = any(layer.padding)
        return Lowering(
            form=self.name,
            header="nn_sparse_rows.h",
            kernel="nn_sparse_rows_conv2d_padded" if padded else "nn_sparse_rows_conv2d",
            record="nn_sparse_rows_conv2d_layer",
            fields={"shape": conv_shape(layer, site), "input_zero_point": layer.input_zero_point, **fields},
            constants=constants,
            scratch_bytes=window_height(layer) * window_pitch(layer, site) if padded else 0,
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def writes(self, layer: Conv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})


def tiling(layer: Conv2d, site: Site) -> tuple[int, int]:
    """Positions that share the reading of an entry, and how many such tiles there are (nn_sparse_positions)."""
    rows, columns, _ = site.output_shape
    if layer.pool is not None and layer.pool.kernel != (1, 1):
        return layer.pool.kernel[0] * layer.pool.kernel[1], rows * columns
    tile = 4 if columns % 4 == 0 else 2 if columns % 2 == 0 else 1
    return tile, rows * columns // tile


def row_constants(
    layer: Conv2d | Linear, entries: Array, lengths: list[int]
) -> tuple[tuple[Constant, ...], Mapping[str, Value]]:
    """The arrays of a layer, and the record's fields that refer to them."""
    bias = narrow_bias(layer.bias)
    field, constant = lengths_constant(lengths)
    # An array of C has at least one element.
    stream = Constant("entries", "uint8_t", entries if len(entries) else np.zeros(1, np.uint8))
    fields: dict[str, Value] = {
        "entries": Reference("entries"),
        field: Reference("lengths"),
        "finish": {"bias": Reference("bias"), "bias_shift": bias.shift},
        "kind": {"bias_bytes": bias.bytes},
        "requantize": requantization_fields(layer.requantize),
    }
    return (stream, constant, bias.constant, *requantization_constants(layer.requantize)), fields
