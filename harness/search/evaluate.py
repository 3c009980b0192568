"""How good a policy is after post-training quantisation: fake-quantised inference in PyTorch, fast enough for searches.

Everything is quantised with the scales and integers that `harness.compress.quantize` chooses, once per width; a policy
then only puts the parts together. Sums are float32 here, so single activations may be off by one step from the exact
integer network: the policy that a search returns is evaluated by the Graph's own reference once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.compress import layers
from harness.compress.deep.qat import integer_input
from harness.compress.layers import Weighted, planar
from harness.compress.quantize import CORRECTION_IMAGES, Quantizer, quantize
from harness.data.base import Dataset, Images, Labels, Split
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.ops.base import Array, Operator, Requantization
from harness.search.policy import WIDTHS, Policy
from harness.search.tensors import INPUT_BITS, Table, Widths, table

# Changes whenever the same integers shall no longer mean the same score.
_VERSION = 2

# Images of the validation split: those that a policy's score is taken on, and those that calibrate the scales.
IMAGES = 2_000
CALIBRATION_IMAGES = 512

# What a batch's largest tensor may take as float32: larger ones leave the processor's caches between two layers.
_BATCH_BYTES = 4 * 2**20
_MOST_IMAGES = 250


@dataclass(frozen=True)
class _Quantized:
    """A weighted layer's parameters at one width, as real numbers.

    weight: whole multiples of scale (O,), in torch's layout. bias: (O,), which makes up for what
    rounding takes from the weights.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor


