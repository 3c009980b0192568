"""Which form a layer gets, and whether what the choice is based on is true."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sparse_networks import POOL2, Builder, Sparse, in_c, on_core
from test_sparse_forms import assignments, site

from harness.codegen import choose
from harness.graph.graph import Graph
from harness.graph.memory import Request, plan
from harness.ops.sparse import rice
from harness.ops.sparse.lanes_code import emit_group, terms


def lenet5(density: float = 1.0) -> Graph:
    """LeNet-5's shapes with the density of a network that was pruned by hand; `density` scales it."""
    return (
        Sparse((32, 32, 1), seed=7)
        .conv2d(6, (5, 5), pool=POOL2, density=0.7 * density)
        .conv2d(16, (5, 5), pool=POOL2, density=0.15 * density)
        .linear(120, density=0.04 * density)
        .linear(84, density=0.12 * density)
        .linear(10, last=True, density=0.4 * density)
        .build()
    )


def test_preferences_trade_bytes_for_instructions(tmp_path: Path) -> None:
    graph = lenet5()
    measured = {}
    for prefer in ("size", "balanced", "speed"):
        generated = in_c(graph, prefer=prefer)
        outcome = on_core(graph, generated, tmp_path / prefer)
        assert all(outcome.exact) and outcome.inference is not None
        flash = sum(layer.weight_bytes for layer in generated.layers)
        measured[prefer] = (flash + generated.activation_bytes, outcome.inference.instructions, outcome.inference.stack)
    assert measured["size"][0] < measured["balanced"][0] < measured["speed"][0]
    assert measured["size"][1] > measured["balanced"][1] > measured["speed"][1]
    # Activations with the input, and the stack: the limits of variant `deep`.
    assert in_c(graph).activation_bytes <= 1700
    assert all(stack <= 1024 for _, _, stack in measured.values())


def test_estimates_are_near_what_is_measured(tmp_path: Path) -> None:
    graph = lenet5()
    for turn, forms in enumerate(assignments(graph)):
        candidates = [
            choose._overridden(layer, site(graph, index), forms[layer.name])[0]
            for index, layer in enumerate(graph.layers)
        ]
        network = choose._Network(graph, [site(graph, index) for index in range(len(graph.layers))])
        estimated = network.total(candidates)
        outcome = on_core(graph, in_c(graph, forms), tmp_path / str(turn))
        assert all(outcome.exact) and outcome.inference is not None and outcome.image is not None
        assert estimated.instructions == pytest.approx(outcome.inference.instructions, rel=0.05)
        assert estimated.bytes == pytest.approx(outcome.image.total, rel=0.05)


def test_dense_layers_stay_dense() -> None:
    graph = Builder((64,), integer=True).linear(40).linear(10, last=True).build("dense")
    for prefer in ("size", "balanced", "speed"):
        assert [layer.form for layer in in_c(graph, prefer=prefer).layers] == ["quads", "quads"]


def test_what_is_generated_says_what_it_is() -> None:
    generated = in_c(lenet5(), {"fc3": "rice"})
    layer = generated.layers[2]
    assert (
        f"form rice, {layer.weight_bytes:,} B of constants ({layer.nonzeros:,} of 48,000 weights are not 0)"
        in (generated.files["network.c"])
    )
    assert layer.nonzeros == np.count_nonzero(lenet5().layers[2].parameters["weight"])


def test_same_graph_same_text() -> None:
    assert in_c(lenet5()).files == in_c(lenet5()).files


def test_code_lengths_are_optimal_within_the_limit() -> None:
    counts = {value: 2**value for value in range(9)}
    lengths = rice.code_lengths(counts, 4)
    assert max(lengths.values()) <= 4
    assert sum(2.0**-length for length in lengths.values()) <= 1
    assert rice.code_lengths(Counter({1: 5, 2: 3, 3: 1}), 4) == {1: 1, 2: 2, 3: 2}
    assert rice.code_lengths(Counter({0: 1}), 4) == {0: 1}


def test_weights_as_code_are_sums_of_powers() -> None:
    for weight in range(-130, 131):
        found = terms(weight)
        assert sum(sign << exponent for sign, exponent in found) == weight
        assert len(found) <= (abs(weight).bit_length() + 2) // 2


@pytest.mark.parametrize(("filters", "units"), [(1, 256), (5, 255), (8, 7)])
def test_emitted_code_has_the_length_that_it_says(filters: int, units: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = np.where(random.random((filters, 20)) < 0.6, random.integers(-15, 16, (filters, 20)), 0)
    offsets = np.arange(20) % 5 + np.arange(20) // 5 * 37
    code = emit_group(weight, offsets, pitch=37, units=units, stride=300)
    source = tmp_path / "group.s"
    source.write_text(".syntax unified\n.thumb\n.text\n" + "\n".join(line.text for line in code) + "\n")
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-c", str(source), "-o", str(tmp_path / "group.o")]
    subprocess.run(command, check=True, timeout=30)
    sizes = subprocess.run(
        ["arm-none-eabi-size", str(tmp_path / "group.o")], check=True, timeout=30, capture_output=True, text=True
    )
    assert int(sizes.stdout.splitlines()[1].split()[0]) == sum(line.bytes for line in code)


def test_buffers_that_trail_share_memory() -> None:
    """An output of 12 bytes that starts 4 bytes before its input of 12 needs no more than 16 bytes together."""
    requests = [Request("in", 12, 4, 0, 0), Request("out", 12, 4, 0, 1, {"in": 4}), Request("next", 4, 4, 1, 1)]
    made = plan(requests)
    assert made.total == 16
    assert made.offsets["in"] - made.offsets["out"] >= 4
