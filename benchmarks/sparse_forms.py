"""Bytes and instructions of every sparse storage form, layer by layer, and of what each preference chooses.

    python benchmarks/sparse_forms.py [--core cortex-m4] [--graph network.safetensors]

Without a graph: LeNet-5's shapes with seeded random weights, as sparse as a pruned LeNet-5 (some 3,900 are not 0). A
layer's bytes and instructions are differences of whole networks that are built, linked and run (count_instructions.py):
each form against `rows` in that one layer, so that they count its share of kernels and of activations.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from count_instructions import BareCore, build
from networks import POOL2, Builder

from harness.codegen.generate import generate, logical_bytes, serialize_input
from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.graph.graph import build as build_graph
from harness.ops import sparse

DENSITIES = (0.7, 0.15, 0.04, 0.12, 0.4)
LARGEST = (7, 7, 3, 3, 3)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A whole network. bytes: weights, kernels and activations."""

    bytes: int
    instructions: int
    forms: dict[str, str]
    parts: str


def pruned_lenet5() -> Graph:
    """Seeded weights of few levels; filters' sums fit lanes."""
    dense = (
        Builder((32, 32, 1), integer=True)
        .conv2d(6, 5, pool=POOL2)
        .conv2d(16, 5, pool=POOL2)
        .linear(120)
        .linear(84)
        .linear(10, last=True)
        .build("lenet5")
    )
    random = np.random.default_rng(0)
    layers = []
    for layer, density, largest in zip(dense.layers, DENSITIES, LARGEST, strict=True):
        weight = layer.parameters["weight"]
        signs, sizes = random.choice((-1, 1), weight.shape), random.integers(1, largest + 1, weight.shape)
        values = np.where(random.random(weight.shape) < density, signs * sizes, 0).astype(np.int8)
        bias = (layer.parameters["bias"] // 32 * 32).astype(np.int32)
        layers.append(dataclasses.replace(layer, weight=values, bias=bias))  # type: ignore[call-arg]
    return build_graph("lenet5", dense.input_tensor, tuple(layers), dense.tensors)


def measure(graph: Graph, core: str, **options: object) -> Measured:
    """One inference of a random image, checked against the reference."""
    generated = generate(graph, variant="deep", core=core, **options)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        machine = BareCore(build(generated, Path(folder)), core)
    image = np.random.default_rng(1).integers(0, 256, graph.input_tensor.shape)
    ran = machine.infer(serialize_input(graph, image))
    expected = graph.run(image[None].astype(np.uint8))
    for (layer, value), made, (_, data) in zip(expected, generated.layers, ran.layers, strict=True):
        assert data == logical_bytes(graph, layer, value[0], made.layout), f"{layer.name} as {made.form} is wrong"
    size = machine.image
    parts = f"weights {size.weights:,} + kernels {size.kernels:,} + activations {size.activations:,}"
    forms = {layer.name: layer.form for layer in generated.layers}
    return Measured(size.total, ran.instructions, forms, f"{parts}, stack {ran.stack}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="cortex-m4")
    parser.add_argument("--graph", type=Path, help="an integer network that `harness compress` wrote")
    arguments = parser.parse_args()
    graph = graph_file.load(arguments.graph)[0] if arguments.graph else pruned_lenet5()
    for prefer in ("size", "balanced", "speed"):
        found = measure(graph, arguments.core, prefer=prefer)
        print(f"{prefer:9} {found.bytes:>7,} B {found.instructions:>9,} instructions  {found.parts}")
        print(f"          {', '.join(f'{layer} {form}' for layer, form in found.forms.items())}")
    rows = {layer.name: "rows" for layer in graph.layers if sparse.forms(layer)}
    base = measure(graph, arguments.core, forms=rows)
    print(f"rows      {base.bytes:>7,} B {base.instructions:>9,} instructions  {base.parts}; against it:")
    for layer in graph.layers:
        for form in sparse.forms(layer):
            try:
                found = measure(graph, arguments.core, forms=rows | {layer.name: form.name})
            except InputError as refused:
                print(f"  {layer.name:8} {form.name:12} {refused}")
                continue
            saved, gained = found.bytes - base.bytes, found.instructions - base.instructions
            print(f"  {layer.name:8} {form.name:12} {saved:>+7,} B {gained:>+9,} instructions")


if __name__ == "__main__":
    main()
