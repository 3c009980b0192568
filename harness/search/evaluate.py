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

from harness.compress.quantize import Quantizer, quantize
from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.search.policy import WIDTHS, Policy, uniform
from harness.search.tensors import INPUT_BITS, Table, Widths, table

# Images of the validation split: those that a policy's score is taken on, and those that calibrate the scales.
IMAGES = 2_000
CALIBRATION_IMAGES = 512

# What a batch's largest tensor may take as float32: larger ones leave the processor's caches between two layers.
_BATCH_BYTES = 4 * 2**20
_MOST_IMAGES = 250

Weighted = Conv2d | DepthwiseConv2d | Linear


@dataclass(frozen=True)
class _Quantized:
    """A weighted layer's weights at one width. weight: real numbers, whole multiples of scale (O,), torch's layout.

    bias: (O,) real numbers, with what goes into it for the weights' rounding.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor


class Evaluator:
    """Scores policies of one float Graph on the validation split of one dataset.

    images: how many are used, from the split's beginning. journal: a file in which scores are kept; a policy that was
    scored before, in whatever search, is not inferred again.
    InputError where the network cannot be quantised, or the dataset has no validation images.
    """

    def __init__(self, graph: Graph, dataset: Dataset, *, images: int = IMAGES, journal: Path | None = None) -> None:
        if not len(dataset.validation):
            raise InputError(f"{dataset.name} lacks validation samples: nothing can be searched")
        self.graph = graph
        self.table: Table = table(graph)
        calibration = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
        quantizer = Quantizer(graph, calibration, dataset.input_scale, dataset.input_zero_point or 0)
        self._by_width = {bits: quantizer.quantize(uniform(graph, bits)) for bits in WIDTHS}
        source = self._by_width[INPUT_BITS].input_tensor
        assert source.scale is not None
        x = dataset.validation.x[:images]
        if x.dtype != np.uint8:
            x = np.clip(np.rint(x / source.scale) + source.zero_point, 0, 255)
        planar = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)) - source.zero_point
        self._x = planar.contiguous(memory_format=torch.channels_last)
        self._y = torch.from_numpy(dataset.validation.y[:images])
        largest = max(tensor.elements for tensor in graph.tensors.values())
        self._batch = max(1, min(_MOST_IMAGES, _BATCH_BYTES // (4 * largest)))
        self._weights = {
            (layer.name, bits): _dequantized(layer, integers, quantizer.bias(source_layer, bits))
            for bits, integers in self._by_width.items()
            for layer, source_layer in zip(integers.layers, graph.layers, strict=True)
            if isinstance(layer, Weighted) and isinstance(source_layer, Weighted)
        }
        self._float: dict[int, Tensor] = {}
        self._scores: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
        self._journal = journal
        if journal is not None:
            self._scores = _read_journal(journal)

    @property
    def images(self) -> int:
        """Images that a score is taken on."""
        return len(self._x)

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
            self._scores[key] = float((logits.argmax(1) == self._y).double().mean())
            self._note(key)
        return self._scores[key]

    def float_score(self) -> float:
        """Top-1 accuracy of the float network on the same images."""
        return float((self._float_logits(self.images).argmax(1) == self._y).double().mean())

    def divergence(self, weights: Widths, activations: Widths, images: int) -> float:
        """Mean Kullback-Leibler divergence in nats from the float network's classes to the policy's, on some images."""
        images = min(images, self.images)
        expected = F.log_softmax(self._float_logits(images), 1)
        found = F.log_softmax(self.logits(weights, activations, images), 1)
        return float(F.kl_div(found, expected, reduction="batchmean", log_target=True))

    @torch.no_grad()
    def logits(self, weights: Widths, activations: Widths, images: int | None = None) -> Tensor:
        """The network's outputs (N, classes) under these widths, in real numbers.

        They are whole multiples of one scale, as the integers are: with few bits classes often tie; the first wins.
        """
        plan, scale = self._plan(weights, activations)
        return self._inferred(plan, images) * scale

    # ---- the network as a list of operations on integer-valued float32 tensors

    def _plan(self, weights: Widths, activations: Widths) -> tuple[list[_Operation], float]:
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
                bias = (stored.bias / step).round() * step / scale
            if target.dtype != "int32":
                span = (-float(target.zero_point), 2.0**target.bits - 1 - target.zero_point)
            factors = tuple(_scale(tensors[name].scale) / scale for name in layer.inputs)
            plan.append(_Operation(layer, weight, bias, factors, span))
        return plan, scale

    def _float_logits(self, images: int) -> Tensor:
        if images not in self._float:
            self._float[images] = self._float_inferred(images)
        return self._float[images]

    def _float_inferred(self, images: int) -> Tensor:
        scale = _scale(self._by_width[INPUT_BITS].input_tensor.scale)
        plan = []
        for layer in self.graph.layers:
            weight = bias = None
            if isinstance(layer, Weighted):
                weight = _planar(layer)
                weight = weight * scale if layer.inputs[0] == self.graph.input else weight
                bias = torch.from_numpy(np.asarray(layer.bias, np.float32))
            relu = getattr(layer, "relu", False)
            clip = getattr(layer, "clip", None)
            span = (0.0, float("inf") if clip is None else clip) if relu else None
            plan.append(_Operation(layer, weight, bias, (1.0,) * len(layer.inputs), span, rounded=False))
        with torch.no_grad():
            return self._inferred(plan, images)

    def _inferred(self, plan: Sequence[_Operation], images: int | None) -> Tensor:
        x = self._x[:images]
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
        layer, x = self.layer, inputs[0]
        if isinstance(layer, MaxPool2d):
            return _max_pool(x, layer.window)
        if isinstance(layer, Conv2d | DepthwiseConv2d):
            assert self.weight is not None
            (top, bottom), (left, right) = layer.edges
            padding = (top, left)
            if (top, left) != (bottom, right):
                x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
            groups = len(layer.weight) if isinstance(layer, DepthwiseConv2d) else 1
            y = F.conv2d(x, self.weight, self.bias, layer.stride, padding, groups=groups)
            if isinstance(layer, Conv2d) and layer.pool is not None:
                y = _max_pool(y, layer.pool)
        elif isinstance(layer, Linear):
            assert self.weight is not None
            y = F.linear(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x, self.weight, self.bias)
        elif isinstance(layer, AvgPool2d):
            y = F.avg_pool2d(x, layer.window.kernel, layer.window.stride) * self.factors[0]
        elif isinstance(layer, Add):
            y = x * self.factors[0] + inputs[1] * self.factors[1]
        else:
            raise InputError(f"layer {layer.name}: {layer.kind} has no integer form")
        if self.span is not None:
            y = y.clamp_(*self.span)
        return y.round_() if self.rounded else y


def exact_score(graph: Graph, dataset: Dataset, images: int = IMAGES) -> float:
    """Top-1 accuracy of an integer Graph on validation images by its own reference, as a fraction."""
    from harness.compress.deep.qat import integer_input

    tensor = graph.input_tensor
    assert tensor.scale is not None
    x = integer_input(tensor.scale, tensor.zero_point, dataset.validation.x[:images])
    return float((graph.infer(x).argmax(axis=1) == dataset.validation.y[:images]).mean())


def quantized(graph: Graph, dataset: Dataset, policy: Policy) -> Graph:
    """The integer Graph of a policy by post-training quantisation, calibrated as `Evaluator` does."""
    calibration = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
    return quantize(graph, calibration, dataset.input_scale, dataset.input_zero_point or 0, policy=policy)


def journal_path(folder: Path, graph: Graph, dataset: Dataset, images: int = IMAGES) -> Path:
    """Where scores of a network's policies are kept: by the content of network, data, and of the code that scores."""
    import harness.compress.quantize as quantization

    key = hashlib.sha256(repr((graph.sha256(), dataset.sha256, images, CALIBRATION_IMAGES)).encode())
    for path in (Path(__file__), Path(str(quantization.__file__))):
        key.update(path.read_bytes())
    return folder / "search" / f"{graph.name}-{key.hexdigest()[:24]}.jsonl"


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


