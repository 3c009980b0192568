"""Convolution of floats in groups of filters (nn_conv2d_f32_groups.h): the dense form for cores with an FPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# Sums of a group at two positions, their inputs and a tap's weights fill the 32 registers of the FPU.
_LARGEST_GROUP = 8


def group_size(filters: int) -> int:
    """Filters of one group, by the instructions that all groups take for a tap: five, and two for each filter."""
    return min(range(1, _LARGEST_GROUP + 1), key=lambda size: -(-filters // size) * (5 + 2 * size))


def pack_groups(weight: Array, bias: Array) -> Array:
    """(O, KH, KW, I), (O,) float32 -> flat: for each group its biases, then for each tap the weights of its filters.

    Places in the last group that have no filter hold zeros.
    """
    filters = len(weight)
    size = group_size(filters)
    groups = -(-filters // size)
    padded = np.zeros((groups * size, 1 + weight[0].size), np.float32)
    padded[:filters, 0] = bias
    padded[:filters, 1:] = weight.reshape(filters, -1)
    return padded.reshape(groups, size, -1).transpose(0, 2, 1).ravel()


class GroupsConv2dF32(Form["Conv2d"]):
    """Up to eight filters at two positions at a time, sums in registers."""

    name = "groups"

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        _, rows, columns, _ = layer.weight.shape
        return site.target.dsp and layer.padding[0] < rows and layer.padding[1] < columns

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        flash = pack_groups(layer.weight, layer.bias).nbytes
        return Cost(flash, 0, int(1.3 * layer.macs(site.input_shape)))

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_conv2d_f32_groups.h",
            kernel="nn_conv2d_f32_groups",
            record="nn_conv2d_f32_groups_layer",
            fields={
                "shape": conv_shape(layer, site),
                "group": group_size(len(layer.bias)),
                "weights": Reference("weights"),
            },
            constants=(Constant("weights", "float", pack_groups(layer.weight, layer.bias)),),
        )
