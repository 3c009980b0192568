"""Baselines: other people's ways to run the same networks, in the same tool, so that every ratio comes from one run.

Each is one file: the forms that its layers take, the library that it links where it has one, and the compiler flags
that it is known by. They are asked for by name (`--kernels unlu`) and are never chosen for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import InputError

if TYPE_CHECKING:
    from harness.graph.graph import Graph
    from harness.ops.base import Array
    from harness.ops.lowering import Form


@dataclass(frozen=True)
class Library:
    """A library that its user built for one core, as files beside network.c. archives: static ones, to be linked."""

    headers: Mapping[str, str]
    archives: Mapping[str, bytes]


@dataclass(frozen=True)
class Baseline:
    """One of them. forms: one per layer of a graph, or InputError. optimize: flags of network.c's compiler.

    library: what it links, for a core as GCC's -mcpu names it, or InputError; None where its C is all here.
    """

    name: str
    forms: Callable[[Graph], tuple[Form[Any], ...]]
    optimize: str
    library: Callable[[str], Library] | None = None


def names() -> tuple[str, ...]:
    """What `--kernels` can name."""
    return "unlu", "paper-a", "cmsis-nn"


def find(graph: Graph, kernels: str) -> Baseline | None:
    """The baseline that `kernels` names, or that the graph is made for; None for our own kernels."""
    from harness.codegen.baselines import cmsis_nn, unlu
    from harness.ops import paper_a

    if isinstance(graph.layers[0], paper_a.PaperAConv2d | paper_a.PaperALinear):
        if kernels not in ("default", "paper-a"):
            raise InputError(f"variant paper-a is what kernels paper-a run, not {kernels}", hint="leave --kernels out")
        return Baseline("paper-a", _own_forms, "-O2")
    if kernels == "paper-a":
        raise InputError("kernels paper-a run weights that the paper's way compressed", hint="add --variant paper-a")
    if kernels == "unlu":
        return Baseline("unlu", unlu.forms, unlu.OPTIMIZE)
    if kernels == "cmsis-nn":
        return Baseline("cmsis-nn", cmsis_nn.forms, cmsis_nn.OPTIMIZE, cmsis_nn.library)
    return None


def runs_on_host(kernels: str) -> bool:
    """Whether this machine can run what `kernels` generate; not where they link a library for the board's core."""
    return kernels != "cmsis-nn"


def _own_forms(graph: Graph) -> tuple[Form[Any], ...]:
    return tuple(layer.forms[0] for layer in graph.layers)


def adapt(graph: Graph, kernels: str, images: Array) -> Graph:
    """The graph that `kernels` can run, for `graph`; mostly `graph` itself.

    images: (N, H, W, C) as the graph reads them, not test images, for what has to be calibrated.
    """
    if kernels != "cmsis-nn":
        return graph
    from harness.codegen.baselines import cmsis_nn

    return cmsis_nn.adapt(graph, images)
