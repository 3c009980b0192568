"""The float network as training under a policy sees it: its weights and activations fake-quantised, scales learned.

Gradients pass through rounding. What its parameters are in integers is a Graph again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from harness.compress import layers
from harness.compress.layers import Weighted
from harness.compress.quantize import requantization, sum_requantization
from harness.errors import InputError
from harness.graph.graph import Graph, build
from harness.graph.trace import BatchNorm
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Operator
from harness.ops.max_pool2d import MaxPool2d
from harness.ops.packing import WEIGHT_RANGES

# How fast a BatchNorm's running statistics follow those of the batches.
MOMENTUM = 0.1
_SMALLEST_EPSILON = 1e-20


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


def accumulator_scales(integers: Graph, layer: Weighted) -> np.ndarray:
    """(O,) float64: what one step of each channel's accumulators is worth, as far as the layer's multipliers tell."""
    scale = _scale(integers.tensors[layer.output].scale)
    if layer.requantize is None:
        return np.full(len(layer.weight), scale)
    return np.asarray(layer.requantize.multiplier * 2.0 ** -layer.requantize.shift.astype(np.float64) * scale)


def _quantized(x: Tensor, scale: Tensor | float, zero_point: int, bits: int) -> Tensor:
    """x in the steps of a tensor; the range is the clipping, of a ReLU as well, whose zero point is 0."""
    return _rounded(x / scale, -zero_point, 2**bits - 1 - zero_point) * scale


def _rounded(x: Tensor, low: float, high: float) -> Tensor:
    """x rounded half-even and clamped; the gradient passes within the limits."""
    clamped = x.clamp(low, high)
    return clamped + (clamped.round() - clamped).detach()


def _whole(x: Tensor, step: Tensor) -> Tensor:
    """`x` in whole steps; its gradient passes as if it were not."""
    step = step.detach()
    whole: Tensor = x + ((x / step).round() * step - x).detach()
    return whole


def _scale(scale: float | None) -> float:
    assert scale is not None
    return scale
