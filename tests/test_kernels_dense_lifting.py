"""Scales of a half and more: lifted to T = 32 exactly, or left alone; on forms that then round with one instruction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_dense import convolutions, on_core_exactly, on_host_exactly, site_of
from test_kernels_dense_depthwise import ONE, depthwise

from harness.graph.graph import Graph
from harness.ops import lifting
from harness.ops.base import Array, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.toolchain import compiler

needs_host = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


def with_scales(graph: Graph, lowest: float, highest: float) -> Graph:
    """The same network with scales between 2**lowest and 2**highest, one of each layer at the upper end, and smaller
    biases."""
    random = np.random.default_rng(5)
    layers = []
    for layer in graph.layers:
        assert isinstance(layer, Conv2d | DepthwiseConv2d)
        assert layer.requantize is not None
        scales = 2.0 ** random.uniform(lowest, highest, len(layer.weight))
        scales[-1] = 0.99 * 2.0**highest
        changed = Requantization.from_scales(scales, layer.requantize.zero_point, layer.requantize.bits)
        layers.append(dataclasses.replace(layer, requantize=changed, bias=layer.bias // 256))
    return dataclasses.replace(graph, layers=tuple(layers))


def outputs(requantize: Requantization, accumulators: Array) -> list[int]:
    """Of a requantization of one channel, in whole numbers of any size."""
    multiplier, shift = int(requantize.multiplier[0]), int(requantize.shift[0])
    rounded = [(int(one) * multiplier + (1 << shift - 1) >> shift) + requantize.zero_point for one in accumulators]
    return [min(max(one, 0), 2**requantize.bits - 1) for one in rounded]


@settings(max_examples=300)
@given(
    exponent=st.floats(-30, 5),
    bits=st.sampled_from([2, 4, 8]),
    zero_point=st.integers(0, 255),
    more=st.integers(0, 5),
    ends=st.tuples(st.integers(-(2**20), 2**20), st.integers(0, 2**20)),
)
def test_lifted_is_the_same_for_every_accumulator(
    exponent: float, bits: int, zero_point: int, more: int, ends: tuple[int, int]
) -> None:
    own = Requantization.from_scales(np.array([2.0**exponent]), min(zero_point, 2**bits - 1), bits)
    lift, (low, span) = max(32 - int(own.shift[0]), 0) + more, ends
    found = own.at_32(np.array([lift]), np.array([low]), np.array([low + span]))
    if found is None:
        assert more or own.shift[0] > 32  # M itself is right otherwise
        return
    assert found.one_instruction and 0 < found.multiplier[0] < 2**31
    # Where the outputs change, and at the ends: both never fall from one accumulator to the next.
    scale, middle = 2.0**exponent, 2**bits - own.zero_point
    limits = np.round((np.arange(-own.zero_point, middle + 1) - 0.5) / scale).astype(np.int64)
    near = (limits[:, None] + np.arange(-2, 3)).ravel()
    accumulators = np.unique(np.clip(np.concatenate([near, [low, low + span]]), low, low + span))
    assert outputs(own, accumulators) == outputs(found, accumulators << lift)


def test_there_may_be_no_such_multiplier() -> None:
    """Of a scale of 2**-17, T = 32 leaves 15 bits, and a million accumulators want 20."""
    own = Requantization.from_scales(np.array([0.77 * 2.0**-16]), 0, 8)
    reach = np.array([2**24])
    assert own.at_32(np.array([0]), -reach, reach) is None
    small = np.array([2**15])
    assert own.at_32(np.array([0]), -small, small) is not None


DEPTHWISE = {
    "strips": depthwise((6, 7, 8), [(1, ONE, None, 4, 0, 4), (1, ONE, None, 2, 1, 2), (1, ONE, None, 8, 0, 2)]),
    "planes": depthwise((5, 6, 8), [(1, (1, 0), None, 4, 0, 4), (1, ONE, None, 2, 1, 2), (1, ONE, None, 8, 0, 4)]),
    "strided": depthwise((17, 17, 8), [(2, ONE, None, 4, 0, 4), (2, ONE, None, 2, 1, 2), (2, ONE, None, 8, 0, 4)]),
}
TILED = {
    f"{bits} bits, scales up to 2**{highest}": with_scales(
        convolutions(
            (6, 7, 4),
            [(8, (1, 1), (1, 1), (0, 0), 0), (16, (3, 3), (1, 1), (1, 1), 2), (8, (2, 2), (2, 2), (1, 1), 0)],
            bits=bits,
            weight_bits=bits,
            packed=True,
        ),
        -8,
        highest,
    )
    for bits, highest in ((4, 0), (4, 1), (2, 0), (2, 2), (2, 3), (2, 4))
}


def lifted(graph: Graph, index: int) -> int:
    """By how many bits a tile's weights are lifted, in the layer `index`."""
    layer = graph.layers[index]
    assert isinstance(layer, Conv2d)
    return lifting.unpacked(layer, site_of(graph, index).input.bits)[0]


def test_every_lift_of_a_tile_is_tried() -> None:
    assert {lifted(graph, 1) for graph in TILED.values()} == {1, 2, 3, 4, 5}


