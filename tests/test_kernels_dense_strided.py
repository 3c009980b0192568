"""Depthwise convolution with stride 2 on pairs of pixels: exact for every shape, padding and width, at its cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels_dense import on_core_exactly, on_host_exactly, site_of
from test_kernels_dense_depthwise import ONE, depthwise

from harness import boards
from harness.graph.graph import Graph
from harness.kernelbench import bench, shapes
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.depthwise_strided import StridedDepthwise
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# By how many pairs a row in scratch has, and what of it lies beside the image.
KERAS, PYTORCH = ((0, 0), ONE), (ONE, None)
STRIDED: dict[str, Graph] = {
    "one pair, three pairs": depthwise((6, 6, 8), [(2, *KERAS, 8, 0, 8), (2, (0, 0), None, 8, 0, 8)]),
    "one pair, two rows": depthwise((5, 2, 4), [(2, *KERAS, 8, 0, 8)]),
    "even, rows without padding": depthwise((12, 12, 4), [(2, *KERAS, 8, 0, 8), (2, *PYTORCH, 8, 0, 4)]),
    "loops over steps": depthwise((24, 24, 4), [(2, *KERAS, 8, 0, 8)]),
    "loops over steps and groups": depthwise((9, 46, 4), [(2, *PYTORCH, 8, 9, 2), (2, *KERAS, 8, 0, 8)]),
    "odd": depthwise((7, 29, 8), [(2, *PYTORCH, 8, 0, 8), (2, *PYTORCH, 8, 0, 8), (2, *PYTORCH, 8, 2, 8)]),
    "zero point": depthwise((13, 12, 4), [(2, *KERAS, 8, 4, 8), (2, *PYTORCH, 8, 3, 4), (2, *KERAS, 8, 0, 8)], 200),
    "blocks": depthwise((61, 40, 4), [(2, *PYTORCH, 8, 0, 8)]),
    "blocks of packed outputs": depthwise((64, 64, 4), [(2, *KERAS, 4, 0, 8), (2, *KERAS, 8, 0, 8)]),
    "wide": depthwise((3, 150, 4), [(2, *PYTORCH, 8, 0, 8), (2, *KERAS, 8, 0, 8)]),
    "many channels": depthwise((5, 14, 512), [(2, *PYTORCH, 8, 0, 8)]),
    "many channels, three pairs": depthwise((6, 6, 800), [(2, *KERAS, 8, 0, 4)]),
    "wide padding": depthwise((6, 9, 4), [(2, (2, 2), (1, 0), 8, 0, 8), (2, (2, 1), (2, 2), 8, 0, 8)]),
    "one row": depthwise((2, 7, 4), [(2, (1, 0), (0, 1), 8, 0, 8), (2, *PYTORCH, 8, 0, 8)]),
    "one long row": depthwise((2, 23, 4), [(2, *KERAS, 8, 0, 8)]),
    "packed, three pairs": depthwise((12, 12, 4), [(2, *KERAS, 4, 0, 4), (2, *KERAS, 8, 0, 8)]),
    "packed, three pairs of 2 bits": depthwise((12, 12, 4), [(2, *KERAS, 2, 0, 4), (2, *KERAS, 8, 0, 8)]),
    "packed, words not filled": depthwise((9, 18, 4), [(2, *KERAS, 4, 0, 4), (2, *PYTORCH, 8, 0, 8)]),
    "packed": depthwise((23, 24, 12), [(2, *KERAS, 4, 0, 4), (2, *PYTORCH, 2, 3, 2), (2, *PYTORCH, 8, 0, 8)]),
}


@pytest.mark.parametrize("name", STRIDED)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(STRIDED[name], "strided", tmp_path)


@needs_arm
@pytest.mark.parametrize("name", STRIDED)
def test_assembly_and_what_it_costs(name: str) -> None:
    graph = STRIDED[name]
    _, _, ran = on_core_exactly(graph, "strided")
    estimated = 0
    for index, layer in enumerate(graph.layers):
        assert isinstance(layer, DepthwiseConv2d)
        estimated += StridedDepthwise().cost(layer, site_of(graph, index)).instructions
    assert 0.88 < estimated / ran[0].instructions < 1.12


@settings(max_examples=5)
@given(
    shape=st.tuples(st.integers(1, 26), st.integers(1, 26), st.sampled_from([4, 8])),
    before=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    after=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    points=st.tuples(st.sampled_from([0, 255]), st.sampled_from([0, 7])),
    weight_bits=st.sampled_from([8, 4, 2]),
)
def test_any_shape(
    shape: tuple[int, int, int],
    before: tuple[int, int],
    after: tuple[int, int],
    points: tuple[int, int],
    weight_bits: int,
    tmp_path: Path,
) -> None:
    assume(all(size + a + b >= 3 for size, a, b in zip(shape, before, after, strict=False)))
    graph = depthwise(shape, [(2, before, after, 8, points[1], weight_bits)], points[0])
    on_host_exactly(graph, "strided", tmp_path)
    if compiler.find_arm() is not None:
        on_core_exactly(graph, "strided")


@pytest.mark.parametrize(("bits", "largest"), [(8, 2**23), (4, 2**27)])
def test_a_bias_that_leaves_no_room_for_a_weight(bits: int, largest: int) -> None:
    graph = depthwise((6, 6, 4), [(2, *KERAS, 8, 0, bits)])
    layer, site = graph.layers[0], site_of(graph, 0)
    assert isinstance(layer, DepthwiseConv2d)
    form = StridedDepthwise()
    assert form.fits(replace(layer, bias=np.array([largest - 1, -largest, 0, 0], np.int32)), site)
    assert not form.fits(replace(layer, bias=np.array([largest, 0, 0, 0], np.int32)), site)


def test_what_it_refuses() -> None:
    for graph in (
        depthwise((6, 6, 4), [(1, ONE, None, 8, 0, 8)]),
        depthwise((6, 6, 6), [(2, ONE, None, 8, 0, 8)]),
        depthwise((6, 6, 4), [(2, (3, 0), None, 8, 0, 8)]),
        depthwise((6, 6, 4), [(2, (0, 0), (0, 3), 8, 0, 8)]),
        depthwise((6, 6, 1024), [(2, *KERAS, 8, 0, 8)]),
    ):
        layer = graph.layers[0]
        assert not {form.name: form for form in layer.forms}["strided"].fits(layer, site_of(graph, 0))


@needs_arm
@pytest.mark.parametrize(("channels", "most"), [(64, 34_400), (128, 18_000)])
def test_layers_of_mobilenet_are_as_fast_as_ever(channels: int, most: int) -> None:
    layer = next(one for one in shapes.of("mobilenet") if one.stride == (2, 2) and one.input[2] == channels)
    board = boards.load("nucleo-f746")
    found = bench.measure(board, [layer], widths=(8, 4, 2))
    eight, *narrow = (one for one in found if one.form != bench.CMSIS_NN)
    packed = bench.measure(board, [layer], widths=(8, 4), activations=(4,))
    assert eight.form == "strided" and eight.exact and eight.instructions <= most
    assert all(one.exact and one.instructions <= 1.03 * eight.instructions for one in narrow)
    assert all(one.exact and one.instructions <= 1.13 * eight.instructions for one in packed)
