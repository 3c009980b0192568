"""Post-training quantisation: a float Graph and calibration data become an integer Graph.

Rules: weights are signed, symmetric, one scale per output channel; activations are unsigned with one scale per tensor;
the layer that ends the network keeps its int32 accumulators, under one scale, so the class is decided without rounding.
Everything has 8 bits unless a policy says otherwise; a tensor's scale depends on its values and its own width alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d

if TYPE_CHECKING:
    from harness.search.policy import Policy

# Lowest and highest weight by width.
WEIGHT_LIMITS = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}

# Clipping fractions of the largest value tried when a scale is chosen by its squared error. The fewer the levels, the
# more it pays to give up large values.
_CLIPPING = {8: np.linspace(0.5, 1.0, 26), 4: np.linspace(0.2, 1.0, 41), 2: np.linspace(0.1, 1.0, 46)}

# Multipliers have 30 bits or more, shifts are 62 at most: smaller factors lose their precision.
_SMALLEST_FACTOR = 2.0**-32

Weighted = Conv2d | DepthwiseConv2d | Linear


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
    policy: the tensors' widths, 8 bits everywhere without one. progress: called with the fraction done.
    InputError for a policy of another network, and, with the layer's name, where accumulators could overflow 32 bits or
    a scale is outside the arithmetic's range.
    """
    if policy is not None:
        policy.check(graph)
    if not np.isfinite(calibration).all():
        raise InputError("the calibration data holds NaN or infinite values")
    if input_scale is None:
        input_scale, input_zero_point = _activation_scale(calibration)
    tensors = {
        graph.input: dataclasses.replace(
            graph.input_tensor, dtype="uint8", scale=input_scale, zero_point=input_zero_point
        )
    }
    layers: list[Operator] = []
    last = graph.layers[-1]
    for index, (layer, values) in enumerate(graph.run(calibration)):
        sources = [tensors[name] for name in layer.inputs]
        declared = graph.tensors[layer.output]
        bits = 8 if policy is None else policy.activations.get(layer.name, 8)
        if isinstance(layer, Conv2d | DepthwiseConv2d | Linear):
            weight_bits = 8 if policy is None else policy.weights[layer.name]
            quantized, tensor = _quantize_weighted(
                layer, sources[0], declared, values, weight_bits, bits, final=layer is last
            )
        elif isinstance(layer, MaxPool2d):
            quantized, tensor = layer, dataclasses.replace(sources[0], name=declared.name, shape=declared.shape)
        elif isinstance(layer, AvgPool2d):
            quantized, tensor = _quantize_average(layer, sources[0], declared, None if policy is None else values, bits)
        elif isinstance(layer, Add):
            quantized, tensor = _quantize_sum(layer, sources, declared, values, bits)
        else:
            raise InputError(f"layer {layer.name}: {layer.kind} has no integer form")
        layers.append(quantized)
        tensors[tensor.name] = tensor
        if progress:
            progress((index + 1) / len(graph.layers))
    return build(graph.name, tensors[graph.input], tuple(layers), tensors)


def _quantize_weighted(
    layer: Weighted,
    source: Tensor,
    declared: Tensor,
    values: Array,
    weight_bits: int,
    bits: int,
    *,
    final: bool,
) -> tuple[Operator, Tensor]:
    assert source.scale is not None
    flat = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    bias = layer.bias.astype(np.float64)
    scales = _weight_scales(flat, bias, source.scale, weight_bits)
    if final:
        scales = np.full_like(scales, scales.max())
    integers = np.clip(np.rint(flat / scales[:, None]), *WEIGHT_LIMITS[weight_bits]).astype(np.int64)
    folded = np.rint(bias / (source.scale * scales)).astype(np.int64) - source.zero_point * integers.sum(axis=1)
    largest = (np.abs(folded) + np.abs(integers).sum(axis=1) * (2**source.bits - 1)).max()
    if largest >= INT32_LIMIT:
        raise InputError(f"layer {layer.name}: its accumulators may reach {largest}, which 32 bits cannot hold")
    requantize = None
    if final:
        tensor = dataclasses.replace(declared, dtype="int32", scale=float(source.scale * scales[0]), bits=32)
    else:
        scale, zero_point = _activation_scale(values, bits)
        tensor = dataclasses.replace(declared, dtype="uint8", scale=scale, zero_point=zero_point, bits=bits)
        requantize = _requantization(layer, source.scale * scales / scale, zero_point, bits)
    quantized = dataclasses.replace(
        layer,
        weight=integers.reshape(layer.weight.shape).astype(np.int8),
        bias=folded.astype(np.int32),
        input_zero_point=source.zero_point,
        requantize=requantize,
        weight_bits=weight_bits,
    )
    return quantized, tensor


