"""Scales of a half and more, whose T is below 32: weights and biases that are powers of two larger bring it to 32.

Cores with the DSP extension round with one instruction where T is 32 (Requantization.one_instruction). Scales of narrow
weights are often larger than that allows: acc * M >> T is then computed as (acc * 2**lift) * M >> 32, which costs
nothing where weights are unpacked, or have the bits to be stored so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from harness.ops.base import INT32_LIMIT
from harness.ops.packing import WEIGHT_RANGES

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d
    from harness.ops.depthwise_conv2d import DepthwiseConv2d

W = TypeVar("W", "Conv2d", "DepthwiseConv2d")


def reach(weight: Array, bias: Array, input_bits: int) -> tuple[Array, Array]:
    """(O,) int64: between what the sums of (O, ...) weights and unsigned inputs lie, with their biases."""
    flat, highest = weight.reshape(len(weight), -1).astype(np.int64), 2**input_bits - 1
    wide = bias.astype(np.int64)
    return wide + highest * flat.clip(max=0).sum(axis=1), wide + highest * flat.clip(min=0).sum(axis=1)


def unpacked(layer: W, input_bits: int) -> tuple[int, W]:
    """The same function of the same input with every T = 32, for forms that unpack weights of 4 and 2 bits to bytes.

    Returns by how many bits they have to lift all of them, and the layer with such weights and biases (whose
    weight_bits are those of the weights as they are stored). Where that is not exact for every input, or nothing is to
    be done: 0, and `layer` itself.
    """
    requantize = layer.requantize
    if requantize is None or requantize.one_instruction:
        return 0, layer
    lift = max(32 - int(requantize.shift.min()), 0)
    if lift > 8 - layer.weight_bits:
        return 0, layer
    weight, bias = layer.weight.astype(np.int64) << lift, layer.bias.astype(np.int64) << lift
    lowest, highest = reach(weight, bias, input_bits)
    found = requantize.at_32(np.full_like(requantize.shift, lift), lowest >> lift, highest >> lift)
    if found is None or not _hold(lowest, highest, bias):
        return 0, layer
    return lift, replace(layer, weight=weight.astype(np.int8), bias=bias.astype(np.int32), requantize=found)


def stored(layer: W, input_bits: int) -> W:
    """The same function of the same input with every T = 32, where that is possible; otherwise `layer` itself.

    Weights and biases of channels with a smaller T are 2**(32 - T) times as large, and then may have more bits.
    """
    requantize = layer.requantize
    if requantize is None or requantize.one_instruction:
        return layer
    lifts = np.maximum(32 - requantize.shift, 0)
    each = lifts.reshape(-1, *[1] * (layer.weight.ndim - 1))
    weight, bias = layer.weight.astype(np.int64) << each, layer.bias.astype(np.int64) << lifts
    fitting = [bits for bits in (4, 8) if bits >= layer.weight_bits and _fits(weight, bits)]
    lowest, highest = reach(weight, bias, input_bits)
    found = requantize.at_32(lifts, lowest >> lifts, highest >> lifts)
    if not fitting or found is None or not _hold(lowest, highest, bias):
        return layer
    narrow, wide = weight.astype(np.int8), bias.astype(np.int32)
    return replace(layer, weight=narrow, bias=wide, requantize=found, weight_bits=fitting[0])


def _hold(lowest: Array, highest: Array, bias: Array) -> bool:
    """Whether 32 bits hold sums between these, in whatever order they are summed up."""
    return max(-int(lowest.min()), int(highest.max())) + int(np.abs(bias).max()) < INT32_LIMIT


def _fits(weight: Array, bits: int) -> bool:
    """Whether weights are in the range of `bits`."""
    lowest, highest = WEIGHT_RANGES[bits]
    return bool(weight.min() >= lowest and weight.max() <= highest)
