"""Fully connected layers for cores with DSP: exact for every width, size and extreme, at the cost that is asked for."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_dense import site_of
from kernels_networks import core_crcs, on_core, on_host, random_inputs, reference_crcs

from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization
from harness.ops.linear import Linear
from harness.ops.linear_fields import pack_halfwords, pack_lanes
from harness.ops.linear_pairs import fours, reach
from harness.ops.linear_quads import pack_quads
from harness.ops.lowering import Lowering
from harness.ops.max_pool2d import Window
from harness.ops.packing import WEIGHT_RANGES
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# Outputs, bits of weights, bits of outputs.
Layer = tuple[int, int, int]


def linears(
    shape: tuple[int, ...], layers: list[Layer], zero_point: int = 0, *, input_bits: int = 8, last: bool = True
) -> Graph:
    """Fully connected layers one after the other. last: the last one ends in int32. input_bits: below 8, of an image
    that is made that narrow first."""
    random = np.random.default_rng(len(layers) + shape[0])
    tensor = source = Tensor("x", shape, "uint8", 0.05, 0 if input_bits < 8 else zero_point)
    tensors: dict[str, Tensor] = {}
    operators: list[Operator] = []
    if input_bits < 8:
        requantize = Requantization.from_scales(np.array([2.0 ** (input_bits - 8)]), 0, input_bits)
        operators.append(AvgPool2d("narrowed", ("x",), "narrowed", Window((1, 1), (1, 1)), 0, requantize))
        tensors["narrowed"] = tensor = Tensor("narrowed", shape, "uint8", 0.05, bits=input_bits)
    for index, (outputs, bits, output_bits) in enumerate(layers):
        lowest, highest = WEIGHT_RANGES[bits]
        weight = random.integers(lowest, highest + 1, (outputs, tensor.elements)).astype(np.int8)
        name, final = f"fc{index}", last and index == len(layers) - 1
        spread = highest * 2 ** (tensor.bits - 1) * np.sqrt(tensor.elements)
        scales = random.uniform(0.5, 1.5, outputs) * 2 ** (output_bits - 1) / spread
        point = 2**output_bits // 3
        requantize = Requantization.from_scales(np.minimum(scales, 0.45), point, output_bits)
        layer = Linear(
            name,
            (tensor.name,),
            name,
            weight,
            random.integers(-int(spread), int(spread), outputs).astype(np.int32),
            relu=bool(index % 2),
            input_zero_point=tensor.zero_point,
            requantize=None if final else requantize,
            weight_bits=bits,
        )
        if final:
            tensor = Tensor(name, (outputs,), "int32", 0.01, 0, 32)
        else:
            tensor = Tensor(name, (outputs,), "uint8", 0.1, point, output_bits)
        tensors[name] = tensor
        operators.append(layer)
    return build("linears", source, tuple(operators), tensors)


def forms(graph: Graph) -> dict[str, str]:
    """The fast form of each fully connected layer."""
    found = [layer for layer in graph.layers if isinstance(layer, Linear)]
    return {layer.name: "quads" if layer.weight_bits == 8 else "fields" for layer in found}


def lowered(graph: Graph, index: int = -1) -> Lowering:
    """The fast form of one layer in C."""
    layer = graph.layers[index]
    form = next(form for form in layer.forms if form.name == forms(graph)[layer.name])
    return form.lower(layer, site_of(graph, index))


def with_layer(graph: Graph, weight: Array, bias: Array) -> Graph:
    """The same network with other parameters in its last layer."""
    layer = dataclasses.replace(graph.layers[-1], weight=weight, bias=bias)  # type: ignore[call-arg]
    return dataclasses.replace(graph, layers=(*graph.layers[:-1], layer))


def unbounded(bits: int, inputs: int, outputs: int) -> Graph:
    """Weights at their extremes, so that the sums of shared words have to be taken in parts."""
    random, (lowest, highest) = np.random.default_rng(outputs), WEIGHT_RANGES[bits]
    weight = np.where(random.integers(0, 2, (outputs, 1)), lowest, highest) * np.ones((1, inputs), np.int64)
    weight[:, ::7] = random.integers(lowest, highest + 1, weight[:, ::7].shape)
    return with_layer(
        linears((inputs,), [(outputs, bits, 8)]),
        weight.astype(np.int8),
        random.integers(-(2**30), 2**30, outputs).astype(np.int32),
    )


def chain(seed: int) -> Graph:
    """Six layers of random widths and sizes."""
    random = np.random.default_rng(seed)
    layers = [
        (int(random.integers(1, 70)), int(random.choice((2, 4, 8))), int(random.choice((2, 4, 8)))) for _ in range(6)
    ]
    return linears((int(random.integers(1, 90)),), layers, int(random.integers(0, 256)))


NETWORKS: dict[str, Graph] = {
    "8 bits": linears((5, 3, 3), [(16, 8, 8), (7, 8, 8), (6, 8, 8)], 3),
    "8 bits, few outputs": linears((63,), [(8, 8, 8), (3, 8, 8), (1, 8, 8), (2, 8, 8), (5, 8, 8)], 255),
    "8 bits, few outputs of 4": linears((30,), [(8, 8, 4), (3, 8, 2), (9, 8, 8)]),
    "8 bits, in parts": unbounded(8, 601, 11),
    "8 bits, in parts, few outputs": unbounded(8, 300, 7),
    "8 bits, image of 4": linears((3, 5, 9), [(9, 8, 8)], input_bits=4),
    "4 bits": linears((5, 3, 3), [(16, 4, 8), (7, 4, 8), (6, 4, 8)], 3),
    "4 bits, long": linears((203,), [(50, 4, 8), (2, 4, 8), (9, 4, 8)]),
    "4 bits, long turns": linears((255,), [(81, 4, 8), (103, 4, 8)]),
    "4 bits, in parts": unbounded(4, 1030, 9),
    "4 bits, in parts, long turns": unbounded(4, 1046, 19),
    "4 bits, in parts, two rows": unbounded(4, 300, 2),
    "4 bits, image of 4": linears((3, 5, 9), [(7, 4, 8), (6, 4, 8)], input_bits=4),
    "4 bits, image of 2": linears((2, 4, 8), [(5, 4, 8)], input_bits=2),
    "2 bits": linears((50,), [(33, 2, 8), (4, 2, 8), (1, 2, 8)]),
    "2 bits, extremes": unbounded(2, 4099, 5),
    "2 bits, image of 2": linears((2, 3, 7), [(6, 2, 4), (5, 2, 2), (3, 2, 8)], input_bits=2),
    "all": linears((3,), [(64, 4, 2), (32, 2, 4), (24, 8, 8), (5, 4, 8)], 255),
    **{f"random {seed}": chain(seed) for seed in range(6)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 4)
    generated = generate(graph, variant="test", core="cortex-m4", forms=forms(graph))
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_core(name: str) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 3)
    core = "cortex-m7" if len(name) % 2 else "cortex-m4"
    _, _, ran = on_core(graph, x, core, forms=forms(graph))
    assert (core_crcs(ran) == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)
    assert max(inference.stack for inference in ran) < 640


def halves(words: Array) -> Array:
    """(...) uint32 -> (..., 2) int64: the low and the high halfword as signed numbers."""
    return np.stack([words & 0xFFFF, words >> 16], axis=-1).astype(np.uint16).view(np.int16).astype(np.int64)


def in_order(even: Array, odd: Array) -> Array:
    """(fours, 2) of inputs 0 and 2, and of 1 and 3, of each four -> (4 * fours,)."""
    return np.stack([even, odd], axis=-1).ravel()


sizes = given(st.integers(1, 11), st.integers(1, 40), st.integers(0, 2**32 - 1))


@sizes
def test_pairs_of_rows_come_back_from_words(outputs: int, inputs: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-127, 128, (outputs, inputs)).astype(np.int8)
    left, rows = pack_quads(weight), []
    while len(rows) < outputs:
        group = min(4, outputs - len(rows))
        count = fours(inputs) * group
        words, left = left[:count].reshape(-1, group), left[count:]
        for pair in range(group // 2):
            both = in_order(halves(words[:, 2 * pair]), halves(words[:, 2 * pair + 1]))
            low = (both + 128) % 256 - 128
            rows += [low, (both - low) // 256]
        if group % 2:
            rows.append(np.ascontiguousarray(words[:, -1]).view(np.int8))
    assert not left.size and np.array_equal(np.array(rows)[:, :inputs], weight)


@sizes
def test_rows_that_share_halfwords_come_back_from_words(outputs: int, inputs: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-8, 8, (outputs, inputs)).astype(np.int8)
    left, rows = pack_halfwords(weight, np.arange(outputs), bounded=False), []
    for first in range(0, outputs, 4):
        group = 4 if outputs - first > 2 else 2
        assert np.array_equal(left[:group], [i if i < outputs else 0 for i in range(first, first + group)])
        count = fours(inputs) * group // 2
        words, left = left[group : group + count], left[group + count :]
        if group == 4:
            shared = in_order(halves(words[::2]), halves(words[1::2]))
        else:
            shared = words.view(np.int8).astype(np.int64)
        rows += [(shared >> 4 * i) % 16 - 8 for i in range(group - 1)] + [shared >> 4 * (group - 1)]
    assert not left.size and np.array_equal(np.array(rows)[:outputs, :inputs], weight)


@pytest.mark.parametrize("bits", [4, 2])
@sizes
def test_rows_in_lanes_come_back_from_words(bits: int, outputs: int, inputs: int, seed: int) -> None:
    lowest, highest = WEIGHT_RANGES[bits]
    weight = np.random.default_rng(seed).integers(lowest, highest + 1, (outputs, inputs)).astype(np.int8)
    words = (
        pack_lanes(weight, np.zeros(outputs, np.int32), bits)
        .reshape(-(-outputs // 2), -1)[:, 2:, None]
        .astype(np.int64)
    )
    turns, ends = 2 * bits * np.arange(8 // bits), 2**bits - 1
    turned = words >> turns | words << 32 - turns & 2**32 - 1
    mask = (ends | ends << 16 - bits) * 0x00010001
    both = halves((turned & mask).astype(np.uint32)).reshape(len(words), -1, 2, 2)
    # (pair, four, even or odd, half)
    both = both.swapaxes(2, 3).reshape(len(words), -1)
    rows = np.stack([(both & ends) - 2 ** (bits - 1), both >> 16 - bits], axis=1).reshape(-1, both.shape[1])
    assert np.array_equal(rows[:outputs, :inputs], weight)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_reach_of_sums_is_reached_and_never_exceeded(inputs: int, bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, bias = random.integers(-9, 10, (1, inputs)), random.integers(-99, 99, 1)
    extremes = np.array(list(itertools.product((0, 2**bits - 1), repeat=inputs)))
    assert reach(weight, bias, bits) == np.abs(extremes @ weight.T + bias).max()


@pytest.mark.parametrize("bits", [8, 4])
def test_sums_are_taken_in_parts_only_where_they_must_be(bits: int) -> None:
    parts = [
        bool(lowered(graph).fields["segment"]) for graph in (linears((640,), [(8, bits, 8)]), unbounded(bits, 640, 8))
    ]
    assert parts == [False, True]


@needs_arm
@pytest.mark.parametrize("shape", [(640, 128), (128, 8), (8, 128), (256, 2)])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_it_costs(bits: int, shape: tuple[int, int]) -> None:
    graph = linears((shape[0],), [(shape[1], bits, 8)], last=False)
    x = random_inputs(graph, 2)[:1]
    generated, _, ran = on_core(graph, x, "cortex-m4", forms=forms(graph))
    layer = graph.layers[0]
    form = next(form for form in layer.forms if form.name == forms(graph)[layer.name])
    cost = form.cost(layer, site_of(graph, 0))
    assert cost.instructions == pytest.approx(ran[0].functions["run_fc0"], rel=0.08)
    assert cost.flash == pytest.approx(generated.layers[0].weight_bytes, rel=0.05)
    assert cost.scratch == lowered(graph).scratch_bytes


@needs_arm
def test_narrow_weights_cost_hardly_more() -> None:
    taken = {}
    for bits in (8, 4, 2):
        graph = linears((128,), [(128, bits, 8)], last=False)
        _, _, ran = on_core(graph, random_inputs(graph, 2)[:1], "cortex-m4", forms=forms(graph))
        taken[bits] = ran[0].functions["run_fc0"]
    assert taken[4] <= 1.05 * taken[8] and taken[2] <= 0.85 * taken[8]


def test_a_weight_of_minus_128_takes_another_form() -> None:
    weight = np.full((2, 9), -1, np.int8)
    weight[1, 4] = -128
    graph = with_layer(linears((9,), [(2, 8, 8)]), weight, np.zeros(2, np.int32))
    with pytest.raises(InputError, match="-128 does not fit"):
        generate(graph, variant="test", core="cortex-m4", forms={"fc0": "quads"})
    assert generate(graph, variant="test", core="cortex-m4").layers[0].form == "plain"
    weight[0, 4] = 0
    beside = with_layer(graph, weight, np.zeros(2, np.int32))
    assert generate(beside, variant="test", core="cortex-m4").layers[0].form == "quads"


@needs_arm
@pytest.mark.parametrize(("outputs", "bits", "inputs"), [(1, 2, 63), (2, 4, 256)])
def test_one_or_two_outputs_take_narrow_weights_as_bytes(outputs: int, bits: int, inputs: int, tmp_path: Path) -> None:
    """Without a copy of the input: as fast as weights of 8 bits, in less scratch."""
    graph = linears((inputs,), [(outputs, bits, 8)], 7, last=False)
    x = random_inputs(graph, 4)
    generated = generate(graph, variant="test", core="cortex-m4", forms={"fc0": "quads"})
    assert generated.layers[0].weight_bytes >= outputs * inputs
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert (crcs == reference_crcs(graph, x)).all()
    taken = {}
    for form in ("quads", "fields"):
        _, _, ran = on_core(graph, x, "cortex-m4", forms={"fc0": form})
        assert (core_crcs(ran) == reference_crcs(graph, x)).all()
        taken[form] = ran[0].instructions
    assert taken["quads"] <= 0.8 * taken["fields"]
    with pytest.raises(InputError, match="rules that out"):
        generate(linears((64,), [(3, bits, 8)]), variant="test", core="cortex-m4", forms={"fc0": "quads"})
