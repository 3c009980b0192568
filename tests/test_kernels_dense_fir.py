"""Convolution by the fast FIR algorithm: exact for every kernel, stride and width; refused where it saves nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_dense import Convolution, convolutions, on_core_exactly, on_host_exactly, site_of

from harness import boards
from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.graph import Graph, build
from harness.kernelbench import bench, shapes
from harness.ops.base import Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.conv2d_fir import DualFirConv2d, FirConv2d, pack_kernels
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


def narrowed(graph: Graph, bits: int) -> Graph:
    """The same network with its first tensor after the input in so many bits."""
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d) and layer.requantize is not None
    scales = np.array([0.9 * 2.0**bits / 400 / np.sqrt(layer.weight[0].size) / 60])
    shared = Requantization.from_scales(np.repeat(scales, len(layer.weight)), 1, bits)
    tensors = dict(graph.tensors)
    tensors[layer.output] = dataclasses.replace(tensors[layer.output], bits=bits, zero_point=1)
    follower = dataclasses.replace(graph.layers[1], input_zero_point=1)  # type: ignore[call-arg]
    layers = (dataclasses.replace(layer, requantize=shared, relu=False), follower)
    return build(graph.name, graph.input_tensor, layers, {name: tensors[name] for name in ("conv0", "conv1")})


NETWORKS: dict[str, Graph] = {
    "10x4 with stride 2 on one channel": convolutions((19, 10, 1), [(12, (10, 4), (2, 2), (4, 1), 0)]),
    "odd rows, one block and several": convolutions(
        (26, 9, 3), [(8, (5, 3), (1, 1), (2, 1), 5), (4, (5, 5), (1, 2), (1, 2), 0)]
    ),
    "strides that do not divide the kernel": convolutions(
        (40, 5, 2), [(4, (10, 3), (3, 1), (0, 1), 0), (4, (7, 2), (2, 1), (3, 0), 77)]
    ),
    "one row of outputs": convolutions((9, 4, 4), [(4, (9, 2), (1, 1), (0, 0), 255)]),
    "one output": convolutions((10, 4, 1), [(8, (10, 4), (2, 2), (0, 0), 0)]),
    "taller than the image": convolutions((3, 5, 8), [(4, (9, 3), (1, 1), (4, 1), 9)]),
    "weights of 4 bits": convolutions(
        (13, 6, 3), [(8, (6, 3), (1, 1), (2, 1), 0), (16, (5, 1), (1, 1), (2, 0), 3)], weight_bits=4
    ),
    "weights of 2 bits": convolutions((13, 6, 1), [(8, (10, 4), (2, 2), (4, 1), 0)], weight_bits=2),
    "outputs of 4 bits": narrowed(
        convolutions((15, 7, 1), [(12, (10, 4), (2, 2), (4, 1), 0), (4, (5, 1), (1, 1), (2, 0), 0)]), 4
    ),
    "outputs of 2 bits": narrowed(
        convolutions((15, 7, 1), [(4, (10, 4), (2, 2), (4, 1), 0), (4, (5, 1), (1, 1), (2, 0), 0)]), 2
    ),
}
PACKED_INPUTS = ("outputs of 4 bits", "outputs of 2 bits")


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[name], "fir", tmp_path, every=name not in PACKED_INPUTS)


@settings(max_examples=6)
@given(
    shape=st.tuples(st.integers(1, 15), st.integers(1, 7), st.integers(1, 5)),
    kernel=st.tuples(st.sampled_from([5, 6, 9, 10]), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    filters=st.sampled_from([4, 8, 12]),
    zero_point=st.sampled_from([0, 1, 128, 255]),
    weight_bits=st.sampled_from([8, 4, 2]),
)
def test_any_shape(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    filters: int,
    zero_point: int,
    weight_bits: int,
    tmp_path: Path,
) -> None:
    layer: Convolution = (filters, kernel, stride, (kernel[0] // 2, kernel[1] // 2), zero_point)
    graph = convolutions(shape, [layer], weight_bits=weight_bits)
    on_host_exactly(graph, "fir", tmp_path, every=False)


FORMS = {"cortex-m4": FirConv2d(), "cortex-m7": DualFirConv2d()}


@needs_arm
@pytest.mark.parametrize("core", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_is_exact_and_costs_what_is_estimated(name: str, core: str) -> None:
    graph, form = NETWORKS[name], FORMS[core]
    generated, _, ran = on_core_exactly(graph, form.name, core, every=name not in PACKED_INPUTS)
    estimated = 0
    for index, layer in enumerate(graph.layers):
        (taken,) = (one for one in layer.forms if one.name == generated.layers[index].form)
        cost = taken.cost(layer, site_of(graph, index, core))
        estimated += cost.instructions
        if taken.name == form.name:
            assert cost.flash == generated.layers[index].weight_bytes
    assert 0.75 < estimated / ran[0].instructions < 1.3


@needs_arm
def test_a_first_convolution_takes_four_fifths_of_the_products() -> None:
    board = boards.load("nucleo-f746")
    (first,) = (shape for shape in shapes.of("ds-cnn") if shape.kind == "first")
    found = {one.weight_bits: one for one in bench.measure(board, [first]) if one.form != bench.CMSIS_NN}
    assert all(one.form == "fir" and one.exact for one in found.values())
    assert found[8].instructions <= 240_000  # CMSIS-NN: 1,055 to 1,060 thousand, by its flags
    for bits in (4, 2):
        assert found[bits].instructions <= 1.03 * found[8].instructions


def refusal(graph: Graph, index: int = 0) -> str | None:
    layer = graph.layers[index]
    assert isinstance(layer, Conv2d)
    return FirConv2d().refusal(layer, site_of(graph, index))


def test_what_it_refuses() -> None:
    square = convolutions((8, 8, 4), [(4, (3, 3), (1, 1), (1, 1), 0)])
    assert refusal(square) == "its kernel has too few rows to save products"
    loud = convolutions((12, 5, 4), [(4, (6, 3), (1, 1), (1, 1), 0)], gain=60.0)
    assert refusal(loud) is not None and "do not fit in 16 bits" in str(refusal(loud))
    with pytest.raises(InputError, match="cannot be stored as fir: its rounded sums"):
        generate(loud, variant="test", core="cortex-m4", forms={"conv0": "fir"})
    odd = convolutions((12, 5, 4), [(6, (6, 3), (1, 1), (1, 1), 0)])
    assert refusal(odd) == "its shape or the core rules that out"
    tall = NETWORKS["one output"].layers[0]
    assert isinstance(tall, Conv2d)
    takers = [core for core in boards.DSP_CORES if DualFirConv2d().fits(tall, site_of(NETWORKS["one output"], 0, core))]
    assert takers == ["cortex-m7"]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_kernels_come_back_from_their_words(bits: int) -> None:
    random = np.random.default_rng(bits)
    highest = 2 ** (bits - 1) - 1
    weight = random.integers(-highest, highest + 1, (8, 5, 3, 1)).astype(np.int8)
    words = pack_kernels(weight, bits).reshape(2, 4 * bits // 8, 5)
    offset = 0 if bits == 8 else 2 ** (bits - 1)
    for filter_ in range(8):
        group, place = divmod(filter_, 4)
        word, field = divmod(place, 8 // bits)
        found = (words[group, word, :, None] >> (8 * np.arange(3) + bits * field)) & (2**bits - 1)
        expected = weight[filter_, :, :, 0].astype(np.int64) + offset & 2**bits - 1
        assert np.array_equal(found, expected)
