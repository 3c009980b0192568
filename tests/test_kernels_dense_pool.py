"""Pooling of four channels at a time: exact at every width, taken where pixels are whole words, refused elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels_dense import site_of
from kernels_networks import core_crcs, on_core, on_host, reference_crcs
from mixed_networks import mixed_inputs

from harness.codegen.generate import generate
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Operator, Requantization
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.ops.pool2d_fours import FoursAvgPool2d, FoursMaxPool2d
from harness.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

POOL = 1  # its place in a network


def network(
    kind: str, shape: tuple[int, int, int], window: Window, *, bits: int, out: int, point: int = 0, out_point: int = 0
) -> Graph:
    """x, made `bits` wide, pooled into `out` bits, made 8 bits wide again."""
    narrow = Requantization.from_scales(np.array([2.0 ** (bits - 8) * 0.99]), point, bits)
    scale = 1.3 * 2.0 ** (out - bits) / (window.kernel[0] * window.kernel[1])
    pool: Operator = MaxPool2d("pool", ("narrow",), "pool", window)
    if kind == "average":
        requantize = Requantization.from_scales(np.array([scale]), out_point, out)
        pool = AvgPool2d("pool", ("narrow",), "pool", window, point, requantize)
    one = Window((1, 1), (1, 1))
    layers = (
        AvgPool2d("narrow", ("x",), "narrow", one, 3, narrow),
        pool,
        AvgPool2d("wide", ("pool",), "wide", one, 0, Requantization.from_scales(np.array([1.0]), 0)),
    )
    pooled = pool.output_shape(shape)
    tensors = {
        "narrow": Tensor("narrow", shape, "uint8", 0.1, point, bits),
        "pool": Tensor("pool", pooled, "uint8", 0.1, out_point, out),
        "wide": Tensor("wide", pooled, "uint8", 0.1),
    }
    return build("pooling", Tensor("x", shape, "uint8", 0.1, 3), layers, tensors)


NETWORKS: dict[str, Graph] = {
    "2x2 of bytes": network("max", (5, 7, 12), Window((2, 2), (2, 2)), bits=8, out=8),
    "padding": network("max", (6, 7, 4), Window((3, 3), (2, 2), (1, 1)), bits=8, out=8),
    "padding on one axis": network("max", (4, 9, 8), Window((3, 5), (1, 2), (0, 2)), bits=4, out=4),
    "overlapping 3x3 of nibbles": network("max", (7, 5, 16), Window((3, 3), (1, 1)), bits=4, out=4),
    "3x2 of pairs of bits": network("max", (6, 5, 16), Window((3, 2), (2, 1)), bits=2, out=2),
    "whole images": network("average", (8, 8, 16), Window((8, 8), (8, 8)), bits=8, out=8),
    "in place": network("average", (6, 6, 4), Window((3, 3), (1, 1)), bits=8, out=8, point=5, out_point=9),
    "zero points at the end": network(
        "average", (5, 5, 8), Window((5, 4), (1, 1)), bits=8, out=8, point=255, out_point=255
    ),
    "the largest sums": network("average", (16, 8, 4), Window((16, 8), (1, 1)), bits=8, out=4, point=1),
    "bytes into pairs of bits": network("average", (4, 5, 4), Window((2, 2), (2, 1)), bits=8, out=2),
    "nibbles": network("average", (5, 7, 8), Window((3, 3), (1, 2)), bits=4, out=4, point=3, out_point=2),
    "rows beyond a byte's sum": network("average", (3, 40, 8), Window((3, 36), (1, 1)), bits=4, out=8, point=15),
    "pairs of bits": network("average", (7, 7, 16), Window((7, 7), (7, 7)), bits=2, out=4, point=1),
    "pairs of bits into as many": network("average", (3, 5, 32), Window((2, 3), (1, 1)), bits=2, out=2),
}


def forms(graph: Graph) -> dict[str, str]:
    """The form of the pool that is under test."""
    return {graph.layers[POOL].name: "fours"}


@pytest.mark.parametrize("name", NETWORKS)
def test_portable_path(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]
    x = mixed_inputs(graph, 5)
    generated = generate(graph, variant="test", core="cortex-m4", forms=forms(graph))
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))


@settings(max_examples=8)
@given(
    kind=st.sampled_from(["max", "average"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    words=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bits=st.sampled_from([8, 4, 2]),
    out=st.sampled_from([8, 4, 2]),
    points=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_any_shape(
    kind: str,
    size: tuple[int, int],
    words: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    bits: int,
    out: int,
    points: tuple[int, int],
    tmp_path: Path,
) -> None:
    """A max-pool has padding wherever its kernel allows some."""
    average = kind == "average"
    padding = (0, 0) if average else (kernel[0] // 2, kernel[1] // 2)
    assume(all(extent + 2 * edge >= taps for extent, edge, taps in zip(size, padding, kernel, strict=True)))
    out = out if average else bits
    point, out_point = (value % 2**width for value, width in zip(points, (bits, out), strict=True))
    shape = (*size, words * 32 // bits)
    window = Window(kernel, stride, padding)
    graph = network(kind, shape, window, bits=bits, out=out, point=point, out_point=out_point if average else point)
    assume(refused(graph) is None)
    x = mixed_inputs(graph, 4)
    generated = generate(graph, variant="test", core="cortex-m4", forms=forms(graph))
    _, crcs = on_host(generated, graph, x, tmp_path, sanitize=True)
    assert np.array_equal(crcs, reference_crcs(graph, x))


@needs_arm
@pytest.mark.parametrize("name", NETWORKS)
def test_assembly_and_what_it_costs(name: str) -> None:
    graph = NETWORKS[name]
    x = mixed_inputs(graph, 4)
    generated, _, ran = on_core(graph, x, "cortex-m4")
    assert generated.layers[POOL].form == "fours"  # wherever it fits, it is the fastest
    assert np.array_equal(core_crcs(ran), reference_crcs(graph, x))
    taken = ran[0].functions["run_pool"]
    others = {
        form.name: on_core(graph, x[:1], "cortex-m4", forms={"pool": form.name})[2][0].functions["run_pool"]
        for form in graph.layers[POOL].forms
        if form.name != "fours" and form.fits(graph.layers[POOL], site_of(graph, POOL))
    }
    assert all(taken * 2 < other for other in others.values()), (taken, others)
    layer, site = graph.layers[POOL], site_of(graph, POOL)
    (form,) = (form for form in layer.forms if form.name == "fours")
    assert 0.6 < form.cost(layer, site).instructions / taken < 1.5


def test_averages_of_networks_are_three_times_as_fast_as_a_loop() -> None:
    from harness import boards
    from harness.kernelbench import bench, shapes

    board = boards.load("nucleo-f746")
    layers = [shape for name in shapes.NETWORKS for shape in shapes.of(name) if shape.kind == "avg_pool"]
    found = list(bench.measure(board, layers, widths=(8,), every_form=True))
    for shape in layers:
        taken = {one.form: one.instructions for one in found if one.layer == shape.name and one.exact}
        assert 3 * taken["fours"] < taken["plain"]
        assert taken["fours"] < 1.5 * np.prod(shape.input)


def refused(graph: Graph) -> str | None:
    """Why the form does not fit the pool."""
    layer = graph.layers[POOL]
    (form,) = (form for form in layer.forms if form.name == "fours")
    return form.unsuited(layer, site_of(graph, POOL)) or form.refusal(layer, site_of(graph, POOL))


def test_what_does_not_fit_takes_another_form() -> None:
    thirds = network("average", (4, 4, 6), Window((2, 2), (2, 2)), bits=8, out=8)
    assert refused(thirds) == "its shape or the core rules that out"
    long = network("average", (16, 9, 4), Window((16, 9), (1, 1)), bits=8, out=8)
    assert refused(long) == "the sums of its windows do not fit in 16 bits"
    with pytest.raises(InputError, match="the sums of its windows do not fit in 16 bits"):
        generate(long, variant="test", core="cortex-m4", forms=forms(long))
    assert generate(long, variant="test", core="cortex-m4").layers[POOL].form == "plain"
    small = network("average", (4, 4, 4), Window((1, 2), (1, 1)), bits=8, out=8)
    assert refused(small) == "its scale wants another shift than 32"
    widened = network("max", (4, 4, 8), Window((2, 2), (2, 2)), bits=4, out=4)
    layer, site = widened.layers[POOL], site_of(widened, POOL)
    assert isinstance(layer, MaxPool2d)
    assert FoursMaxPool2d().applicable(layer, site)
    assert not FoursMaxPool2d().applicable(layer, site_of(widened, POOL, "cortex-m0"))
    bytes_ = network("average", (4, 4, 4), Window((2, 2), (2, 2)), bits=8, out=8)
    pool = bytes_.layers[POOL]
    assert isinstance(pool, AvgPool2d)
    assert FoursAvgPool2d().refusal(replace(pool, requantize=None), site_of(bytes_, POOL)) is not None
