"""The memory-driven rule of arXiv 1905.13082: bits are cut where bytes are, without looking at the network's accuracy.

Two things differ from the published code, neither where that code finishes: limits that cannot be met are refused
beforehand, where it loops for ever, and tensors that live beside a layer's own (skip connections) are cut as well.

The rule halves until everything fits, and so may leave some of the memory unused: its last cut can be much larger than
what was still too much. `fill` gives that back, by bytes alone as well; `find` without it is the rule as published.
Where there are data, the module `filling` measures which of the ways to give it back is good for the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.search.policy import WIDTHS, Policy
from harness.search.tensors import Activation, Limits, Step, Table

# Layers whose share of the bytes is within this of the largest are as good to cut; the first of them is.
_MARGIN = 0.05
_NARROWEST, _WIDEST = WIDTHS[0], WIDTHS[-1]


# What a policy says that it was found by.
PUBLISHED, FILLED = "memory-rule", "memory-rule-filled"

# What narrower weights cost where `fill` has to exchange some: the noise of rounding rises with 4 to the bits taken, so
# that the step from 4 bits to 2 counts as sixteen of those from 8 to 4.
_LOSS = {8: 0, 4: 1, 2: 1 + 16}

# The share of the flash limit that a policy has to use where the network is larger than it.
UTILISATION = 0.99


def find(table: Table, limits: Limits, *, weights_only: bool = False, fill: bool = False) -> Policy:
    """The rule's policy; with `weights_only`, all activations keep 8 bits. InputError where nothing fits.

    fill: widens tensors again where the rule left memory unused, see `fill_weights` and `fill_activations`.
    """
    table.demand(limits, weights_only=weights_only)
    activations = table.uniform(_WIDEST)[1]
    if limits.ram is not None and not weights_only:
        activations = cut_activations(table, limits.ram)
    weights = table.uniform(_WIDEST)[0]
    if limits.flash is not None:
        weights = cut_weights(table, limits.flash)
    if fill:
        if limits.flash is not None:
            weights = fill_weights(table, weights, limits.flash)
        if limits.ram is not None and not weights_only:
            activations = fill_activations(table, activations, limits.ram)
    return table.policy(weights, activations, method=FILLED if fill else PUBLISHED)


def cut_weights(table: Table, flash: int) -> dict[str, int]:
    """Widths by layer: the layer with the largest share of the bytes is halved until all fit (algorithm 2).

    The narrowest widths must fit.
    """
    widths = table.uniform(_WIDEST)[0]
    while table.flash(widths) > flash:
        sizes = [tensor.bytes(widths[tensor.layer]) for tensor in table.weights]
        cuttable = [index for index, tensor in enumerate(table.weights) if widths[tensor.layer] > _NARROWEST]
        largest = max(sizes[index] for index in cuttable)
        margin = _MARGIN * sum(sizes)
        chosen = next(index for index in cuttable if sizes[index] > largest - margin)
        widths[table.weights[chosen].layer] //= 2
    return widths


def cut_activations(table: Table, ram: int) -> dict[str, int]:
    """Widths by layer: sweeps forward over the layers' outputs and backward over their inputs (algorithm 1).

    The narrowest widths must fit.
    """
    widths = table.uniform(_WIDEST)[1]
    while table.ram(widths) > ram:
        before = dict(widths)
        for step in table.steps:
            _cut(step, ram, widths, (step.writes,), step.reads)
        for step in reversed(table.steps):
            _cut(step, ram, widths, step.reads, (step.writes,))
        if widths == before:
            # Neither a layer's input nor its output is the wider one: a tensor that waits beside them is.
            step = max(table.steps, key=lambda step: step.bytes(widths))
            widest = max((tensor for tensor in step.live if _cuttable(tensor, widths)), key=lambda t: _rank(t, widths))
            assert widest.layer is not None
            widths[widest.layer] //= 2
    return widths


def fill_weights(table: Table, widths: Mapping[str, int], flash: int) -> dict[str, int]:
    """The fullest widths of weights near `widths`, which fit.

    Layers are widened, and as few as possible narrowed in exchange: none where 99 % of the limit, or all that any
    widths use of it, is reached without, and from 8 bits to 4 rather than to 2. Of widths that lose as little the
    fullest are taken, of equally full ones those that give the first layers most. Exact: the sums of bytes that can be
    reached are the bits of one integer.
    """
    sizes = [[tensor.bytes(bits) for bits in WIDTHS] for tensor in table.weights]
    losses_of = losses(table, widths)
    taken = [[losses_of[tensor.layer][bits] for bits in WIDTHS] for tensor in table.weights]
    unit = math.gcd(*(size for options in sizes for size in options))
    sizes = [[size // unit for size in options] for options in sizes]
    most = (flash - table.parameter_bytes) // unit
    free = [[0] * len(WIDTHS)] * len(sizes)
    goal = math.ceil((UTILISATION * flash - table.parameter_bytes) / unit)
    goal = min(goal, _largest(_reachable(sizes, free, most, [])))
    reachable: list[list[int]] = []
    while not reachable or _largest(reachable[-1]) < goal:
        reachable.append(_reachable(sizes, taken, most, reachable))
    loss, left = len(reachable) - 1, _largest(reachable[-1])
    filled = {}
    for index, tensor in enumerate(table.weights):
        for option in reversed(range(len(WIDTHS))):
            remaining, rest = loss - taken[index][option], left - sizes[index][option]
            if remaining >= 0 and rest >= 0 and reachable[remaining][index + 1] >> rest & 1:
                filled[tensor.layer] = WIDTHS[option]
                loss, left = remaining, rest
                break
    return filled


def losses(table: Table, widths: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """What each layer's weights lose at each width, beside `widths`, in steps from 8 bits to 4; wider is free."""
    return {
        tensor.layer: {bits: max(_LOSS[bits] - _LOSS[widths[tensor.layer]], 0) for bits in WIDTHS}
        for tensor in table.weights
    }


