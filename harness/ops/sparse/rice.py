"""Streams of bits for sparse weights (nn_rice.h): Golomb-Rice codes for gaps, Huffman codes for weights."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.ops.base import Array
from harness.ops.lowering import Constant

# Bits of a word that are left at any bit of its first byte.
_SYMBOL_BITS = 25

# The largest k that is tried: a symbol needs bits for its quotient, too.
_LARGEST_K = 12

# NN_RICE_CODES: the codes' longest length, in bits; weights must fit the upper four bits of a byte.
_CODE_BITS = 4
_LOWEST, _HIGHEST = -8, 7


@dataclass(frozen=True, eq=False)
class Stream:
    """An encoded layer. symbols: (gap, weight); codes: (16,) int8, as nn_rice has them.

    bits: bytes of the stream, with room for the last word.
    """

    k: int
    symbols: tuple[tuple[int, int], ...]
    codes: Array
    bits: Array

    @property
    def bytes(self) -> int:
        return int(self.bits.nbytes + self.codes.nbytes)

    @property
    def constants(self) -> tuple[Constant, Constant]:
        return Constant("bits", "uint8_t", self.bits), Constant("codes", "int8_t", self.codes)


def refuse_weights(filters: Array) -> str | None:
    """Why the weights have no codes."""
    values = {int(value) for value in np.unique(filters)} | {0}
    if min(values) < _LOWEST or max(values) > _HIGHEST:
        return f"it has weights beyond {_LOWEST} to {_HIGHEST}"
    return None


def encode(filters: Array) -> Stream:
    """(O, N) weights -> the smallest stream of those k that are near the best for evenly spread weights."""
    mean = filters.size / max(int(np.count_nonzero(filters)), 1)
    near = min(max(round(np.log2(mean)) - 1, 1), _LARGEST_K - 1)
    return min((_encode(filters, k) for k in range(near - 1, near + 2)), key=lambda stream: stream.bytes)


def code_lengths(counts: Mapping[int, int], longest: int) -> dict[int, int]:
    """Lengths of an optimal prefix code of at most `longest` bits (package-merge), by symbol."""
    if len(counts) == 1:
        return dict.fromkeys(counts, 1)
    leaves: list[tuple[int, tuple[int, ...]]] = sorted((count, (symbol,)) for symbol, count in counts.items())
    packages = list(leaves)
    for _ in range(longest - 1):
        pairs = [(one[0] + two[0], one[1] + two[1]) for one, two in zip(packages[::2], packages[1::2], strict=False)]
        packages = sorted([*leaves, *pairs])
    chosen = packages[: 2 * len(counts) - 2]
    return dict(Counter(itertools.chain.from_iterable(symbols for _, symbols in chosen)))


def _symbols(filters: Array, k: int) -> Iterator[tuple[int, int]]:
    """(gap, weight) of every nonzero weight, row after row, and of the weights of 0 that split long gaps.

    A gap beyond the last row ends the stream.
    """
    limit = (((_SYMBOL_BITS - _CODE_BITS - k - 1) + 1) << k) - 1
    last = -1
    flat = filters.ravel()
    for place in (*np.flatnonzero(flat).tolist(), len(flat)):
        gap = place - last - 1
        while gap > limit:
            yield limit, 0
            gap -= limit + 1
        yield gap, int(flat[place]) if place < len(flat) else 0
        last = place


def _encode(filters: Array, k: int) -> Stream:
    symbols = list(_symbols(filters, k))
    lengths = code_lengths(Counter(weight for _, weight in symbols), _CODE_BITS)
    codes, table = _canonical(lengths, k)
    text = "".join(
        "0" * (gap >> k) + "1" + _lowest_first(gap & ((1 << k) - 1), k) + codes[weight] for gap, weight in symbols
    )
    # Ones behind the end: a word of zeros would have no quotient.
    bits = np.array([int(bit) for bit in text + "1" * (-len(text) % 8 + 24)], np.uint8)
    return Stream(k, tuple(symbols), table, np.packbits(bits, bitorder="little"))


def _canonical(lengths: Mapping[int, int], k: int) -> tuple[dict[int, str], Array]:
    """Each weight's code as text, first bit first, and the table that decodes the next four bits."""
    codes: dict[int, str] = {}
    table = np.zeros(2**_CODE_BITS, np.int8)
    code, previous = 0, 0
    for weight, length in sorted(lengths.items(), key=lambda entry: (entry[1], entry[0])):
        code <<= length - previous
        previous = length
        codes[weight] = format(code, f"0{length}b")
        first = int(codes[weight][::-1], 2)
        for rest in range(2 ** (_CODE_BITS - length)):
            table[first | rest << length] = np.int8(weight << 4 | 0) | np.int8(k + 1 + length)
        code += 1
    return codes, table


def _lowest_first(value: int, bits: int) -> str:
    return format(value, f"0{bits}b")[::-1] if bits else ""
