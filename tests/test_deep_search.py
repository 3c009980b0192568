"""The search of deep compression, from a float graph to an integer one, on scikit-learn's digits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.compress.deep import cost, search
from harness.compress.deep.report import DeepReport
from harness.compress.deep.search import compress
from harness.data import digits
from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear

QUICK = {"accuracy_budget": 6.0, "epochs_scale": 0.17, "threads": 1}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits.load()


@pytest.fixture(scope="module")
def network(dataset: Dataset) -> Graph:
    """A small convolutional network, trained for a few seconds."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 8, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(200, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(module.parameters(), 4e-3)
    x = torch.from_numpy(dataset.network_input(dataset.train.x)).permute(0, 3, 1, 2)
    y = torch.from_numpy(dataset.train.y)
    for _ in range(12):
        for batch in torch.randperm(len(y)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return trace(module, (32, 32, 1), "toy")


@pytest.fixture(scope="module")
def report(network: Graph, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> DeepReport:
    return compress(network, dataset, cache_dir=tmp_path_factory.mktemp("cache"), **QUICK)


def test_the_result_is_small_integer_and_within_the_budget(
    report: DeepReport, network: Graph, dataset: Dataset
) -> None:
    assert report.graph.integer and report.graph.output.dtype == "int32"
    assert report.validation_accuracy == search.accuracy(report.graph, dataset, "validation")
    assert report.float_validation_accuracy == search.accuracy(network, dataset, "validation")
    assert report.float_validation_accuracy > 0.9
    assert 100 * (report.float_validation_accuracy - report.validation_accuracy) <= 6.0 + 1e-9
    dense = sum(row.weights for row in report.layers)
    assert dense == sum(layer.weight.size for layer in network.layers if isinstance(layer, Conv2d | Linear))
    assert report.nonzero < dense / 3
    assert report.bytes < dense / 2
    best = min(
        (c for c in report.candidates if c.within_budget),
        key=lambda c: (not c.confirmed, c.bytes + c.instructions / 60),
    )
    assert (best.bytes, best.nonzero) == (report.bytes, report.nonzero)


def test_levels_lanes_and_scales_keep_their_promises(report: DeepReport, network: Graph) -> None:
    network_layers = {layer.name: layer for layer in network.layers if isinstance(layer, Conv2d | Linear)}
    for layer, row in zip(report.graph.layers, report.layers, strict=True):
        assert isinstance(layer, Conv2d | Linear)
        assert row.name == layer.name and row.outputs == len(layer.weight)
        assert row.levels == np.abs(layer.weight).max() <= cost.StreamCostModel().levels(network_layers[row.name])
        if layer.requantize is not None:
            assert len(set(layer.requantize.multiplier.tolist())) == 1
        if isinstance(layer, Conv2d) and layer.stride == (1, 1):
            flat = layer.weight.reshape(len(layer.weight), -1).astype(int)
            assert flat.clip(min=0).sum(axis=1).max() <= cost.LANE_LIMIT
            assert (-flat.clip(max=0)).sum(axis=1).max() <= cost.LANE_LIMIT


def test_an_epoch_and_a_validation_see_no_more_images_than_they_may(
    network: Graph, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.compress.deep import qat

    monkeypatch.setattr(qat, "_LEAST_STEPS", 1)
    seen = []
    for most in (2 * qat.BATCH + 1, 10**9):
        lessons = qat.Lessons(network, dataset, 1 / 255, 0, 0, most_images=most)
        batches = list(lessons.epoch(0, qat.generator(0, "shuffle")))
        assert len(batches) == lessons.steps
        seen.append(len(batches))
        assert 0.5 < lessons.shifted_float_accuracy() <= 1
    assert seen == [2, len(dataset.train) // qat.BATCH]


class Interrupt(Exception):
    """What a user's Ctrl-C would be."""


def test_an_interrupted_search_ends_as_if_it_had_not_been(
    network: Graph, dataset: Dataset, report: DeepReport, tmp_path: Path
) -> None:
    texts: list[str] = []

    def interrupt(fraction: float, text: str) -> None:
        assert 0 <= fraction <= 1
        texts.append(text)
        if len(texts) in (3, 8):  # while it prunes, and among the candidates
            raise Interrupt

    for _ in range(2):
        with pytest.raises(Interrupt):
            compress(network, dataset, cache_dir=tmp_path, progress=interrupt, **QUICK)
    resumed = compress(network, dataset, cache_dir=tmp_path, progress=interrupt, **QUICK)
    assert texts[2].startswith("pruning") and texts[7].startswith("candidate")
    assert texts[2] == texts[3] and texts[7] == texts[8], "it went on with the epoch that was interrupted"
    assert resumed.graph.sha256() == report.graph.sha256()
    assert resumed.candidates == report.candidates

    def refuse(fraction: float, text: str) -> None:
        raise AssertionError("a finished search must come from the cache")

    again = compress(network, dataset, cache_dir=tmp_path, progress=refuse, **QUICK)
    assert again.graph.sha256() == resumed.graph.sha256()
    assert again.layers == resumed.layers and again.candidates == resumed.candidates
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"result.safetensors", "result.json"}


def test_forced_sparsity_prunes_every_layer_alike_even_from_a_damaged_checkpoint(
    network: Graph, dataset: Dataset, tmp_path: Path
) -> None:
    calls = 0

    def interrupt(fraction: float, text: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interrupt

    options = {**QUICK, "sparsity": 0.8, "accuracy_budget": 25.0}
    with pytest.raises(Interrupt):
        compress(network, dataset, cache_dir=tmp_path, progress=interrupt, **options)
    (state,) = tmp_path.rglob("state.safetensors")
    state.write_bytes(state.read_bytes()[:-1000])
    report = compress(network, dataset, cache_dir=tmp_path, **options)
    assert len(report.notes) == 1 and "started over" in report.notes[0]
    assert len(report.candidates) == 1
    for row in report.layers:
        assert row.nonzero <= round(0.2 * row.weights)


def test_a_budget_that_cannot_be_met_says_how_near_it_came(network: Graph, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be met: the nearest network loses \d+\.\d\d on validation"):
        compress(network, dataset, cache_dir=tmp_path, sparsity=0.99, accuracy_budget=0.1, epochs_scale=0.05, threads=1)
    assert not list(tmp_path.rglob("result*"))


@dataclass(frozen=True)
class NoConvolutions(cost.StreamCostModel):
    """A cost model without a sparse form for convolutions."""

    def prunable(self, layer: Conv2d | Linear) -> bool:
        return isinstance(layer, Linear)


def test_layers_without_a_sparse_form_stay_dense_int8(network: Graph, dataset: Dataset, tmp_path: Path) -> None:
    report = compress(
        network, dataset, cache_dir=tmp_path, cost=NoConvolutions(), sparsity=0.7, **{**QUICK, "accuracy_budget": 25.0}
    )
    rows = report.layers
    assert [row.form for row in rows[:2]] == ["dense", "dense"]
    assert rows[0].levels > 50 and rows[0].nonzero > 0.9 * rows[0].weights
    assert all(row.nonzero <= round(0.3 * row.weights) for row in rows[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"accuracy_budget": -1.0}, "budget is -1.0"),
        ({"accuracy_budget": float("inf")}, "budget is inf"),
        ({"prefer": "beauty"}, "unknown preference"),
        ({"epochs_scale": 0.0}, "epochs is 0.0"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(
    network: Graph, dataset: Dataset, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compress(network, dataset, cache_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_networks_and_data_must_fit_each_other(
    network: Graph, dataset: Dataset, report: DeepReport, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="quantised already"):
        compress(report.graph, dataset, cache_dir=tmp_path)
    narrow = dataclasses.replace(dataset.test, x=dataset.test.x[:, :8, :8])
    with pytest.raises(InputError, match="takes samples of"):
        compress(network, dataclasses.replace(dataset, test=narrow), cache_dir=tmp_path)
