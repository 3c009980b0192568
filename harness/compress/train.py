"""Float training of a catalogue network: how the shipped weights were made. Knows nothing of quantisation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.base import Dataset, Images, Split
from harness.errors import InputError
from harness.models import catalogue
from harness.models.catalogue import CatalogueEntry, Recipe, save_weights
from harness.progress import Advance

__all__ = ["Epoch", "TrainingReport", "accuracy", "save_weights", "train"]

_EVALUATION_BATCH = 1_000


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split. number counts from 1; loss: mean over the pass, in nats."""

    number: int
    loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """A finished training. state_dict: float32 tensors on the CPU; accuracies are fractions; seconds: wall clock.

    threads: torch's, during the training: the same number gives the same bits.
    """

    network: str
    dataset: str
    state_dict: dict[str, Tensor]
    history: tuple[Epoch, ...]
    test_accuracy: float
    seconds: float
    seed: int
    threads: int

    @property
    def metadata(self) -> dict[str, str]:
        """How the weights came about, for `save_weights`."""
        return {
            "network": self.network,
            "dataset": self.dataset,
            "seed": str(self.seed),
            "threads": str(self.threads),
            "epochs": str(len(self.history)),
            "test_accuracy": f"{self.test_accuracy:.4f}",
            "torch": torch.__version__,
        }


def train(
    entry: CatalogueEntry,
    dataset: Dataset,
    *,
    seed: int,
    epochs: int | None = None,
    progress: Advance | None = None,
    threads: int | None = None,
) -> TrainingReport:
    """Train a new network of `entry` on `dataset.train` by the entry's recipe, for `epochs` instead where given.

    The last epoch's weights are the result: nothing is selected on the validation split, which only reports, and the
    test split is looked at once, after the end. The same seed, thread count, torch and machine give the same bits;
    other machines may round differently. threads: torch's threads during the training, None leaves them as they are.
    progress: called with the fraction done.
    InputError where the dataset does not fit the network, or the training diverges.
    """
    if dataset.input_shape != entry.input_shape or dataset.classes > entry.classes:
        raise InputError(
            f"{entry.name} takes samples of shape {entry.input_shape} in {entry.classes} classes, "
            f"{dataset.name} has {dataset.input_shape} in {dataset.classes}"
        )
    recipe = entry.recipe
    if recipe is None:
        raise InputError(f"{entry.name} has no training recipe", hint="train it with your own script, then --weights")
    total = recipe.epochs if epochs is None else epochs
    if total < 1:
        raise InputError(f"cannot train for {total} epochs")
    start = time.perf_counter()
    with _reproducible(seed, threads) as generator:
        network = catalogue.build(entry)
        used = torch.get_num_threads()
        history = _fit(network, dataset, recipe, total, generator, progress)
        test_accuracy = accuracy(network, dataset, dataset.test)
    return TrainingReport(
        network=entry.name,
        dataset=dataset.name,
        state_dict={name: tensor.detach().clone() for name, tensor in network.state_dict().items()},
        history=tuple(history),
        test_accuracy=test_accuracy,
        seconds=time.perf_counter() - start,
        seed=seed,
        threads=used,
    )


def accuracy(network: nn.Module, dataset: Dataset, split: Split) -> float:
    """Top-1 accuracy of `network` (logits (N, classes)) on `split` of `dataset`, as a fraction."""
    was_training = network.training
    network.eval()
    correct = 0
    with torch.no_grad():
        for begin in range(0, len(split), _EVALUATION_BATCH):
            x = _planar(dataset, split.x[begin : begin + _EVALUATION_BATCH])
            y = torch.from_numpy(split.y[begin : begin + _EVALUATION_BATCH])
            correct += int((network(x).argmax(1) == y).sum())
    network.train(was_training)
    return correct / len(split)


def _fit(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    epochs: int,
    generator: torch.Generator,
    progress: Advance | None,
) -> list[Epoch]:
    samples = len(dataset.train)
    labels = torch.from_numpy(dataset.train.y)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    steps = math.ceil(samples / recipe.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps, epochs * steps))
    history = []
    for number in range(1, epochs + 1):
        network.train()
        loss_sum = 0.0
        order = torch.randperm(samples, generator=generator)
        for step in range(steps):
            batch = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = augmented(_planar(dataset, dataset.train.x[batch.numpy()]), recipe, generator)
            x = x.contiguous(memory_format=layout)
            loss = F.cross_entropy(network(x), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(batch)
            if progress is not None:
                progress((number - 1 + (step + 1) / steps) / epochs)
        epoch = Epoch(number, loss_sum / samples, accuracy(network, dataset, dataset.validation))
        if not math.isfinite(epoch.loss):
            raise InputError(
                f"training diverged: the loss of epoch {number} is {epoch.loss}",
                hint="check the samples' range: networks train best on inputs of about [-1, 1]",
            )
        history.append(epoch)
    return history


def _learning_rate(step: int, warm_up: int, total: int) -> float:
    """The factor on the recipe's rate: up linearly during the first epoch, then down to zero along half a cosine."""
    rise = min(1.0, (step + 1) / warm_up)
    return rise * 0.5 * (1 + math.cos(math.pi * step / total))


def _planar(dataset: Dataset, x: Images) -> Tensor:
    """Samples (N, H, W, C) as the network's real input (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(dataset.network_input(x).transpose(0, 3, 1, 2)))


def augmented(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """x (N, C, H, W) with each image moved, turned, scaled and mirrored on its own, as far as the recipe allows."""
    if not (recipe.shift or recipe.rotate or recipe.scale or recipe.flip):
        return x
    count, _, height, width = x.shape

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    angle = uniform(math.radians(recipe.rotate))
    size = 1 + uniform(recipe.scale)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if recipe.flip else torch.ones(count)
    # affine_grid's coordinates run from -1 to 1 over the image: one pixel is 2 / width.
    right, down = uniform(recipe.shift), uniform(recipe.shift)
    if recipe.whole_pixels:
        right, down = right.round(), down.round()
    row_x = torch.stack([angle.cos() * size * mirror, -angle.sin() * size, right * 2 / width], 1)
    row_y = torch.stack([angle.sin() * size * mirror, angle.cos() * size, down * 2 / height], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


@contextmanager
def _reproducible(seed: int, threads: int | None) -> Iterator[torch.Generator]:
    """Seeds torch and forbids algorithms that vary from run to run; the caller's settings come back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    previous_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(previous_threads)
            torch.use_deterministic_algorithms(deterministic)
