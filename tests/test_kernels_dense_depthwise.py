"""Depthwise convolution on strips and on planes: exact for every shape and width, estimated as measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_dense import on_core_exactly, on_host_exactly, site_of

from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Operator, Requantization
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.lowering import Form
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# Stride, padding before, padding after, and of the output: bits, zero point; bits of the weights.
Layer = tuple[int, tuple[int, int], tuple[int, int] | None, int, int, int]


def depthwise(shape: tuple[int, int, int], layers: Sequence[Layer], zero_point: int = 0) -> Graph:
    """Depthwise 3x3 convolutions one after the other; zero_point: of the input."""
    random = np.random.default_rng(shape[0] + shape[1])
    tensor = source = Tensor("x", shape, "uint8", 0.05, zero_point)
    tensors: dict[str, Tensor] = {}
    operators: list[Operator] = []
    for index, (stride, before, after, bits, point, weight_bits) in enumerate(layers):
        lowest, highest = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}[weight_bits]
        weight = random.integers(lowest, highest + 1, (shape[2], 3, 3)).astype(np.int8)
        reach = highest * 2 ** (tensor.bits - 1) * 3
        bias = random.integers(-reach, reach, shape[2]).astype(np.int32)
        scales = random.uniform(0.5, 1.5, shape[2]) * 2**bits / reach / 3
        layer = DepthwiseConv2d(
            f"dw{index}",
            (tensor.name,),
            f"dw{index}",
            weight,
            bias,
            (stride, stride),
            before,
            point == 0,
            tensor.zero_point,
            Requantization.from_scales(np.minimum(scales, 0.45), point, bits),
            after,
            weight_bits=weight_bits,
        )
        tensor = Tensor(layer.name, layer.output_shape(tensor.shape), "uint8", 0.05, point, bits)
        tensors[layer.name] = tensor
        operators.append(layer)
    return build("depthwise", source, tuple(operators), tensors)


ONE = (1, 1)
NETWORKS: dict[str, Graph] = {
    "stride 1": depthwise((9, 12, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 9, 8), (1, (0, 1), None, 8, 0, 8)]),
    "zero points": depthwise((17, 14, 4), [(1, ONE, None, 8, 4, 8), (1, (0, 0), ONE, 8, 0, 8)], zero_point=7),
    "tall, in transposed lines": depthwise((25, 5, 8), [(1, ONE, None, 8, 0, 8)]),
    "blocks": depthwise((40, 61, 4), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 3, 8)]),
    "narrow": depthwise((5, 1, 4), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 1, 8), (1, ONE, None, 8, 0, 8)]),
    "padding that differs": depthwise((6, 7, 4), [(1, (2, 0), (1, 2), 8, 5, 8), (1, (0, 1), (2, 0), 8, 0, 8)]),
    "packed": depthwise(
        (7, 6, 12), [(1, ONE, None, 4, 0, 4), (1, ONE, None, 2, 0, 2), (1, ONE, None, 4, 3, 8), (1, ONE, None, 8, 0, 2)]
    ),
}

# Rows that are one strip of each length, or several; weights and inputs of each width; zero points at both ends.
STRIPS: dict[str, Graph] = {
    "one pass": depthwise((3, 3, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 7, 4), (1, ONE, None, 8, 0, 2)]),
    "one strip of 2": depthwise((5, 2, 4), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 3, 8), (1, ONE, ONE, 8, 0, 8)]),
    "one strip of 3": depthwise((4, 3, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 255, 2)]),
    "one strip of 4": depthwise((1, 4, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 0, 4)]),
    "one strip of 5": depthwise((25, 5, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 1, 2)]),
    "one strip of 6": depthwise((6, 6, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 0, 4)]),
    "one strip of 7": depthwise((7, 7, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 2, 4)]),
    "one strip of 8": depthwise((3, 8, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 0, 2)]),
    "one strip with edges": depthwise((3, 3, 4), [(1, ONE, None, 8, 9, 8), (1, ONE, None, 8, 0, 8)], zero_point=255),
    "one column": depthwise((5, 1, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 9, 8), (1, ONE, None, 8, 0, 4)]),
    "strips of 2": depthwise((3, 60, 4), [(1, ONE, None, 8, 0, 8)]),
    "strips of 4": depthwise((2, 56, 4), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 4, 4)]),
    "strips of 5": depthwise((4, 10, 4), [(1, ONE, None, 8, 5, 8), (1, ONE, None, 8, 0, 2)]),
    "strips of 6": depthwise((12, 12, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 200, 8)]),
    "strips of 7": depthwise((14, 14, 8), [(1, ONE, None, 8, 0, 8), (1, ONE, None, 8, 77, 8)]),
    "strips of 8": depthwise((6, 16, 8), [(1, ONE, None, 8, 12, 8), (1, ONE, None, 4, 0, 8), (1, ONE, None, 8, 0, 4)]),
    "over the edge": depthwise((11, 11, 8), [(1, ONE, None, 8, 9, 8), (1, ONE, None, 8, 0, 8)]),
    "odd strips over the edge": depthwise((5, 9, 4), [(1, ONE, None, 8, 0, 8)], zero_point=128),
    "packed over the edge": depthwise(
        (9, 13, 4), [(1, ONE, None, 4, 0, 8), (1, ONE, None, 2, 1, 4), (1, ONE, None, 8, 0, 8)]
    ),
    "blocks": depthwise((40, 54, 4), [(1, ONE, None, 8, 0, 8)], zero_point=3),
    "blocks over the edge": depthwise((40, 53, 4), [(1, ONE, None, 8, 0, 8)], zero_point=255),
    "packed strips": depthwise((7, 6, 12), [(1, ONE, None, 4, 0, 4), (1, ONE, None, 2, 3, 2), (1, ONE, None, 8, 0, 8)]),
    "packed image": depthwise((3, 3, 8), [(1, ONE, None, 2, 0, 4), (1, ONE, None, 4, 0, 2), (1, ONE, None, 8, 0, 4)]),
    "packed blocks": depthwise((40, 54, 4), [(1, ONE, None, 4, 15, 8), (1, ONE, None, 8, 0, 8)]),
}
CASES = [(name, "planes") for name in NETWORKS] + [(name, "strips") for name in STRIPS]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_portable_path(name: str, form: str, tmp_path: Path) -> None:
    on_host_exactly((NETWORKS | STRIPS)[name], form, tmp_path)


@needs_arm
@pytest.mark.parametrize(("name", "form"), CASES)
def test_assembly_and_what_it_costs(name: str, form: str) -> None:
    graph = (NETWORKS | STRIPS)[name]
    _, _, ran = on_core_exactly(graph, form)
    estimated = 0
    for index, layer in enumerate(graph.layers):
        known: dict[str, Form[DepthwiseConv2d]] = {one.name: one for one in layer.forms}
        assert isinstance(layer, DepthwiseConv2d)
        estimated += known[form].cost(layer, site_of(graph, index)).instructions
    assert 0.7 < estimated / ran[0].instructions < 1.4  # some of these are tiny


@settings(max_examples=6)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([4, 8])),
    count=st.integers(1, 3),
    zero_point=st.sampled_from([0, 255]),
    bits=st.sampled_from([8, 4]),
)
def test_any_shape(shape: tuple[int, int, int], count: int, zero_point: int, bits: int, tmp_path: Path) -> None:
    # The output of a network has 8 bits.
    layers: list[Layer] = [*(count - 1) * [(1, ONE, None, bits, 0, bits)], (1, ONE, None, 8, 0, 8)]
    on_host_exactly(depthwise(shape, layers, zero_point), "planes", tmp_path)


@settings(max_examples=6)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    zero_point=st.sampled_from([0, 1, 255]),
    point=st.sampled_from([0, 255]),
    bits=st.sampled_from([8, 4, 2]),
)
def test_any_strips(height: int, width: int, zero_point: int, point: int, bits: int, tmp_path: Path) -> None:
    on_host_exactly(depthwise((height, width, 4), [(1, ONE, None, 8, point, bits)], zero_point), "strips", tmp_path)


def test_what_strips_refuse() -> None:
    for graph in (
        depthwise((6, 6, 4), [(2, ONE, None, 8, 0, 8)]),
        depthwise((6, 6, 4), [(1, (0, 0), None, 8, 0, 8)]),
        depthwise((6, 6, 4), [(1, ONE, (1, 0), 8, 0, 8)]),
        depthwise((6, 99, 4), [(1, ONE, None, 8, 0, 8)]),
    ):
        layer = graph.layers[0]
        assert not {form.name: form for form in layer.forms}["strips"].fits(layer, site_of(graph, 0))
