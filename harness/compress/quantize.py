"""Post-training quantisation: a float Graph and calibration data become an integer Graph, 8 bits or mixed.

Rules: weights are signed, one scale per output channel; activations are unsigned with one scale and one zero point per
tensor; the layer that ends the network keeps its int32 accumulators, under one scale, so the class is decided without
rounding. Scales are those of the least squared error, of weights on the weights, of activations on a histogram; they
depend on a tensor's values and its own width alone. What weights of few bits lose on the average goes into the bias
(arXiv 1906.04721, section 4.2), if that brings the network's answers nearer to the float network's: the loss is of the
float network's activations, and where many layers have 2 bits those are far from what a layer gets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import MULTIPLIER_BITS, Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d
from harness.ops.packing import WEIGHT_RANGES

if TYPE_CHECKING:
    from harness.search.policy import Policy

Weighted = Conv2d | DepthwiseConv2d | Linear

# Clipping fractions of the largest value tried when a scale is chosen by its squared error. Few levels want more of it.
_CLIPPING = {8: np.linspace(0.5, 1.0, 26), 4: np.linspace(0.2, 1.0, 41), 2: np.linspace(0.05, 1.0, 58)}

_BINS = 2048

# Calibration images on which networks with and without corrected biases are compared.
CORRECTION_IMAGES = 64

# Factors of a requantisation: below, T would have to be above 62; from here on, M would not fit 31 bits.
_SMALLEST_FACTOR, _FACTOR_LIMIT = 2.0**-32, 2.0**30


def quantize(
    graph: Graph,
    calibration: Array,
    input_scale: float | None = None,
    input_zero_point: int = 0,
    *,
    policy: Policy | None = None,
    progress: Callable[[float], None] | None = None,
) -> Graph:
    """The integer Graph of a float one.

    calibration: (N, H, W, C) float32, what the network really sees, from training or validation data.
    input_scale, input_zero_point: the scale of uint8 input data; None lets the calibration data decide.
    policy: the widths of all tensors; None: 8 bits. progress: called with the fraction done.
    InputError when a layer's accumulators could overflow 32 bits, for scales outside the arithmetic's range, and for
    a policy of another network.
    """
    return Quantizer(graph, calibration, input_scale, input_zero_point, progress=progress).quantize(policy)


@dataclass(frozen=True)
class _Observation:
    """What calibration saw of one tensor: a histogram between `low` <= 0 and `high` >= 0, and means.

    means: (C,) of an image's channels; of every element where a linear layer reads it.
    """

    low: float
    high: float
    counts: Array
    centers: Array
    means: Array


class Quantizer:
    """Quantises one network under many policies: the float network runs over the calibration data once.

    Arguments as of `quantize`. InputError for calibration data that is not finite.
    """

    def __init__(
        self,
        graph: Graph,
        calibration: Array,
        input_scale: float | None = None,
        input_zero_point: int = 0,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        if not np.isfinite(calibration).all():
            raise InputError("the calibration data holds NaN or infinite values")
        self._graph = graph
        self._sample = calibration[:CORRECTION_IMAGES]
        flattened = {layer.inputs[0] for layer in graph.layers if isinstance(layer, Linear)}
        self._observations = {graph.input: _observe(calibration, flat=graph.input in flattened)}
        self._activation_scales: dict[tuple[str, int], tuple[float, int]] = {}
        self._weight_scales: dict[tuple[str, int], Array] = {}
        for index, (layer, values) in enumerate(graph.run(calibration)):
            if not np.isfinite(values).all():
                raise InputError(f"layer {layer.name} yields NaN or infinite values for the calibration data")
            self._observations[layer.output] = _observe(values, flat=layer.output in flattened)
            self._answers = values[:CORRECTION_IMAGES].reshape(len(self._sample), -1).astype(np.float64)
            if progress:
                progress((index + 1) / len(graph.layers))
        if input_scale is None:
            input_scale, input_zero_point = self._scale(graph.input, 8)
        self._input = dataclasses.replace(
            graph.input_tensor, dtype="uint8", scale=input_scale, zero_point=input_zero_point
        )

    def quantize(self, policy: Policy | None = None, *, corrected: bool | None = None) -> Graph:
        """The integer Graph under `policy`; None: 8 bits. Errors as of the function `quantize`.

        corrected: whether biases make up for what weights of few bits lose; None: as `corrects` says.
        """
        graph = self._graph
        if policy is not None:
            policy.check(graph)
        if corrected is None:
            corrected = self.corrects(policy)
        tensors = {graph.input: self._input}
        layers: list[Operator] = []
        for layer in graph.layers:
            sources = [tensors[name] for name in layer.inputs]
            bits = 8 if policy is None else policy.activations.get(layer.name, sources[0].bits)
            if isinstance(layer, Weighted):
                weight_bits = 8 if policy is None else policy.weights[layer.name]
                # Eight bits lose nothing that counts.
                bias = self.bias(layer, weight_bits if corrected else 8)
                quantized, tensor = self._weighted(layer, sources[0], bias, weight_bits, bits)
            elif isinstance(layer, MaxPool2d):
                quantized, tensor = layer, self._renamed(sources[0], layer.output)
            elif isinstance(layer, AvgPool2d):
                quantized, tensor = self._average(layer, sources[0], None if policy is None else bits)
            elif isinstance(layer, Add):
                quantized, tensor = self._sum(layer, (sources[0], sources[1]), bits)
            else:
                raise InputError(f"layer {layer.name}: {layer.kind} has no integer form")
            layers.append(quantized)
            tensors[tensor.name] = tensor
        return build(graph.name, tensors[graph.input], tuple(layers), tensors)

    def corrects(self, policy: Policy | None) -> bool:
        """Whether corrected biases bring the network nearer to the float one, on the first calibration images.

        Nearer: by the Kullback-Leibler divergence of its classes, for which no labels are needed. True where it is the
        same, and where no weights have fewer than 8 bits.
        """
        if policy is None or all(bits == 8 for bits in policy.weights.values()):
            return True
        with_it, without = (self._divergence(self.quantize(policy, corrected=choice)) for choice in (True, False))
        return with_it <= without

    def _divergence(self, integers: Graph) -> float:
        """Mean Kullback-Leibler divergence in nats from the float network's classes on the sample."""
        source, target = integers.input_tensor, integers.output
        assert source.scale is not None and target.scale is not None
        x = np.clip(np.rint(self._sample / source.scale) + source.zero_point, 0, 2**source.bits - 1)
        answers = integers.infer(x.astype(np.uint8)).reshape(self._answers.shape).astype(np.float64)
        found = _log_softmax((answers - target.zero_point) * target.scale)
        expected = _log_softmax(self._answers)
        return float((np.exp(expected) * (expected - found)).sum(axis=1).mean())

    def bias(self, layer: Weighted, weight_bits: int) -> Array:
        """(O,) the bias of a layer of the float graph with weights of that width, in real numbers."""
        bias = layer.bias.astype(np.float64)
        return bias if weight_bits == 8 else bias + self._lost(layer, weight_bits)

    # ---- layers

    def _weighted(
        self, layer: Weighted, source: Tensor, bias: Array, weight_bits: int, bits: int
    ) -> tuple[Operator, Tensor]:
        """bias: (O,), in real numbers."""
        assert source.scale is not None
        final = layer is self._graph.layers[-1]
        flat = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
        tensor = dataclasses.replace(self._graph.tensors[layer.output], dtype="int32", bits=32)
        least = 0.0
        if not final:
            tensor = self._activation(layer.output, bits)
            assert tensor.scale is not None
            # What even the largest accumulator of a channel does not make a step of: such a channel's weights are 0.
            least = tensor.scale / source.scale * _SMALLEST_FACTOR * 2
        scales = np.maximum(self._scales_of(layer, source.scale, weight_bits), least)
        if final:
            scales = np.full_like(scales, scales.max())
            tensor = dataclasses.replace(tensor, scale=float(source.scale * scales[0]))
        lowest, highest = WEIGHT_RANGES[weight_bits]
        integers = np.clip(np.rint(flat / scales[:, None]), lowest, highest).astype(np.int64)
        folded = np.rint(bias / (source.scale * scales)).astype(np.int64)
        folded -= source.zero_point * integers.sum(axis=1)
        largest = (np.abs(folded) + np.abs(integers).sum(axis=1) * (2**source.bits - 1)).max()
        if largest >= INT32_LIMIT:
            raise InputError(f"layer {layer.name}: its accumulators may reach {largest}, which 32 bits cannot hold")
        requantize = None
        if not final:
            factors = source.scale * scales / (tensor.scale or 1.0)
            requantize = requantization(layer, factors, tensor)
        quantized = dataclasses.replace(
            layer,
            weight=integers.reshape(layer.weight.shape).astype(np.int8),
            bias=folded.astype(np.int32),
            input_zero_point=source.zero_point,
            requantize=requantize,
            clip=None,
            weight_bits=weight_bits,
        )
        if final and layer.clip is not None:
            raise InputError(f"layer {layer.name}: a network's last layer cannot have a ReLU with an upper limit")
        return quantized, tensor

    def _average(self, layer: AvgPool2d, source: Tensor, bits: int | None) -> tuple[Operator, Tensor]:
        """bits: None keeps the input's scale."""
        assert source.scale is not None
        # The mean of a range stays in that range: where the scale is kept, only 1 / count is rounded.
        tensor = self._renamed(source, layer.output) if bits is None else self._activation(layer.output, bits)
        assert tensor.scale is not None
        factor = source.scale / tensor.scale / layer.count
        requantize = requantization(layer, np.array([factor]), tensor)
        return dataclasses.replace(layer, input_zero_point=source.zero_point, requantize=requantize), tensor

    def _sum(self, layer: Add, sources: tuple[Tensor, Tensor], bits: int) -> tuple[Operator, Tensor]:
        final = layer is self._graph.layers[-1]
        tensor = self._activation(layer.output, 8 if final else bits)
        assert tensor.scale is not None
        factors = [(source.scale or 1.0) / tensor.scale for source in sources]
        requantize = sum_requantization(layer, (factors[0], factors[1]), tensor)
        zero_points = sources[0].zero_point, sources[1].zero_point
        return dataclasses.replace(layer, input_zero_points=zero_points, requantize=requantize, clip=None), tensor

    # ---- scales

    def _activation(self, name: str, bits: int) -> Tensor:
        scale, zero_point = self._scale(name, bits)
        declared = self._graph.tensors[name]
        return dataclasses.replace(declared, dtype="uint8", scale=scale, zero_point=zero_point, bits=bits)

    def _renamed(self, source: Tensor, name: str) -> Tensor:
        """A tensor of the scale of `source`."""
        return dataclasses.replace(source, name=name, shape=self._graph.tensors[name].shape)

    def _scale(self, name: str, bits: int) -> tuple[float, int]:
        if (name, bits) not in self._activation_scales:
            self._activation_scales[name, bits] = _activation_scale(self._observations[name], bits)
        return self._activation_scales[name, bits]

    def _scales_of(self, layer: Weighted, input_scale: float, bits: int) -> Array:
        """(O,) scales of the weights: of the least squared error, but none that is too small for the bias.

        A channel without weights still has a bias to represent; and a bias must leave 30 bits.
        """
        chosen = self._best_scales(layer, bits)
        needed = np.abs(layer.bias.astype(np.float64)) / input_scale
        empty = ~layer.weight.reshape(len(layer.weight), -1).any(axis=1)
        chosen = np.where(empty & (needed > 0), needed / 2**16, chosen)
        return np.maximum(chosen, needed / 2**30)

    def _best_scales(self, layer: Weighted, bits: int) -> Array:
        if (layer.name, bits) not in self._weight_scales:
            flat = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
            self._weight_scales[layer.name, bits] = _weight_scales(flat, bits)
        return self._weight_scales[layer.name, bits]

    def _lost(self, layer: Weighted, bits: int) -> Array:
        """(O,) what rounding the weights takes from each channel's output on the average."""
        scales = self._best_scales(layer, bits)
        if layer is self._graph.layers[-1]:
            scales = np.full_like(scales, scales.max())
        steps = scales.reshape(-1, *[1] * (layer.weight.ndim - 1))
        errors = layer.weight - np.clip(np.rint(layer.weight / steps), *WEIGHT_RANGES[bits]) * steps
        means = self._observations[layer.inputs[0]].means
        if isinstance(layer, DepthwiseConv2d):
            return np.asarray(errors.sum(axis=(1, 2)) * means)
        # Columns of a convolution are positions of the kernel, with the channels of each side by side.
        return np.asarray(errors.reshape(len(errors), -1, len(means)).sum(axis=1) @ means)


