"""Training of a Student: augmented views with the dense network's opinions, epochs, and the moving average of weights.

Everything random is drawn from (seed, stage, epoch), so that training goes on from any finished epoch as if it had
never stopped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.compress.deep.network import Student
from harness.data.base import Dataset
from harness.graph.graph import Graph
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d

BATCH = 256
LEARNING_RATE = 4e-3
TEMPERATURE = 3.0
# The share of the loss that the dense network's opinion has; the rest is the labels'.
DISTILLATION = 0.7
AVERAGE_DECAY = 0.98
_FISHER_DECAY = 0.995
_EVALUATION_BATCH = 1_000
_LEAST_STEPS = 50

# Every view is the whole training split, augmented once. Several take turns, so that the dense network is asked only
# once per view; their number is bounded by this memory.
_VIEW_BYTES = 512 * 2**20
_MOST_VIEWS = 8

# Pixels, degrees, share: about half of what a dense network is trained with, because a small one has no room to spare.
_SHIFT, _ROTATE, _SCALE = 1.0, 5.0, 0.05
# Smaller inputs are hardly images.
_LEAST_SIDE = 8
# The only move within a border of one pixel that leaves an image where it is.
_HERE = ((1, 1),)


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Forbids algorithms that vary from run to run, on `threads` threads; the caller's settings come back."""
    before, previous_threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Nothing here reads what it has not written, and the filling takes a tenth of the time.
    memory.fill_uninitialized_memory = False
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(previous_threads)
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before)


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """The random numbers of one purpose: independent of every other's, and of what ran before."""
    return torch.Generator().manual_seed(zlib.crc32(repr((seed, *purpose)).encode()))


def integer_input(scale: float, zero_point: int, x: Array) -> Array:
    """Samples (N, H, W, C) as the uint8 integers that the integer network reads."""
    if x.dtype == np.uint8:
        return x
    rounded: Array = np.clip(np.rint(x / scale) + zero_point, 0, 255).astype(np.uint8)
    return rounded


