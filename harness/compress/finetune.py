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
from torch import Tensor, nn

from harness.compress import layers
from harness.compress.deep import checkpoint
from harness.compress.deep.qat import deterministic, generator
from harness.compress.layers import Weighted
from harness.compress.quantize import quantize, requantization, sum_requantization
from harness.compress.train import augmented
from harness.data.base import Dataset, Split
from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.graph import Graph, build
from harness.graph.trace import BatchNorm
from harness.models.catalogue import Recipe
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Operator
from harness.ops.max_pool2d import MaxPool2d
from harness.ops.packing import WEIGHT_RANGES
from harness.search.policy import Policy

BATCH = 128
LEARNING_RATE = 1e-3
# Scales are logarithms: a step of this size changes them by about 0.05 %.
SCALE_RATE = 5e-4
TEMPERATURE = 3.0
# The share of the loss that the float network's opinion has; the rest is the labels'.
DISTILLATION = 0.7
CALIBRATION_IMAGES = 512
# How fast a BatchNorm's running statistics follow those of the batches.
MOMENTUM = 0.1
_EVALUATION_BATCH = 500
_SMALLEST_EPSILON = 1e-20


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


class Student(nn.Module):
    """The float network with fake-quantised weights and activations.

    integers: the policy's network by post-training quantisation, where zero points and first scales come from.
    Parameters: weights and biases in real numbers, logarithms of the scales.
    """

    def __init__(self, graph: Graph, integers: Graph) -> None:
        super().__init__()
        self.graph, self.integers = graph, integers
        self.weight, self.bias = nn.ParameterDict(), nn.ParameterDict()
        self.weight_scale, self.activation_scale = nn.ParameterDict(), nn.ParameterDict()
        self.norms: dict[str, _Live] = {}
        for layer, quantized in zip(graph.layers, integers.layers, strict=True):
            target = integers.tensors[layer.output]
            if isinstance(layer, Weighted) and isinstance(quantized, Weighted):
                source = integers.tensors[layer.inputs[0]]
                scale = accumulator_scales(integers, quantized) / _scale(source.scale)
                sums = quantized.weight.reshape(len(quantized.weight), -1).sum(axis=1, dtype=np.int64)
                bias = (quantized.bias + source.zero_point * sums) * scale * _scale(source.scale)
                self.weight[layer.name] = nn.Parameter(layers.planar(layer, layer.weight).clone())
                self.bias[layer.name] = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
                # The last layer's channels are compared with each other, so they have one scale.
                own = scale[:1] if layer is graph.layers[-1] else scale
                self.weight_scale[layer.name] = nn.Parameter(torch.from_numpy(np.log(own).astype(np.float32)))
            if not isinstance(layer, MaxPool2d) and target.dtype != "int32":
                self.activation_scale[layer.name] = nn.Parameter(torch.tensor(math.log(_scale(target.scale))))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W), the network's real input. Returns logits (N, classes)."""
        source = self.integers.input_tensor
        values = {self.graph.input: _quantized(x, _scale(source.scale), source.zero_point, source.bits)}
        scales = {self.graph.input: torch.tensor(_scale(source.scale))}
        for layer in self.graph.layers:
            first = layer.inputs[0]
            if isinstance(layer, Weighted) and layer.name in self.norms:
                y = self._normalized(layer, values[first], scales[first])
            else:
                weight = self._weight(layer) if isinstance(layer, Weighted) else None
                bias = self._bias(layer, scales[first]) if isinstance(layer, Weighted) else None
                inputs = [values[name] for name in layer.inputs]
                y = layers.apply(layer, inputs, weight, bias, self._factors(layer, scales))
            scales[layer.output] = scales[first]
            if layer.name in self.activation_scale:
                target = self.integers.tensors[layer.output]
                scales[layer.output] = self.activation_scale[layer.name].exp()
                y = _quantized(y, scales[layer.output], target.zero_point, target.bits)
            elif isinstance(layer, Weighted):
                # The last layer's accumulators: equal ones stay equal, so that the first of them wins here as well.
                y = _whole(y, self._scales(layer).reshape(-1)[0] * scales[first])
            values[layer.output] = y
        return values[self.graph.layers[-1].output].flatten(1)

    def _factors(self, layer: Operator, scales: Mapping[str, Tensor]) -> tuple[float, float]:
        """What the multipliers of a sum, which are short, make of each input, where 1 would be exact."""
        if not isinstance(layer, Add):
            return 1.0, 1.0
        target = float(self.activation_scale[layer.name].detach().exp())
        first, second = (float(scales[name].detach()) / target for name in layer.inputs)
        kept = Add.requantization((first, second), 0)
        multipliers = kept.multiplier * 2.0 ** -kept.shift.astype(np.float64)
        return float(multipliers[0] / first), float(multipliers[1] / second)

    def unfold(self, norms: Mapping[str, BatchNorm]) -> list[nn.Parameter]:
        """Lets BatchNorms live again: their statistics are those of each batch until `fold`. Returns their factors.

        The last layer's stays folded: its channels have one scale, which would not be one any more.
        """
        for layer in self.graph.layers[:-1]:
            if isinstance(layer, Weighted) and layer.name in norms:
                live = self.norms[layer.name] = _Live(norms[layer.name])
                with torch.no_grad():
                    # Of the float network's: a mean that quantisation moves is what the BatchNorm takes away.
                    self.bias[layer.name].copy_(torch.from_numpy(np.asarray(layer.bias, np.float32)) + live.mean)
        return [live.factor for live in self.norms.values()]

    @torch.no_grad()
    def fold(self) -> None:
        """Freezes the BatchNorms: weights, their scales and biases take the running statistics in."""
        for name, live in self.norms.items():
            factor, mean = live.frozen()
            self.weight[name] *= factor.reshape(-1, *[1] * (self.weight[name].ndim - 1))
            self.weight_scale[name] += factor.log()
            self.bias[name] -= mean * factor
        self.norms = {}

    def _normalized(self, layer: Weighted, x: Tensor, input_scale: Tensor) -> Tensor:
        """What `layer` makes of x under the batch's statistics, with the factor and the mean folded."""
        y = layers.convolved(layer, x, self._weight(layer))
        factor, mean = self.norms[layer.name].observe(y)
        bias = _whole(self.bias[layer.name] - mean * factor, self._scales(layer).reshape(-1) * factor * input_scale)
        shape = (-1, *[1] * (y.ndim - 2))
        return layers.pooled(layer, y * factor.reshape(shape) + bias.reshape(shape))

    def _weight(self, layer: Weighted) -> Tensor:
        latent = self.weight[layer.name]
        scale = self._scales(layer)
        low, high = WEIGHT_RANGES[self._bits(layer)]
        # A weight's gradient passes beyond the outermost level too: what was ever clipped would be frozen otherwise.
        rounded = _rounded(latent.detach() / scale, low, high) * scale
        kept: Tensor = rounded + latent - latent.detach()
        return kept

    def _bias(self, layer: Weighted, input_scale: Tensor) -> Tensor:
        """In whole steps of the accumulators, which are coarse where weights and activations have few bits."""
        return _whole(self.bias[layer.name], self._scales(layer).reshape(-1) * input_scale)

    def _scales(self, layer: Weighted) -> Tensor:
        """(O, 1, ...) or (1, 1, ...), to be multiplied with weights."""
        scale: Tensor = self.weight_scale[layer.name].exp()
        return scale.reshape(-1, *[1] * (self.weight[layer.name].ndim - 1))

    def _bits(self, layer: Weighted) -> int:
        quantized = next(other for other in self.integers.layers if other.name == layer.name)
        assert isinstance(quantized, Weighted)
        return quantized.weight_bits

    @torch.no_grad()
    def to_graph(self) -> Graph:
        """The integer Graph of the present parameters; exact arithmetic from here on.

        InputError, with the layer's name, where accumulators could overflow 32 bits, and for scales outside the
        arithmetic's range.
        """
        tensors = {self.graph.input: self.integers.input_tensor}
        finished: list[Operator] = []
        for layer, quantized in zip(self.graph.layers, self.integers.layers, strict=True):
            sources = [tensors[name] for name in layer.inputs]
            target = self.integers.tensors[layer.output]
            if layer.name in self.activation_scale:
                target = dataclasses.replace(target, scale=float(self.activation_scale[layer.name].exp()))
            factors = [_scale(source.scale) / _scale(target.scale) for source in sources]
            if isinstance(layer, Weighted) and isinstance(quantized, Weighted):
                scales = self.weight_scale[layer.name].exp().double().numpy()
                scales = np.broadcast_to(scales, len(quantized.weight))
                if target.dtype == "int32":
                    target = dataclasses.replace(target, scale=float(_scale(sources[0].scale) * scales[0]))
                quantized = self._integers(layer, quantized, sources[0].zero_point, _scale(sources[0].scale), scales)
                if quantized.requantize is not None:
                    requantize = requantization(layer, factors[0] * scales, target)
                    quantized = dataclasses.replace(quantized, requantize=requantize)
            elif isinstance(quantized, AvgPool2d):
                requantize = requantization(layer, np.array([factors[0] / quantized.count]), target)
                quantized = dataclasses.replace(quantized, requantize=requantize)
            elif isinstance(quantized, Add):
                requantize = sum_requantization(quantized, (factors[0], factors[1]), target)
                quantized = dataclasses.replace(quantized, requantize=requantize)
            else:
                target = dataclasses.replace(sources[0], name=target.name, shape=target.shape)
            finished.append(quantized)
            tensors[target.name] = target
        return build(self.graph.name, self.integers.input_tensor, tuple(finished), tensors)

    def _integers(
        self, layer: Weighted, quantized: Weighted, zero_point: int, input_scale: float, scales: np.ndarray
    ) -> Weighted:
        """`quantized` with the present weights and bias. scales: (O,)."""
        low, high = WEIGHT_RANGES[quantized.weight_bits]
        weight = (self.weight[layer.name] / self._scales(layer)).clamp(low, high).round()
        integers = layers.natural(layer, weight).astype(np.int8)
        flat = integers.reshape(len(integers), -1).astype(np.int64)
        bias = np.rint(self.bias[layer.name].double().numpy() / (input_scale * scales)).astype(np.int64)
        bias -= zero_point * flat.sum(axis=1)
        source = self.integers.tensors[layer.inputs[0]]
        largest = int((np.abs(bias) + np.abs(flat).sum(axis=1) * (2**source.bits - 1)).max())
        if largest >= INT32_LIMIT:
            raise InputError(f"layer {layer.name}: its accumulators may reach {largest}, which 32 bits cannot hold")
        return dataclasses.replace(quantized, weight=integers, bias=bias.astype(np.int32))


