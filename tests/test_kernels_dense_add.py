"""Sums of two tensors on pairs of halves: exact for every zero point and scale, refused where 32 bits are too few."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from kernels_dense import site_of
from kernels_networks import core_crcs, on_core, on_host, random_inputs, reference_crcs

from harness.codegen.generate import generate
from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.add_pairs import PairsAdd
from harness.ops.base import Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")

# Scales of the two inputs, their zero point, and the output's.
CASES = {"equal": ((0.5, 0.5), 0, 0), "far apart": ((1.9, 0.01), 0, 7), "zero points": ((0.7, 0.4), 130, 255)}


def network(scales: tuple[float, float], point: int, output_point: int) -> Graph:
    """Maxima over pairs of columns of x, twice, added up: a number of elements that four does not divide."""
    x = Tensor("x", (5, 4, 3), "uint8", 0.1, point)
    layers: list[Operator] = [
        MaxPool2d("left", ("x",), "left", Window((1, 2), (1, 1))),
        MaxPool2d("right", ("x",), "right", Window((1, 2), (1, 1))),
        Add(
            "sum",
            ("left", "right"),
            "y",
            input_zero_points=(point, point),
            requantize=Add.requantization(scales, output_point),
        ),
    ]
    shape = (5, 3, 3)
    outputs = {name: Tensor(name, shape, "uint8", 0.1, point) for name in ("left", "right")}
    return build("sum", x, tuple(layers), {**outputs, "y": Tensor("y", shape, "uint8", 0.1, output_point)})


@pytest.mark.parametrize("name", CASES)
def test_every_way_to_run_it(name: str, tmp_path: Path) -> None:
    graph = network(*CASES[name])
    x = random_inputs(graph, 5)
    generated = generate(graph, variant="test", core="cortex-m4")
    assert generated.layers[2].form == "pairs"
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))
    if compiler.find_arm() is not None:
        _, _, ran = on_core(graph, x, "cortex-m4")
        assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))
        assert ran[0].functions["run_sum"] < 45 * 8


def packed_network(bits: tuple[int, int, int], shape: tuple[int, int, int] = (3, 4, 8)) -> Graph:
    """Two pointwise convolutions of x to tensors of bits[0] and bits[1], their sum in bits[2], and one of that."""
    random = np.random.default_rng(sum(bits))
    tensors = {"x": Tensor("x", shape, "uint8", 0.1, 3)}

    def convolution(name: str, source: str, width: int) -> Conv2d:
        weight = random.integers(-127, 128, (shape[2], 1, 1, shape[2])).astype(np.int8)
        scales = random.uniform(0.5, 1.5, shape[2]) * 2.0 ** (width - 16)
        tensors[name] = Tensor(name, shape, "uint8", 0.1, 1, width)
        return Conv2d(
            name, (source,), name, weight, random.integers(-999, 999, shape[2]).astype(np.int32),
            input_zero_point=tensors[source].zero_point, requantize=Requantization.from_scales(scales, 1, width),
        )  # fmt: skip

    left, right = (convolution(name, "x", width) for name, width in (("left", bits[0]), ("right", bits[1])))
    scales = (0.9 * 2.0 ** (bits[2] - bits[0]), 0.6 * 2.0 ** (bits[2] - bits[1]))
    requantize = Add.requantization(scales, 1, bits[2])
    tensors["sum"] = Tensor("sum", shape, "uint8", 0.1, 1, bits[2])
    total = Add("sum", ("left", "right"), "sum", input_zero_points=(1, 1), requantize=requantize)
    return build("packed", tensors["x"], (left, right, total, convolution("last", "sum", 8)), tensors)


@pytest.mark.parametrize("bits", [(4, 4, 8), (4, 8, 4), (2, 4, 2), (8, 2, 4), (2, 2, 8), (8, 8, 2)], ids=str)
def test_packed_tensors(bits: tuple[int, int, int], tmp_path: Path) -> None:
    graph = packed_network(bits)
    x = random_inputs(graph, 5)
    generated = generate(graph, variant="test", core="cortex-m4")
    assert generated.layers[2].form == "pairs"
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))
    if compiler.find_arm() is not None:
        _, _, ran = on_core(graph, x, "cortex-m4")
        assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))
        assert ran[0].functions["run_sum"] < 50 * 24 + 60
    sums = {layer.output: values for layer, values in graph.run(x)}["sum"]
    assert len(np.unique(sums)) > 2


def test_rows_with_gaps_are_left_to_the_plain_form() -> None:
    graph = packed_network((4, 4, 4), shape=(3, 3, 4))
    assert generate(graph, variant="test", core="cortex-m4").layers[2].form == "plain"


def test_small_scales_are_left_to_the_plain_form() -> None:
    graph = network((0.5, 0.5), 0, 0)
    layer, site = graph.layers[2], dataclasses.replace(site_of(graph, 2), second_input=site_of(graph, 2).input)
    assert isinstance(layer, Add)
    assert PairsAdd().applicable(layer, site)
    tiny = dataclasses.replace(layer, requantize=Add.requantization((1e-6, 1e-6), 200))
    assert not PairsAdd().applicable(tiny, site)
