"""Pointwise convolution of narrow types in lanes: exact, faster than tiles of bytes, refused where sums do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from kernels_dense import forms_of, site_of
from kernels_networks import core_crcs, on_core, on_host, random_inputs, reference_crcs

from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Requantization
from harness.ops.conv2d import Conv2d
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


def pointwise(shape: tuple[int, int, int], filters: int, bits: tuple[int, int, int], zero_point: int = 0) -> Graph:
    """From 8 bits to an input of bits[0], by weights of bits[1] (2: -1, 0, 1) to bits[2], and to 8 again."""
    random = np.random.default_rng(filters)
    wide = (-127, 127, 8)
    narrow = (-1, 1, 2) if bits[1] == 2 else (-7, 7, 4)
    tensor = source = Tensor("x", (*shape[:2], 4), "uint8", 0.05)
    tensors, layers = {}, []
    steps = (
        ("first", shape[2], wide, bits[0], 0),
        ("narrow", filters, narrow, bits[2], zero_point),
        ("last", 4, wide, 8, 0),
    )
    for name, outputs, (lowest, highest, weight_bits), out_bits, point in steps:
        weight = random.integers(lowest, highest + 1, (outputs, 1, 1, tensor.shape[2])).astype(np.int8)
        spread = highest * 2 ** (tensor.bits - 1) * np.sqrt(weight[0].size)
        scales = random.uniform(0.5, 1.5, outputs) * 2 ** (out_bits - 1) / spread
        layer = Conv2d(
            name,
            (tensor.name,),
            name,
            weight,
            random.integers(-int(spread), int(spread), outputs).astype(np.int32),
            relu=point == 0,
            input_zero_point=tensor.zero_point,
            requantize=Requantization.from_scales(np.minimum(scales, 0.45), point, out_bits),
            weight_bits=weight_bits,
        )
        tensor = Tensor(name, layer.output_shape(tensor.shape), "uint8", 0.05, point, out_bits)
        tensors[name] = tensor
        layers.append(layer)
    return build("pointwise", source, tuple(layers), tensors)


NETWORKS: dict[str, Graph] = {
    "4 bit with 4 bit": pointwise((5, 8, 16), 8, (4, 4, 4)),
    "4 bit with 4 bit, to 8": pointwise((3, 3, 8), 12, (4, 4, 8), zero_point=200),
    "8 bit with ternary": pointwise((7, 3, 12), 8, (8, 2, 8)),
    "8 bit with ternary, to 4, blocks": pointwise((12, 10, 96), 16, (8, 2, 4), zero_point=3),
    "2 bit with 4 bit, to 2": pointwise((4, 4, 32), 8, (2, 4, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 4)
    forms = forms_of(graph, "narrow", every=False)
    assert "narrow" in forms
    _, crcs = on_host(generate(graph, variant="test", core="cortex-m4", forms=forms), graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_and_what_it_costs(name: str) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 3)
    _, _, ran = on_core(graph, x, "cortex-m4", forms=forms_of(graph, "narrow", every=False))
    assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))


@needs_arm
@pytest.mark.parametrize("bits", [(4, 4, 4), (8, 2, 8)])
def test_it_takes_three_quarters_of_the_instructions(bits: tuple[int, int, int]) -> None:
    graph = pointwise((25, 5, 64), 64, bits)
    x = random_inputs(graph, 2)[:1]
    # What the layers around it are made of is in functions of their own.
    around = {"first": "packed", "last": "packed"}
    _, _, narrow = on_core(graph, x, "cortex-m4", forms={**around, "narrow": "narrow"})
    eight = dataclasses.replace(pointwise((25, 5, 64), 64, (8, 2, 8)), name="eight")
    _, _, tile = on_core(eight, x, "cortex-m4", forms={**around, "narrow": "tile"})
    own = ("run_narrow", "nn_narrow", "nn_tile")
    taken = [sum(count for name, count in ran[0].functions.items() if name.startswith(own)) for ran in (narrow, tile)]
    assert taken[0] <= 0.75 * taken[1]
    form = next(form for form in graph.layers[1].forms if form.name == "narrow")
    assert form.cost(graph.layers[1], site_of(graph, 1)).instructions == pytest.approx(taken[0], rel=0.15)


def test_sums_and_weights_that_do_not_fit_are_refused() -> None:
    graph = NETWORKS["8 bit with ternary"]
    layer = graph.layers[1]
    assert isinstance(layer, Conv2d)
    # -2 leaves lanes of 15 bits no room for a second filter, and 24 of them are too much for lanes of 14.
    for weight in (np.full((8, 1, 1, 24), -2, np.int8), np.full((8, 1, 1, 128), 1, np.int8)):
        shape = (7, 3, weight.shape[3])
        one = dataclasses.replace(layer, inputs=("x",), weight=weight)
        changed = build("changed", Tensor("x", shape, "uint8", 0.05), (one,), {"narrow": graph.tensors["narrow"]})
        with pytest.raises(InputError, match="its sums do not fit the lanes"):
            generate(changed, variant="test", core="cortex-m4", forms={"narrow": "narrow"})
