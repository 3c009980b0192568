"""What the fully connected forms for cores with DSP share: their prepared input (nn_linear_pairs.h), bounds of sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import Storage, image_rows
from harness.ops.packed import row_buffer

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear
    from harness.ops.lowering import Site


def fours(inputs: int) -> int:
    """How many fours of inputs there are, the last one maybe not whole."""
    return -(-inputs // 4)


def scratch_bytes(layer: Linear, site: Site) -> int:
    """Of the prepared input, and of the outputs before they are packed."""
    return 8 * fours(int(layer.weight.shape[1])) + row_buffer(site)


def prepare_instructions(layer: Linear, site: Site, *, summed: bool) -> int:
    """What it takes to prepare the input, and to sum it up."""
    count = fours(int(layer.weight.shape[1]))
    rows, elements = image_rows(site.input_shape)
    if site.input is Storage.U8:
        return (5 if summed else 4) * count
    if site.input.packed and (rows == 1 or elements * site.input.bits % 32 == 0):
        return 14 * count
    return 70 * count


def finish_instructions(layer: Linear) -> int:
    """What a group of four rows takes beside its words."""
    r = layer.requantize
    return 25 if r is None or (r.multiplier == r.multiplier[0]).all() else 32


def reach(weight: Array, bias: Array, input_bits: int) -> int:
    """The largest magnitude that sums of (O, I) weights with unsigned inputs of `input_bits` bits can come to, from
    their biases (O,) on, whatever the order."""
    highest, most = 2**input_bits - 1, 0
    for sign in (-1, 1):
        towards = np.where(weight * sign > 0, np.abs(weight.astype(np.int64)), 0).sum(axis=1) * highest
        most = max(most, int(np.maximum(towards + sign * bias.astype(np.int64), 0).max(initial=0)))
    return most
