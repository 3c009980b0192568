"""What the fully connected forms for cores with DSP share: their prepared input (nn_linear_pairs.h), bounds of sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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


def reach(weight: Array, bias: Array, input_bits: int) -> int:
    """The largest magnitude that sums of (O, I) weights with unsigned inputs of `input_bits` bits can come to, from
    their biases (O,) on, whatever the order."""
    highest, most = 2**input_bits - 1, 0
    for sign in (-1, 1):
        towards = np.where(weight * sign > 0, np.abs(weight.astype(np.int64)), 0).sum(axis=1) * highest
        most = max(most, int(np.maximum(towards + sign * bias.astype(np.int64), 0).max(initial=0)))
    return most
