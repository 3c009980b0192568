"""What a search starts from: a float network, and the data that score policies where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.models import resolve
from harness.progress import Reporter


@dataclass(frozen=True, eq=False)
class Loaded:
    """A float network; dataset: None where no policy can be scored, for want of data or of trained weights."""

    graph: Graph
    dataset: Dataset | None
    weights_sha256: str


def load(model: str, *, weights: Path | None, data: Path | None, need_data: bool, reporter: Reporter) -> Loaded:
    """The network that `model` names, as `harness run` finds it.

    need_data: InputError where there are none, or no weights that learned from them; otherwise the network is enough.
    """
    source = resolve.source(model, weights)
    entry = source.entry
    unknown = entry is not None and (not source.trained or (entry.dataset is None and data is None))
    if unknown and need_data:
        lacks = "data" if source.trained else "weights"
        raise InputError(
            f"{source.name} ships without {lacks}: no policy could be scored",
            hint="--method memory-rule needs none; or give your own --weights and --data",
        )
    dataset = None if unknown else resolve.dataset(source, data, reporter)
    if entry is not None and dataset is not None and dataset.input_shape != entry.input_shape:
        raise InputError(f"{source.name} wants images of {entry.input_shape}, but the data has {dataset.input_shape}")
    if dataset is not None:
        shape = dataset.input_shape
    else:
        assert entry is not None
        shape = entry.input_shape
    with reporter.stage(f"tracing {source.name}"):
        graph, digest = resolve.float_graph(source, shape)
    if dataset is not None and graph.output.elements < dataset.classes:
        raise InputError(
            f"{source.name} has {graph.output.elements} outputs, but the data has {dataset.classes} classes"
        )
    return Loaded(graph, dataset, digest)