def _max_pool(x: Tensor, window: Window) -> Tensor:
    return F.max_pool2d(x, window.kernel, window.stride, window.padding)


def _scale(scale: float | None) -> float:
    assert scale is not None
    return scale


def _planar(layer: Weighted, weight: Array | None = None) -> Tensor:
    """Weights in torch's layout, float32."""
    array = np.asarray(layer.weight if weight is None else weight, np.float32)
    if isinstance(layer, Conv2d):
        array = array.transpose(0, 3, 1, 2)
    elif isinstance(layer, DepthwiseConv2d):
        array = array[:, None]
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if tensor.ndim != 4 else tensor.contiguous(memory_format=torch.channels_last)


def _dequantized(layer: Weighted, integers: Graph, bias: Array) -> _Quantized:
    """The layer's integers as real numbers. Their scales follow from how the accumulators become the output."""
    source, target = integers.tensors[layer.inputs[0]], integers.tensors[layer.output]
    if layer.requantize is None:
        step = np.full(len(layer.weight), _scale(target.scale))
    else:
        step = _factors(layer.requantize) * _scale(target.scale)
    scale = step / _scale(source.scale)
    real = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return _Quantized(_planar(layer, real), *(torch.from_numpy(array.astype(np.float32)) for array in (scale, bias)))


def _factors(requantize: Requantization) -> Array:
    """The real factors that the multipliers stand for, (C,)."""
    factors: Array = requantize.multiplier * 2.0 ** -requantize.shift.astype(np.float64)
    return factors