class _Live:
    """A BatchNorm between a layer's quantised weights and its bias, by the statistics of each batch.

    With its factor folded into them and into their scales, the weights are the same integers: what is quantised here is
    the folded weight. mean, variance: (O,), running statistics of what the quantised weights make of the input;
    factor: logarithm of what it multiplies normalised values with, (O,).
    """

    def __init__(self, norm: BatchNorm) -> None:
        self.mean = torch.from_numpy(norm.mean.astype(np.float32))
        self.variance = torch.from_numpy(norm.variance.astype(np.float32))
        # A channel of zeros has no variance at all, and stays as it is.
        self.epsilon = torch.from_numpy(np.maximum(norm.epsilon, _SMALLEST_EPSILON).astype(np.float32))
        self.factor = nn.Parameter(0.5 * (self.variance + self.epsilon).log())
        self._batches = 0

    def observe(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and mean (O,) by the statistics of y, (N, O, H, W) or (N, O), which the running ones follow."""
        variance, mean = torch.var_mean(y, [axis for axis in range(y.ndim) if axis != 1], correction=0)
        self._batches += 1
        count = y.numel() // len(mean)
        # The float network's statistics are no part of them: the first batches are averaged.
        momentum = max(MOMENTUM, 1 / self._batches)
        with torch.no_grad():
            self.mean.lerp_(mean, momentum)
            self.variance.lerp_(variance * (count / max(count - 1, 1)), momentum)
        return self._factor(variance), mean

    def frozen(self) -> tuple[Tensor, Tensor]:
        """Factor and mean (O,) by the running statistics."""
        return self._factor(self.variance), self.mean

    def _factor(self, variance: Tensor) -> Tensor:
        return self.factor.exp() / (variance + self.epsilon).sqrt()


def _whole(x: Tensor, step: Tensor) -> Tensor:
    """`x` in whole steps; its gradient passes as if it were not."""
    step = step.detach()
    whole: Tensor = x + ((x / step).round() * step - x).detach()
    return whole


def accumulator_scales(integers: Graph, layer: Weighted) -> np.ndarray:
    """(O,) float64: what one step of each channel's accumulators is worth, as far as the layer's multipliers tell."""
    scale = _scale(integers.tensors[layer.output].scale)
    if layer.requantize is None:
        return np.full(len(layer.weight), scale)
    return np.asarray(layer.requantize.multiplier * 2.0 ** -layer.requantize.shift.astype(np.float64) * scale)


# ---- training

_STATE = "state.safetensors"
_BEST = "best.safetensors"
_RESULT = "result.safetensors"


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
    for name in ("finetune", "layers", "quantize"):
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


def _quantized(x: Tensor, scale: Tensor | float, zero_point: int, bits: int) -> Tensor:
    """x in the steps of a tensor; the range is the clipping, of a ReLU as well, whose zero point is 0."""
    return _rounded(x / scale, -zero_point, 2**bits - 1 - zero_point) * scale


def _rounded(x: Tensor, low: float, high: float) -> Tensor:
    """x rounded half-even and clamped; the gradient passes within the limits."""
    clamped = x.clamp(low, high)
    return clamped + (clamped.round() - clamped).detach()


def _planar(dataset: Dataset, split: Split, chosen: np.ndarray) -> Tensor:
    """Samples (N, H, W, C) as the network's real input (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(dataset.network_input(split.x[chosen]).transpose(0, 3, 1, 2)))


def _scale(scale: float | None) -> float:
    assert scale is not None
    return scale