def fill_activations(table: Table, widths: Mapping[str, int], ram: int) -> dict[str, int]:
    """`widths`, which fit, with every tensor doubled that can be: the narrowest first, of equal ones the first."""
    widths = dict(widths)
    while True:
        for layer in sorted((name for name, bits in widths.items() if bits < _WIDEST), key=widths.__getitem__):
            wider = {**widths, layer: widths[layer] * 2}
            if table.ram(wider) <= ram:
                widths = wider
                break
        else:
            return widths


def _reachable(
    sizes: Sequence[Sequence[int]], losses: Sequence[Sequence[int]], most: int, smaller: Sequence[Sequence[int]]
) -> list[int]:
    """For every layer, and behind the last: the sums of sizes that it and its successors reach, as bits.

    Sums are at most `most`. Their losses add up to no more than the length of `smaller`, which has the same for 0, 1,
    ... up to there.
    """
    sums = [1]
    for index in reversed(range(len(sizes))):
        union = 0
        for size, loss in zip(sizes[index], losses[index], strict=True):
            if loss <= len(smaller):
                union |= (sums[-1] if loss == 0 else smaller[len(smaller) - loss][index + 1]) << size
        sums.append(union & ((1 << most + 1) - 1))
    return sums[::-1]


def _largest(reachable: Sequence[int]) -> int:
    """The largest sum of all layers; -1 where there is none."""
    return reachable[0].bit_length() - 1


def _cut(
    step: Step, ram: int, widths: dict[str, int], own: tuple[Activation, ...], others: tuple[Activation, ...]
) -> None:
    """Halves the greatest of `own` while the step does not fit and none of `others` is wider, or as wide and larger."""
    while step.bytes(widths) > ram:
        candidates = [tensor for tensor in own if _cuttable(tensor, widths)]
        if not candidates:
            return
        greatest = max(candidates, key=lambda tensor: _rank(tensor, widths))
        if any(_rank(other, widths) > _rank(greatest, widths) for other in others):
            return
        assert greatest.layer is not None
        widths[greatest.layer] //= 2


def _cuttable(tensor: Activation, widths: dict[str, int]) -> bool:
    return tensor.layer is not None and tensor.width(widths) > _NARROWEST


def _rank(tensor: Activation, widths: dict[str, int]) -> tuple[int, int]:
    """What is cut first: the wider tensor, of equal widths the one with more elements."""
    return tensor.width(widths), tensor.elements
