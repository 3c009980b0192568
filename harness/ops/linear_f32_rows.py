"""The fully connected layer of floats two rows at a time (nn_linear_f32_rows.h): for cores with an FPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site
from harness.ops.shapes import linear_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear

_BLOCK = 8


def pack_rows(weight: Array, bias: Array) -> Array:
    """(O, I), (O,) float32 -> flat: pairs of rows. An odd last row has a partner of zeros.

    In a pair: the biases; in blocks of eight inputs the weights row after row; the rest input by input.
    """
    outputs, inputs = weight.shape
    whole = inputs // _BLOCK * _BLOCK
    pairs = np.zeros((outputs + outputs % 2, inputs), np.float32)
    pairs[:outputs] = weight
    pairs = pairs.reshape(-1, 2, inputs)
    biases = np.pad(bias.astype(np.float32), (0, outputs % 2)).reshape(-1, 2)
    blocks = pairs[..., :whole].reshape(len(pairs), 2, -1, _BLOCK).transpose(0, 2, 1, 3).reshape(len(pairs), -1)
    rest = pairs[..., whole:].transpose(0, 2, 1).reshape(len(pairs), -1)
    return np.concatenate([biases, blocks, rest], axis=1).ravel()


class RowsLinearF32(Form["Linear"]):
    """Two rows at a time, sums in registers."""

    name = "rows"

    def applicable(self, layer: Linear, site: Site) -> bool:
        return site.target.dsp

    def cost(self, layer: Linear, site: Site) -> Cost:
        return Cost(pack_rows(layer.weight, layer.bias).nbytes, 0, int(1.4 * layer.weight.size))

    def lower(self, layer: Linear, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_linear_f32_rows.h",
            kernel="nn_linear_f32_rows",
            record="nn_linear_f32_rows_layer",
            fields={
                "shape": linear_shape(layer, site),
                "weights": Reference("weights"),
            },
            constants=(Constant("weights", "float", pack_rows(layer.weight, layer.bias)),),
        )
