"""Fully connected layers with narrow weights: exact for every width and size, at about what 8-bit weights cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernels_dense import on_core_exactly, on_host_exactly, site_of

from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Operator, Requantization
from harness.ops.linear import Linear
from harness.ops.linear_fields import FieldsLinear
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


def linears(shape: tuple[int, ...], layers: list[tuple[int, int]], zero_point: int = 0) -> Graph:
    """Fully connected layers, (outputs, bits of weights) each; the last ends in int32."""
    random = np.random.default_rng(len(layers))
    tensor = source = Tensor("x", shape, "uint8", 0.05, zero_point)
    tensors: dict[str, Tensor] = {}
    operators: list[Operator] = []
    for index, (outputs, bits) in enumerate(layers):
        weight = random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (outputs, tensor.elements)).astype(np.int8)
        name, last = f"fc{index}", index == len(layers) - 1
        scales = random.uniform(0.5, 1.5, outputs) / 2 ** (bits - 1) / np.sqrt(tensor.elements)
        requantize = None if last else Requantization.from_scales(np.minimum(scales, 0.45), 11)
        bias = random.integers(-5000, 5000, outputs).astype(np.int32)
        layer = Linear(
            name,
            (tensor.name,),
            name,
            weight,
            bias,
            input_zero_point=tensor.zero_point,
            requantize=requantize,
            weight_bits=bits,
        )
        tensor = Tensor(name, (outputs,), "int32", 0.01, 0, 32) if last else Tensor(name, (outputs,), "uint8", 0.1, 11)
        tensors[name] = tensor
        operators.append(layer)
    return build("linears", source, tuple(operators), tensors)


NETWORKS: dict[str, Graph] = {
    "4 bits": linears((5, 3, 3), [(16, 4), (7, 4), (6, 4)], zero_point=3),
    "2 bits": linears((50,), [(33, 2), (4, 2), (1, 2)]),
    "both": linears((3,), [(64, 4), (32, 2), (5, 4)], zero_point=255),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[name], "fields", tmp_path)


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_core(name: str) -> None:
    on_core_exactly(NETWORKS[name], "fields")


@needs_arm
@pytest.mark.parametrize("bits", [4, 2])
def test_what_it_costs(bits: int) -> None:
    graph = linears((640,), [(128, bits)])
    _, _, ran = on_core_exactly(graph, "fields")
    layer = graph.layers[0]
    assert isinstance(layer, Linear)
    assert FieldsLinear().cost(layer, site_of(graph, 0)).instructions == pytest.approx(ran[0].instructions, rel=0.2)
    assert ran[0].instructions < 1.5 * layer.weight.size
