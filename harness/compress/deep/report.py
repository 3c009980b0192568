"""What the search returns: the network, what its layers cost, what was tried; and how that is kept in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.compress.deep.cost import CostModel, LayerCost, positions
from harness.errors import InputError
from harness.files import write_whole
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear


@dataclass(frozen=True)
class LayerRow:
    """One weighted layer of the result. weights: of the float network. levels: the largest |weight| in use.

    bytes, instructions: estimates of the cost model; entropy_bytes: its bound for an entropy coder.
    """

    name: str
    weights: int
    nonzero: int
    outputs: int
    levels: int
    form: str
    bytes: int
    instructions: int
    entropy_bytes: int


@dataclass(frozen=True)
class Candidate:
    """One annealed network. target: the cost that it was pruned to. accuracy: of its exact integers, on validation.

    shifted_loss: percentage points lost against the float network where both see validation moved by up to a pixel.
    confirmed: within the budget there too, so that it hardly is by luck.
    """

    target: float
    nonzero: int
    bytes: int
    instructions: int
    accuracy: float
    shifted_loss: float
    within_budget: bool
    confirmed: bool


@dataclass(frozen=True, eq=False)
class DeepReport:
    """The result of a search. graph: the integer network. Accuracies: fractions on the validation split.

    seconds: of all training, also of what ran before an interruption. notes: what a user should know, in sentences.
    """

    graph: Graph
    validation_accuracy: float
    float_validation_accuracy: float
    layers: tuple[LayerRow, ...]
    seconds: float
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Estimated bytes of all weighted layers."""
        return sum(row.bytes for row in self.layers)

    @property
    def nonzero(self) -> int:
        """Weights other than zero."""
        return sum(row.nonzero for row in self.layers)


def table(graph: Graph, float_graph: Graph, cost: CostModel) -> tuple[LayerRow, ...]:
    """One row per weighted layer of the integer `graph`, which was made from `float_graph`."""
    weights = {layer.name: layer.weight.size for layer in float_graph.layers if isinstance(layer, Conv2d | Linear)}
    rows = []
    for layer, estimate in estimates(graph, cost):
        rows.append(
            LayerRow(
                name=layer.name,
                weights=weights[layer.name],
                nonzero=int(np.count_nonzero(layer.weight)),
                outputs=len(layer.weight),
                levels=int(np.abs(layer.weight.astype(np.int64)).max()),
                form=estimate.form if cost.prunable(layer) else "dense",
                bytes=estimate.bytes,
                instructions=estimate.instructions,
                entropy_bytes=estimate.entropy_bytes,
            )
        )
    return tuple(rows)


def estimates(graph: Graph, cost: CostModel) -> list[tuple[Conv2d | Linear, LayerCost]]:
    """The weighted layers of a graph, each with what it costs."""
    layers = [layer for layer in graph.layers if isinstance(layer, Conv2d | Linear)]
    return [(layer, cost.estimate(layer, positions(graph, layer))) for layer in layers]


def keep(folder: Path, report: DeepReport) -> None:
    """Writes the result where `kept` finds it, and as JSON beside it what it says about the network."""
    note = {
        "validation_accuracy": report.validation_accuracy,
        "float_validation_accuracy": report.float_validation_accuracy,
        "layers": [asdict(row) for row in report.layers],
        "seconds": report.seconds,
        "candidates": [asdict(candidate) for candidate in report.candidates],
        "notes": report.notes,
        "graph_sha256": report.graph.sha256(),
    }
    graph_file.save(report.graph, folder / "result.safetensors", {"report": json.dumps(note)})
    write_whole(folder / "result.json", json.dumps(note, indent=1) + "\n")


def kept(folder: Path) -> DeepReport | None:
    """The finished result in `folder`; None where there is none, or it is damaged: then it is made again."""
    path = folder / "result.safetensors"
    if not path.exists():
        return None
    try:
        graph, metadata = graph_file.load(path)
        note = json.loads(metadata["report"])
        if note["graph_sha256"] != graph.sha256():
            return None
        return DeepReport(
            graph=graph,
            validation_accuracy=note["validation_accuracy"],
            float_validation_accuracy=note["float_validation_accuracy"],
            layers=tuple(LayerRow(**row) for row in note["layers"]),
            seconds=note["seconds"],
            candidates=tuple(Candidate(**candidate) for candidate in note["candidates"]),
            notes=tuple(note["notes"]),
        )
    except (InputError, KeyError, ValueError, TypeError):
        return None
