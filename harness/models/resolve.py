"""From what a user names to a float Graph and its dataset: a catalogue entry, or a Python file of one's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.base import Dataset
from harness.errors import InputError
from harness.files import cache_dir, file_sha256
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.models import catalogue
from harness.ops.base import Shape
from harness.progress import Reporter

if TYPE_CHECKING:
    from torch import nn

    from harness.graph.trace import BatchNorm

TRACE_VERSION = "2"

# Of weights that are drawn at random.
_SEED = 0


@dataclass(frozen=True)
class Source:
    """A network that has been named but not loaded. entry: None for a user's own file.

    weights: None for a network of the catalogue that ships none: they are drawn at random then.
    """

    name: str
    entry: catalogue.CatalogueEntry | None
    file: str | None
    weights: Path | None

    @property
    def trained(self) -> bool:
        """Whether the network has learnt anything: otherwise nothing is said of its accuracy."""
        return self.weights is not None


def source(model: str, weights: Path | None) -> Source:
    """What `model` names: "name" of the catalogue or "path/to/file.py:function"."""
    if ".py" in model or ":" in model:
        stem = Path(model.partition(".py")[0]).name
        if weights is None:
            from harness.models.user import load_user_model

            load_user_model(model)  # what is wrong with the file comes first
            raise InputError(
                f"model {model} needs weights: nothing was measured on an untrained network by mistake",
                hint="--weights w.safetensors",
            )
        return Source(stem or "network", None, model, weights)
    entry = catalogue.entry(model)
    return Source(entry.name, entry, None, weights or entry.weights_path)


def dataset(source: Source, data: Path | None, reporter: Reporter) -> Dataset:
    """The data that belongs to the network, or the user's own; random images for a network without data or weights."""
    from harness import data as datasets
    from harness.data import random_images

    if data is not None:
        return datasets.load(str(data), reporter=reporter)
    if source.entry is not None and source.entry.dataset is None and not source.trained:
        return random_images.load(source.entry.input_shape, source.entry.classes)
    if source.entry is None or source.entry.dataset is None:
        raise InputError(f"model {source.name} needs data to calibrate and to measure with", hint="--data my.npz")
    return datasets.load(source.entry.dataset, reporter=reporter)


def float_graph(source: Source, input_shape: Shape) -> tuple[Graph, str]:
    """The traced Graph with its weights, and the SHA-256 of the weights file (of the seed, where they are random).

    Catalogue networks are traced once per content and kept in the cache: a warm run imports no torch.
    """
    digest = file_sha256(source.weights) if source.weights else hashlib.sha256(f"seed {_SEED}".encode()).hexdigest()
    if source.entry is None:
        return _trace(source, input_shape), digest
    cached = _cached_path(source.entry, digest)
    if cached.exists():
        try:
            return graph_file.load(cached)[0], digest
        except InputError:
            cached.unlink(missing_ok=True)
    graph = _trace(source, source.entry.input_shape)
    graph_file.save(graph, cached, {})
    return graph, digest


def batch_norms(source: Source, input_shape: Shape) -> dict[str, BatchNorm]:
    """What `float_graph` folded into the Graph's layers, by their names; empty for a network without BatchNorm."""
    from harness.graph import trace

    shape = input_shape if source.entry is None else source.entry.input_shape
    return trace.batch_norms(_module(source), shape, source.name)


def _cached_path(entry: catalogue.CatalogueEntry, weights_sha256: str) -> Path:
    import harness.graph.trace as tracer

    module = entry.factory.partition(":")[0].rpartition(".")[2]
    sources = [Path(__file__).with_name(f"{name}.py") for name in (module, "initial")] + [Path(str(tracer.__file__))]
    key = hashlib.sha256(repr((TRACE_VERSION, entry, weights_sha256)).encode())
    for path in sources:
        key.update(path.read_bytes())
    return cache_dir() / "graphs" / f"{entry.name}-{key.hexdigest()[:24]}.safetensors"


def _trace(source: Source, input_shape: Shape) -> Graph:
    from harness.graph.trace import trace

    return trace(_module(source), input_shape, source.name)


def _module(source: Source) -> nn.Module:
    """The network with its weights."""
    import torch

    from harness.models.user import load_user_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = catalogue.build(source.entry) if source.entry else load_user_model(str(source.file))
    if source.weights is not None:
        catalogue.load_weights(module, source.weights)
    return module
