"""Integers of 2 and 4 bits in words: how weights lie in flash and activations in RAM (nn_packed.h).

A row of elements fills little-endian 32-bit words from the lowest bits up: element k is at bits 4k or 2k of the row.
Rows begin at words; what is left of a row's last word is padding, and counts as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.ops.base import Array

# What signed weights of each width may be; the most negative of eight bits is left out, so that they are symmetric.
WEIGHT_RANGES = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}


def pack_rows(rows: Array, bits: int) -> Array:
    """(R, N) integers, signed or unsigned, of `bits` 2, 4 or 8 bits -> (R, words) uint32."""
    count, elements = rows.shape
    per_word = 32 // bits
    padded = np.zeros((count, -(-elements // per_word) * per_word), np.int64)
    padded[:, :elements] = rows
    fields = (padded & (2**bits - 1)).astype(np.uint32).reshape(count, -1, per_word)
    words: Array = np.bitwise_or.reduce(fields << (np.arange(per_word, dtype=np.uint32) * bits), axis=-1)
    return words


def unpack_rows(words: Array, bits: int, elements: int) -> Array:
    """(R, words) uint32 -> (R, elements) uint8: the unsigned elements that `pack_rows` packed."""
    fields = words[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * bits) & np.uint32(2**bits - 1)
    unpacked: Array = fields.reshape(len(words), -1)[:, :elements].astype(np.uint8)
    return unpacked


def row_bytes(elements: int, bits: int) -> int:
    """Bytes of one row."""
    return -(-elements * bits // 32) * 4
