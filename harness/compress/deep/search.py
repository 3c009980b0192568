"""The search for the cheapest network within an accuracy budget: descend, then anneal at sizes found by bisection.

The descent trains at a constant rate while one Lagrange multiplier over all layers prunes ever more, until the network
is clearly worse than allowed. Then candidates are trained to the end, each with a fresh cosine decay at its own cost
target (learning-rate rewinding, arXiv 2003.02389). The next one continues the cheapest that was within the budget: at a
smaller target, or, after one beyond the budget, at a target between the two. Choices are made on the validation split;
the test split is never touched.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.compress.deep.cost import CostModel, Prefer, StreamCostModel, instructions_per_byte, positions
from harness.compress.deep.report import Candidate, DeepReport, estimates, keep, kept, table
from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d

if TYPE_CHECKING:
    from harness.compress.deep.qat import Lessons, Training

Progress = Callable[[float, str], None]

_CALIBRATION_IMAGES = 512
# Of the network's cost, per epoch of the descent: fast while it loses nothing, slower from then on.
_FAST, _SLOW = 0.72, 0.90
_DESCENT_EPOCHS = 30
# Of these, at most, before anything is pruned, as long as the network gains.
_SETTLING = 8
_CANDIDATE_EPOCHS = 8
_CANDIDATES = 5
# More, as long as none is within the budget.
_MOST_CANDIDATES = 10
_CANDIDATE_STEP = 0.85
# Candidates nearer to each other than this are not worth another training.
_RESOLUTION = 0.96
# An epoch, and a validation, of a large network sees fewer images: this many products bound how long the search takes.
_EPOCH_PRODUCTS = 100_000_000_000
_MASK_UPDATES = 8
_WARM_UP = 0.5


@dataclass(frozen=True)
class _Options:
    accuracy_budget: float
    sparsity: float | None
    seed: int
    rate: float
    epochs_scale: float
    threads: int

    @property
    def candidate_epochs(self) -> int:
        return max(1, round(_CANDIDATE_EPOCHS * self.epochs_scale))

    @property
    def descent_epochs(self) -> int:
        return max(2, round(_DESCENT_EPOCHS * self.epochs_scale))


def compress(
    float_graph: Graph,
    dataset: Dataset,
    *,
    accuracy_budget: float = 0.3,
    sparsity: float | None = None,
    seed: int = 0,
    prefer: Prefer = "balanced",
    cache_dir: Path,
    progress: Progress | None = None,
    epochs_scale: float = 1.0,
    cost: CostModel | None = None,
    threads: int = 2,
) -> DeepReport:
    """The integer network of `float_graph` with the lowest cost that loses at most `accuracy_budget` on validation.

    accuracy_budget: percentage points of top-1 accuracy. sparsity: prunes this share of every layer instead of
    searching, 0 <= sparsity < 1. prefer: how instructions count beside bytes. epochs_scale: shortens or lengthens all
    training. cost: what storage costs, the default model where None. threads: torch's, part of what makes a seed's
    result repeatable. progress: called with the fraction done and what is being done; an exception that it raises
    interrupts the search, which goes on from the last finished epoch when it is called again with the same arguments.

    Results are kept in `cache_dir` by the content of graph, data and options. InputError for options out of range, data
    that does not fit the network, and a budget that cannot be met: it says how near the search came.
    """
    model = cost or StreamCostModel()
    options = _checked(float_graph, dataset, accuracy_budget, sparsity, seed, prefer, epochs_scale, threads)
    folder = cache_dir / "deep" / _key(float_graph, dataset, options, model)
    cached = kept(folder)
    if cached is not None:
        return cached
    from harness.compress.deep.qat import deterministic

    tell = progress or (lambda fraction, text: None)
    with deterministic(threads):
        report = _Search(float_graph, dataset, options, model, folder, tell).run()
    keep(folder, report)
    for name in (_STATE, _BASE, _ACCEPTED):
        (folder / name).unlink(missing_ok=True)
    return report


def accuracy(graph: Graph, dataset: Dataset, split: str) -> float:
    """Top-1 accuracy of a float or integer graph on the split called `split`, by exact inference, as a fraction."""
    samples = getattr(dataset, split)
    tensor = graph.input_tensor
    if not graph.integer:
        x = dataset.network_input(samples.x)
    else:
        from harness.compress.deep.qat import integer_input

        assert tensor.scale is not None
        x = integer_input(tensor.scale, tensor.zero_point, samples.x)
    return float((graph.infer(x).argmax(axis=1) == samples.y).mean())


# ---- options


def _checked(
    graph: Graph,
    dataset: Dataset,
    accuracy_budget: float,
    sparsity: float | None,
    seed: int,
    prefer: str,
    epochs_scale: float,
    threads: int,
) -> _Options:
    if graph.integer:
        raise InputError(f"network {graph.name} is quantised already: deep compression starts from the float network")
    for layer in graph.layers:
        special = getattr(layer, "padding_after", None) is not None or getattr(layer, "clip", None) is not None
        if special or not isinstance(layer, Conv2d | Linear | MaxPool2d | AvgPool2d):
            raise InputError(
                f"layer {layer.name} ({layer.label}): deep compression knows chains of convolutions, linear layers and "
                "pools",
                hint="--variant mixed compresses any network: harness search finds its bit widths",
            )
    if not (math.isfinite(accuracy_budget) and accuracy_budget >= 0):
        raise InputError(f"the accuracy budget is {accuracy_budget} percentage points; it must be 0 or more")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise InputError(
            f"the sparsity is {sparsity}; it must be at least 0 and below 1", hint="0.9 prunes nine weights of ten"
        )
    if not (math.isfinite(epochs_scale) and epochs_scale > 0):
        raise InputError(f"the scale of the epochs is {epochs_scale}; it must be above 0")
    if threads < 1:
        raise InputError(f"cannot train on {threads} threads")
    if dataset.input_shape != graph.input_tensor.shape:
        raise InputError(
            f"network {graph.name} takes samples of {graph.input_tensor.shape}, {dataset.name} has "
            f"{dataset.input_shape}"
        )
    if dataset.classes > graph.output.elements:
        raise InputError(f"network {graph.name} has {graph.output.elements} outputs, {dataset.name} more classes")
    if not len(dataset.train) or not len(dataset.validation):
        raise InputError(f"{dataset.name} lacks training or validation samples")
    return _Options(accuracy_budget, sparsity, seed, instructions_per_byte(prefer), epochs_scale, threads)


def _key(graph: Graph, dataset: Dataset, options: _Options, cost: CostModel) -> str:
    """Everything that a result depends on: content, options, and the code that made it."""
    key = hashlib.sha256()
    for name in ("cost", "network", "pruning", "qat", "report", "search"):
        key.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    versions = (importlib.metadata.version("torch"), np.__version__)
    key.update(repr((graph.sha256(), dataset.sha256, options, cost.version, versions)).encode())
    return f"{graph.name}-{key.hexdigest()[:24]}"


# ---- the search

_STATE = "state.safetensors"
_BASE = "base.safetensors"
_ACCEPTED = "accepted.safetensors"


@dataclass
class _Journal:
    """How far the search is: JSON-able, kept beside the tensors after every epoch.

    epoch: finished ones of the present stage ("descent" or "candidate"). target: the present cost target.
    unpruned: percentage points lost before anything was pruned, or the budget; None: not known yet. losses: after each
    epoch until then, and of the descent from then on.
    passed, failed: the lowest target whose candidate was within the budget on the shifted validation split, the highest
    of one that was not.
    accepted: (not confirmed, cost) of the best network so far.
    """

    stage: str = "descent"
    epoch: int = 0
    target: float = 0.0
    losses: list[float] = field(default_factory=list)
    unpruned: float | None = None
    passed: float | None = None
    failed: float | None = None
    accepted: tuple[bool, float] | None = None
    candidates: list[Candidate] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def restored(note: dict[str, Any]) -> _Journal:
        """KeyError or TypeError where the note is not one of ours."""
        values = {item.name: note[item.name] for item in fields(_Journal)}
        values["accepted"] = tuple(note["accepted"]) if note["accepted"] is not None else None
        values["candidates"] = [Candidate(**candidate) for candidate in note["candidates"]]
        return _Journal(**values)


class _Search:
    """One run of the search. Everything that must survive an interruption is in `training` and `journal`."""

    def __init__(
        self,
        float_graph: Graph,
        dataset: Dataset,
        options: _Options,
        cost: CostModel,
        folder: Path,
        tell: Progress,
    ) -> None:
        from harness.compress.deep.network import Student, settings
        from harness.compress.deep.qat import Lessons, Training

        self.float_graph, self.dataset, self.options = float_graph, dataset, options
        self.cost, self.folder, self.tell = cost, folder, tell
        calibration = dataset.network_input(dataset.validation.x[:_CALIBRATION_IMAGES])
        chosen = settings(float_graph, cost)
        self.student = Student(float_graph, chosen, calibration, dataset.input_scale, dataset.input_zero_point or 0)
        self.lessons: Lessons = Lessons(
            float_graph,
            dataset,
            self.student.input_scale,
            self.student.input_zero_point,
            options.seed,
            most_images=max(1, _EPOCH_PRODUCTS // _products(float_graph)),
        )
        self.training: Training = Training.start(self.student)
        self.journal = _Journal()
        # Where candidates start: the end of the descent, later the cheapest candidate within the budget.
        self.base = self.training.state()
        self.float_accuracy = accuracy(float_graph, dataset, "validation")
        self.shifted_float_accuracy = self.lessons.shifted_float_accuracy()
        self.accepted: Graph | None = None

    def run(self) -> DeepReport:
        """The whole search, from where it stopped. InputError where no candidate is within the budget."""
        self._resume()
        while self.journal.stage == "descent":
            self._descend()
        while not self._finished():
            self._anneal()
        journal = self.journal
        if self.accepted is None:
            best = max(journal.candidates, key=lambda candidate: candidate.accuracy)
            raise InputError(
                f"the accuracy budget of {self.options.accuracy_budget:g} percentage points cannot be met: the nearest "
                f"network loses {self._loss(best.accuracy):.2f} on validation ({best.nonzero:,} weights, "
                f"about {best.bytes:,} bytes)",
                hint="allow a larger --accuracy-budget"
                + ("" if self.options.sparsity is None else ", or less --sparsity"),
            )
        return DeepReport(
            graph=self.accepted,
            validation_accuracy=accuracy(self.accepted, self.dataset, "validation"),
            float_validation_accuracy=self.float_accuracy,
            layers=table(self.accepted, self.float_graph, self.cost),
            seconds=journal.seconds,
            candidates=tuple(journal.candidates),
            notes=tuple(journal.notes),
        )

    # ---- stages

    def _descend(self) -> None:
        """One epoch of the descent; decides whether it was the last."""
        journal, options = self.journal, self.options
        epoch = journal.epoch
        if epoch == 0:
            journal.target = self._cost_of(self.student.to_graph())
        start = journal.target
        if options.sparsity is None:
            ratio = 1.0
            if journal.unpruned is not None:
                ratio = _FAST if max(journal.losses[-1:], default=0.0) <= journal.unpruned else _SLOW
            end = start * ratio ** (1 / options.epochs_scale)
        else:
            end = start

        def prune(fraction: float) -> None:
            if options.sparsity is None:
                if journal.unpruned is not None:
                    self._prune_to(start * (end / start) ** fraction)
            else:
                progress = min(1.0, (epoch + fraction) / max(1, self.options.candidate_epochs))
                self._prune_uniformly(options.sparsity * (1 - (1 - progress) ** 3))

        self._epoch(
            f"pruning to {end:,.0f}" if options.sparsity is None else f"pruning to {options.sparsity:.1%}",
            "descent",
            rate=lambda fraction: min(1.0, (epoch + fraction + 0.02) / _WARM_UP),
            prune=prune,
        )
        with self.training.averaged() as student:
            journal.losses.append(self._loss(self.lessons.accuracy(student)))
        if journal.unpruned is None and self._settled():
            journal.unpruned, journal.losses = max(options.accuracy_budget, min(journal.losses)), []
        journal.target = end
        if self._descended():
            journal.stage, journal.epoch = "candidate", 0
            if options.sparsity is None:
                journal.target = end / _CANDIDATE_STEP
            self._rebase()
        self._save()

    def _descended(self) -> bool:
        journal, options = self.journal, self.options
        if options.sparsity is not None:
            return journal.epoch >= options.candidate_epochs
        if journal.epoch >= options.descent_epochs:
            return True
        if journal.unpruned is None:
            return False
        # At a constant rate a network is worse than after its decay.
        beyond = journal.unpruned + max(options.accuracy_budget / 2, 0.1)
        recent = journal.losses[-2:]
        return len(recent) == 2 and min(recent) > beyond

    def _settled(self) -> bool:
        """Whether the network has got used to the few levels, before anything is pruned."""
        losses = self.journal.losses
        if losses[-1] <= self.options.accuracy_budget or len(losses) >= _SETTLING * self.options.epochs_scale:
            return True
        return len(losses) > 2 and min(losses[-2:]) >= min(losses[:-2])

    def _anneal(self) -> None:
        """One epoch of the present candidate; judges it after its last."""
        journal, epochs = self.journal, self.options.candidate_epochs
        number, epoch = len(journal.candidates), journal.epoch

        def prune(fraction: float) -> None:
            # The second half trains what is left.
            if self.options.sparsity is None and (epoch + fraction) / epochs <= 0.5:
                self._prune_to(journal.target)

        self._epoch(
            f"candidate {number + 1}, epoch {epoch + 1}/{epochs}",
            f"candidate-{number}",
            rate=lambda fraction: 0.01 + 0.99 * (1 + math.cos(math.pi * (epoch + fraction) / epochs)) / 2,
            prune=prune,
        )
        if journal.epoch == epochs:
            self._judge()
            journal.epoch = 0
            # As long as none is within the budget, the next one is larger, and more training can only help it.
            if journal.passed is not None:
                self.training.restore(self.base)
        self._save()

    def _judge(self) -> None:
        """Measures the candidate exactly, keeps it where it is the cheapest within the budget, sets the next target."""
        from harness.compress.deep.pruning import remove_dead

        journal, options = self.journal, self.options
        with self.training.averaged() as student:
            graph = remove_dead(student.to_graph())
            shifted = self.lessons.shifted_accuracy(student)
        own = self.lessons.shifted_accuracy(self.student)
        if own > shifted:
            graph, shifted = remove_dead(self.student.to_graph()), own
        exact = accuracy(graph, self.dataset, "validation")
        shifted_loss = 100 * (self.shifted_float_accuracy - shifted)
        # Percentage points of a few thousand samples come in steps: a loss of exactly the budget must not fail.
        limit = options.accuracy_budget + 1e-6
        within = self._loss(exact) <= limit
        rows = table(graph, self.float_graph, self.cost)
        candidate = Candidate(
            target=journal.target,
            nonzero=sum(row.nonzero for row in rows),
            bytes=sum(row.bytes for row in rows),
            instructions=sum(row.instructions for row in rows),
            accuracy=exact,
            shifted_loss=shifted_loss,
            within_budget=within,
            confirmed=within and shifted_loss <= limit,
        )
        # Once there is a result, the direction follows the shifted loss alone, of which less is luck.
        if shifted_loss <= limit and (within or journal.accepted is not None):
            if journal.failed is not None and journal.failed >= journal.target:
                journal.failed = None
            journal.passed = min(journal.target, journal.passed or math.inf)
            self._rebase()
        else:
            journal.failed = max(journal.target, journal.failed or 0.0)
        rank = (not candidate.confirmed, self._cost_of(graph))
        # "Or equal": after an interruption right here, the same candidate is judged once more.
        if within and (journal.accepted is None or rank <= journal.accepted):
            journal.accepted, self.accepted = rank, graph
            graph_file.save(graph, self.folder / _ACCEPTED, {})
        journal.candidates.append(candidate)
        journal.target = self._next_target()

    def _next_target(self) -> float:
        passed, failed = self.journal.passed, self.journal.failed
        if passed is None:
            assert failed is not None
            # Ever larger steps: a network that needs most of its weights is reached in a few.
            return failed / _CANDIDATE_STEP ** max(1, len(self.journal.candidates) - 1)
        if failed is None or failed >= passed:
            return passed * _CANDIDATE_STEP
        return math.sqrt(passed * failed)

    def _finished(self) -> bool:
        journal = self.journal
        count = len(journal.candidates)
        if not count:
            return False
        if self.options.sparsity is not None:
            return True
        if journal.accepted is None:
            return count >= _MOST_CANDIDATES
        if journal.passed is None or journal.accepted[0]:
            return count >= _CANDIDATES
        close = journal.failed is not None and journal.failed / journal.passed >= _RESOLUTION
        return count >= _CANDIDATES or close

    # ---- parts

    def _epoch(self, text: str, stage: str, rate: Callable[[float], float], prune: Callable[[float], None]) -> None:
        """One pass over the data. rate: the learning rate's factor; prune: called a few times, as (0, 1] goes by."""
        from harness.compress.deep.qat import LEARNING_RATE, generator

        journal = self.journal
        self.tell(self._fraction(), text)
        begin = time.perf_counter()
        updates = 0

        def between(fraction: float) -> None:
            nonlocal updates
            if int(fraction * _MASK_UPDATES) >= updates:
                updates += 1
                prune(updates / _MASK_UPDATES)
                self.student.bound_lanes()

        shuffle = generator(self.options.seed, stage, journal.epoch)
        self.training.epoch(
            self.lessons, journal.epoch, shuffle, lambda fraction: LEARNING_RATE * rate(fraction), between
        )
        journal.epoch += 1
        journal.seconds += time.perf_counter() - begin

    def _prune_to(self, target: float) -> None:
        """Masks for a network that costs `target`, at the prices that its parts have at present."""
        from harness.compress.deep.pruning import Price, allocate, remove_dead, saliency

        graph = remove_dead(self.student.to_graph())
        prices = []
        for (layer, estimate), setting in zip(estimates(graph, self.cost), self.student.settings, strict=True):
            nonzero, outputs = max(1, int(np.count_nonzero(layer.weight))), len(layer.weight)
            prices.append(
                Price(
                    weight=self._price(
                        estimate.bytes - estimate.unit_bytes, estimate.instructions - estimate.unit_instructions
                    )
                    / nonzero,
                    unit=self._price(estimate.unit_bytes, estimate.unit_instructions) / outputs,
                    prunable=setting.prunable,
                )
            )
        self.student.set_masks(allocate(saliency(self.training), prices, target))

    def _prune_uniformly(self, sparsity: float) -> None:
        from harness.compress.deep.pruning import uniform

        magnitudes = [weight.detach().abs() for weight in self.student.weight]
        prunable = [setting.prunable for setting in self.student.settings]
        self.student.set_masks(uniform(magnitudes, prunable, sparsity))

    def _price(self, size: float, instructions: float) -> float:
        return size + instructions / self.options.rate

    def _cost_of(self, graph: Graph) -> float:
        return sum(self._price(cost.bytes, cost.instructions) for _, cost in estimates(graph, self.cost))

    def _loss(self, reached: float) -> float:
        """Percentage points below the float network."""
        return 100 * (self.float_accuracy - reached)

    def _fraction(self) -> float:
        """How much of the search is done, at most; it may end sooner."""
        journal, options = self.journal, self.options
        share = 0.3
        if journal.stage == "descent":
            return share * min(1.0, journal.epoch / options.descent_epochs)
        candidates = 1 if options.sparsity is not None else _CANDIDATES
        done = len(journal.candidates) + journal.epoch / options.candidate_epochs
        return share + (1 - share) * min(0.99, done / candidates)

    # ---- interruption

    def _rebase(self) -> None:
        from harness.compress.deep import checkpoint

        self.base = self.training.state()
        checkpoint.save(self.folder / _BASE, self.base, {})

    def _save(self) -> None:
        from harness.compress.deep import checkpoint

        checkpoint.save(self.folder / _STATE, self.training.state(), self.journal.note())

    def _resume(self) -> None:
        """Goes on where an earlier call stopped; a damaged checkpoint is noted, and the search starts over."""
        from harness.compress.deep import checkpoint

        untouched = self.training.state()
        try:
            kept = checkpoint.load(self.folder / _STATE)
            if kept is None:
                return
            tensors, note = kept
            journal = _Journal.restored(note)
            accepted = graph_file.load(self.folder / _ACCEPTED)[0] if journal.accepted is not None else None
            base = checkpoint.load(self.folder / _BASE) if journal.stage == "candidate" else None
            if journal.stage == "candidate" and base is None:
                raise ValueError(f"{_BASE} is missing")
            self.training.restore(tensors)
        except (InputError, ValueError, KeyError, TypeError, RuntimeError) as error:
            self.training.restore(untouched)
            self.journal.notes.append(f"the search started over, because its checkpoint could not be used: {error}")
            return
        self.journal, self.accepted = journal, accepted
        self.base = base[0] if base is not None else self.base


def _products(graph: Graph) -> int:
    """Multiplications of one inference."""
    layers = [layer for layer in graph.layers if isinstance(layer, Conv2d | Linear)]
    return sum(layer.weight.size * positions(graph, layer) for layer in layers)
