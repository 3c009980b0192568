"""Weights, constants and code of the kernels that multiply bytes by tiles (nn_tile.h), for the forms built on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.ops import passes
from harness.ops.lifting import reach
from harness.ops.lowering import Value, requantization_fields

if TYPE_CHECKING:
    from harness.ops.base import Array, Requantization
    from harness.ops.lowering import Target

# Instructions that unpacking takes per word of activations and four filters, by the bits of a weight; and for each four
# filters.
UNPACKING = {8: 11, 4: 17, 2: 17}
GROUP = 25

# Words per turn of a loop, at most: eight and what is around them just fit the 1 kB of instruction cache that small
# parts have; cores that issue two instructions at once come with larger ones.
_LONGEST_TURN, _LONGEST_DUAL_TURN = 8, 12


def bits(layer: Any) -> int:
    """Bits of a stored weight."""
    return int(getattr(layer, "weight_bits", 8))


def fits(matrix: Array) -> bool:
    """Whether the pairs w1 - 256 w0 of (O, K) weights fit in 16 bits."""
    return bool((matrix[:, ::2] >= -127).all())


def pack(matrix: Array, weight_bits: int) -> Array:
    """(O, K) int8, K in fours -> uint32 words as nn_tile.h unpacks them; missing filters of the last four are 0."""
    filters, elements = matrix.shape
    weights = np.zeros((-(-filters // 4) * 4, elements), np.int64)
    weights[:filters] = matrix
    # (four filters, word of activations, filter, pair of elements, element)
    quads = weights.reshape(-1, 4, elements // 4, 2, 2).transpose(0, 2, 1, 3, 4)
    even, odd = quads[..., 0], quads[..., 1]
    highest = 2 ** (weight_bits - 1) - 1
    if weight_bits == 8:
        halves = (highest - odd) | (even & 0xFF) << 8
        raw: Array = (halves[..., 0] | halves[..., 1] << 16).ravel().astype(np.uint32)
        return raw
    halves = (highest - odd) | (even + highest + 1) << 8
    fields = halves[..., 0] | halves[..., 1] << 16
    shared = 8 // weight_bits
    fields = fields.reshape(*fields.shape[:2], 4 // shared, shared)
    words: Array = (fields << (weight_bits * np.arange(shared))).sum(axis=-1).ravel().astype(np.uint32)
    return words


def constants(matrix: Array, bias: Array, requantize: Requantization | None) -> Array:
    """int32, per four filters: biases with 128 * sum(odd weights) added modulo 2**32, then multipliers (0: none)."""
    filters = len(matrix)
    result = np.zeros((-(-filters // 4), 2, 4), np.int64)
    folded = bias.astype(np.int64) + 128 * matrix[:, 1::2].astype(np.int64).sum(axis=1)
    for index, values in enumerate((folded, None if requantize is None else requantize.multiplier)):
        if values is not None:
            padded = np.zeros(result.shape[0] * 4, np.int64)
            padded[:filters] = values
            result[:, index] = padded.reshape(-1, 4)
    return (result.ravel() % 2**32).astype(np.uint32).view(np.int32)


def rounds(weight: Array, bias: Array, requantize: Requantization | None, input_bits: int) -> bool:
    """Whether rounded sums fit in 16 bits whatever the input, so that two are clamped at a time, with T = 32."""
    if requantize is None or not requantize.one_instruction:
        return False
    rounded = [
        (sums * requantize.multiplier + 2**31 >> 32) + requantize.zero_point for sums in reach(weight, bias, input_bits)
    ]
    return bool(rounded[0].min() - requantize.zero_point >= -(2**15) and rounded[1].max() < 2**15)


def requantization(requantize: Requantization | None, *, direct: bool) -> dict[str, Value]:
    """The initialiser of an nn_requantization; passes that requantise themselves have multipliers of their own."""
    if direct and requantize is not None:
        return {"zero_point": requantize.zero_point, "bits": requantize.bits}
    return requantization_fields(requantize)


def unroll(run: int, target: Target) -> int:
    """Words per turn of a loop over `run` words: the most that divides it."""
    longest = _LONGEST_DUAL_TURN if target.dual_issue else _LONGEST_TURN
    return max(size for size in range(1, longest + 1) if run % size == 0)


@dataclass(frozen=True)
class Pass:
    """How a layer's passes are made (nn_tile_kind in nn_tile.h).

    run: words of one run. runs: of them in one output, 0: all words are in one. turn: words per turn of the loop.
    weight_bits: as stored. requantize: what it does with the sums, None where it leaves them. lift: of weights that are
    unpacked (lifting.unpacked). dual: for cores that issue two instructions at once. apart: for cores with pipelined
    loads.
    """

    run: int
    runs: int
    turn: int
    weight_bits: int
    requantize: Requantization | None
    lift: int = 0
    dual: bool = False
    apart: bool = False

    @property
    def turns(self) -> bool:
        """Whether the loop has more than one turn."""
        return self.runs > 0 or self.turn < self.run

    @property
    def pair_instructions(self) -> int:
        """For one pair of pixels and four filters, with what is done about its outputs."""
        turns = self.run // self.turn
        words = (28 * self.run + 2 * turns) if self.dual else (25 if self.apart else 23) * self.run
        words += 3 * turns if self.turns else 0
        words = self.runs * (words + 7) + 7 if self.runs else words
        return words + (105 if self.requantize is None else 28)

    @property
    def bytes(self) -> int:
        """About how long the function is."""
        return 280 + (108 if self.dual else 96 if self.apart else 92) * self.turn

    @property
    def name(self) -> str:
        """Of the C function."""
        order = "_dual" if self.dual else "_apart" if self.apart else ""
        lifted = f"_lifted_{self.lift}" if self.lift else ""
        kind = f"nn_tile_pass_s{self.weight_bits}_{self.turn}{lifted}{order}"
        kind += "_runs" if self.runs else "_turns" if self.turns else ""
        if self.requantize is None:
            return f"{kind}_sums"
        return kind + ("_centred" if self.requantize.zero_point else "") + f"_{self.requantize.bits}"

    @property
    def definition(self) -> str:
        """The C function."""
        kind = {
            "unroll": self.turn,
            "turns": self.turns,
            "runs": self.runs > 0,
            "centred": self.requantize is not None and self.requantize.zero_point != 0,
            "bits": self.requantize.bits if self.requantize is not None else 0,
            "weight_bits": self.weight_bits,
            "lift": self.lift,
            "dual": self.dual,
            "apart": self.apart,
        }
        return passes.pass_function("nn_tile", self.name, kind)