def _log_softmax(logits: Array) -> Array:
    """(N, C) logarithms of the classes' probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def requantization(layer: Operator, factors: Array, tensor: Tensor) -> Requantization:
    """To `tensor`'s scale; InputError where multipliers of 31 bits and shifts of 1 to 62 cannot express the factors."""
    if not (factors.min() >= _SMALLEST_FACTOR and factors.max() < _FACTOR_LIMIT):
        raise InputError(
            f"layer {layer.name}: its requantisation factors, {factors.min():.3g} to {factors.max():.3g}, are outside "
            "the arithmetic's range",
            hint="its weights or its activations are all but zero, or enormous: look at how it was trained",
        )
    return Requantization.from_scales(factors, tensor.zero_point, tensor.bits)


def sum_requantization(layer: Add, factors: tuple[float, float], tensor: Tensor) -> Requantization:
    """Of a sum to `tensor`'s scale; InputError where its multipliers cannot express the factors."""
    if not max(factors) < 2.0 ** (MULTIPLIER_BITS - 1):
        raise InputError(f"layer {layer.name}: its inputs' scales are outside the arithmetic's range")
    return Add.requantization(factors, tensor.zero_point, tensor.bits)


def _observe(values: Array, *, flat: bool) -> _Observation:
    """values: (N, ..., C). flat: whether every element has a mean of its own."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    elements = int(np.prod(values.shape[1:])) if flat else values.shape[-1]
    means = values.reshape(-1, elements).mean(axis=0, dtype=np.float64)
    if high - low <= 0:
        return _Observation(0.0, 0.0, np.zeros(1), np.zeros(1), means)
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    return _Observation(low, high, counts, (edges[:-1] + edges[1:]) / 2, means)


def _weight_scales(weight: Array, bits: int) -> Array:
    """(O,) scales of symmetric weights (O, I), by the least squared error over clipping."""
    lowest, highest = WEIGHT_RANGES[bits]
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest > 0, largest / highest, 1 / highest)
    best = np.full(len(weight), np.inf)
    chosen = scales.copy()
    for fraction in _CLIPPING[bits]:
        candidate = scales * fraction
        rounded = np.clip(np.rint(weight / candidate[:, None]), lowest, highest) * candidate[:, None]
        error = ((rounded - weight) ** 2).sum(axis=1)
        better = error < best
        best[better], chosen[better] = error[better], candidate[better]
    return chosen


def _activation_scale(seen: _Observation, bits: int) -> tuple[float, int]:
    """(scale, zero_point) of unsigned activations, by the least squared error over clipping."""
    limit = 2**bits - 1
    if seen.high - seen.low <= 0:
        return 1.0 / limit, 0
    best, chosen = np.inf, (1.0, 0)
    for fraction in _CLIPPING[bits]:
        scale = (seen.high - seen.low) * fraction / limit
        zero_point = round(-seen.low * fraction / scale)
        rounded = np.clip(np.rint(seen.centers / scale) + zero_point, 0, limit)
        error = float((seen.counts * ((rounded - zero_point) * scale - seen.centers) ** 2).sum())
        if error < best:
            best, chosen = error, (scale, zero_point)
    return chosen
