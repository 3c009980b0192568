"""Post-training quantisation: a float Graph and calibration data become an integer Graph.

Rules: weights are signed, symmetric, one scale per output channel; activations are unsigned with one scale per tensor;
the layer that ends the network keeps its int32 accumulators, under one scale, so the class is decided without rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import INT32_LIMIT, Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d

WEIGHT_LIMIT = 127
ACTIVATION_LIMIT = 255

# Clipping fractions of the largest value tried when a scale is chosen by its squared error.
_CLIPPING = np.linspace(0.5, 1.0, 26)


def quantize(
    graph: Graph,
    calibration: Array,
    input_scale: float | None = None,
    input_zero_point: int = 0,
    *,
    progress: Callable[[float], None] | None = None,
) -> Graph:
    """The int8 Graph of a float one.

    calibration: (N, H, W, C) float32, what the network really sees, from training or validation data.
    input_scale, input_zero_point: the scale of uint8 input data; None lets the calibration data decide.
    progress: called with the fraction done.
    InputError when a layer's accumulators could overflow 32 bits.
    """
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
        source = tensors[layer.inputs[0]]
        declared = graph.tensors[layer.output]
        if isinstance(layer, Conv2d | Linear):
            quantized, tensor = _quantize_weighted(layer, source, declared, values, final=layer is last)
        elif isinstance(layer, MaxPool2d):
            quantized, tensor = layer, dataclasses.replace(source, name=declared.name, shape=declared.shape)
        elif isinstance(layer, AvgPool2d):
            # The mean of a range stays in that range: the scale is kept, only 1 / count is rounded.
            requantize = Requantization.from_scales(np.array([1.0 / layer.count]), source.zero_point)
            quantized = dataclasses.replace(layer, input_zero_point=source.zero_point, requantize=requantize)
            tensor = dataclasses.replace(source, name=declared.name, shape=declared.shape)
        else:
            raise InputError(f"layer {layer.name}: {layer.kind} has no integer form")
        layers.append(quantized)
        tensors[tensor.name] = tensor
        if progress:
            progress((index + 1) / len(graph.layers))
    return build(graph.name, tensors[graph.input], tuple(layers), tensors)


def _quantize_weighted(
    layer: Conv2d | Linear, source: Tensor, declared: Tensor, values: Array, *, final: bool
) -> tuple[Operator, Tensor]:
    assert source.scale is not None
    flat = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    bias = layer.bias.astype(np.float64)
    scales = _weight_scales(flat, bias, source.scale)
    if final:
        scales = np.full_like(scales, scales.max())
    integers = np.clip(np.rint(flat / scales[:, None]), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int64)
    folded = np.rint(bias / (source.scale * scales)).astype(np.int64) - source.zero_point * integers.sum(axis=1)
    largest = (np.abs(folded) + np.abs(integers).sum(axis=1) * ACTIVATION_LIMIT).max()
    if largest >= INT32_LIMIT:
        raise InputError(f"layer {layer.name}: its accumulators may reach {largest}, which 32 bits cannot hold")
    requantize = None
    if final:
        tensor = dataclasses.replace(declared, dtype="int32", scale=float(source.scale * scales[0]), bits=32)
    else:
        scale, zero_point = _activation_scale(values)
        tensor = dataclasses.replace(declared, dtype="uint8", scale=scale, zero_point=zero_point)
        requantize = Requantization.from_scales(source.scale * scales / scale, zero_point)
    quantized = dataclasses.replace(
        layer,
        weight=integers.reshape(layer.weight.shape).astype(np.int8),
        bias=folded.astype(np.int32),
        input_zero_point=source.zero_point,
        requantize=requantize,
    )
    return quantized, tensor


def _weight_scales(weight: Array, bias: Array, input_scale: float) -> Array:
    """(O,) scales of symmetric 8-bit weights (O, I), by the least squared error over clipping.

    A channel without weights still has a bias to represent; and no scale may be so small that the bias leaves 30 bits.
    """
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest > 0, largest / WEIGHT_LIMIT, 1 / WEIGHT_LIMIT)
    best = np.full(len(weight), np.inf)
    chosen = scales.copy()
    for fraction in _CLIPPING:
        candidate = scales * fraction
        rounded = np.clip(np.rint(weight / candidate[:, None]), -WEIGHT_LIMIT, WEIGHT_LIMIT) * candidate[:, None]
        error = ((rounded - weight) ** 2).sum(axis=1)
        better = error < best
        best[better], chosen[better] = error[better], candidate[better]
    needed = np.abs(bias) / input_scale
    chosen = np.where((largest == 0) & (needed > 0), needed / 2**16, chosen)
    return np.maximum(chosen, needed / 2**30)


def _activation_scale(values: Array) -> tuple[float, int]:
    """(scale, zero_point) of unsigned 8-bit activations, by the least squared error over clipping on a histogram."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high - low <= 0:
        return 1.0 / ACTIVATION_LIMIT, 0
    counts, edges = np.histogram(values, bins=2048, range=(low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    best, chosen = np.inf, (1.0, 0)
    for fraction in _CLIPPING:
        scale = (high - low) * fraction / ACTIVATION_LIMIT
        zero_point = round(-low * fraction / scale)
        rounded = np.clip(np.rint(centers / scale) + zero_point, 0, ACTIVATION_LIMIT)
        error = float((counts * ((rounded - zero_point) * scale - centers) ** 2).sum())
        if error < best:
            best, chosen = error, (scale, zero_point)
    return chosen