class Teacher:
    """The dense float network, for its logits."""

    def __init__(self, graph: Graph) -> None:
        self._layers = graph.layers
        self._constants = {
            layer.name: (torch.from_numpy(layer.weight), torch.from_numpy(layer.bias))
            for layer in graph.layers
            if isinstance(layer, Conv2d | Linear)
        }

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) real input -> logits (N, classes)."""
        for layer in self._layers:
            if isinstance(layer, Conv2d):
                weight, bias = self._constants[layer.name]
                x = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, layer.stride, layer.padding)
                if layer.pool is not None:
                    x = F.max_pool2d(x, layer.pool.kernel, layer.pool.stride)
            elif isinstance(layer, Linear):
                weight, bias = self._constants[layer.name]
                x = F.linear(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x, weight, bias)
            elif isinstance(layer, MaxPool2d):
                x = F.max_pool2d(x, layer.window.kernel, layer.window.stride)
            elif isinstance(layer, AvgPool2d):
                x = F.avg_pool2d(x, layer.window.kernel, layer.window.stride)
            if isinstance(layer, Conv2d | Linear) and layer.relu:
                x = F.relu(x)
        return x


class Lessons:
    """The training split in augmented views, with the teacher's logits; and the validation split as it is.

    most_images: what one epoch sees of the training split, and one validation of moved images of that split.
    """

    def __init__(
        self, graph: Graph, dataset: Dataset, scale: float, zero_point: int, seed: int, *, most_images: int
    ) -> None:
        self._teacher = Teacher(graph)
        self._scale, self._zero_point, self._seed = scale, zero_point, seed
        self._augment = min(dataset.input_shape[:2]) >= _LEAST_SIDE
        self._train = integer_input(scale, zero_point, dataset.train.x)
        self._labels = torch.from_numpy(dataset.train.y)
        self._most_images = most_images
        self._validation = integer_input(scale, zero_point, dataset.validation.x)
        self._validation_labels = torch.from_numpy(dataset.validation.y)
        views = min(_MOST_VIEWS, max(1, _VIEW_BYTES // max(1, self._train.nbytes)))
        self._views: list[tuple[Tensor, Tensor] | None] = [None] * (views if self._augment else 1)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def steps(self) -> int:
        """Batches of one epoch."""
        return self._passes * self._batches

    @property
    def _batches(self) -> int:
        """Of one pass through the data."""
        return max(1, min(len(self), self._most_images) // BATCH)

    @property
    def _passes(self) -> int:
        """How often an epoch goes through the data: small datasets take more than one to make it worth its name."""
        return -(-_LEAST_STEPS // self._batches)

    def epoch(self, number: int, shuffle: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of (x as `Student` takes it, labels, the teacher's logits) in random order."""
        for turn in range(number * self._passes, (number + 1) * self._passes):
            images, logits = self._view(turn % len(self._views))
            order = torch.randperm(len(self), generator=shuffle)
            # What is left over of the last batch waits for the next shuffle.
            for start in range(0, self._batches * BATCH, BATCH):
                batch = order[start : start + BATCH]
                yield _planar(images[batch]), self._labels[batch], logits[batch]

    def accuracy(self, student: Student) -> float:
        """The share of correct classes on the validation split."""
        return self._correct(student, _HERE, len(self._validation))

    def shifted_accuracy(self, student: Student) -> float:
        """The same, over the validation split moved by one pixel in all directions, and as it is.

        Nine times the samples, so less of it is luck; the network it is compared with must be judged in the same way.
        """
        return self._correct(student, self._moves, self._moved_images)

    def shifted_float_accuracy(self) -> float:
        """`shifted_accuracy` of the dense float network."""
        return self._correct(
            lambda x: self._teacher((x - self._zero_point) * self._scale), self._moves, self._moved_images
        )

    @property
    def _moves(self) -> tuple[tuple[int, int], ...]:
        return tuple((down, right) for down in range(3) for right in range(3)) if self._augment else _HERE

    @property
    def _moved_images(self) -> int:
        return max(1, min(len(self._validation), self._most_images // len(self._moves)))

    def _correct(self, network: Callable[[Tensor], Tensor], moves: tuple[tuple[int, int], ...], images: int) -> float:
        """images: how many of the validation split, from its beginning."""
        correct = 0
        with torch.no_grad():
            for start in range(0, images, _EVALUATION_BATCH):
                batch = slice(start, min(start + _EVALUATION_BATCH, images))
                x = _planar(torch.from_numpy(self._validation[batch]))
                y = self._validation_labels[batch]
                height, width = x.shape[2:]
                wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
                for down, right in moves:
                    moved = wide[:, :, down : down + height, right : right + width]
                    correct += int((network(moved).argmax(1) == y).sum())
        return correct / images / len(moves)

    def _view(self, index: int) -> tuple[Tensor, Tensor]:
        stored = self._views[index]
        if stored is None:
            draw = generator(self._seed, "view", index)
            images = torch.empty(self._train.shape, dtype=torch.uint8)
            logits = []
            for start in range(0, len(self), _EVALUATION_BATCH):
                x = _planar(torch.from_numpy(self._train[start : start + _EVALUATION_BATCH]))
                if self._augment:
                    x = _augmented(x, draw).round().clamp(0, 255)
                images[start : start + len(x)] = x.permute(0, 2, 3, 1).to(torch.uint8)
                logits.append(self._teacher((x - self._zero_point) * self._scale))
            stored = self._views[index] = (images, torch.cat(logits))
        return stored


def _planar(images: Tensor) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32, in memory as before."""
    return images.float().permute(0, 3, 1, 2)


def _augmented(x: Tensor, draw: torch.Generator) -> Tensor:
    """x (N, C, H, W) with each image moved, turned and scaled on its own; the border repeats."""
    count, _, height, width = x.shape

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(count, generator=draw) - 1) * limit

    angle, size = uniform(math.radians(_ROTATE)), 1 + uniform(_SCALE)
    # affine_grid's coordinates run from -1 to 1 over the image: one pixel is 2 / width.
    row_x = torch.stack([angle.cos() * size, -angle.sin() * size, uniform(2 * _SHIFT / width)], 1)
    row_y = torch.stack([angle.sin() * size, angle.cos() * size, uniform(2 * _SHIFT / height)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x.contiguous(), grid, padding_mode="border", align_corners=False)


@dataclass(eq=False)
class Training:
    """A Student under training, with all that has to be kept to go on after an interruption."""

    student: Student
    optimizer: torch.optim.Adam
    average: list[Tensor]
    fisher: list[Tensor]

    @staticmethod
    def start(student: Student) -> Training:
        """A training of `student` from its present parameters."""
        parameters = list(student.parameters())
        optimizer = torch.optim.Adam(parameters, LEARNING_RATE, betas=(0.9, 0.99), foreach=True)
        for parameter in parameters:
            # Adam makes its state on the first step; made here, it can be restored before one.
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        average = [parameter.detach().clone() for parameter in parameters]
        return Training(student, optimizer, average, [torch.zeros_like(weight) for weight in student.weight])

    def state(self) -> dict[str, Tensor]:
        """A copy of everything, by name."""
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        for index, parameter in enumerate(self.student.parameters()):
            tensors[f"average.{index}"] = self.average[index]
            tensors |= {f"adam.{index}.{name}": value for name, value in self.optimizer.state[parameter].items()}
        tensors |= {f"fisher.{index}": value for index, value in enumerate(self.fisher)}
        return {name: value.detach().clone() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes back to what `state` returned. KeyError or RuntimeError where it is of another network."""
        prefix = "student."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.student.load_state_dict(own)
        self.student.set_masks([mask.clone() for mask in self.student.masks])
        with torch.no_grad():
            for index, parameter in enumerate(self.student.parameters()):
                self.average[index].copy_(tensors[f"average.{index}"])
                for name, value in self.optimizer.state[parameter].items():
                    value.copy_(tensors[f"adam.{index}.{name}"])
            for index, value in enumerate(self.fisher):
                value.copy_(tensors[f"fisher.{index}"])

    def epoch(
        self,
        lessons: Lessons,
        number: int,
        shuffle: torch.Generator,
        learning_rate: Callable[[float], float],
        between: Callable[[float], None],
    ) -> None:
        """One pass. learning_rate, between: called before each step with the fraction of the pass that is done."""
        student, steps = self.student, lessons.steps
        weights = list(student.weight)
        for step, (x, labels, opinions) in enumerate(lessons.epoch(number, shuffle)):
            between(step / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(step / steps)
            logits = student(x)
            loss = (1 - DISTILLATION) * F.cross_entropy(logits, labels)
            loss = loss + DISTILLATION * TEMPERATURE**2 * F.kl_div(
                F.log_softmax(logits / TEMPERATURE, 1), F.softmax(opinions / TEMPERATURE, 1), reduction="batchmean"
            )
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            with torch.no_grad():
                for fisher, weight in zip(self.fisher, weights, strict=True):
                    assert weight.grad is not None
                    fisher.mul_(_FISHER_DECAY).addcmul_(weight.grad, weight.grad, value=1 - _FISHER_DECAY)
            self.optimizer.step()
            # A young average would remember the starting point for too long.
            decay = min(AVERAGE_DECAY, 1 - 1 / (1 + float(self.optimizer.state[weights[0]]["step"])))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(student.parameters()), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[Student]:
        """The student with the moving average of its parameters; its own come back afterwards."""
        parameters = list(self.student.parameters())
        own = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, mean in zip(parameters, self.average, strict=True):
                parameter.copy_(mean)
            try:
                yield self.student
            finally:
                for parameter, value in zip(parameters, own, strict=True):
                    parameter.copy_(value)
