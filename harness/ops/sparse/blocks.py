"""Nonzero weights by neighbouring pairs (nn_sparse_blocks.h): three bytes for two, one SMLAD."""

from __future__ import annotations

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d, conv_shape
from harness.ops.linear import Linear, linear_shape
from harness.ops.lowering import Cost, Lowering, Site, Storage
from harness.ops.sparse.common import (
    DISTANCE_LIMIT,
    SparseForm,
    filters_of,
    offsets,
    overlap,
    plain_storage,
    refuse_accumulators,
    window_height,
    window_pitch,
)
from harness.ops.sparse.rows import RowsConv2d, row_constants, tiling

_LINEAR_CODE, _CONV_CODE, _WINDOW_CODE = 100, 280, 170


def encode_blocks(filters: Array, positions: Array) -> tuple[Array, list[int]]:
    """(O, N) weights at ascending byte positions (N,) -> entries of three bytes, and how many each row has.

    A block begins at a nonzero weight; the last position of all begins none, because nothing may be read behind it.
    """
    entries: list[int] = []
    lengths = []
    end = int(positions[-1])
    for row in filters:
        start, last = len(entries), 0
        weights = {int(positions[column]): int(row[column]) for column in np.flatnonzero(row)}
        covered = -1
        for position in weights:
            if position <= covered:
                continue
            first = min(position, end - 1)
            covered = first + 1
            distance = first - last
            while distance > DISTANCE_LIMIT:
                entries += [DISTANCE_LIMIT, 0, 0]
                distance -= DISTANCE_LIMIT
            # A block moved back from the end must not count again what the block before it holds.
            left = weights[first] if first == position else 0
            entries += [distance, left & 0xFF, weights.get(first + 1, 0) & 0xFF]
            last = first
        lengths.append((len(entries) - start) // 3)
    return np.array(entries, np.uint8), lengths


class BlocksLinear(SparseForm[Linear]):
    """(distance, two weights) triples, row by row."""

    name = "blocks"

    def refusal(self, layer: Linear, site: Site) -> str | None:
        if not site.target.dsp:
            return "the core has no SMLAD"
        if layer.weight.shape[1] < 2:
            return "its rows have a single column"
        return plain_storage(site) or refuse_accumulators(layer)

    def cost(self, layer: Linear, site: Site) -> Cost:
        entries, lengths = encode_blocks(filters_of(layer), np.arange(layer.weight.shape[1]))
        constants = row_constants(layer, entries, lengths)[0]
        return Cost(
            sum(constant.bytes for constant in constants),
            0,
            11 * sum(lengths) + 16 * len(lengths),
            code=_LINEAR_CODE,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        entries, lengths = encode_blocks(filters_of(layer), np.arange(layer.weight.shape[1]))
        constants, fields = row_constants(layer, entries, lengths)
        return Lowering(
            form=self.name,
            header="nn_sparse_blocks.h",
            kernel="nn_sparse_blocks_linear",
            record="nn_sparse_rows_linear_layer",
            fields={"shape": linear_shape(layer, site), **fields},
            constants=constants,
        )

    def writes(self, layer: Linear, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})


class BlocksConv2d(SparseForm[Conv2d]):
    """(distance, two weights) triples, filter by filter; neighbours are those in a row with the channel fastest."""

    name = "blocks"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if not site.target.dsp:
            return "the core has no SMLAD"
        if layer.weight[0].size < 2:
            return "its kernel has a single element"
        return RowsConv2d().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        entries, lengths = encode_blocks(filters_of(layer), offsets(layer, site))
        constants = row_constants(layer, entries, lengths)[0]
        padded = any(layer.padding)
        tile, tiles = tiling(layer, site)
        copied = site.input_shape[0] * window_pitch(layer, site) if padded else 0
        return Cost(
            sum(constant.bytes for constant in constants),
            window_height(layer) * window_pitch(layer, site) if padded else 0,
            tiles * (sum(lengths) * (6 + 4 * tile) + len(lengths) * (12 + 9 * tile)) + 10 * copied,
            code=_CONV_CODE + (_WINDOW_CODE if padded else 0),
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        entries, lengths = encode_blocks(filters_of(layer), offsets(layer, site))
        constants, fields = row_constants(layer, entries, lengths)
        padded = any(layer.padding)
        return Lowering(
            form=self.name,
            header="nn_sparse_blocks.h",
            kernel="nn_sparse_blocks_conv2d_padded" if padded else "nn_sparse_blocks_conv2d",
            record="nn_sparse_rows_conv2d_layer",
            fields={"shape": conv_shape(layer, site), "input_zero_point": layer.input_zero_point, **fields},
            constants=constants,
            scratch_bytes=window_height(layer) * window_pitch(layer, site) if padded else 0,
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def writes(self, layer: Conv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})
