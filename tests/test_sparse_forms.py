"""Every sparse form against the reference: on this machine under sanitizers, and in Unicorn; and when forms refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sparse_networks import POOL2, Sparse, in_c, on_core, on_host

from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.graph import build as build_graph
from harness.ops import sparse
from harness.ops.lowering import DEFAULT_STORAGE, Site, Target
from harness.ops.max_pool2d import Window

NETWORKS: dict[str, Callable[[], Graph]] = {
    # LeNet-5's shapes, smaller; a filter and rows without weights; biases that need 16 bits are in others.
    "lenet": lambda: (
        Sparse((20, 20, 1), seed=1, levels=7)
        .conv2d(6, (5, 5), pool=POOL2, density=0.8)
        .conv2d(9, (3, 3), pool=POOL2, pruned=(0, 8))
        .linear(30, density=0.05, pruned=(0, 1, 29))
        .linear(10, last=True)
        .build()
    ),
    # Padding, several input channels, odd numbers of columns, a scale per channel, zero points.
    "padded": lambda: (
        Sparse((13, 18, 3), seed=2, density=0.2, levels=4)
        .conv2d(5, (3, 5), padding=(1, 2), pool=POOL2, zero_point=9, shared=False)
        .conv2d(3, (5, 3), padding=(2, 1), pool=POOL2, shared=False)
        .linear(17, zero_point=20, shared=False)
        .linear(4, last=True)
        .build()
    ),
    # What lanes do not take: strides, other windows, a single element, no pooling.
    "shapes": lambda: (
        Sparse((17, 23, 2), seed=3, levels=3)
        .conv2d(4, (3, 3), stride=(2, 1), padding=(1, 0))
        .conv2d(3, (2, 4), pool=Window((3, 2), (2, 1)))
        .conv2d(5, (1, 1), stride=(1, 2))
        .linear(6, density=0.9)
        .build()
    ),
    # Long gaps, long rows, weights that take several entries.
    "wide": lambda: (
        Sparse((2100,), seed=4, density=0.004, levels=8)
        .linear(40, pruned=tuple(range(12)))
        .linear(300, density=0.5)
        .linear(3, last=True, density=1.0)
        .build()
    ),
    "empty": lambda: (
        Sparse((9, 9, 1), seed=5, density=0.0).conv2d(3, (3, 3), pool=POOL2).linear(5).linear(3, last=True).build()
    ),
}


def site(graph: Graph, index: int, core: str = "cortex-m4") -> Site:
    layer = graph.layers[index]
    source, result = graph.tensors[layer.inputs[0]], graph.tensors[layer.output]
    return Site(Target(core), source.shape, result.shape, DEFAULT_STORAGE[source.dtype], DEFAULT_STORAGE[result.dtype])


def fitting(graph: Graph, index: int) -> list[str]:
    """The names of the sparse forms that fit a layer."""
    layer = graph.layers[index]
    return [form.name for form in sparse.forms(layer) if form.applicable(layer, site(graph, index))]


def assignments(graph: Graph) -> list[dict[str, str]]:
    """Forms for all layers, so that every form that fits a layer is in one of them."""
    names = [fitting(graph, index) for index in range(len(graph.layers))]
    return [
        {
            layer.name: choices[(turn + index) % len(choices)]
            for index, (layer, choices) in enumerate(zip(graph.layers, names, strict=True))
        }
        for turn in range(max(map(len, names)))
    ]


CASES = [(name, turn) for name, network in NETWORKS.items() for turn in range(len(assignments(network())))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "turn"), CASES)
def test_every_form_is_bit_exact(name: str, turn: int, tmp_path: Path, cache: Path) -> None:
    graph = NETWORKS[name]()
    forms = assignments(graph)[turn]
    generated = in_c(graph, forms)
    assert {layer.name: layer.form for layer in generated.layers} == forms
    assert all(on_core(graph, generated, tmp_path).exact)
    assert all(on_host(graph, generated, cache).exact)