def _quantize_average(
    layer: AvgPool2d, source: Tensor, declared: Tensor, values: Array | None, bits: int
) -> tuple[Operator, Tensor]:
    """values: what the layer yields, for a scale of its own; None keeps its input's."""
    assert source.scale is not None
    if values is None:
        # The mean of a range stays in that range: the scale is kept, only 1 / count is rounded.
        tensor = dataclasses.replace(source, name=declared.name, shape=declared.shape)
        requantize = Requantization.from_scales(np.array([1.0 / layer.count]), source.zero_point)
    else:
        scale, zero_point = _activation_scale(values, bits)
        tensor = dataclasses.replace(declared, dtype="uint8", scale=scale, zero_point=zero_point, bits=bits)
        requantize = _requantization(layer, np.array([source.scale / scale / layer.count]), zero_point, bits)
    return dataclasses.replace(layer, input_zero_point=source.zero_point, requantize=requantize), tensor


def _quantize_sum(
    layer: Add, sources: list[Tensor], declared: Tensor, values: Array, bits: int
) -> tuple[Operator, Tensor]:
    scale, zero_point = _activation_scale(values, bits)
    first, second = sources
    assert first.scale is not None and second.scale is not None
    quantized = dataclasses.replace(
        layer,
        input_zero_points=(first.zero_point, second.zero_point),
        requantize=Add.requantization((first.scale / scale, second.scale / scale), zero_point, bits),
    )
    return quantized, dataclasses.replace(declared, dtype="uint8", scale=scale, zero_point=zero_point, bits=bits)


def _requantization(layer: Operator, factors: Array, zero_point: int, bits: int) -> Requantization:
    """The multipliers for real `factors`; InputError with the layer's name where none are precise enough."""
    smallest = float(factors.min())
    if smallest < _SMALLEST_FACTOR:
        raise InputError(
            f"layer {layer.name}: its requantisation factor {smallest:.3g} needs a shift of more than 62 bits",
            hint="a channel's weights are tiny beside the layer's output: prune it, or train with weight decay",
        )
    return Requantization.from_scales(factors, zero_point, bits)


def _weight_scales(weight: Array, bias: Array, input_scale: float, bits: int) -> Array:
    """(O,) scales of symmetric weights (O, I) of that width, by the least squared error over clipping.

    A channel without weights still has a bias to represent; and no scale may be so small that the bias leaves 30 bits.
    """
    lowest, highest = WEIGHT_LIMITS[bits]
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
    needed = np.abs(bias) / input_scale
    chosen = np.where((largest == 0) & (needed > 0), needed / 2**16, chosen)
    return np.maximum(chosen, needed / 2**30)


def _activation_scale(values: Array, bits: int = 8) -> tuple[float, int]:
    """(scale, zero_point) of unsigned activations, by the least squared error over clipping on a histogram."""
    limit = 2**bits - 1
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high - low <= 0:
        return 1.0 / limit, 0
    counts, edges = np.histogram(values, bins=2048, range=(low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    best, chosen = np.inf, (1.0, 0)
    for fraction in _CLIPPING[bits]:
        scale = (high - low) * fraction / limit
        zero_point = round(-low * fraction / scale)
        rounded = np.clip(np.rint(centers / scale) + zero_point, 0, limit)
        error = float((counts * ((rounded - zero_point) * scale - centers) ** 2).sum())
        if error < best:
            best, chosen = error, (scale, zero_point)
    return chosen
