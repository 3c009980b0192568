"""Cycles per instruction of every storage form, memory stalls aside: the figures of harness/codegen/pace.json.

    python benchmarks/form_rates.py [--core CORE]... [--new] [--write]

Each layer of LeNet-5 (int8 and deep) runs alone in each form that fits it, and so do layers of harness bench-kernels in
the dense ones, on the cycle model of one board for each core. No board that the simulator runs has a Cortex-M0, M0+ or
M3: another board's chip then lends its memories, which the figures leave out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness import boards, codegen
from harness.boards import Board
from harness.codegen.choose import available
from harness.codegen.generate import default_site
from harness.codegen.pace import family
from harness.errors import BuildError
from harness.graph.graph import Graph, build
from harness.kernelbench import bench, shapes
from harness.ops.lowering import Target
from harness.preparation import Compression, prepare

# The board of each core; its core is replaced where it has another one.
BOARDS = {
    "cortex-m4": "nucleo-l4r5",
    "cortex-m7": "nucleo-f746",
    "cortex-m33": "b-u585i",
    "cortex-m3": "nucleo-l4r5",
    "cortex-m0plus": "nucleo-l4r5",
    "cortex-m0": "nucleo-l4r5",
}
FILE = Path(codegen.__file__).with_name("pace.json")

# (bits of weights, bits of activations) of the shapes; narrow weights are symmetric.
WIDTHS = ((8, 8), (4, 4))

# By kind of operator and family.
Rates = dict[str, dict[str, float]]

# What the networks of LeNet-5's layers are called.
ALONE = "alone"

# Forms of one family that are measured of one layer: the first, the last, and some between them.
_OF_A_FAMILY = 3


def board_of(core: str) -> Board:
    """A board to measure the core on."""
    board = boards.load(BOARDS[core])
    return board if board.core == core else board.model_copy(update={"core": core, "fpu": None, "float_abi": "soft"})


def layers() -> Iterator[tuple[str, Graph]]:
    """Networks of one layer, with what they are called."""
    for variant in ("int8", "deep"):
        graph = prepare("lenet5", Compression(variant)).graph
        for layer in graph.layers:
            source = replace(graph.tensors[layer.inputs[0]], name="x")
            alone = replace(layer, inputs=("x",))
            result = {layer.output: graph.tensors[layer.output]}
            yield f"lenet5 {variant} {layer.name}", build(ALONE, source, (alone,), result)
    for network in shapes.NETWORKS:
        for shape in typical(network):
            for weights, activations in WIDTHS:
                if weights == 8 or shape.kind in ("pointwise", "depthwise", "linear"):
                    narrow = shapes.narrower(shape, weights, activations, symmetric=weights != 8)
                    yield f"{network} {shape.name} {narrow.widths}", narrow.graph()


def typical(network: str) -> list[shapes.LayerShape]:
    """Of the network's layers of each kind and stride, the one of the middle size."""
    alike: dict[tuple[str, tuple[int, int]], list[shapes.LayerShape]] = {}
    for shape in shapes.of(network):
        alike.setdefault((shape.kind, shape.stride), []).append(shape)
    by_size = [sorted(found, key=lambda one: one.graph().macs(one.graph().layers[0])) for found in alike.values()]
    return [found[len(found) // 2] for found in by_size]


def forms_of(graph: Graph, core: str) -> list[str]:
    """The forms that fit the network's layer, not too many of a family. Sparse ones are for weights with zeros."""
    layer = graph.layers[0]
    site = default_site(graph, layer, Target(core))
    families: dict[str, list[str]] = {}
    for form in layer.forms if graph.name != ALONE else available(layer):
        if form.fits(layer, site):
            families.setdefault(family(form.name), []).append(form.name)
    return [name for names in families.values() for name in names[:: max(1, len(names) // _OF_A_FAMILY)]]


def measured(core: str, found: list[tuple[str, Graph]], known: Rates) -> Rates:
    """Cycles per instruction by kind of operator and family: medians over layers, of what is not in `known`."""
    board = board_of(core)
    rates: dict[str, dict[str, list[float]]] = {}
    kept: Rates = {}
    for name, graph in found:
        kind = graph.layers[0].kind
        for form in forms_of(graph, core):
            if family(form) in known.get(kind, {}):
                kept.setdefault(kind, {})[family(form)] = known[kind][family(form)]
                continue
            try:
                rate = bench.cycles_per_instruction(board, graph, form)
            except BuildError as error:
                print(f"{core} {name} {form}: {error}", file=sys.stderr)
                continue
            print(f"{core} {name} {form}: {rate:.3f} cycles per instruction", file=sys.stderr, flush=True)
            rates.setdefault(kind, {}).setdefault(family(form), []).append(rate)
    fresh = {
        kind: {name: round(statistics.median(values), 3) for name, values in families.items()}
        for kind, families in rates.items()
    }
    return {
        kind: dict(sorted((kept.get(kind, {}) | fresh.get(kind, {})).items()))
        for kind in sorted(kept.keys() | fresh.keys())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="append", choices=list(BOARDS), help="may be repeated; all when left out")
    parser.add_argument("--new", action="store_true", help="measure only what the file has no figure of")
    parser.add_argument("--write", action="store_true", help=f"update {FILE.name}; cores not measured stay as they are")
    arguments = parser.parse_args()
    found = list(layers())
    kept = json.loads(FILE.read_text())["cycles_per_instruction"]
    known = kept if arguments.new else {}
    rates = {core: measured(core, found, known.get(core, {})) for core in arguments.core or BOARDS}
    plain = {
        "about": "benchmarks/form_rates.py: medians over layers of LeNet-5 and of bench-kernels, without memory stalls",
        "boards": BOARDS,
        "cycles_per_instruction": dict(sorted((kept | rates).items())),
    }
    print(json.dumps(plain, indent=2))
    if arguments.write:
        FILE.write_text(json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
