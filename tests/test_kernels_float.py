"""Float kernels: close to the reference, and the same bits on this machine and on a Cortex-M with an FPU."""

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
    single_conv,
)

from harness.codegen.generate import generate
from harness.graph.graph import Graph
from harness.ops.max_pool2d import Window
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# Filters 1 to 16 in groups, odd channels, margins on either side, strides, pools with an odd number of columns.
CONVOLUTIONS = {
    "margins": single_conv((7, 9, 3), (3, 3), 6, integer=False, padding=(1, 2)),
    "margins, pooled": single_conv((8, 8, 4), (5, 5), 13, integer=False, padding=(2, 2), pool=Window((2, 2), (2, 2))),
    "large": single_conv((6, 7, 32), (3, 3), 8, integer=False, padding=(1, 1)),
    "pooled by three": single_conv((9, 12, 5), (2, 2), 11, integer=False, pool=Window((3, 3), (2, 2))),
    "stride": single_conv((11, 10, 1), (3, 3), 1, integer=False, stride=(2, 2), padding=(1, 1)),
}
NETWORKS = CONVOLUTIONS | {f"network {seed}": random_network(seed, integer=False) for seed in range(5)}


def error(graph: Graph, x: np.ndarray, outputs: np.ndarray) -> float:
    """The largest difference from the reference, relative to the outputs' size."""
    expected = graph.infer(x).reshape(outputs.shape)
    return float(np.abs(outputs - expected).max() / max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize("name", NETWORKS)
def test_on_this_machine(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 4)
    for core in ("cortex-m4", "cortex-m0"):
        generated = generate(graph, variant="test", core=core)
        outputs, _ = on_host(generated, graph, x, tmp_path, sanitize=True)
        assert error(graph, x, outputs) < 1e-5


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_a_core_gives_the_bits_of_this_machine(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]
    x = random_inputs(graph, 3)
    generated, _, ran = on_core(graph, x, "cortex-m7")
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=False)
    assert np.array_equal(core_crcs(ran), crcs)
    assert all(inference.stack < 1000 for inference in ran)
