"""Convolution by tiles of bytes: exact for every view, every way to end, every width of weights; refused where it would
not be; estimated as it is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_dense import convolutions, forms_of, on_core_exactly, on_host_exactly, site_of
from kernels_networks import core_crcs, on_core, random_inputs, reference_crcs

from harness import boards
from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.graph import Graph, build
from harness.ops import tile
from harness.ops.conv2d import Conv2d
from harness.ops.conv2d_tile import (
    ApartTileConv2d,
    DualPooledTileConv2d,
    DualTileConv2d,
    PooledTileConv2d,
    TileConv2d,
)
from harness.ops.lowering import Target
from harness.ops.max_pool2d import Window
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# (input shape, layers as (filters, kernel, stride, padding, zero point of the output)).
NETWORKS: dict[str, Graph] = {
    "flat, in one block and in several": convolutions(
        (9, 7, 8), [(12, (1, 1), (1, 1), (0, 0), 0), (4, (1, 1), (1, 1), (0, 0), 5), (64, (1, 1), (1, 1), (0, 0), 0)]
    ),
    "rows, with padding and strides": convolutions(
        (9, 12, 4),
        [
            (8, (3, 3), (1, 1), (1, 1), 3),
            (16, (3, 3), (2, 2), (1, 1), 0),
            (4, (1, 1), (2, 2), (0, 0), 7),
            (4, (2, 3), (1, 1), (1, 2), 0),
        ],
    ),
    "rows, more than one block of them": convolutions((40, 5, 8), [(4, (3, 3), (1, 1), (1, 1), 0)]),
    "rows of one column": convolutions((6, 1, 4), [(8, (3, 1), (1, 1), (1, 0), 2), (4, (2, 3), (1, 1), (0, 1), 0)]),
    "patches of three channels": convolutions(
        (11, 14, 3), [(8, (3, 3), (2, 2), (1, 1), 4), (5, (3, 3), (1, 1), (1, 1), 0), (6, (5, 5), (1, 2), (2, 2), 0)]
    ),
    "patches of one channel": convolutions(
        (19, 10, 1), [(12, (10, 4), (2, 2), (4, 1), 0), (7, (1, 1), (1, 1), (0, 0), 1)]
    ),
    "patches wider than the image": convolutions(
        (3, 2, 2), [(4, (5, 5), (1, 1), (2, 2), 9), (4, (3, 3), (3, 3), (2, 2), 0)]
    ),
    "other ways to end": convolutions(
        (6, 6, 4), [(6, (3, 3), (1, 1), (1, 1), 200), (8, (1, 1), (1, 1), (0, 0), 0)], bits=4, last=True
    ),
    "weights of 4 bits": convolutions(
        (5, 6, 4), [(8, (3, 3), (1, 1), (1, 1), 0), (5, (1, 1), (1, 1), (0, 0), 3)], weight_bits=4
    ),
    "weights of 2 bits": convolutions(
        (5, 6, 3), [(8, (3, 3), (1, 1), (1, 1), 0), (5, (1, 1), (1, 1), (0, 0), 3)], weight_bits=2
    ),
    "no rounding in 16 bits": convolutions((5, 5, 8), [(8, (3, 3), (1, 1), (1, 1), 0)], gain=60.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[name], "tile", tmp_path)


FORMS = {"cortex-m4": TileConv2d(), "cortex-m4, loads apart": ApartTileConv2d(), "cortex-m7": DualTileConv2d()}


@settings(max_examples=6)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8, 12])),
    kernels=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    strides=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    filters=st.lists(st.sampled_from([4, 5, 8, 12]), min_size=3, max_size=3),
    zero_point=st.sampled_from([0, 1, 128, 255]),
)
def test_any_shape(
    shape: tuple[int, int, int],
    kernels: list[tuple[int, int]],
    strides: list[int],
    filters: list[int],
    zero_point: int,
    tmp_path: Path,
) -> None:
    layers = [
        (filters[i], kernel, (strides[2 * i], strides[2 * i + 1]), (kernel[0] // 2, kernel[1] // 2), zero_point)
        for i, kernel in enumerate(kernels)
    ]
    on_host_exactly(convolutions(shape, layers), "tile", tmp_path)


def test_minus_128_is_refused_where_it_would_not_fit() -> None:
    graph = NETWORKS["flat, in one block and in several"]
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d)
    for element, fits in ((0, False), (1, True)):
        weight = layer.weight.copy()
        weight[3, 0, 0, element] = -128
        changed = dataclasses.replace(layer, weight=weight)
        assert TileConv2d().applicable(changed, site_of(graph, 0)) is fits
        network = build("changed", graph.input_tensor, (changed, *graph.layers[1:]), graph.tensors)
        if not fits:
            with pytest.raises(InputError, match="a weight of -128"):
                generate(network, variant="test", core="cortex-m4", forms={layer.name: "tile"})


@needs_arm
@pytest.mark.parametrize("which", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_is_exact_and_costs_what_is_estimated(name: str, which: str) -> None:
    graph, form, core = NETWORKS[name], FORMS[which], which.partition(",")[0]
    _, bare, ran = on_core_exactly(graph, form.name, core)
    costs = [
        form.cost(layer, site_of(graph, index, core))
        for index, layer in enumerate(graph.layers)
        if isinstance(layer, Conv2d)
    ]
    estimated = sum(cost.instructions for cost in costs)
    assert 0.8 < estimated / ran[0].instructions < 1.25
    assert sum(cost.flash for cost in costs) == pytest.approx(bare.image.weights, rel=0.1)


POOL = Window((2, 2), (2, 2))
POOLED: dict[str, Graph] = {
    "4 bits, one channel, filters not in fours": convolutions(
        (18, 20, 1),
        [(6, (5, 5), (1, 1), (2, 2), 0), (8, (2, 3), (1, 1), (0, 1), 0)],
        bits=4, weight_bits=4, pool=POOL, packed=True,
    ),
    "2 bits, zero points, more than one block": convolutions(
        (20, 20, 4),
        [(8, (3, 3), (1, 1), (1, 1), 1), (6, (3, 3), (1, 1), (0, 0), 3)],
        bits=2, weight_bits=2, pool=POOL, packed=True,
    ),
    "windows of 3x1, strides": convolutions(
        (25, 53, 3), [(5, (3, 3), (2, 2), (1, 1), 2), (4, (2, 1), (1, 1), (1, 0), 0)],
        bits=2, weight_bits=8, pool=Window((1, 3), (1, 3)), packed=True,
    ),
    "no pool, filters not in fours": convolutions(
        (9, 10, 3),
        [(6, (3, 3), (1, 1), (1, 1), 0), (5, (3, 3), (2, 2), (1, 1), 1), (4, (1, 1), (1, 1), (0, 0), 0)],
        bits=4, weight_bits=4, packed=True,
    ),
    "no pool, scales below 2**-16": convolutions(
        (8, 9, 64), [(8, (3, 3), (1, 1), (1, 1), 1), (4, (1, 1), (1, 1), (0, 0), 0)], bits=2, gain=0.01, packed=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_pooled_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(POOLED[name], "tile-pool", tmp_path, every=False)


@needs_arm
@pytest.mark.parametrize("form", [PooledTileConv2d(), DualPooledTileConv2d()], ids=lambda form: form.name)
@pytest.mark.parametrize("name", POOLED)
def test_pooled_assembly_is_exact_and_costs_what_is_estimated(name: str, form: TileConv2d) -> None:
    core = "cortex-m7" if form.dual else "cortex-m4"
    graph = POOLED[name]
    forms = forms_of(graph, form.name, every=False, core=core)
    assert "conv0" in forms
    x = random_inputs(graph, 3)
    _, _, ran = on_core(graph, x, core, forms=forms)
    assert (core_crcs(ran) == reference_crcs(graph, x)).all()
    if len(forms) == len(graph.layers):
        layers = [(layer, index) for index, layer in enumerate(graph.layers) if isinstance(layer, Conv2d)]
        estimated = sum(form.cost(layer, site_of(graph, index, core)).instructions for layer, index in layers)
        assert 0.7 < estimated / ran[2].instructions < 1.3


@needs_arm
def test_pools_do_not_make_narrow_convolutions_slow() -> None:
    """LeNet-5's, against one product at a time."""
    shapes = [(6, (5, 5), (1, 1), (2, 2), 0), (16, (5, 5), (1, 1), (0, 0), 0)]
    graph = convolutions((28, 28, 1), shapes, bits=4, weight_bits=4, pool=POOL, packed=True)
    x = random_inputs(graph, 2)
    chosen: list[dict[str, str]] = [{}, dict.fromkeys(["conv0", "conv1"], "packed")]
    fast, slow = (on_core(graph, x, "cortex-m4", forms=forms)[2][0] for forms in chosen)
    assert 2.5 * fast.instructions < slow.instructions


