"""Mixed precision in C: every operator at every width agrees with the reference, on this machine and on cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_networks import core_crcs, on_core, on_host, reference_crcs
from mixed_networks import mixed_inputs, mixed_network
from test_mixed_graph import NETWORKS, SHAPE, randomized

from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.trace import trace
from harness.ops.conv2d import Conv2d
from harness.ops.packing import pack_rows, row_bytes, unpack_rows
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


@given(st.sampled_from((2, 4, 8)), st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_rows_come_back_from_words(bits: int, rows: int, elements: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, (rows, elements))
    words = pack_rows(values, bits)
    assert words.dtype == np.uint32 and 4 * words.shape[1] == row_bytes(elements, bits)
    assert (unpack_rows(words, bits, elements) == values).all()
    last = elements - 1
    assert int(words[0, last * bits // 32]) >> last * bits % 32 & (2**bits - 1) == values[0, last]


@pytest.mark.parametrize("seed", range(24))
def test_any_combination_on_this_machine(seed: int, tmp_path: Path) -> None:
    """With AddressSanitizer and UndefinedBehaviorSanitizer where the seed is even."""
    graph = mixed_network(seed)
    x = mixed_inputs(graph, 5)
    generated = generate(graph, variant="test", core="cortex-m4")
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=seed % 2 == 0)
    assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@pytest.mark.parametrize("seed", range(100, 106))
def test_branches_at_eight_bits(seed: int, tmp_path: Path) -> None:
    """Where the fast 8-bit forms take part."""
    graph = mixed_network(seed, narrow=False)
    x = mixed_inputs(graph, 4)
    for kernels in ("default", "plain"):
        generated = generate(graph, variant="test", core="cortex-m4", kernels=kernels)
        _, crcs = on_host(generated, graph, x, tmp_path, sanitize=False)
        assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@needs_arm
@pytest.mark.parametrize(("seed", "core"), [(0, "cortex-m4"), (3, "cortex-m7"), (7, "cortex-m4"), (9, "cortex-m0")])
def test_any_combination_on_a_core(seed: int, core: str) -> None:
    graph = mixed_network(seed)
    x = mixed_inputs(graph, 3)
    _, _, ran = on_core(graph, x, core)
    assert (core_crcs(ran) == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_floats_with_branches(name: str, tmp_path: Path) -> None:
    """Depthwise convolution, sums, ReLU6 and padding of all kinds in float32: as near as another order of sums is."""
    graph = trace(randomized(NETWORKS[name][0]()), SHAPE, "net")
    x = np.random.default_rng(0).normal(0, 1, (3, *SHAPE)).astype(np.float32)
    generated = generate(graph, variant="fp32", core="cortex-m7")
    got, _ = on_host(generated, graph, x, tmp_path, sanitize=True)
    expected = graph.infer(x)
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_weights_beyond_their_width_are_refused() -> None:
    graph = mixed_network(0)
    index, layer = next((i, one) for i, one in enumerate(graph.layers) if isinstance(one, Conv2d))
    wrong = replace(layer, weight=np.full_like(layer.weight, 2), weight_bits=2)
    layers = (*graph.layers[:index], wrong, *graph.layers[index + 1 :])
    with pytest.raises(InputError, match=f"layer {layer.name}: its weights do not fit 2 bits"):
        generate(replace(graph, layers=layers), variant="test", core="cortex-m4")


def test_a_baseline_refuses_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match=r"unlu|layer"):
        generate(mixed_network(0), variant="test", core="cortex-m4", kernels="unlu")