class Evaluator:
    """Scores policies of one float Graph on the validation split of one dataset.

    images: how many are used, from the split's beginning. cache_dir: scores are kept there; a policy that was scored
    before, in whatever search, is not inferred again.
    InputError where the network cannot be quantised, or the dataset has no validation images.
    """

    def __init__(self, graph: Graph, dataset: Dataset, *, images: int = IMAGES, cache_dir: Path | None = None) -> None:
        if not len(dataset.validation):
            raise InputError(f"{dataset.name} lacks validation samples: nothing can be searched")
        self.graph = graph
        self.table: Table = table(graph)
        calibration = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
        quantizer = Quantizer(graph, calibration, dataset.input_scale, dataset.input_zero_point or 0)
        # Scales depend on a tensor's own width alone, so all policies are made of these few networks' parts.
        self._by_width = {bits: quantizer.quantize(self._uniform(bits), corrected=True) for bits in WIDTHS}
        source = self._by_width[INPUT_BITS].input_tensor
        assert source.scale is not None
        self._input_scale, self._input_zero_point = source.scale, source.zero_point
        self._x = self._integers(dataset.validation.x[:images])
        self._y = dataset.validation.y[:images]
        self._sample = self._integers(dataset.validation.x[:CORRECTION_IMAGES])
        largest = max(tensor.elements for tensor in graph.tensors.values())
        self._batch = max(1, min(_MOST_IMAGES, _BATCH_BYTES // (4 * largest)))
        layer_of = {layer.name: layer for layer in graph.layers if isinstance(layer, Weighted)}
        self._weights = {
            (layer.name, bits): _dequantized(layer, integers, quantizer.bias(layer_of[layer.name], bits))
            for bits, integers in self._by_width.items()
            for layer in integers.layers
            if isinstance(layer, Weighted)
        }
        self._bias = {name: torch.from_numpy(layer.bias.astype(np.float32)) for name, layer in layer_of.items()}
        self._float: dict[int, Tensor] = {}
        self._sample_answers = F.log_softmax(self._float_inferred(self._sample), 1)
        self._scores: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
        self.digest = _digest(list(self._by_width.values()), dataset, self.images)
        self._journal = None
        if cache_dir is not None:
            self._journal = cache_dir / "search" / f"{graph.name}-{self.digest[:24]}.jsonl"
            self._scores = _read_journal(self._journal)

    @property
    def images(self) -> int:
        """Images that a score is taken on."""
        return len(self._x)

    @property
    def evaluation_images(self) -> int:
        """Images that are inferred for one score: for the choice of biases as well."""
        return self.images + 2 * len(self._sample)

    def _uniform(self, bits: int) -> Policy:
        return self.table.policy(*self.table.uniform(bits), method="uniform")

    def score(self, weights: Widths, activations: Widths) -> float:
        """Top-1 accuracy under these widths by layer, as a fraction. InputError where the outputs are not finite."""
        key = (
            tuple(weights[tensor.layer] for tensor in self.table.weights),
            tuple(activations[layer] for layer in self.table.activations),
        )
        if key not in self._scores:
            logits = self.logits(weights, activations)
            if not bool(logits.isfinite().all()):
                raise InputError(f"{self.graph.name}: the outputs are not finite under this policy")
            self._scores[key] = _share(logits, self._y)
            self._note(key)
        return self._scores[key]

    def accuracy(self, weights: Widths, activations: Widths, split: Split, images: int) -> float:
        """The same on the first images of another split: for reports, not for choices."""
        plan, _ = self._plan(weights, activations, self.corrects(weights, activations))
        return _share(self._inferred(plan, self._integers(split.x[:images])), split.y[:images])

    def float_score(self) -> float:
        """Top-1 accuracy of the float network on the images that policies are scored on."""
        return _share(self._float_logits(self.images), self._y)

    def float_accuracy(self, split: Split, images: int) -> float:
        """The same on the first images of another split."""
        return _share(self._float_inferred(self._integers(split.x[:images])), split.y[:images])

    def divergence(self, weights: Widths, activations: Widths, images: int, *, corrected: bool | None = None) -> float:
        """Mean Kullback-Leibler divergence in nats from the float network's classes to the policy's, on some images."""
        images = min(images, self.images)
        expected = F.log_softmax(self._float_logits(images), 1)
        found = F.log_softmax(self.logits(weights, activations, images, corrected=corrected), 1)
        return _divergence(found, expected)

    def answers(self, weights: Widths, activations: Widths) -> Answers:
        """The network's answers under these widths, inferred as far as they are asked for."""
        return Answers(self, weights, activations)

    def corrects(self, weights: Widths, activations: Widths) -> bool:
        """Whether biases make up for what rounding takes from the weights, as `Quantizer.corrects` decides it."""
        return self._corrected(weights, activations)[0]

    def _corrected(self, weights: Widths, activations: Widths) -> tuple[bool, Tensor | None]:
        """What `corrects` says, and the sample's outputs with biases like that; None where nothing was inferred."""
        if all(bits == WIDTHS[-1] for bits in weights.values()):
            return True, None
        logits, divergences = [], []
        for corrected in (True, False):
            plan, scale = self._plan(weights, activations, corrected)
            logits.append(self._inferred(plan, self._sample) * scale)
            divergences.append(_divergence(F.log_softmax(logits[-1], 1), self._sample_answers))
        corrected = divergences[0] <= divergences[1]
        return corrected, logits[0 if corrected else 1]

    def logits(
        self, weights: Widths, activations: Widths, images: int | None = None, *, corrected: bool | None = None
    ) -> Tensor:
        """The network's outputs (N, classes) under these widths, in real numbers.

        corrected: whether biases make up for what rounding takes; None: as `corrects` says.
        They are whole multiples of one scale, as the integers are: with few bits classes often tie; the first wins.
        """
        if corrected is None:
            corrected = self.corrects(weights, activations)
        plan, scale = self._plan(weights, activations, corrected)
        return self._inferred(plan, self._x[:images]) * scale

    # ---- the network as a list of operations on integer-valued float32 tensors

    def _plan(self, weights: Widths, activations: Widths, corrected: bool) -> tuple[list[_Operation], float]:
        """The operations, and the scale of the last one's integers."""
        tensors = {self.graph.input: self._by_width[INPUT_BITS].input_tensor}
        plan: list[_Operation] = []
        last = self.graph.layers[-1]
        scale = 1.0
        for layer in self.graph.layers:
            source = tensors[layer.inputs[0]]
            bits = INPUT_BITS if layer is last else activations.get(layer.name, source.bits)
            target = self._by_width[bits].tensors[layer.output]
            tensors[layer.output] = target
            weight = bias = span = None
            scale = _scale(target.scale)
            if isinstance(layer, Weighted):
                stored = self._weights[layer.name, weights[layer.name]]
                step = stored.scale * _scale(source.scale)
                if target.dtype == "int32":
                    scale = float(step[0])
                weight = stored.weight * (_scale(source.scale) / scale)
                bias = stored.bias if corrected else self._bias[layer.name]
                bias = (bias / step).round() * step / scale
            if target.dtype != "int32":
                span = (-float(target.zero_point), 2.0**target.bits - 1 - target.zero_point)
            factors = tuple(_scale(tensors[name].scale) / scale for name in layer.inputs)
            plan.append(_Operation(layer, weight, bias, factors, span))
        return plan, scale

    def _float_logits(self, images: int) -> Tensor:
        if images not in self._float:
            self._float[images] = self._float_inferred(self._x[:images])
        return self._float[images]

    def _float_inferred(self, x: Tensor) -> Tensor:
        plan = []
        for layer in self.graph.layers:
            weight = bias = None
            if isinstance(layer, Weighted):
                weight = planar(layer, layer.weight)
                bias = torch.from_numpy(np.asarray(layer.bias, np.float32))
            relu = getattr(layer, "relu", False)
            clip = getattr(layer, "clip", None)
            span = (0.0, float("inf") if clip is None else clip) if relu else None
            plan.append(_Operation(layer, weight, bias, (1.0,) * len(layer.inputs), span, rounded=False))
        return self._inferred(plan, x * self._input_scale)

    def _integers(self, x: Images) -> Tensor:
        """Samples (N, H, W, C) as (N, C, H, W) float32 that hold the input's integers less its zero point."""
        whole = integer_input(self._input_scale, self._input_zero_point, x)
        planar = torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 3, 1, 2), np.float32))
        return (planar - self._input_zero_point).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _inferred(self, plan: Sequence[_Operation], x: Tensor) -> Tensor:
        """The plan's outputs (N, classes) for x (N, C, H, W)."""
        results = []
        for start in range(0, len(x), self._batch):
            values = {self.graph.input: x[start : start + self._batch]}
            for operation in plan:
                layer = operation.layer
                values[layer.output] = operation([values[name] for name in layer.inputs])
            results.append(values[self.graph.layers[-1].output].flatten(1))
        return torch.cat(results)

    # ---- the journal: a search that was interrupted finds its scores again

    def _note(self, key: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        if self._journal is None:
            return
        line = json.dumps([*key, self._scores[key]])
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self._journal}: {error.strerror or error}") from error


