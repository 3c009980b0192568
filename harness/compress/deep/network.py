"""A float Graph as a trainable torch network with masks and learned scales, and the way back to an integer Graph.

Weights lie as in the Graph (output first, input channel last). Everything is computed in real numbers that an integer
network can represent: each fake-quantised weight, bias and activation is a whole multiple of a scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.compress.deep.cost import LANE_LIMIT, CostModel, positions
from harness.compress.quantize import quantize
from harness.errors import InputError
from harness.graph.graph import Graph, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d

_ACTIVATION_LIMIT = 255
_BIAS_LIMIT = 127
DENSE_LEVELS = 127


@dataclass(frozen=True)
class Setting:
    """How one weighted layer is compressed. levels: weights are -levels..levels times one scale.

    prunable: False leaves it dense int8. lanes: its filters' positive and negative sums are bounded by LANE_LIMIT.
    """

    levels: int
    prunable: bool
    lanes: bool


def settings(graph: Graph, cost: CostModel) -> tuple[Setting, ...]:
    """One setting per weighted layer of `graph`, in order."""
    return tuple(
        Setting(cost.levels(layer), True, cost.needs_lanes(layer))
        if cost.prunable(layer)
        else Setting(DENSE_LEVELS, False, False)
        for layer in weighted(graph)
    )


def weighted(graph: Graph) -> list[Conv2d | Linear]:
    """The layers that have weights, in order."""
    return [layer for layer in graph.layers if isinstance(layer, Conv2d | Linear)]


class Student(nn.Module):
    """The network being compressed.

    calibration: (N, H, W, C) float32, the network's real input; starts the activations' scales.
    Parameters: weights and biases in real numbers, logarithms of one scale per weight and per activation tensor.
    Buffers: one mask per weighted layer, 1 where a weight may be other than zero.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: tuple[Setting, ...],
        calibration: Array,
        input_scale: float | None,
        input_zero_point: int,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.settings = chosen
        layers = weighted(graph)
        if not layers or layers[-1] is not graph.layers[-1]:
            raise InputError(f"network {graph.name} does not end in a layer with weights: it cannot be compressed")
        # The int8 network of post-training quantisation supplies zero points and first scales of all activations.
        integers = quantize(graph, calibration, input_scale, input_zero_point)
        self.integers = integers
        source = integers.input_tensor
        assert source.scale is not None
        self.input_scale, self.input_zero_point = source.scale, source.zero_point
        self.zero_points = [integers.tensors[layer.output].zero_point for layer in layers[:-1]]
        self.weight = nn.ParameterList([nn.Parameter(torch.from_numpy(layer.weight.copy())) for layer in layers])
        self.bias = nn.ParameterList([nn.Parameter(torch.from_numpy(layer.bias.copy())) for layer in layers])
        scales = [_first_scale(layer.weight, s.levels) for layer, s in zip(layers, chosen, strict=True)]
        self.log_scale = nn.ParameterList([nn.Parameter(torch.tensor(math.log(scale))) for scale in scales])
        self.log_activation = nn.ParameterList(
            [nn.Parameter(torch.tensor(math.log(_scale(integers, layer.output)))) for layer in layers[:-1]]
        )
        for index, layer in enumerate(layers):
            self.register_buffer(f"mask{index}", torch.ones(layer.weight.shape))
        self._read = [torch.ones(len(layer.bias)) for layer in layers]

    @property
    def masks(self) -> list[Tensor]:
        """The masks in the order of the weighted layers."""
        return [self.get_buffer(f"mask{index}") for index in range(len(self.settings))]

    def set_masks(self, masks: Sequence[Tensor]) -> None:
        """Replaces the masks. Units that nothing reads any more lose their bias: it would only coarsen the others'."""
        for mask, new in zip(self.masks, masks, strict=True):
            mask.copy_(new)
        for read, mask in zip(self._read, masks[1:], strict=False):
            read.copy_(mask.reshape(len(mask), -1, len(read)).amax(dim=(0, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) float32 holding the 8-bit integers of the network's input. Returns logits (N, classes)."""
        x = (x - self.input_zero_point) * self.input_scale
        scale: Tensor | float = self.input_scale
        index = 0
        for layer in self.graph.layers:
            if isinstance(layer, MaxPool2d):
                x = F.max_pool2d(x, layer.window.kernel, layer.window.stride)
                continue
            if isinstance(layer, AvgPool2d):
                x = F.avg_pool2d(x, layer.window.kernel, layer.window.stride)
                x = (x / scale + ((x / scale).round() - x / scale).detach()) * scale
                continue
            assert isinstance(layer, Conv2d | Linear)
            weight = self._fake_weight(index)
            bias = self._fake_bias(index, scale)
            if isinstance(layer, Conv2d):
                x = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, layer.stride, layer.padding)
                if layer.pool is not None:
                    x = F.max_pool2d(x, layer.pool.kernel, layer.pool.stride)
            else:
                flat = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
                x = F.linear(flat, weight, bias)
            if layer.relu:
                x = F.relu(x)
            if index < len(self.log_activation):
                scale = self.log_activation[index].exp()
                x = _rounded(x / scale, -self.zero_points[index], _ACTIVATION_LIMIT - self.zero_points[index]) * scale
            index += 1
        return x

    def _fake_weight(self, index: int) -> Tensor:
        """Masked, rounded weights."""
        latent, mask, levels = self.weight[index], self.masks[index], self.settings[index].levels
        scale = self.log_scale[index].exp()
        # The scale learns as in arXiv 1902.08153, but a weight's gradient also passes beyond the outermost level:
        # pruning leaves mostly large weights, and all that had ever been clipped would be frozen.
        rounded = _rounded(latent.detach() / scale, -levels, levels) * scale
        kept: Tensor = (rounded + latent - latent.detach()) * mask
        return kept

    def _bias_step(self, index: int, scale: Tensor | float) -> Tensor:
        """What biases are multiples of: a power of two of the accumulators' unit, so that 8 bits hold each."""
        unit = (self.log_scale[index].exp() * scale).detach()
        largest = (self.bias[index].detach() * self._read[index]).abs().max() / unit / _BIAS_LIMIT
        step: Tensor = unit * torch.exp2(torch.ceil(torch.log2(largest.clamp(min=1.0))))
        return step

    def _fake_bias(self, index: int, scale: Tensor | float) -> Tensor:
        bias = self.bias[index] * self._read[index]
        step = self._bias_step(index, scale)
        rounded: Tensor = bias + ((bias / step).round() * step - bias).detach()
        return rounded

    @torch.no_grad()
    def bound_lanes(self) -> None:
        """Scales the weights of filters down whose positive or negative sum has outgrown the lanes."""
        for latent, mask, log_scale, setting in zip(
            self.weight, self.masks, self.log_scale, self.settings, strict=True
        ):
            if not setting.lanes:
                continue
            integers = (latent / log_scale.exp()).clamp(-setting.levels, setting.levels).round() * mask
            for sign in (1, -1):
                part = (sign * integers).clamp(min=0)
                factor = LANE_LIMIT / part.sum(dim=(1, 2, 3), keepdim=True).clamp(min=LANE_LIMIT)
                latent.mul_(torch.where(part > 0, factor, 1.0))

    @torch.no_grad()
    def integer_weights(self) -> list[Array]:
        """What `forward` uses, as integers in the Graph's layout, int8, lane limits repaired."""
        result = []
        for latent, mask, log_scale, setting in zip(
            self.weight, self.masks, self.log_scale, self.settings, strict=True
        ):
            scaled = (latent / log_scale.exp()).clamp(-setting.levels, setting.levels)
            integers = (scaled.round() * mask).numpy().astype(np.int8)
            result.append(repair_lanes(integers, scaled.numpy()) if setting.lanes else integers)
        return result

    @torch.no_grad()
    def to_graph(self) -> Graph:
        """The integer Graph of the present parameters; exact arithmetic from here on.

        InputError where a layer's accumulators could overflow 32 bits.
        """
        integers = self.integer_weights()
        tensors = {self.graph.input: self.integers.input_tensor}
        layers: list[Operator] = []
        index = 0
        for layer, reference in zip(self.graph.layers, self.integers.layers, strict=True):
            source = tensors[layer.inputs[0]]
            declared = self.integers.tensors[layer.output]
            if isinstance(layer, Conv2d | Linear):
                assert source.scale is not None
                unit = float(self.log_scale[index].exp()) * source.scale
                step = max(1, round(float(self._bias_step(index, source.scale)) / unit))
                weight = integers[index].astype(np.int64).reshape(len(layer.bias), -1)
                wanted = (self.bias[index] * self._read[index]).numpy().astype(np.float64)
                bias = np.rint(wanted / (unit * step)).astype(np.int64) * step
                bias -= source.zero_point * weight.sum(axis=1)
                _check_accumulators(layer, weight, bias)
                requantize = None
                if index < len(self.log_activation):
                    scale = float(self.log_activation[index].exp())
                    declared = dataclasses.replace(declared, scale=scale)
                    factors = np.full(len(bias), unit / scale)
                    requantize = Requantization.from_scales(factors, declared.zero_point)
                else:
                    declared = dataclasses.replace(declared, scale=unit)
                layers.append(
                    dataclasses.replace(
                        layer,
                        weight=integers[index],
                        bias=bias.astype(np.int32),
                        input_zero_point=source.zero_point,
                        requantize=requantize,
                    )
                )
                index += 1
            else:
                layers.append(reference)
                declared = dataclasses.replace(declared, scale=source.scale, zero_point=source.zero_point)
            tensors[declared.name] = declared
        return build(self.graph.name, self.integers.input_tensor, tuple(layers), tensors)

    def positions(self, index: int) -> int:
        """At how many places of its input weighted layer `index` is applied."""
        return positions(self.graph, weighted(self.graph)[index])


def repair_lanes(integers: Array, wanted: Array) -> Array:
    """Weights whose positive and negative sums are within LANE_LIMIT in each filter.

    integers: (O, ...) int8. wanted: the same before rounding: the weights that were rounded up furthest lose a step.
    """
    result = integers.astype(np.int64)
    error = np.abs(result) - np.abs(wanted.astype(np.float64))
    for row, distance in zip(result.reshape(len(result), -1), error.reshape(len(result), -1), strict=True):
        for sign in (1, -1):
            excess = int((sign * row).clip(min=0).sum()) - LANE_LIMIT
            for _ in range(max(0, excess)):
                candidates = np.flatnonzero(sign * row > 0)
                worst = candidates[np.argmax(distance[candidates])]
                row[worst] -= sign
                distance[worst] -= 1
    return result.astype(integers.dtype)


def _check_accumulators(layer: Conv2d | Linear, weight: Array, bias: Array) -> None:
    largest = int((np.abs(bias) + np.abs(weight).sum(axis=1) * _ACTIVATION_LIMIT).max())
    if largest >= INT32_LIMIT:
        raise InputError(f"layer {layer.name}: its accumulators may reach {largest}, which 32 bits cannot hold")


def _rounded(x: Tensor, low: float, high: float) -> Tensor:
    """x rounded half-even and clamped; the gradient passes within the limits (learned step size, arXiv 1902.08153)."""
    clamped = x.clamp(low, high)
    return clamped + (clamped.round() - clamped).detach()


def _scale(graph: Graph, name: str) -> float:
    scale = graph.tensors[name].scale
    assert scale is not None
    return scale


def _first_scale(weight: Array, levels: int) -> float:
    """For few levels twice the mean magnitude over their root (arXiv 1902.08153, section 2.1), else no clipping."""
    if levels == DENSE_LEVELS:
        return max(float(np.abs(weight).max()), 1e-6) / levels
    mean = float(np.abs(weight).mean())
    return 2 * mean / math.sqrt(levels) if mean > 0 else 1.0 / levels
