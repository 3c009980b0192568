"""What the page of arXiv 2008.05124 compares: the memory-driven rule's policies, and four searches of one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.files import cache_dir
from harness.progress import Reporter
from harness.reproduce.experiment import Options
from harness.search import loading, memory_rule, methods, tensors
from harness.search.methods import Found
from harness.search.policy import WIDTHS
from harness.search.tensors import Limits

if TYPE_CHECKING:
    from harness.data.base import Dataset
    from harness.search.evaluate import Evaluator

# The policies that a rerun of the code of arXiv 1905.13082 finds there: weights, and activations up to where all have 8
# bits, from the first layer's output on.
GOLDEN = {
    "mobilenet-v1-0.5-224": ("8" * 28, "884"),
    "mobilenet-v1-0.75-192": ("8" * 26 + "44", "884"),
    "mobilenet-v1-0.75-224": ("8" * 26 + "44", "844884"),
    "mobilenet-v1-1.0-192": ("8888888888888848484848884822", "844884"),
    "mobilenet-v1-1.0-224": ("8888888888888848484848884822", "442844488"),
}

SEEDS = (0, 1, 2)

# What the tables compare: the search methods, of which the rule comes as published and filled.
COMPARED = (memory_rule.PUBLISHED, memory_rule.FILLED, *(name for name in methods.METHODS if name != "memory-rule"))

# What `--quick` leaves of the validation images.
QUICK_IMAGES = 500

# Shares of the 8-bit weights at which memory-rule and ilp are drawn as curves.
_SHARES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Experiment:
    """One network that is searched. episodes: of rl, and of random; limits: such that 8 bits do not fit."""

    network: str
    limits: Limits
    episodes: int


@dataclass(frozen=True)
class Ruled:
    """One policy of the rule, as published or filled. weights, activations: the widths as digits.

    step: the fewest bytes that wider weights of one layer would take, None where all have 8 bits.
    """

    flash: int
    ram: int
    weights: str
    activations: str
    step: int | None


@dataclass(frozen=True)
class Memory:
    """What the rule makes of one network under (FLASH, RAM), or of its weights alone.

    wide_*: bytes with 8 bits everywhere. published, filled: the rule's policy, and after what it leaves is used.
    golden: whether the former is the known one, None where none is.
    """

    network: str
    wide_weights: int
    wide_flash: int
    wide_ram: int
    published: Ruled
    filled: Ruled
    mean_bits: float
    golden: bool | None


@dataclass(frozen=True)
class Row:
    """One search. Accuracies are fractions: validation of the exact integers, test by the fast evaluation."""

    network: str
    method: str
    seed: int | None
    flash: int
    ram: int
    weights: str
    activations: str
    validation: float
    test: float
    evaluations: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Searched:
    """All searches of one network. curves: by method, (flash bytes, validation accuracy) by the fast evaluation."""

    experiment: Experiment
    dataset: str
    weights_sha256: str
    float_validation: float
    float_test: float
    images: int
    test_images: int
    rows: tuple[Row, ...]
    curves: Mapping[str, tuple[tuple[int, float], ...]]


def memory(name: str, limits: Limits, reporter: Reporter) -> Memory:
    """The rule on the network's architecture; of its weights alone where there is no limit of RAM."""
    loaded = loading.load(name, weights=None, data=None, need_data=False, reporter=reporter)
    table = tensors.table(loaded.graph)
    weights, activations = table.uniform(WIDTHS[-1])
    published, filled = (_ruled(table, limits, fill=fill) for fill in (False, True))
    found = Memory(
        network=name,
        wide_weights=table.weight_bytes(weights),
        wide_flash=table.flash(weights),
        wide_ram=table.ram(activations),
        published=published,
        filled=filled,
        mean_bits=table.mean_bits(limits.flash or 0),
        golden=None,
    )
    if limits.ram is not None and name in GOLDEN:
        expected = GOLDEN[name][0], GOLDEN[name][1].ljust(len(published.activations), "8")
        found = dataclasses.replace(found, golden=(published.weights, published.activations) == expected)
    reporter.say(f"{name}: {published.flash:,} B, filled {filled.flash:,} B, {filled.ram:,} B of activations")
    return found


