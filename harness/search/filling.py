"""The memory-driven rule's policy, filled up to the limits in the way that is best on the images that calibrate it.

Where the rule leaves less flash than any wider layer needs, filling has to take bits from some layers. Bytes alone do
not tell from which: they say how many, and then many ways are as good. So of the ways that lose as little by bytes the
one is taken that moves the answers least from the float network's; if even that one moves them further than what the
rule left, those that lose a little more are tried, and at last the nearest of all is taken. This is not part of
arXiv 1905.13082.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.search import ilp, memory_rule
from harness.search.policy import Policy
from harness.search.projection import Projection

if TYPE_CHECKING:
    from harness.search.evaluate import Answers, Evaluator
    from harness.search.tensors import Limits, Table

# Changes whenever the same network and limits shall no longer mean the same policy.
VERSION = 2

# Ways to fill that are compared at most.
WAYS = 32


def find(evaluator: Evaluator, limits: Limits, *, weights_only: bool = False) -> ilp.Solution:
    """The filled policy; no policy is scored for it. InputError where nothing fits."""
    table = evaluator.table
    published, filled = (
        memory_rule.find(table, limits, weights_only=weights_only, fill=fill) for fill in (False, True)
    )
    if (filled.weights, filled.activations) == (published.weights, published.activations):
        return ilp.Solution(filled.weights, filled.activations, evaluations=0, images=0)
    # What is not filled: with the rule's activations, and with those that the RAM allows.
    tried = [
        evaluator.answers(published.weights, activations)
        for activations in (published.activations, filled.activations)
        if activations is filled.activations or activations != filled.activations
    ]
    images = min(ilp.ROUNDS[-1][0], evaluator.images)
    chosen = min(tried, key=lambda answers: answers.divergence(images))
    if filled.weights != published.weights:
        projection = Projection(table, limits, weights_only=weights_only)
        nearest: Answers | None = None
        for _, ways in itertools.groupby(_ways(table, published, filled, projection), key=lambda way: way[0]):
            candidates = [evaluator.answers(weights, filled.activations) for _, weights in ways]
            tried += candidates
            nearest = ilp.nearest(candidates if nearest is None else [nearest, *candidates])[0]
            if nearest.divergence(images) <= chosen.divergence(images):
                break
        # Limits are there to be used, at a price too: what the rule left is kept only where it uses them.
        if nearest is not None and (
            nearest.divergence(images) <= chosen.divergence(images) or not projection.fills(chosen.weights)
        ):
            chosen = nearest
    # Besides the policies' answers the float network's.
    inferred = images + sum(answers.inferred for answers in tried)
    return ilp.Solution(chosen.weights, chosen.activations, evaluations=0, images=inferred)


def _ways(
    table: Table, published: Policy, filled: Policy, projection: Projection
) -> Iterator[tuple[int, dict[str, int]]]:
    """What the weights lose by bytes, and their widths: the least loss first, of equal ones the fullest."""
    losses = memory_rule.losses(table, published.weights)
    whole = 2 * table.flash(filled.weights)
    costs = {
        tensor.layer: [loss - tensor.bytes(bits) / whole for bits, loss in losses[tensor.layer].items()]
        for tensor in table.weights
    }
    ways: list[dict[str, int]] = []
    widths: dict[str, int] | None = dict(filled.weights)
    while widths is not None:
        ways.append(widths)
        yield sum(losses[layer][bits] for layer, bits in widths.items()), widths
        widths = projection.cheapest_weights(costs, ways) if len(ways) < WAYS else None
