"""Winograd's 3x3 convolution: exact in integers for every border, taken where memory is worth its speed."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels_dense import convolutions, on_core_exactly, on_host_exactly, site_of

from harness.codegen.generate import generate
from harness.graph.graph import Graph
from harness.ops.conv2d import Conv2d
from harness.ops.conv2d_winograd import DualWinogradConv2d, WinogradConv2d
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

SQUARE, ONE = (3, 3), (1, 1)
NETWORKS: dict[str, Graph] = {
    "even and odd sizes, zero points": convolutions(
        (9, 12, 4), [(8, SQUARE, ONE, ONE, 3), (4, SQUARE, ONE, (0, 0), 0), (12, SQUARE, ONE, (2, 0), 7)]
    ),
    "chunks of tiles": convolutions((12, 18, 8), [(4, SQUARE, ONE, ONE, 0)]),
    "to accumulators": convolutions((5, 5, 12), [(4, SQUARE, ONE, ONE, 0), (8, SQUARE, ONE, ONE, 0)], last=True),
    "4 bits": convolutions((5, 4, 8), [(8, SQUARE, ONE, ONE, 0), (4, SQUARE, ONE, ONE, 9)], weight_bits=4),
    "2 bits": convolutions((5, 4, 8), [(8, SQUARE, ONE, ONE, 0), (4, SQUARE, ONE, ONE, 9)], weight_bits=2),
    "outputs of 4 bits": convolutions(
        (7, 5, 8), [(12, SQUARE, ONE, ONE, 5), (4, SQUARE, ONE, (0, 0), 0)], bits=4, weight_bits=4, packed=True
    ),
    "outputs of 2 bits": convolutions(
        (6, 7, 4), [(20, SQUARE, ONE, ONE, 1), (4, SQUARE, ONE, ONE, 0)], bits=2, weight_bits=8, packed=True
    ),
    "one tile": convolutions((3, 3, 4), [(4, SQUARE, ONE, (0, 0), 255)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[name], "winograd", tmp_path)


FORMS = {"cortex-m4": WinogradConv2d(), "cortex-m7": DualWinogradConv2d()}


@needs_arm
@pytest.mark.parametrize("core", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_and_what_it_costs(name: str, core: str) -> None:
    graph, form = NETWORKS[name], FORMS[core]
    _, _, ran = on_core_exactly(graph, form.name, core)
    estimated = sum(
        form.cost(layer, site_of(graph, index, core)).instructions
        for index, layer in enumerate(graph.layers)
        if isinstance(layer, Conv2d)
    )
    assert 0.6 < estimated / ran[0].instructions < 1.3  # tiles at the border take longer, and these are small


@needs_arm
def test_narrow_weights_cost_hardly_more() -> None:
    """Of one more AND per word of taps the transform of many channels has most."""
    taken = {
        bits: on_core_exactly(convolutions((8, 8, 64), [(64, SQUARE, ONE, ONE, 0)], weight_bits=bits), "winograd")[2]
        for bits in (8, 4, 2)
    }
    for bits in (4, 2):
        assert taken[bits][0].instructions <= 1.05 * taken[8][0].instructions


def test_memory_decides() -> None:
    graph = convolutions((8, 8, 64), [(64, SQUARE, ONE, ONE, 0)])
    taken = {
        prefer: generate(graph, variant="test", core="cortex-m4", prefer=prefer).layers[0].form
        for prefer in ("speed", "size")
    }
    assert taken == {"speed": "winograd", "size": "tile"}