@pytest.mark.parametrize(("form", "cores"), [(DualTileConv2d(), ["cortex-m7"]), (ApartTileConv2d(), ["cortex-m4"])])
def test_only_cores_that_gain_take_forms_of_more_instructions(form: TileConv2d, cores: list[str]) -> None:
    graph = NETWORKS["weights of 4 bits"]
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d)
    assert [core for core in boards.DSP_CORES if form.fits(layer, site_of(graph, 0, core))] == cores


def test_a_pass_fits_the_instruction_cache() -> None:
    """1 kB on the STM32L4 and F4, whose cores issue one instruction at a time; 4 kB on the STM32F7."""
    for core, cache in (("cortex-m4", 1024), ("cortex-m7", 4096)):
        for run in range(1, 65):
            turn = tile.unroll(run, Target(core))
            one_pass = tile.Pass(run, 0, turn, 8, None, dual=core == "cortex-m7")
            assert run % turn == 0 and one_pass.bytes <= cache


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_packing_is_what_a_tile_wants(bits: int) -> None:
    """By the definition of nn_tile.h: e = (w0, w2), o = (w1 - 256 w0, w3 - 256 w2)."""
    random = np.random.default_rng(bits)
    lowest, highest = -(2 ** (bits - 1)) + (bits == 8), 2 ** (bits - 1) - 1
    matrix = random.integers(lowest, highest + 1, (6, 8)).astype(np.int8)
    packed = tile.pack(matrix, bits)
    assert len(packed) == 2 * 2 * bits // 2  # two times four filters, two words of activations
    assert tile.fits(matrix)
    if bits == 8:
        low = packed[:4].astype(np.uint16).view(np.int16).astype(int)
        assert np.array_equal(127 - low, matrix[:4, 1].astype(int) - 256 * matrix[:4, 0].astype(int))