class Answers:
    """One policy's outputs for the images that scores are taken on: of the first ones, and of more as they are needed.

    No image is inferred again; the sample is inferred twice, for the choice of biases. inferred: images until now.
    """

    def __init__(self, evaluator: Evaluator, weights: Widths, activations: Widths) -> None:
        self.weights, self.activations = dict(weights), dict(activations)
        self._evaluator = evaluator
        corrected, sample = evaluator._corrected(weights, activations)
        self._plan, self._scale = evaluator._plan(weights, activations, corrected)
        self._logits = [] if sample is None else [sample[: evaluator.images]]
        self.inferred = 0 if sample is None else 2 * len(sample)

    @property
    def missing(self) -> int:
        """Images of a score that are not inferred yet."""
        return self._evaluator.images - sum(len(part) for part in self._logits)

    def divergence(self, images: int) -> float:
        """As `Evaluator.divergence`."""
        images = min(images, self._evaluator.images)
        expected = F.log_softmax(self._evaluator._float_logits(images), 1)
        return _divergence(F.log_softmax(self._first(images), 1), expected)

    def score(self) -> float:
        """As `Evaluator.score`, but for the last bits of float32: batches differ."""
        return _share(self._first(self._evaluator.images), self._evaluator._y)

    def _first(self, images: int) -> Tensor:
        start = self._evaluator.images - self.missing
        if start < images:
            more = self._evaluator._inferred(self._plan, self._evaluator._x[start:images]) * self._scale
            self._logits.append(more)
            self.inferred += len(more)
        return torch.cat(self._logits)[:images]


