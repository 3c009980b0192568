"""The exact optimum of a linear model: what each tensor costs at each width, measured alone, and added up (HAWQ-V3).

A tensor's sensitivity is how far the network's answers move from the float network's when only this tensor has few
bits: the Kullback-Leibler divergence on some validation images, whose labels are not needed. That is a hundred times
less work than a search by trial, and as good as the assumption that such costs add up; so the best few policies are
compared as a whole, by the same divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.search.policy import WIDTHS
from harness.search.projection import Projection

if TYPE_CHECKING:
    from harness.search.evaluate import Evaluator

# Images that a sensitivity is measured on.
IMAGES = 32

# Policies whose sums of sensitivities are the least, and the images on which they are then compared as a whole: costs
# do not quite add up, and these policies are near to each other.
CANDIDATES = 16
JOINT_IMAGES = 256

Costs = Mapping[str, list[float]]


@dataclass(frozen=True)
class Sensitivities:
    """Costs by layer, in nats at 2, 4 and 8 bits, none negative and none rising with the bits. passes: inferences."""

    weights: Costs
    activations: Costs
    passes: int


def measure(
    evaluator: Evaluator, *, images: int = IMAGES, progress: Callable[[float], None] | None = None
) -> Sensitivities:
    """The sensitivity of every tensor at every width, the other tensors at 8 bits."""
    table = evaluator.table
    weights, activations = table.uniform(WIDTHS[-1])
    base = evaluator.divergence(weights, activations, images, corrected=True)
    # The float network's pass is the first.
    passes, total = 2, 2 + (len(WIDTHS) - 1) * (len(weights) + len(activations))

    def costs(kind: str, layer: str) -> list[float]:
        nonlocal passes
        found = [0.0]
        for bits in reversed(WIDTHS[:-1]):
            widths = {"weights": weights, "activations": activations}
            widths[kind] = {**widths[kind], layer: bits}
            # One layer alone is right on the average with its bias corrected: nothing has to be compared.
            moved = evaluator.divergence(widths["weights"], widths["activations"], images, corrected=True) - base
            # Fewer bits are never better but by luck.
            found.insert(0, max(moved, found[0]))
            passes += 1
            if progress:
                progress(passes / total)
        return found

    return Sensitivities(
        {layer: costs("weights", layer) for layer in weights},
        {layer: costs("activations", layer) for layer in activations},
        passes,
    )


def solve(
    sensitivities: Sensitivities, projection: Projection, count: int = CANDIDATES
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """The `count` policies, or as many as there are, with the least sums of sensitivities within the limits.

    Widths of weights and of activations by layer; the first is the optimum. The others differ from it in weights.
    """
    if projection.weights_only:
        activations = projection.table.uniform(WIDTHS[-1])[1]
    else:
        activations = projection.cheapest_activations(sensitivities.activations)
    found: list[dict[str, int]] = []
    while len(found) < count and (widths := projection.cheapest_weights(sensitivities.weights, found)) is not None:
        found.append(widths)
    return [(weights, activations) for weights in found]


def nearest(
    evaluator: Evaluator, candidates: list[tuple[dict[str, int], dict[str, int]]]
) -> tuple[dict[str, int], dict[str, int]]:
    """The candidate whose answers are nearest to the float network's."""
    return min(candidates, key=lambda widths: evaluator.divergence(widths[0], widths[1], JOINT_IMAGES))
