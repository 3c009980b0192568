"""The memory-driven rule of arXiv 1905.13082: bits are cut where bytes are, without looking at the network's accuracy.

Two things differ from the published code, neither where that code finishes: limits that cannot be met are refused
beforehand, where it loops for ever, and tensors that live beside a layer's own (skip connections) are cut as well.
"""

from __future__ import annotations

from harness.search.policy import WIDTHS, Policy
from harness.search.tensors import Activation, Limits, Step, Table

# Layers whose share of the bytes is within this of the largest are as good to cut; the first of them is.
_MARGIN = 0.05
_NARROWEST, _WIDEST = WIDTHS[0], WIDTHS[-1]


def find(table: Table, limits: Limits, *, weights_only: bool = False) -> Policy:
    """The rule's policy; with `weights_only`, all activations keep 8 bits. InputError where nothing fits."""
    table.demand(limits, weights_only=weights_only)
    activations = table.uniform(_WIDEST)[1]
    if limits.ram is not None and not weights_only:
        activations = cut_activations(table, limits.ram)
    weights = table.uniform(_WIDEST)[0]
    if limits.flash is not None:
        weights = cut_weights(table, limits.flash)
    return table.policy(weights, activations, method="memory-rule")


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
