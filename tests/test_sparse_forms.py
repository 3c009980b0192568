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


def turns(width: int) -> Graph:
    """Two layers in turns: their rows lie in a window with margins, and the last row is of no use to the second."""
    return (
        Sparse((37, width, 3), seed=6, density=0.15, levels=3)
        .conv2d(24, (4, 5), padding=(2, 2), pool=POOL2, zero_point=5)
        .conv2d(2, (5, 3), padding=(0, 2), pool=POOL2)
        .linear(4, last=True)
        .build()
    )


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
    "turns": lambda: turns(24),
    # Weights of few bits: strips of five, three and two columns, and of two pairs; pixels far apart.
    "strips": lambda: (
        Sparse((64, 64, 1), seed=7, density=0.5, levels=2)
        .conv2d(5, (3, 3), padding=(1, 1), pool=POOL2)
        .conv2d(4, (5, 5), density=0.06, pool=POOL2, pruned=(1,))
        .conv2d(9, (5, 5), density=0.1, pool=POOL2, zero_point=7)
        .conv2d(5, (1, 1), padding=(1, 1), pool=POOL2)
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


CASES = [
    (name, turn) for name, network in NETWORKS.items() if name != "turns" for turn in range(len(assignments(network())))
]


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


@pytest.mark.parametrize(
    ("width", "first", "second", "kernel"),
    [
        (24, "lanes-code", "lanes-table", "nn_lanes_interleaved_apart("),
        (24, "lanes-bytes", "lanes-code", "nn_lanes_interleaved_apart("),
        (8, "lanes-code", "lanes-strip", "nn_lanes_interleaved("),
    ],
)
def test_interleaved_layers_save_memory_and_stay_exact(
    width: int, first: str, second: str, kernel: str, tmp_path: Path, cache: Path
) -> None:
    """Lanes of a row are on the stack where they are few."""
    graph = turns(width)
    generated = in_c(graph, {"conv1": first, "conv2": second})
    between = graph.tensors["conv1"].elements
    assert kernel in generated.files["network.c"]
    assert generated.activation_bytes < graph.input_tensor.elements + between
    outcome = on_core(graph, generated, tmp_path)
    assert all(outcome.exact)
    assert outcome.inference is not None and outcome.inference.stack <= 1024
    assert all(on_host(graph, generated, cache).exact)


def test_outputs_trail_their_inputs(tmp_path: Path) -> None:
    """conv1's output overwrites the image that it still reads, and conv2's the rows of conv1."""
    graph = NETWORKS["lenet"]()
    generated = in_c(graph, {"conv1": "lanes-code", "conv2": "lanes-table"})
    assert generated.activation_bytes < graph.input_tensor.elements + graph.tensors["conv1"].elements
    assert all(on_core(graph, generated, tmp_path).exact)


def test_dense_and_sparse_layers_in_one_network(tmp_path: Path, cache: Path) -> None:
    """A dense layer wants 16-bit activations or channels last; its neighbours must agree."""
    graph = NETWORKS["padded"]()
    for forms in (
        {"conv1": "pairs", "conv2": "lanes-table", "fc3": "quads", "fc4": "rice"},
        {"conv1": "lanes-code", "conv2": "pairs", "fc3": "bytes-4.4", "fc4": "quads"},
    ):
        generated = in_c(graph, forms)
        assert all(on_core(graph, generated, tmp_path / forms["conv1"]).exact)
        assert all(on_host(graph, generated, cache).exact)


@pytest.mark.parametrize("core", ["cortex-m7", "cortex-m3", "cortex-m0"])
def test_other_cores(core: str, tmp_path: Path) -> None:
    """Without DSP, the portable path runs on the target, too."""
    graph = NETWORKS["lenet"]()
    generated = in_c(graph, core=core, prefer="size")
    assert all(layer.form not in ("plain", "pairs", "quads") for layer in generated.layers)
    assert all(on_core(graph, generated, tmp_path).exact)


def test_a_kernel_of_which_the_compiler_knows_everything(tmp_path: Path) -> None:
    """With one layer and one row, GCC sees equal values in operands of the assembly: they must not share registers."""
    graph = Sparse((13,), seed=1, density=0.9, levels=1).linear(1, last=True).build()
    graph = with_layer(graph, 0, weight=np.array([[1, -1] * 6 + [1]], np.int8))
    for name in fitting(graph, 0):
        assert all(on_core(graph, in_c(graph, {"fc1": name}), tmp_path / name).exact)


# ---- refusals


def with_layer(graph: Graph, index: int, **changes: object) -> Graph:
    layers = list(graph.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)  # type: ignore[arg-type]
    return build_graph(graph.name, graph.input_tensor, tuple(layers), graph.tensors)


LANES = ("lanes-table", "lanes-code", "lanes-bytes")


@pytest.mark.parametrize("sign", [1, -1])
def test_lanes_refuse_sums_beyond_16_bits(sign: int, tmp_path: Path) -> None:
    """128 * 255 is the last multiple that a lane holds; one more weight of 1 is too many."""
    graph = NETWORKS["lenet"]()
    weight = np.zeros_like(graph.layers[0].parameters["weight"])
    weight[0].flat[:20] = 6 * sign
    weight[0].flat[20] = 7 * sign
    weight[0].flat[21] = sign
    full = with_layer(graph, 0, weight=weight)
    for name in LANES:
        generated = in_c(full, {"conv1": name})
        assert all(on_core(full, generated, tmp_path / name).exact)
    weight = weight.copy()
    weight[0].flat[22] = sign
    over = with_layer(graph, 0, weight=weight)
    assert not set(fitting(over, 0)) & set(LANES)
    for name in LANES:
        with pytest.raises(InputError, match="16 bits"):
            in_c(over, {"conv1": name})
    assert all(layer.form not in LANES for layer in in_c(over).layers[:1])


def test_forms_refuse_accumulators_beyond_32_bits() -> None:
    graph = NETWORKS["lenet"]()
    bias = np.full(30, 2**31 - 1, np.int64)
    huge = with_layer(graph, 2, bias=bias)
    assert fitting(huge, 2) == []
    with pytest.raises(InputError, match="32 bits"):
        in_c(huge, {"fc3": "rice"})


def test_forms_refuse_what_their_code_cannot_finish() -> None:
    graph = NETWORKS["lenet"]()
    requantize = graph.layers[2].requantize  # type: ignore[attr-defined]
    narrow = with_layer(graph, 2, requantize=dataclasses.replace(requantize, bits=4))
    assert fitting(narrow, 2) == ["rows", "blocks"]
    large = dataclasses.replace(requantize, shift=np.full(30, 31))
    assert fitting(with_layer(graph, 2, requantize=large), 2) == ["rows", "blocks"]


def test_rice_refuses_weights_without_codes() -> None:
    graph = NETWORKS["lenet"]()
    weight = graph.layers[2].parameters["weight"].copy()
    weight[5, 5] = 8
    wide = with_layer(graph, 2, weight=weight)
    assert "rice" not in fitting(wide, 2)
    assert "bytes-5.3" in fitting(wide, 2)


def test_unknown_names_are_refused() -> None:
    graph = NETWORKS["lenet"]()
    with pytest.raises(InputError, match="conv9"):
        in_c(graph, {"conv9": "rows"})
    with pytest.raises(InputError, match="lanes-tabel"):
        in_c(graph, {"conv1": "lanes-tabel"})
    with pytest.raises(InputError, match="fast"):
        in_c(graph, prefer="fast")
