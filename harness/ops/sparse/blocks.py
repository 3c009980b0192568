"""Nonzero weights by neighbouring pairs (nn_sparse_blocks.h): three bytes for two, one SMLAD."""

from __future__ import annotations

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Site
from harness.ops.sparse.common import DISTANCE_LIMIT
from harness.ops.sparse.rows import EntriesConv2d, EntriesLinear


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


class BlocksLinear(EntriesLinear):
    """(distance, two weights) triples, row by row."""

    name = "blocks"
    instructions = (11, 16)
    code = 100
    encode = staticmethod(encode_blocks)

    def refusal(self, layer: Linear, site: Site) -> str | None:
        if not site.target.dsp:
            return "the core has no SMLAD"
        if layer.weight.shape[1] < 2:
            return "its rows have a single column"
        return super().refusal(layer, site)


class BlocksConv2d(EntriesConv2d):
    """(distance, two weights) triples, filter by filter; neighbours are those in a row with the channel fastest."""

    name = "blocks"
    instructions = (6, 4)
    code = 280
    encode = staticmethod(encode_blocks)

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if not site.target.dsp:
            return "the core has no SMLAD"
        if layer.weight[0].size < 2:
            return "its kernel has a single element"
        return super().refusal(layer, site)