@dataclass(frozen=True)
class _Operation:
    """One layer, ready to run. factors: what turns each input's unit into the output's; span: lowest and highest."""

    layer: Operator
    weight: Tensor | None
    bias: Tensor | None
    factors: tuple[float, ...]
    span: tuple[float, float] | None
    rounded: bool = True

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        y = layers.apply(self.layer, inputs, self.weight, self.bias, self.factors)
        if self.span is not None:
            y = y.clamp_(*self.span)
        return y.round_() if self.rounded else y


def exact_score(graph: Graph, dataset: Dataset, images: int = IMAGES) -> float:
    """Top-1 accuracy of an integer Graph on validation images by its own reference, as a fraction."""
    tensor = graph.input_tensor
    assert tensor.scale is not None
    x = integer_input(tensor.scale, tensor.zero_point, dataset.validation.x[:images])
    return float((graph.infer(x).argmax(axis=1) == dataset.validation.y[:images]).mean())


def quantized(graph: Graph, dataset: Dataset, policy: Policy) -> Graph:
    """The integer Graph of a policy by post-training quantisation, calibrated as `Evaluator` does."""
    calibration = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
    return quantize(graph, calibration, dataset.input_scale, dataset.input_zero_point or 0, policy=policy)


def _digest(integers: Sequence[Graph], dataset: Dataset, images: int) -> str:
    """Everything that a score depends on: the integers that policies are made of, and the data."""
    parts = [graph.sha256() for graph in integers]
    return hashlib.sha256(repr((_VERSION, parts, dataset.sha256, images)).encode()).hexdigest()


def _read_journal(path: Path) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    """The scores in a journal; a line that an interruption cut short is left out."""
    scores = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            weights, activations, score = json.loads(line)
            scores[tuple(weights), tuple(activations)] = float(score)
        except (ValueError, TypeError):
            continue
    return scores


def _divergence(found: Tensor, expected: Tensor) -> float:
    """Mean Kullback-Leibler divergence in nats, of logarithms of probabilities (N, classes)."""
    return float(F.kl_div(found, expected, reduction="batchmean", log_target=True))


def _share(logits: Tensor, labels: Labels) -> float:
    """Of samples whose largest logit is their class's."""
    return float((logits.argmax(1).numpy() == labels).mean())


def _scale(scale: float | None) -> float:
    assert scale is not None
    return scale


def _dequantized(layer: Weighted, integers: Graph, bias: Array) -> _Quantized:
    """The layer's integers as real numbers. Their scales follow from how the accumulators become the output."""
    source, target = integers.tensors[layer.inputs[0]], integers.tensors[layer.output]
    if layer.requantize is None:
        step = np.full(len(layer.weight), _scale(target.scale))
    else:
        step = _factors(layer.requantize) * _scale(target.scale)
    scale = step / _scale(source.scale)
    real = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return _Quantized(
        planar(layer, real), torch.from_numpy(scale.astype(np.float32)), torch.from_numpy(bias.astype(np.float32))
    )


def _factors(requantize: Requantization) -> Array:
    """The real factors that the multipliers stand for, (C,)."""
    factors: Array = requantize.multiplier * 2.0 ** -requantize.shift.astype(np.float64)
    return factors
