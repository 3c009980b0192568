"""Quantisation-aware fine-tuning of a policy: the float network learns to live with its tensors' few bits.

Weights keep one scale per output channel, activations have one clipping level each (arXiv 1805.06085); all of them are
learned with the weights (arXiv 1902.08153), while the float network's opinions are the larger part of the loss. A
BatchNorm lives on for the first epoch, folded into weights and scales by the statistics of each batch (cf. arXiv
1712.05877, section 3.2); then its running statistics are frozen and folded for good. Training starts from post-training
quantisation, and the best epoch on validation data is kept, that start included.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.compress import layers
from harness.compress.deep import checkpoint
from harness.compress.deep.qat import deterministic, generator
from harness.compress.layers import Weighted
from harness.compress.quantize import quantize
from harness.compress.student import Student
from harness.compress.train import augmented
from harness.data.base import Dataset, Split
from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.graph.trace import BatchNorm
from harness.models.catalogue import Recipe
from harness.search.policy import Policy

BATCH = 128
LEARNING_RATE = 1e-3
# Scales are logarithms: a step of this size changes them by about 0.05 %.
SCALE_RATE = 5e-4
TEMPERATURE = 3.0
# The share of the loss that the float network's opinion has; the rest is the labels'.
DISTILLATION = 0.7
CALIBRATION_IMAGES = 512
_EVALUATION_BATCH = 500

_STATE = "state.safetensors"
_BEST = "best.safetensors"
_RESULT = "result.safetensors"


@dataclass(frozen=True)
class Epoch:
    """number: from 0, which is post-training quantisation. loss: mean over the pass, in nats; None of number 0."""

    number: int
    loss: float | None
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class Finetuned:
    """The best epoch's integer network. notes: what a user should know, in sentences."""

    graph: Graph
    history: tuple[Epoch, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Epoch:
        return max(self.history, key=lambda epoch: epoch.validation_accuracy)


def finetune(
    graph: Graph,
    dataset: Dataset,
    policy: Policy,
    *,
    epochs: int,
    seed: int = 0,
    norms: Mapping[str, BatchNorm] | None = None,
    recipe: Recipe | None = None,
    threads: int = 1,
    cache_dir: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> Finetuned:
    """Trains the float `graph` under `policy` on `dataset.train` for `epochs` passes.

    norms: the BatchNorms that were folded into the graph's layers, which live on for the first epoch; without them
    their statistics are frozen from the beginning. recipe: how training images are moved and mirrored. cache_dir: every
    finished epoch is kept there, and the result; an interrupted training goes on from the last one. threads: torch's,
    part of what makes a seed's result repeatable.
    A loss that is not finite ends the training, with the last good epoch as the result and a note.
    InputError for a policy of another network, options out of range, and a network that cannot be quantised.
    """
    if epochs < 1:
        raise InputError(f"cannot fine-tune for {epochs} epochs")
    if threads < 1:
        raise InputError(f"cannot train on {threads} threads")
    policy.check(graph)
    folder = None
    if cache_dir is not None:
        folder = cache_dir / "finetune" / _key(graph, dataset, policy, epochs, seed, norms or {}, recipe, threads)
        if (kept := _kept(folder)) is not None:
            return kept
    with deterministic(threads):
        training = _Training(graph, dataset, policy, epochs, seed, norms or {}, recipe, folder, progress)
        result = training.run()
    if folder is not None:
        note = {"history": [dataclasses.astuple(epoch) for epoch in result.history], "notes": result.notes}
        graph_file.save(result.graph, folder / _RESULT, {"finetuned": json.dumps(note)})
        (folder / _STATE).unlink(missing_ok=True)
    return result


class _Training:
    """One training, with all that has to be kept to go on after an interruption."""

    def __init__(
        self,
        graph: Graph,
        dataset: Dataset,
        policy: Policy,
        epochs: int,
        seed: int,
        norms: Mapping[str, BatchNorm],
        recipe: Recipe | None,
        folder: Path | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.graph, self.dataset, self.norms, self.recipe, self.folder = graph, dataset, norms, recipe, folder
        self.epochs, self.seed = epochs, seed
        self.tell = progress or (lambda fraction: None)
        calibration = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
        integers = quantize(graph, calibration, dataset.input_scale, dataset.input_zero_point or 0, policy=policy)
        self.student = Student(graph, integers)
        scales = [*self.student.weight_scale.parameters(), *self.student.activation_scale.parameters()]
        others = [*self.student.weight.parameters(), *self.student.bias.parameters()]
        self.optimizer = torch.optim.Adam(
            [{"params": others, "rate": LEARNING_RATE}, {"params": scales, "rate": SCALE_RATE}], foreach=True
        )
        for parameter in (*others, *scales):
            # Adam makes its state on the first step; made here, it can be restored before one.
            self.optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.parameters = [*others, *scales]
        self.history: list[Epoch] = []
        self.notes: list[str] = []
        self.best: Graph = integers

    def run(self) -> Finetuned:
        self._resume()
        if not self.history:
            self.history.append(Epoch(0, None, self._accuracy()))
            self.best = self.student.integers
        while len(self.history) <= self.epochs:
            number = len(self.history)
            # Checkpoints are of finished epochs: the first one is where BatchNorms begin and end.
            loss = self._first_epoch() if number == 1 else self._epoch(number)
            if not math.isfinite(loss):
                self.notes.append(f"the loss of epoch {number} is {loss}: training ended with the best epoch before it")
                break
            epoch = Epoch(number, loss, self._accuracy())
            if epoch.validation_accuracy > max(other.validation_accuracy for other in self.history):
                self.best = self.student.to_graph()
            self.history.append(epoch)
            self._save()
        return Finetuned(self.best, tuple(self.history), tuple(self.notes))

    def _first_epoch(self) -> float:
        """The pass during which BatchNorms live."""
        factors = self.student.unfold(self.norms)
        if factors:
            self.optimizer.add_param_group({"params": factors, "rate": LEARNING_RATE})
        loss = self._epoch(1)
        self.student.fold()
        if factors:
            del self.optimizer.param_groups[-1]
            for factor in factors:
                self.optimizer.state.pop(factor, None)
        return loss

    def _epoch(self, number: int) -> float:
        """One pass; the mean loss, or the first one that is not finite."""
        train, student = self.dataset.train, self.student
        draw = generator(self.seed, "finetune", number)
        labels = torch.from_numpy(train.y)
        order = torch.randperm(len(train), generator=draw)
        steps = max(1, len(train) // BATCH)
        total = 0.0
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            x = _planar(self.dataset, train, batch.numpy())
            if self.recipe is not None:
                x = augmented(x, self.recipe, draw)
            done = (number - 1 + step / steps) / self.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * done))
            logits = student(x)
            with torch.no_grad():
                opinions = self._float(x)
            loss = (1 - DISTILLATION) * F.cross_entropy(logits, labels[batch])
            loss = loss + DISTILLATION * TEMPERATURE**2 * F.kl_div(
                F.log_softmax(logits / TEMPERATURE, 1), F.softmax(opinions / TEMPERATURE, 1), reduction="batchmean"
            )
            if not math.isfinite(loss.item()):
                return loss.item()
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            total += loss.item()
            self.tell(done)
        return total / steps

    def _float(self, x: Tensor) -> Tensor:
        """The float network's logits."""
        values = {self.graph.input: x}
        for layer in self.graph.layers:
            weight = bias = None
            if isinstance(layer, Weighted):
                weight = layers.planar(layer, layer.weight)
                bias = torch.from_numpy(np.asarray(layer.bias, np.float32))
            y = layers.apply(layer, [values[name] for name in layer.inputs], weight, bias)
            values[layer.output] = layers.rectified(layer, y)
        return values[self.graph.layers[-1].output].flatten(1)

    @torch.no_grad()
    def _accuracy(self) -> float:
        """Of the student, on the validation split."""
        split = self.dataset.validation
        labels = torch.from_numpy(split.y)
        correct = 0
        for start in range(0, len(split), _EVALUATION_BATCH):
            chosen = np.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            correct += int((self.student(_planar(self.dataset, split, chosen)).argmax(1) == labels[chosen]).sum())
        return correct / len(split)

    # ---- interruption

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            state = self.optimizer.state[parameter]
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        graph_file.save(self.best, self.folder / _BEST, {})
        note = {"history": [dataclasses.astuple(epoch) for epoch in self.history]}
        checkpoint.save(self.folder / _STATE, {name: value.detach() for name, value in tensors.items()}, note)

    def _resume(self) -> None:
        """Goes on from the last finished epoch; a damaged checkpoint is noted, and training starts over."""
        if self.folder is None:
            return
        try:
            kept = checkpoint.load(self.folder / _STATE)
            if kept is None:
                return
            tensors, note = kept
            best = graph_file.load(self.folder / _BEST)[0]
            own = {
                name.removeprefix("student."): value for name, value in tensors.items() if name.startswith("student")
            }
            history = [Epoch(*epoch) for epoch in note["history"]]
            states = [
                {name: tensors[f"adam.{index}.{name}"] for name in self.optimizer.state[parameter]}
                for index, parameter in enumerate(self.parameters)
            ]
            self.student.load_state_dict(own)
        except (InputError, ValueError, KeyError, TypeError, RuntimeError) as error:
            self.notes.append(f"training started over, because its checkpoint could not be used: {error}")
            return
        for parameter, state in zip(self.parameters, states, strict=True):
            self.optimizer.state[parameter] = state
        self.history, self.best = history, best


def _key(
    graph: Graph,
    dataset: Dataset,
    policy: Policy,
    epochs: int,
    seed: int,
    norms: Mapping[str, BatchNorm],
    recipe: Recipe | None,
    threads: int,
) -> str:
    """Everything that a result depends on: content, options, and the code that made it."""
    key = hashlib.sha256()
    for name in ("finetune", "layers", "quantize", "student"):
        key.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    versions = (importlib.metadata.version("torch"), np.__version__)
    widths = (dict(policy.weights), dict(policy.activations))
    key.update(repr((graph.sha256(), dataset.sha256, widths, epochs, seed, recipe, threads, versions)).encode())
    for layer, norm in sorted(norms.items()):
        for array in dataclasses.astuple(norm):
            key.update(layer.encode() + array.tobytes())
    return f"{graph.name}-{key.hexdigest()[:24]}"


def _kept(folder: Path) -> Finetuned | None:
    """The finished result in `folder`; None where there is none, or it is damaged: then it is made again."""
    if not (folder / _RESULT).exists():
        return None
    try:
        graph, metadata = graph_file.load(folder / _RESULT)
        note = json.loads(metadata["finetuned"])
        return Finetuned(graph, tuple(Epoch(*epoch) for epoch in note["history"]), tuple(note["notes"]))
    except (InputError, KeyError, ValueError, TypeError):
        return None


def _planar(dataset: Dataset, split: Split, chosen: np.ndarray) -> Tensor:
    """Samples (N, H, W, C) as the network's real input (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(dataset.network_input(split.x[chosen]).transpose(0, 3, 1, 2)))