@needs_host
@pytest.mark.parametrize("name", TILED)
def test_portable_tiles(name: str, tmp_path: Path) -> None:
    on_host_exactly(TILED[name], "tile", tmp_path, every=False)


@needs_arm
@pytest.mark.parametrize(("form", "core"), [("tile", "cortex-m4"), ("tile-dual", "cortex-m7")])
@pytest.mark.parametrize("name", TILED)
def test_tiles_on_a_core(name: str, form: str, core: str) -> None:
    generated, _, _ = on_core_exactly(TILED[name], form, core, every=False)
    assert generated.layers[1].form == form


def winograd(highest: float) -> Graph:
    """A network of 3x3 convolutions of 2 bits."""
    layers = [(8, (3, 3), (1, 1), (1, 1), 2), (4, (3, 3), (1, 1), (1, 1), 0)]
    return with_scales(convolutions((5, 6, 4), layers, bits=2, weight_bits=2, packed=True), -7, highest)


@needs_host
def test_portable_winograd(tmp_path: Path) -> None:
    on_host_exactly(winograd(2.0), "winograd", tmp_path)


@needs_arm
def test_winograd_on_a_core() -> None:
    graph = winograd(1.0)
    assert lifted(graph, 1) == 2
    on_core_exactly(graph, "winograd")


@needs_host
@pytest.mark.parametrize("form", DEPTHWISE)
def test_portable_depthwise(form: str, tmp_path: Path) -> None:
    on_host_exactly(with_scales(DEPTHWISE[form], -6, 2), form, tmp_path)


@needs_arm
@pytest.mark.parametrize("form", DEPTHWISE)
def test_depthwise_on_a_core(form: str) -> None:
    graph = with_scales(DEPTHWISE[form], -6, 2)
    generated, _, _ = on_core_exactly(graph, form)
    assert [layer.form for layer in generated.layers] == [form] * len(graph.layers)


@settings(max_examples=6)
@given(
    exponents=st.tuples(st.floats(-12, -4), st.floats(-3, 5)),
    channels=st.sampled_from([4, 8, 12]),
    bits=st.sampled_from([2, 4]),
    kernel=st.integers(0, 3),
)
@needs_host
def test_any_scales(exponents: tuple[float, float], channels: int, bits: int, kernel: int, tmp_path: Path) -> None:
    """kernel: 0: depthwise."""
    if kernel:
        tiles = [(8, (kernel, kernel), (1, 1), (1, 1), 0), (4, (1, 1), (1, 1), (0, 0), 1)]
        graph = convolutions((4, 5, channels), tiles, bits=bits, weight_bits=bits, packed=True)
    else:
        graph = depthwise((5, 4, channels), [(1, ONE, None, bits, 0, bits), (1, ONE, None, 8, 3, bits)])
    on_host_exactly(with_scales(graph, *exponents), "tile" if kernel else "strips", tmp_path, every=False)


def test_what_does_not_fit_is_left_alone() -> None:
    wide = with_scales(depthwise((4, 4, 4), [(1, ONE, None, 8, 0, 8)]), -4, 1).layers[0]
    assert isinstance(wide, DepthwiseConv2d) and wide.requantize is not None
    assert not wide.requantize.one_instruction
    assert lifting.stored(wide, 8) is wide and lifting.unpacked(wide, 8) == (0, wide)
    large = dataclasses.replace(wide, weight=wide.weight // 16, weight_bits=4, bias=np.full(4, 2**29, np.int32))
    assert lifting.stored(large, 8) is large and lifting.unpacked(large, 8) == (0, large)


@pytest.mark.parametrize("bits", [2, 4])
def test_unpacked_weights_stay_bytes(bits: int) -> None:
    layer = depthwise((4, 4, 4), [(1, ONE, None, bits, 0, bits)]).layers[0]
    assert isinstance(layer, DepthwiseConv2d) and layer.requantize is not None
    for lift in (8 - bits, 9 - bits):
        scales = Requantization(np.full(4, 2**31 - 2**20), np.full(4, 32 - lift), 0, bits)
        found, changed = lifting.unpacked(dataclasses.replace(layer, requantize=scales, bias=layer.bias // 256), bits)
        assert found == (lift if lift <= 8 - bits else 0)
        if found:
            assert (changed.weight.astype(int) == layer.weight.astype(int) << lift).all()


def test_stored_layers_have_the_same_outputs() -> None:
    graph = with_scales(DEPTHWISE["strips"], -6, 2)
    for index, layer in enumerate(graph.layers):
        assert isinstance(layer, DepthwiseConv2d)
        changed = lifting.stored(layer, site_of(graph, index).input.bits)
        assert changed.requantize is not None and changed.requantize.one_instruction
        assert changed.weight.dtype == np.int8 and (changed.weight != layer.weight).any()
        tensor = graph.tensors.get(layer.inputs[0], graph.input_tensor)
        x = np.random.default_rng(index).integers(0, 2**tensor.bits, (2, *tensor.shape)).astype(np.uint8)
        assert (changed.reference(x) == layer.reference(x)).all()
