"""Convolution of one channel: exact for weights and outputs of every width, with and without a pool; and its costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_dense import Convolution, convolutions, forms_of, on_host_exactly, site_of
from kernels_networks import core_crcs, on_core, random_inputs, reference_crcs

from harness.graph.graph import Graph
from harness.ops.conv2d import Conv2d
from harness.ops.conv2d_gray import GrayConv2d
from harness.ops.max_pool2d import Window
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

POOL = Window((2, 2), (2, 2))
# Behind a layer whose outputs are packed stands another one: the network's output has 8 bits.
LAST: Convolution = (4, (1, 1), (1, 1), (0, 0), 0)
NETWORKS: dict[str, Graph] = {
    "weights and outputs of 4 bits": convolutions(
        (28, 28, 1), [(6, (5, 5), (1, 1), (2, 2), 0), LAST], bits=4, weight_bits=4, packed=True
    ),
    "weights of 8 bits, outputs of 2, an odd image": convolutions(
        (13, 11, 1), [(5, (3, 3), (1, 1), (1, 1), 1), LAST], bits=2, packed=True
    ),
    "weights of 2 bits, outputs of 4": convolutions(
        (12, 9, 1), [(3, (4, 7), (1, 1), (0, 3), 15), LAST], bits=4, weight_bits=2, packed=True
    ),
    "pooled, outputs of 4 bits": convolutions(
        (28, 28, 1), [(6, (5, 5), (1, 1), (2, 2), 0)], bits=4, weight_bits=8, pool=POOL
    ),
    "pooled, weights of 2 bits": convolutions((17, 12, 1), [(7, (3, 3), (1, 1), (1, 1), 0)], weight_bits=2, pool=POOL),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[name], "gray", tmp_path, every=False)


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_is_exact_and_costs_what_is_estimated(name: str) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 3)
    forms = {"conv0": "gray"}
    assert forms_of(graph, "gray", every=False).keys() == forms.keys()
    _, _, ran = on_core(graph, x, "cortex-m4", forms=forms)
    assert (core_crcs(ran) == reference_crcs(graph, x)).all()
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d)
    if len(graph.layers) == 1:
        estimated = GrayConv2d().cost(layer, site_of(graph, 0)).instructions
        assert 0.85 < estimated / ran[2].instructions < 1.15


@settings(max_examples=6)
@given(
    shape=st.tuples(st.integers(2, 11), st.integers(2, 11)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    filters=st.integers(1, 5),
    bits=st.sampled_from([2, 4]),
    weight_bits=st.sampled_from([2, 4, 8]),
    pooled=st.booleans(),
)
def test_any_shape(
    shape: tuple[int, int],
    kernel: tuple[int, int],
    filters: int,
    bits: int,
    weight_bits: int,
    pooled: bool,
    tmp_path: Path,
) -> None:
    layers: list[Convolution] = [(filters, kernel, (1, 1), (kernel[0] // 2, kernel[1] // 2), 1), LAST]
    pool = POOL if pooled and min(shape) >= 4 else None
    graph = convolutions((*shape, 1), layers, bits=bits, weight_bits=weight_bits, pool=pool, packed=True)
    on_host_exactly(graph, "gray", tmp_path, every=False)
