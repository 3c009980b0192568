"""Integer kernels: the reference, the C on this machine and the C on a Cortex-M agree bit for bit on every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernels_networks import (
    core_crcs,
    on_core,
    on_host,
    random_inputs,
    random_network,
    reference_crcs,
    single_conv,
)

from harness.codegen.generate import generate
from harness.ops.max_pool2d import Window
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

SEEDS = range(20)

POOL2 = Window((2, 2), (2, 2))

# What decides how a convolution reads its input: steps of an odd number of elements (rows shifted by one), margins, the
# last of an odd number of columns or rows, rows of more words than one straight line takes, blocks of rows.
PAIRS = {
    "odd steps": single_conv((9, 11, 3), (5, 5), 3, integer=True),
    "odd steps, odd columns, margins": single_conv(
        (7, 9, 3), (3, 3), 2, integer=True, padding=(1, 1), input_zero_point=5
    ),
    "odd steps, pooled": single_conv((12, 12, 3), (3, 3), 4, integer=True, pool=POOL2),
    "odd steps, pooled by three": single_conv((9, 12, 5), (2, 2), 4, integer=True, pool=Window((3, 3), (2, 2))),
    "even steps, odd row": single_conv((6, 9, 1), (3, 3), 5, integer=True, stride=(2, 2), padding=(1, 0)),
    "long rows": single_conv((5, 7, 18), (3, 3), 3, integer=True, padding=(1, 1)),
    "long rows of an odd number of words": single_conv((4, 6, 22), (1, 3), 2, integer=True),
    "blocks of rows, the last one smaller": single_conv((11, 4, 4), (3, 3), 2, integer=True, stride=(1, 1)),
    "blocks of rows that skip some": single_conv((12, 5, 2), (1, 1), 3, integer=True, stride=(2, 2)),
}
GRAY = {
    "pooled": single_conv((12, 13, 1), (5, 5), 3, integer=True, pool=POOL2),
    "margins, pooled": single_conv((9, 11, 1), (3, 3), 2, integer=True, pool=POOL2, padding=(1, 2), input_zero_point=7),
    "margins, odd rows and columns": single_conv(
        (7, 9, 1), (3, 3), 2, integer=True, padding=(1, 1), input_zero_point=9
    ),
    "even kernel": single_conv((8, 8, 1), (4, 2), 3, integer=True, padding=(2, 0), input_zero_point=1),
    "one pixel": single_conv((5, 4, 1), (1, 1), 2, integer=True),
}
CONVOLUTIONS = {("pairs", name): graph for name, graph in PAIRS.items()} | {
    ("gray", name): graph for name, graph in GRAY.items()
}


@pytest.mark.parametrize("seed", SEEDS)
def test_portable_path_is_exact_and_clean(seed: int, tmp_path: Path) -> None:
    """What Cortex-M4 would run, compiled for this machine: with AddressSanitizer and UndefinedBehaviorSanitizer."""
    graph = random_network(seed, integer=True)
    x = random_inputs(graph, 6)
    generated = generate(graph, variant="test", core="cortex-m4")
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@pytest.mark.parametrize(("form", "name"), CONVOLUTIONS)
def test_dense_convolution_on_this_machine(form: str, name: str, tmp_path: Path) -> None:
    graph = CONVOLUTIONS[form, name]
    x = random_inputs(graph, 4)
    generated = generate(graph, variant="test", core="cortex-m4", forms={"conv": form})
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))


@needs_arm
@pytest.mark.parametrize(("form", "name"), CONVOLUTIONS)
def test_dense_convolution_on_a_core(form: str, name: str) -> None:
    graph = CONVOLUTIONS[form, name]
    x = random_inputs(graph, 4)
    _, _, ran = on_core(graph, x, "cortex-m4", forms={"conv": form})
    assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))


def test_a_convolution_may_end_in_accumulators(tmp_path: Path) -> None:
    for graph in (single_conv((6, 6, channels), (3, 3), 3, integer=True, last=True) for channels in (1, 2, 3)):
        x = random_inputs(graph, 4)
        for kernels in ("default", "plain"):
            generated = generate(graph, variant="test", core="cortex-m4", kernels=kernels)
            outputs, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
            assert outputs.dtype == np.int32
            assert np.array_equal(crcs, reference_crcs(graph, x))


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_plain_forms_are_exact_and_clean(seed: int, tmp_path: Path) -> None:
    graph = random_network(seed, integer=True)
    x = random_inputs(graph, 6)
    generated = generate(graph, variant="test", core="cortex-m0", kernels="plain")
    assert {layer.form for layer in generated.layers} == {"plain"}
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


@needs_arm
@pytest.mark.parametrize("seed", SEEDS)
def test_intrinsics_path_is_exact(seed: int) -> None:
    graph = random_network(seed, integer=True)
    x = random_inputs(graph, 3)
    _, _, ran = on_core(graph, x, "cortex-m7" if seed % 2 else "cortex-m4")
    assert (core_crcs(ran) == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)
    assert all(inference.stack < 1000 for inference in ran)


@needs_arm
@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m3"])
def test_cores_without_simd(core: str) -> None:
    graph = random_network(3, integer=True)
    x = random_inputs(graph, 2)
    _, _, ran = on_core(graph, x, core)
    assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))
