"""Fully connected layers as streams of one byte per nonzero weight (nn_sparse_bytes.h)."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from harness.ops.base import Array
from harness.ops.linear import Linear
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.common import (
    Finish,
    SparseForm,
    filters_of,
    finish_of,
    plain_storage,
    refuse_accumulators,
    refuse_common_finish,
    shared_function,
)

# Bytes of one instance of the kernel, and of a layer's record and call.
_KERNEL_CODE, _LAYER_CODE = 200, 34


def pieces(weight: int, bits: int) -> list[int]:
    """`weight` as a sum of as few numbers of `bits` bits (two's complement) as possible."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    parts = []
    while weight:
        parts.append(min(max(weight, lowest), highest))
        weight -= parts[-1]
    return parts


def encode_bytes(filters: Array, weight_bits: int) -> list[list[int]]:
    """(O, N) weights -> each row's entries: distance << weight_bits | weight."""
    limit = 2 ** (8 - weight_bits) - 1
    mask = 2**weight_bits - 1
    rows = []
    for row in filters:
        entries: list[int] = []
        last = 0
        for column in np.flatnonzero(row):
            distance = int(column) - last
            while distance > limit:
                entries.append(limit << weight_bits)
                distance -= limit
            for part in pieces(int(row[column]), weight_bits):
                entries.append(distance << weight_bits | part & mask)
                distance = 0
            last = int(column)
        rows.append(entries)
    return rows


class BytesLinear(SparseForm[Linear]):
    """One byte per weight, of which `weight_bits` are the weight and the others the distance."""

    splits: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def __init__(self, weight_bits: int) -> None:
        self._bits = weight_bits

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        return f"bytes-{8 - self._bits}.{self._bits}"

    def refusal(self, layer: Linear, site: Site) -> str | None:
        common = plain_storage(site) or refuse_common_finish(layer, site) or refuse_accumulators(layer)
        if common is None and max(map(len, self._rows(layer)), default=0) > 255:
            return "a row has more than 255 entries"
        return common

    def cost(self, layer: Linear, site: Site) -> Cost:
        rows, finish = self._rows(layer), finish_of(layer)
        flash = sum(map(len, rows)) + len(rows) + finish.bytes
        instructions = round(5.5 * sum(map(len, rows))) + 16 * len(rows)
        return Cost(flash, 0, instructions, _LAYER_CODE, {self._kernel(finish): _KERNEL_CODE})

    def lower(self, layer: Linear, site: Site) -> Lowering:
        stream = [byte for row in self._rows(layer) for byte in (len(row), *row)]
        finish = finish_of(layer)
        kernel = self._kernel(finish)
        return Lowering(
            form=self.name,
            header="nn_sparse_bytes.h",
            kernel=kernel,
            record="nn_sparse_bytes_layer",
            fields={
                "stream": Reference("stream"),
                "finish": finish.fields,
                "outputs": len(layer.weight),
            },
            constants=(Constant("stream", "uint8_t", np.array(stream, np.uint8)), *finish.constants),
            functions={
                kernel: shared_function(
                    kernel,
                    "const nn_sparse_bytes_layer *layer, const void *input, void *output",
                    f"nn_sparse_bytes_linear(layer, input, output, {self._bits}, {finish.kind});",
                )
            },
        )

    def _rows(self, layer: Linear) -> list[list[int]]:
        return encode_bytes(filters_of(layer), self._bits)

    def _kernel(self, finish: Finish) -> str:
        return f"sparse_bytes_w{self._bits}_{finish.suffix}"