def _ruled(table: tensors.Table, limits: Limits, *, fill: bool) -> Ruled:
    policy = memory_rule.find(table, limits, weights_only=limits.ram is None, fill=fill)
    assert policy.bytes is not None and policy.peak_ram is not None
    steps = [
        tensor.bytes(2 * policy.weights[tensor.layer]) - tensor.bytes(policy.weights[tensor.layer])
        for tensor in table.weights
        if policy.weights[tensor.layer] < WIDTHS[-1]
    ]
    return Ruled(
        flash=policy.bytes,
        ram=policy.peak_ram,
        weights=_digits(policy.weights.values()),
        activations=_digits(policy.activations.values()),
        step=min(steps, default=None),
    )


def _digits(widths: Iterable[int]) -> str:
    return "".join(str(bits) for bits in widths)


def searched(experiment: Experiment, options: Options, reporter: Reporter) -> Searched:
    """Every method on one network, at equal limits. InputError without its data."""
    from harness.search.evaluate import IMAGES, Evaluator

    loaded = loading.load(experiment.network, weights=None, data=None, need_data=True, reporter=reporter)
    assert loaded.dataset is not None
    images = QUICK_IMAGES if options.quick else IMAGES
    with reporter.stage(f"quantising {experiment.network}"):
        evaluator = Evaluator(loaded.graph, loaded.dataset, images=images, cache_dir=cache_dir())
    rows = []
    for compared in COMPARED:
        ruled = compared in (memory_rule.PUBLISHED, memory_rule.FILLED)
        method = "memory-rule" if ruled else compared
        seeds = (None,) if method in ("memory-rule", "ilp") else SEEDS[:1] if options.quick else SEEDS
        for seed in seeds:
            found = methods.search(
                loaded.graph,
                loaded.dataset,
                experiment.limits,
                method,
                episodes=experiment.episodes,
                seed=seed or 0,
                fill=compared != memory_rule.PUBLISHED,
                images=images,
                cache_dir=cache_dir(),
                reporter=reporter,
                evaluator=evaluator,
            )
            row = _row(experiment, found, seed, evaluator, loaded.dataset, options.samples)
            rows.append(row)
            reporter.say(
                f"{experiment.network}, {compared}{'' if seed is None else f', seed {seed}'}: {row.flash:,} B, "
                f"validation {row.validation:.2%}, test {row.test:.2%}, {row.seconds:.0f} s"
            )
    test = loaded.dataset.test
    return Searched(
        experiment=experiment,
        dataset=loaded.dataset.name,
        weights_sha256=loaded.weights_sha256,
        float_validation=evaluator.float_score(),
        float_test=evaluator.float_accuracy(test, options.samples),
        images=evaluator.images,
        test_images=min(options.samples, len(test)),
        rows=tuple(rows),
        curves=_curves(experiment, evaluator, reporter),
    )


def _row(
    experiment: Experiment, found: Found, seed: int | None, evaluator: Evaluator, dataset: Dataset, samples: int
) -> Row:
    policy = found.policy
    assert policy.bytes is not None and policy.peak_ram is not None and policy.score is not None
    return Row(
        network=experiment.network,
        method=policy.method or "",
        seed=seed,
        flash=policy.bytes,
        ram=policy.peak_ram,
        weights=_digits(policy.weights.values()),
        activations=_digits(policy.activations.values()),
        validation=policy.score,
        test=evaluator.accuracy(policy.weights, policy.activations, dataset.test, samples),
        evaluations=found.evaluations,
        images=found.images,
        seconds=found.seconds,
    )


def _curves(
    experiment: Experiment, evaluator: Evaluator, reporter: Reporter
) -> dict[str, tuple[tuple[int, float], ...]]:
    """Validation accuracy of the rule's policies and of the integer program's at several limits of flash."""
    from harness.search import filling, ilp
    from harness.search.projection import Projection

    table = evaluator.table
    whole = table.weight_bytes(table.uniform(WIDTHS[-1])[0])
    points: dict[str, list[tuple[int, float]]] = {memory_rule.PUBLISHED: [], memory_rule.FILLED: [], "ilp": []}
    with reporter.stage(f"curves of {experiment.network}") as advance:
        for number, share in enumerate(_SHARES):
            limits = Limits(table.parameter_bytes + round(share * whole), experiment.limits.ram)
            for name, found in (
                (memory_rule.PUBLISHED, memory_rule.find(table, limits)),
                (memory_rule.FILLED, filling.find(evaluator, limits)),
                ("ilp", ilp.find(evaluator, Projection(table, limits))),
            ):
                score = evaluator.score(found.weights, found.activations)
                points[name].append((table.flash(found.weights), score))
            advance((number + 1) / len(_SHARES))
    return {name: tuple(found) for name, found in points.items()}
