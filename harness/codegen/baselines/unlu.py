"""Kernels `unlu`: the float32 C of arXiv 2007.01348, the denominator of paper A's ratios.

Run-time dimensions, planar activations, max-pooling fused into the convolution, and two buffers that take turns. What
it computes is the float Graph; only the layout of tensors and weights differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph
from harness.ops.base import Operator, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Value

# Products and sums may be fused, as GCC does it where no standard is asked for.
OPTIMIZE = "-O2 -ffp-contract=fast"


def forms(graph: Graph) -> tuple[Form[Any], ...]:
    """One form per layer; InputError for what the paper's functions cannot do."""
    if graph.integer:
        raise InputError("kernels unlu compute in float32", hint="add --variant fp32")
    return tuple(_form(graph, layer) for layer in graph.layers)


def _form(graph: Graph, layer: Operator) -> Form[Any]:
    if isinstance(layer, Linear):
        return UnluLinear()
    if not isinstance(layer, Conv2d) or layer.stride != (1, 1) or not layer.relu:
        raise InputError(f"layer {layer.name} ({layer.label}): kernels unlu know convolutions of stride 1 with ReLU")
    square = layer.padding[0] == layer.padding[1]
    if layer.pool is not None:
        square = square and len({*layer.pool.kernel, *layer.pool.stride}) == 1
    if not square:
        raise InputError(
            f"layer {layer.name}: kernels unlu know square padding and pooling windows that do not overlap"
        )
    return UnluConv2d(interleaved=layer.inputs[0] == graph.input)


class UnluConv2d(Form[Conv2d]):
    """interleaved: the layer reads the network's input, which has its channel fastest."""

    name = "unlu"

    def __init__(self, *, interleaved: bool) -> None:
        self._interleaved = interleaved

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        return True

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        return Cost(0, 0, 0)  # asked for by name, never compared

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        filters, rows, columns, channels = layer.weight.shape
        fields: dict[str, Value] = {
            "weights": _weights(filters, channels, rows, columns),
            "input": _planar(site.input_shape),
            "output": _planar(site.output_shape),
            "pool": layer.pool.kernel[0] if layer.pool else 1,
            "padding": layer.padding[0],
            "relu": True,
            "interleaved": self._interleaved and channels > 1,
        }
        return Lowering(
            form=self.name,
            header="baselines/nn_unlu.h",
            kernel="nn_unlu_conv2d",
            record="nn_unlu_layer",
            fields=fields,
            constants=(
                Constant("weights", "float", layer.weight.transpose(0, 3, 1, 2).astype(np.float32).ravel()),
                Constant("bias", "float", layer.bias.astype(np.float32)),
            ),
        )


class UnluLinear(Form[Linear]):
    """The fully connected layer; behind a convolution its columns follow the planar order."""

    name = "unlu"

    def applicable(self, layer: Linear, site: Site) -> bool:
        return True

    def cost(self, layer: Linear, site: Site) -> Cost:
        return Cost(0, 0, 0)  # asked for by name, never compared

    def lower(self, layer: Linear, site: Site) -> Lowering:
        weight = layer.weight.astype(np.float32)
        if len(site.input_shape) == 3:
            weight = weight.reshape(-1, *site.input_shape).transpose(0, 3, 1, 2).reshape(weight.shape)
        return Lowering(
            form=self.name,
            header="baselines/nn_unlu.h",
            kernel="nn_unlu_linear",
            record="nn_unlu_layer",
            fields={
                "weights": _weights(layer.weight.shape[0], layer.weight.shape[1], 1, 1),
                "input": (int(np.prod(site.input_shape)), 1, 1),
                "output": (layer.weight.shape[0], 1, 1),
                "relu": layer.relu,
            },
            constants=(
                Constant("weights", "float", weight.ravel()),
                Constant("bias", "float", layer.bias.astype(np.float32)),
            ),
        )


def _weights(filters: int, channels: int, rows: int, columns: int) -> dict[str, Value]:
    """The initialiser of an nn_unlu_weights."""
    return {
        "filters": filters,
        "channels": channels,
        "rows": rows,
        "columns": columns,
        "data": Reference("weights"),
        "bias": Reference("bias"),
    }


def _planar(shape: Shape) -> tuple[int, int, int]:
    """(H, W, C) -> (C, H, W)."""
    height, width, channels = shape
    return channels, height, width
