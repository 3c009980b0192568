"""Convolutions of one position on the kernels of fully connected layers: exact, and chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels_dense import Convolution, convolutions, on_core_exactly, on_host_exactly, site_of

from harness.codegen.generate import generate
from harness.graph.graph import Graph
from harness.ops.conv2d import Conv2d
from harness.ops.conv2d_linear import FieldsConv2d, QuadsConv2d
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# A kernel as large as the image, then pointwise ones.
LAYERS: list[Convolution] = [
    (12, (3, 2), (1, 1), (0, 0), 5),
    (10, (1, 1), (1, 1), (0, 0), 0),
    (7, (1, 1), (2, 2), (0, 0), 3),
]
NETWORKS: dict[tuple[str, str], Graph] = {
    ("quads", "8 bits"): convolutions((3, 2, 5), LAYERS),
    ("quads", "outputs of 4 bits"): convolutions((3, 2, 5), LAYERS, bits=4, packed=True),
    ("fields", "4 bits"): convolutions((3, 2, 6), LAYERS, bits=4, weight_bits=4, packed=True),
    ("fields", "2 bits"): convolutions((3, 2, 6), LAYERS, bits=2, weight_bits=2, packed=True),
}


@pytest.mark.parametrize(("form", "name"), NETWORKS)
def test_portable_path(form: str, name: str, tmp_path: Path) -> None:
    on_host_exactly(NETWORKS[form, name], form, tmp_path)


@needs_arm
@pytest.mark.parametrize(("form", "name"), NETWORKS)
def test_assembly_is_exact(form: str, name: str) -> None:
    on_core_exactly(NETWORKS[form, name], form)


def test_one_position_takes_them_and_more_do_not() -> None:
    pointwise: list[Convolution] = [(64, (1, 1), (1, 1), (0, 0), 0)]
    for bits, form in ((8, "quads"), (4, "fields")):
        graph = convolutions((1, 1, 64), pointwise, weight_bits=bits)
        assert generate(graph, variant="test", core="cortex-m4").layers[0].form == form
    for shape, padding in (((2, 1, 64), (0, 0)), ((1, 1, 64), (1, 1))):
        graph = convolutions(shape, [(64, (1, 1), (1, 1), padding, 0)])
        layer = graph.layers[0]
        assert isinstance(layer, Conv2d)
        assert not any(form.fits(layer, site_of(graph, 0)) for form in (QuadsConv2d(), FieldsConv2d()))
