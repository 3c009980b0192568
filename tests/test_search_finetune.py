"""Fine-tuning under a policy: what it learns, what it keeps after interruptions and damage, and its exact integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from search_networks import Small, normed, small
from test_mixed_graph import Residual, randomized
from test_mixed_quantize import SHAPE

from harness import preparation
from harness.compress import finetune as module
from harness.compress.finetune import finetune
from harness.compress.quantize import quantize
from harness.compress.student import Student
from harness.data import digits
from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.trace import BatchNorm, batch_norms, trace
from harness.ops.conv2d import Conv2d
from harness.search import evaluate, policy
from harness.search.policy import Policy


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits.load()


@pytest.fixture(scope="module")
def network() -> Graph:
    return small()


@pytest.fixture(scope="module")
def narrow(network: Graph) -> Policy:
    """Too few bits for post-training quantisation."""
    return policy.uniform(network, 2)


def test_a_student_starts_as_post_training_quantisation(network: Graph, dataset: Dataset, narrow: Policy) -> None:
    mixed = dataclasses.replace(
        narrow, weights={**narrow.weights, "wide": 8, "fc": 4}, activations={**narrow.activations, "dw": 8, "add": 4}
    )
    integers = evaluate.quantized(network, dataset, mixed)
    again = Student(network, integers).to_graph()
    for before, after in zip(integers.layers, again.layers, strict=True):
        assert before.label == after.label
        for name, array in before.parameters.items():
            difference = np.abs(array.astype(np.int64) - after.parameters[name].astype(np.int64))
            # Scales pass through float32 logarithms: single roundings fall to the other side.
            limit = max(1, int(np.abs(array.astype(np.int64)).max()) >> 18)
            assert (difference <= limit).all() if name != "shift" else not difference.any(), (before.name, name)
    x = dataset.validation.x
    assert (integers.infer(x).argmax(1) == again.infer(x).argmax(1)).mean() > 0.97


def test_fine_tuning_wins_back_what_few_bits_take(
    network: Graph, dataset: Dataset, narrow: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = finetune(network, dataset, narrow, epochs=4, cache_dir=tmp_path)
    start, best = result.history[0], result.best
    assert start.loss is None and len(result.history) == 5
    assert best.validation_accuracy > start.validation_accuracy + 0.1
    for layer in result.graph.layers:
        if "weight" in layer.parameters:
            assert layer.weight_bits == 2 and layer.weight.min() >= -2 and layer.weight.max() <= 1
    # What training saw is what the exact integers do.
    exact = evaluate.exact_score(result.graph, dataset, len(dataset.validation))
    assert exact == best.validation_accuracy
    monkeypatch.setattr(module, "_Training", None)
    kept = finetune(network, dataset, narrow, epochs=4, cache_dir=tmp_path)
    assert kept.graph.sha256() == result.graph.sha256() and kept.history == result.history


@pytest.fixture(scope="module")
def normalised() -> tuple[Graph, dict[str, BatchNorm]]:
    module = normed()
    return trace(module, (32, 32, 1), "normed"), batch_norms(module, (32, 32, 1), "normed")


def test_a_folded_batch_norm_can_be_undone(normalised: tuple[Graph, dict[str, BatchNorm]], dataset: Dataset) -> None:
    """Its statistics are of what the folded weights make of the input; its own factor undoes the normalisation."""
    graph, norms = normalised
    module = normed()
    state = module.state_dict()
    assert list(norms) == ["conv", "dw", "wide", "fc"]
    for layer, norm in norms.items():
        deviation = np.sqrt(norm.variance + norm.epsilon)
        assert deviation == pytest.approx(np.abs(state[f"{layer}_norm.weight"].double().numpy()), rel=1e-5)
        shift = state[f"{layer}_norm.bias"].double().numpy()
        folded = next(other for other in graph.layers if other.name == layer).bias
        assert norm.mean + folded == pytest.approx(shift, abs=1e-5)
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d)
    plain = dataclasses.replace(layer, relu=False, bias=np.zeros_like(layer.bias))
    y = plain.accumulate(dataset.network_input(dataset.train.x)).reshape(-1, 8)
    assert np.abs(y.mean(axis=0) - norms["conv"].mean).max() < 0.1 * np.sqrt(norms["conv"].variance).min()
    assert y.var(axis=0) == pytest.approx(norms["conv"].variance, rel=0.25)


def test_batch_norms_live_for_one_epoch_and_are_folded_into_exact_integers(
    normalised: tuple[Graph, dict[str, BatchNorm]], dataset: Dataset
) -> None:
    graph, norms = normalised
    few = policy.uniform(graph, 2)
    alive, frozen = (finetune(graph, dataset, few, epochs=2, norms=given) for given in (norms, {}))
    # What training saw is what the exact integers do; and statistics of few bits are worth following.
    assert evaluate.exact_score(alive.graph, dataset, len(dataset.validation)) == alive.best.validation_accuracy
    assert alive.best.validation_accuracy > frozen.best.validation_accuracy + 0.05
    one = finetune(graph, dataset, few, epochs=1, norms=norms)
    assert one.best.number == 1 and one.best.validation_accuracy > one.history[0].validation_accuracy + 0.1
    assert evaluate.exact_score(one.graph, dataset, len(dataset.validation)) == one.best.validation_accuracy
    for layer, other in zip(one.graph.layers, frozen.graph.layers, strict=True):
        assert layer.label == other.label and {*layer.parameters} == {*other.parameters}


def test_folding_keeps_the_integers_and_what_the_statistics_make_of_them(
    normalised: tuple[Graph, dict[str, BatchNorm]], dataset: Dataset
) -> None:
    graph, norms = normalised
    student = Student(graph, evaluate.quantized(graph, dataset, policy.uniform(graph, 8)))
    x = torch.from_numpy(dataset.network_input(dataset.train.x[:256]).transpose(0, 3, 1, 2).copy())
    before = student.to_graph()
    factors = student.unfold(norms)
    assert len(factors) == 4 and all(factor.requires_grad for factor in factors)
    with torch.no_grad():
        live = student(x)
        student.fold()
        folded = student(x)
    assert not student.norms
    # The running statistics are the only batch's, but for the sample's variance: single roundings differ.
    assert (live - folded).std() < 0.02 * live.std()
    for one, other in zip(before.layers, student.to_graph().layers, strict=True):
        if "weight" in one.parameters:
            assert (one.parameters["weight"] == other.parameters["weight"]).mean() > 0.999
    # A second batch is averaged with the first.
    means = []
    for size in (256, 128):
        student.unfold(norms)
        with torch.no_grad():
            for part in x.split(size):
                student(part)
        means.append(student.norms["conv"].mean)
    assert torch.allclose(*means, atol=1e-5)


def test_a_students_sums_have_the_short_multipliers_of_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    graph = trace(randomized(Residual()), SHAPE, "net")
    x = np.random.default_rng(1).normal(0.3, 1.0, (256, *SHAPE)).astype(np.float32)
    student = Student(graph, quantize(graph, x, policy=policy.uniform(graph, 8)))
    integers = student.to_graph()
    source, target = integers.input_tensor, integers.output
    assert source.scale is not None and target.scale is not None
    q = np.clip(np.rint(x / source.scale) + source.zero_point, 0, 255).astype(np.uint8)
    expected = integers.infer(q).reshape(len(x), -1)

    def differing() -> float:
        with torch.no_grad():
            seen = student(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).double().numpy()
        return float((np.rint(seen / target.scale) != expected).mean())

    exact = differing()
    monkeypatch.setattr(Student, "_factors", lambda *arguments: (1.0, 1.0))
    assert 2 * exact < differing()


def test_scales_that_training_drives_out_of_range_are_refused_by_name(network: Graph, dataset: Dataset) -> None:
    student = Student(network, evaluate.quantized(network, dataset, policy.uniform(network, 4)))
    with torch.no_grad():
        student.weight_scale["wide"] -= 40.0
        student.bias["wide"].zero_()
    with pytest.raises(InputError, match=r"layer wide: its requantisation factors, .* outside the arithmetic's range"):
        student.to_graph()
    with torch.no_grad():
        student.weight_scale["wide"] += 40.0
        student.activation_scale["add"] -= 30.0
    with pytest.raises(InputError, match="layer add: its inputs' scales are outside the arithmetic's range"):
        student.to_graph()


def test_a_network_without_batch_norm_is_trained_as_before(network: Graph, dataset: Dataset, narrow: Policy) -> None:
    assert batch_norms(Small(), (32, 32, 1), "small") == {}
    with_none, without = (finetune(network, dataset, narrow, epochs=1, norms=given) for given in ({}, None))
    assert with_none.graph.sha256() == without.graph.sha256()


def test_an_interrupted_training_goes_on_and_ends_the_same(
    network: Graph, dataset: Dataset, narrow: Policy, tmp_path: Path
) -> None:
    whole = finetune(network, dataset, narrow, epochs=2, seed=1, cache_dir=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(fraction: float) -> None:
        if fraction > 0.7:
            raise Stop

    with pytest.raises(Stop):
        finetune(network, dataset, narrow, epochs=2, seed=1, cache_dir=tmp_path / "parts", progress=stop)
    (state,) = (tmp_path / "parts").rglob("state.safetensors")
    told: list[float] = []
    again = finetune(network, dataset, narrow, epochs=2, seed=1, cache_dir=tmp_path / "parts", progress=told.append)
    assert min(told) >= 0.5 and again.graph.sha256() == whole.graph.sha256() and again.history == whole.history
    assert not state.exists()


def test_a_loss_that_is_not_finite_ends_training_with_the_last_good_epoch(
    network: Graph, dataset: Dataset, narrow: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = finetune(network, dataset, narrow, epochs=3)
    forward, calls = Student.forward, [0]
    steps = len(dataset.train) // module.BATCH

    def broken(self: Student, x: torch.Tensor) -> torch.Tensor:
        calls[0] += self.training and torch.is_grad_enabled()
        return forward(self, x) * (float("nan") if calls[0] > steps else 1.0)

    monkeypatch.setattr(Student, "forward", broken)
    result = finetune(network, dataset, narrow, epochs=3)
    assert result.history == good.history[:2]
    assert "the loss of epoch 2 is nan" in result.notes[0]
    best = max(range(2), key=lambda number: result.history[number].validation_accuracy)
    assert best == 1 and result.graph.integer


def test_bad_requests_are_refused(network: Graph, dataset: Dataset, narrow: Policy) -> None:
    with pytest.raises(InputError, match="for 0 epochs"):
        finetune(network, dataset, narrow, epochs=0)
    with pytest.raises(InputError, match="of network other, not of small"):
        finetune(network, dataset, dataclasses.replace(narrow, network="other"), epochs=1)
    with pytest.raises(InputError, match="of network other, not of small"):
        quantize(
            network, dataset.network_input(dataset.train.x[:4]), policy=dataclasses.replace(narrow, network="other")
        )


def test_only_a_policy_of_a_trained_network_is_fine_tuned(narrow: Policy) -> None:
    with pytest.raises(InputError, match="variant int8 cannot be fine-tuned"):
        preparation.Compression("int8", finetune=2)
    untrained = preparation.Compression("mixed", policy=narrow, finetune=1)
    with pytest.raises(InputError, match="ships without weights"):
        preparation.prepare("mobilenet-v1-0.25-96", untrained)
