"""What forms for weights and activations of 2, 4 or 8 bits share: their constants, their windows, how outputs trail.

The C that goes with it is in nn_packed.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import Constant, Reference, Site, Storage, Value, image_rows
from harness.ops.packing import pack_rows

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.convolution import Convolution

# What these forms read and write.
STORAGES = frozenset({Storage.U8, Storage.U4, Storage.U2, Storage.I32})
WEIGHT_BITS = frozenset({2, 4, 8})


def weights_constant(rows: Array, bits: int, alignment: int | None = None) -> Constant:
    """(R, N) int8 weights: as they are at 8 bits, else R rows of words. alignment: bytes, of those that are bytes."""
    if bits == 8:
        return Constant("weights", "int8_t", np.ascontiguousarray(rows, np.int8).ravel(), alignment)
    return Constant("weights", "uint32_t", pack_rows(rows, bits).ravel())


def weights_bytes(rows: int, elements: int, bits: int) -> int:
    """Bytes of that constant."""
    return rows * (elements if bits == 8 else -(-elements * bits // 32) * 4)


def words(bytes_: int) -> int:
    """Bytes in whole words."""
    return -(-bytes_ // 4) * 4


def border(layer: Convolution) -> dict[str, Value]:
    """The initialiser of an nn_packed_border."""
    return {"right": layer.edges[1][1], "zero_point": layer.input_zero_point}


def weight_fields(bits: int) -> dict[str, Value]:
    """A record's weights, their width and its biases."""
    return {"weights": Reference("weights"), "weight_bits": bits, "bias": Reference("bias")}


class Window:
    """The rows of bytes that slide down a convolution's input (nn_packed_slide).

    kernel: its rows. pool: rows and vertical stride of the pool that follows.
    """

    def __init__(self, layer: Convolution, site: Site, kernel: int, pool: tuple[int, int] = (1, 1)) -> None:
        (self._top, _), (left, right) = layer.edges
        self._input_rows, width, channels = site.input_shape
        self._site = site
        self._height = kernel + (pool[0] - 1) * layer.stride[0]
        self._step = layer.stride[0] * pool[1]
        self.bytes = self._height * words((left + width + right) * channels)

    def overlap(self) -> int:
        """How far before its input the output must start to trail it, in bytes (Lowering.overlap)."""
        read = self._site.input.size(self._site.input_shape) // self._input_rows
        rows = self._site.output_shape[0]
        written = self._site.output.size(self._site.output_shape) // rows
        distance = 0
        for row in range(rows - 1):  # nothing is read after the last row has begun
            consumed = min(max(row * self._step + self._height - self._top, 0), self._input_rows)
            if consumed < self._input_rows:
                distance = max(distance, written * (row + 1) - read * consumed)
        return words(distance)


def input_rows(site: Site) -> int:
    """In how many rows a layer that reads its input flattened finds it: what is not packed has no gaps."""
    return image_rows(site.input_shape)[0] if site.input.packed else 1


def row_buffer(site: Site) -> int:
    """Bytes in which a row of packed outputs is collected."""
    if not site.output.packed:
        return 0
    return words(site.output_shape[0] if len(site.output_shape) == 1 else int(np.prod(site.output_shape[1:])))
