"""The exact optimum of a linear model: what each tensor costs at each width, measured alone, and added up (HAWQ-V3).

A tensor's sensitivity is how far the network's answers move from the float network's when only this tensor has few
bits: the Kullback-Leibler divergence on some validation images, whose labels are not needed. That is a hundred times
less work than a search by trial, and as good as the assumption that such costs add up. They do not quite: a layer costs
more or less where the others have few bits as well. So what the layers cost is measured twice, around 8 bits and around
the first optimum, and the mean of both is added up; and the best few policies are compared as a whole.

The second measuring and the comparison are not HAWQ-V3's but ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.search.policy import WIDTHS
from harness.search.projection import Projection

if TYPE_CHECKING:
    from harness.search.evaluate import Answers, Evaluator

# Changes whenever the same network and limits shall no longer mean the same policy.
VERSION = 1

# What all of it may take, in evaluations of a policy: less than a hundredth of HAQ's 600, the last, exact evaluation
# included. Only sensitivities of more than 400 widths take more, by themselves.
BUDGET = 5.7

# Images that a sensitivity is measured on: as many as take no more than SHARE evaluations, within these bounds.
MOST_IMAGES, LEAST_IMAGES = 48, 16
SHARE = 3.0

# Policies whose sums of sensitivities are the least, fewer where the budget is short, and how they are compared as a
# whole: by the divergence on some images, after which so many stay. As many of the last as the budget then lasts for
# are scored on all images.
CANDIDATES = 16
ROUNDS = ((64, 8), (256, 8))

# What a step to fewer bits costs at least, in nats: ten times what HiGHS takes for no difference. What costs nothing on
# a few images may cost some on others.
LEAST_STEP = 1e-5

Costs = Mapping[str, Sequence[float]]
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Sensitivities:
    """Costs by layer, in nats at 2, 4 and 8 bits: the fewer bits the more, and none at 8.

    activations: of the layers that cannot all have 8 bits. images: inferred for each; passes: inferences of so many.
    """

    weights: Costs
    activations: Costs
    images: int
    passes: int


@dataclass(frozen=True)
class Solution:
    """Widths by layer. evaluations: policies that were scored; images: inferred, all included."""

    weights: Widths
    activations: Widths
    evaluations: int
    images: int


def find(evaluator: Evaluator, projection: Projection, *, progress: Callable[[float], None] | None = None) -> Solution:
    """The policy within the projection's limits that the module's text describes."""
    alone = measure(evaluator, projection, progress=progress)
    ((weights, activations),) = solve(alone, projection, count=1)
    if all(bits == WIDTHS[-1] for bits in weights.values()):
        # Nothing is narrowed that could be chosen otherwise.
        return Solution(weights, activations, 0, alone.images * alone.passes)
    together = refine(evaluator, alone, weights, activations, progress=progress)
    # Besides the sensitivities: the float network's answers, and whether the first optimum's biases are corrected.
    images = together.images * together.passes + evaluator.evaluation_images - evaluator.images
    images += max(min(ROUNDS[-1][0], evaluator.images) - together.images, 0)
    left = round(BUDGET * evaluator.evaluation_images) - evaluator.evaluation_images - images
    count = max(1, min(left // ROUNDS[-1][0], CANDIDATES))
    candidates = [evaluator.answers(*widths) for widths in solve(together, projection, count)]
    best = nearest(candidates)
    scored = _affordable(best, left - sum(answers.inferred for answers in candidates))
    chosen = best[0]
    if scored:
        chosen = max(scored, key=lambda answers: answers.score())
    images += sum(answers.inferred for answers in candidates)
    return Solution(chosen.weights, chosen.activations, len(scored), images)


def measure(
    evaluator: Evaluator, projection: Projection, *, progress: Callable[[float], None] | None = None
) -> Sensitivities:
    """The sensitivity of every tensor at every width, the other tensors at 8 bits.

    Activations that may have 8 bits, whatever widths the others get, are not measured: they get them.
    """
    weights, activations = evaluator.table.uniform(WIDTHS[-1])
    crowded = projection.crowded()
    most = _most_passes(len(weights), len(crowded))
    images = int(SHARE * evaluator.evaluation_images) // most
    images = min(max(LEAST_IMAGES, min(MOST_IMAGES, images)), evaluator.images)
    base = evaluator.divergence(weights, activations, images, corrected=True)
    # The float network's pass was the first.
    passes = 2

    def costs(kind: str, layer: str) -> list[float]:
        nonlocal passes
        found = [0.0]
        for bits in reversed(WIDTHS[:-1]):
            widths = {"weights": weights, "activations": activations}
            widths[kind] = {**widths[kind], layer: bits}
            # One layer alone is right on the average with its bias corrected: nothing has to be compared.
            moved = evaluator.divergence(widths["weights"], widths["activations"], images, corrected=True) - base
            # Fewer bits are never better but by luck.
            found.insert(0, max(moved, found[0] + LEAST_STEP))
            passes += 1
            if progress:
                progress(passes / most)
        return found

    return Sensitivities(
        {layer: costs("weights", layer) for layer in weights},
        {layer: costs("activations", layer) for layer in crowded},
        images,
        passes,
    )


def refine(
    evaluator: Evaluator,
    measured: Sensitivities,
    weights: Widths,
    activations: Widths,
    *,
    progress: Callable[[float], None] | None = None,
) -> Sensitivities:
    """`measured` with each layer's steps from its width in a policy to the next ones measured in that policy as well.

    The mean of both counts: what many layers cost together lies between what each adds to none and to all the others.
    Of weights alone: the widths of activations are settled by then.
    """
    corrected = evaluator.corrects(weights, activations)
    base = evaluator.divergence(weights, activations, measured.images, corrected=corrected)
    passes = measured.passes + 1
    most = _most_passes(len(measured.weights), len(measured.activations))
    refined = {}
    for layer, costs in measured.weights.items():
        own = WIDTHS.index(weights[layer])
        # What the step from each width to the next narrower one costs.
        steps = [costs[index] - costs[index + 1] for index in range(len(WIDTHS) - 1)]
        for other in (own - 1, own + 1):
            if 0 <= other < len(WIDTHS):
                widths = {**weights, layer: WIDTHS[other]}
                moved = evaluator.divergence(widths, activations, measured.images, corrected=corrected) - base
                lower = min(own, other)
                steps[lower] = (steps[lower] + (moved if other < own else -moved)) / 2
                passes += 1
        two_from_four, four = (max(step, LEAST_STEP) for step in steps)
        refined[layer] = [four + two_from_four, four, 0.0]
        if progress:
            progress(passes / most)
    return Sensitivities(refined, measured.activations, measured.images, passes)


def _most_passes(weights: int, activations: int) -> int:
    """Of so many tensors: two, each width below 8 bits; then another, and each width of weights but its own."""
    narrower = len(WIDTHS) - 1
    return 2 + narrower * (weights + activations) + 1 + narrower * weights


def solve(
    sensitivities: Sensitivities, projection: Projection, count: int = CANDIDATES
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """The `count` policies, or as many as there are, with the least sums of sensitivities within the limits.

    Widths of weights and of activations by layer; the first is the optimum. The others differ from it in weights.
    """
    activations = projection.cheapest_activations(sensitivities.activations)
    found: list[dict[str, int]] = []
    while len(found) < count and (widths := projection.cheapest_weights(sensitivities.weights, found)) is not None:
        found.append(widths)
    return [(weights, activations) for weights in found]


def nearest(candidates: Sequence[Answers]) -> list[Answers]:
    """Those of the candidates that the last round leaves, the one nearest to the float network's answers first."""
    found = list(candidates)
    for images, stay in ROUNDS:
        found = sorted(found, key=lambda answers: answers.divergence(images))[:stay]
    return found


def _affordable(best: Sequence[Answers], left: int) -> Sequence[Answers]:
    """The first of `best` whose scores take no more than `left` further images; none where one would be alone."""
    count = 0
    while count < len(best) and best[count].missing <= left:
        left -= best[count].missing
        count += 1
    return best[:count] if count > 1 else ()
