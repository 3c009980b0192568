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
from harness.ops.base import Operator
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


def test_small_scales_are_left_to_the_plain_form() -> None:
    graph = network((0.5, 0.5), 0, 0)
    layer, site = graph.layers[2], dataclasses.replace(site_of(graph, 2), second_input=site_of(graph, 2).input)
    assert isinstance(layer, Add)
    assert PairsAdd().applicable(layer, site)
    tiny = dataclasses.replace(layer, requantize=Add.requantization((1e-6, 1e-6), 200))
    assert not PairsAdd().applicable(tiny, site)
