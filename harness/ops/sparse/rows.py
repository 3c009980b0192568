"""Nonzero weights row by row (nn_sparse_rows.h): two bytes each, for any layer and any core."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import (
    Constant,
    Cost,
    Lowering,
    Reference,
    Site,
    Value,
    requantization_constants,
    requantization_fields,
)
from harness.ops.shapes import conv_shape, linear_shape
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

# Bytes of code that a window takes.
_WINDOW_CODE = 170


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


class EntriesLinear(SparseForm[Linear]):
    """Rows of entries, which a subclass encodes. Kernels and headers have its name.

    instructions: of an entry, of a row; code: bytes of the layer's function.
    """

    instructions: ClassVar[tuple[int, int]]
    code: ClassVar[int]

    @staticmethod
    @abstractmethod
    def encode(filters: Array, positions: Array) -> tuple[Array, list[int]]:
        """(O, N) weights at ascending byte positions (N,) -> entries (bytes), and how many each row has."""

    def refusal(self, layer: Linear, site: Site) -> str | None:
        return plain_storage(site) or refuse_accumulators(layer)

    def cost(self, layer: Linear, site: Site) -> Cost:
        entries, lengths = self._entries(layer)
        constants = row_constants(layer, entries, lengths)[0]
        of_entry, of_row = self.instructions
        flash = sum(constant.bytes for constant in constants)
        return Cost(flash, 0, of_entry * sum(lengths) + of_row * len(lengths), code=self.code)

    def lower(self, layer: Linear, site: Site) -> Lowering:
        constants, fields = row_constants(layer, *self._entries(layer))
        return Lowering(
            form=self.name,
            header=f"nn_sparse_{self.name}.h",
            kernel=f"nn_sparse_{self.name}_linear",
            record="nn_sparse_rows_linear_layer",
            fields={"shape": linear_shape(layer, site), **fields},
            constants=constants,
        )

    def _entries(self, layer: Linear) -> tuple[Array, list[int]]:
        return self.encode(filters_of(layer), np.arange(layer.weight.shape[1]))


class EntriesConv2d(SparseForm[Conv2d]):
    """Filters of entries, which a subclass encodes; each is read once for all positions of a pooling window.

    instructions: of an entry, and of it at each position; code: bytes of the layer's function.
    """

    instructions: ClassVar[tuple[int, int]]
    code: ClassVar[int]

    @staticmethod
    @abstractmethod
    def encode(filters: Array, positions: Array) -> tuple[Array, list[int]]:
        """(O, N) weights at ascending byte positions (N,) -> entries (bytes), and how many each filter has."""

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if layer.pool is not None and layer.pool.kernel[0] * layer.pool.kernel[1] > _POSITIONS:
            return f"its pooling window has more than {_POSITIONS} elements"
        return plain_storage(site) or refuse_accumulators(layer)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        entries, lengths = self._entries(layer, site)
        constants = row_constants(layer, entries, lengths)[0]
        padded = any(layer.padding)
        tile, tiles = tiling(layer, site)
        of_entry, at_position = self.instructions
        copied = site.input_shape[0] * window_pitch(layer, site) if padded else 0
        return Cost(
            sum(constant.bytes for constant in constants),
            window_height(layer) * window_pitch(layer, site) if padded else 0,
            tiles * (sum(lengths) * (of_entry + at_position * tile) + len(lengths) * (12 + 9 * tile)) + 10 * copied,
            code=self.code + (_WINDOW_CODE if padded else 0),
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        constants, fields = row_constants(layer, *self._entries(layer, site))
        padded = any(layer.padding)
        return Lowering(
            form=self.name,
            header=f"nn_sparse_{self.name}.h",
            kernel=f"nn_sparse_{self.name}_conv2d" + ("_padded" if padded else ""),
            record="nn_sparse_rows_conv2d_layer",
            fields={"shape": conv_shape(layer, site), "input_zero_point": layer.input_zero_point, **fields},
            constants=constants,
            scratch_bytes=window_height(layer) * window_pitch(layer, site) if padded else 0,
            overlap=overlap(layer, site, windowed=padded, buffered=False),
        )

    def _entries(self, layer: Conv2d, site: Site) -> tuple[Array, list[int]]:
        return self.encode(filters_of(layer), offsets(layer, site))


class RowsLinear(EntriesLinear):
    """(distance, weight) pairs, row by row."""

    name = "rows"
    instructions = (8, 13)
    code = 95
    encode = staticmethod(encode_rows)


class RowsConv2d(EntriesConv2d):
    """(distance, weight) pairs, filter by filter."""

    name = "rows"
    instructions = (5, 2)
    code = 240
    encode = staticmethod(encode_rows)


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
