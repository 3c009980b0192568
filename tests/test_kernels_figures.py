"""What LeNet-5 may cost at most: instructions of one inference, bytes of its image, stack."""

from __future__ import annotations

import numpy as np
import pytest
from kernels_networks import core_crcs, lenet5, on_core, random_inputs, reference_crcs

from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_int8(core: str) -> None:
    graph = lenet5(integer=True)
    x = random_inputs(graph, 2)
    _, bare, ran = on_core(graph, x, core)
    assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))
    assert max(inference.instructions for inference in ran) <= 410_000
    assert bare.image.total <= 71_000
    assert max(inference.stack for inference in ran) < 256


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_fp32(core: str) -> None:
    graph = lenet5(integer=False)
    x = random_inputs(graph, 2)
    generated, bare, ran = on_core(graph, x, core)
    assert generated.activation_bytes == bare.image.activations == 8800
    assert max(inference.instructions for inference in ran) <= 650_000
    assert bare.image.total <= 257_000
    assert max(inference.stack for inference in ran) < 512


def test_a_plain_network_costs_more() -> None:
    graph = lenet5(integer=True)
    x = random_inputs(graph, 2)[:1]
    _, _, plain = on_core(graph, x, "cortex-m4", kernels="plain")
    assert plain[0].instructions > 2_000_000
    assert np.array_equal(core_crcs(plain), reference_crcs(graph, x))
