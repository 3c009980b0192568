"""Weights, constants and code of the kernels that multiply bytes by tiles (nn_tile.h), for the forms built on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.ops.lifting import reach
from harness.ops.lowering import Value, requantization_fields

if TYPE_CHECKING:
    from harness.ops.base import Array, Requantization
    from harness.ops.lowering import Target

# Instructions that unpacking takes per word of activations and four filters, by the bits of a weight; and for each four
# filters.
UNPACKING = {8: 11, 4: 22, 2: 21}
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
    if weight_bits == 8:
        halves = (127 - odd) | (even & 0xFF) << 8
        raw: Array = (halves[..., 0] | halves[..., 1] << 16).ravel().astype(np.uint32)
        return raw
    highest = 2 ** (weight_bits - 1) - 1
    halves = (odd + highest + 1) | (highest - even) << 8
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


def pair_instructions(run: int, runs: int, turn: int, *, direct: bool, dual: bool = False) -> int:
    """Of a pass, for one pair of pixels and four filters, with what is done about its outputs. runs: 0: all in one.

    turn: words per turn of the loop. dual: of a pass for cores that issue two instructions at once.
    """
    turns = run // turn
    words = (28 * run + 2 * turns) if dual else 23 * run
    words += 3 * turns if runs or turns > 1 else 0
    words = runs * (words + 7) + 7 if runs else words
    return words + (28 if direct else 105)


def pass_name(
    run: int,
    runs: int,
    turn: int,
    weight_bits: int,
    requantize: Requantization | None,
    *,
    direct: bool,
    dual: bool = False,
    lift: int = 0,
) -> str:
    """The C function that makes such passes. lift: of weights that are unpacked (lifting.unpacked)."""
    kind = f"nn_tile_pass_s{weight_bits}_{turn}" + (f"_lifted_{lift}" if lift else "") + ("_dual" if dual else "")
    kind += "_runs" if runs else "_turns" if turn < run else ""
    if not direct or requantize is None:
        return f"{kind}_sums"
    return kind + ("_centred" if requantize.zero_point else "") + f"_{requantize.bits}"


def pass_bytes(turn: int, *, dual: bool = False) -> int:
    """About how long it is."""
    return 280 + (108 if dual else 92) * turn


def pass_function(
    run: int,
    runs: int,
    turn: int,
    weight_bits: int,
    requantize: Requantization | None,
    *,
    direct: bool,
    dual: bool = False,
    lift: int = 0,
) -> str:
    """Its definition."""
    stored = requantize if direct else None
    kind = {
        "unroll": str(turn),
        "turns": _truth(runs > 0 or turn < run),
        "runs": _truth(runs > 0),
        "centred": _truth(stored is not None and stored.zero_point != 0),
        "bits": str(stored.bits if stored is not None else 0),
        "weight_bits": str(weight_bits),
        "lift": str(lift),
        "dual": _truth(dual),
    }
    fields = ", ".join(f".{name} = {value}" for name, value in kind.items())
    name = pass_name(run, runs, turn, weight_bits, requantize, direct=direct, dual=dual, lift=lift)
    return (
        f"NN_SHARED void {name}(const nn_tile_pass *pass)\n{{\n    nn_tile_run(pass, (nn_tile_kind){{{fields}}});\n}}"
    )


def _truth(value: bool) -> str:
    return "true" if value else "false"
