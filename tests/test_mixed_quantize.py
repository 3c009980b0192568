"""Quantisation as a policy says: widths reach every tensor, scales follow the error, and what cannot be is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_mixed_graph import Inverted, Residual, randomized
from torch import nn

from harness.compress.quantize import Quantizer, _weight_scales, quantize
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.packing import WEIGHT_RANGES
from harness.search.policy import Policy, activation_layers, uniform, weighted_layers

SHAPE = (12, 10, 4)


def images(count: int = 32) -> Array:
    return np.random.default_rng(1).normal(0.3, 1.0, (count, *SHAPE)).astype(np.float32)


def network(module: nn.Module | None = None) -> Graph:
    return trace(randomized(module or Residual()), SHAPE, "net")


def relative_error(graph: Graph, integers: Graph, x: Array) -> float:
    """Of the output, in standard deviations of it."""
    tensor = integers.input_tensor
    assert tensor.scale is not None
    q = np.clip(np.rint(x / tensor.scale) + tensor.zero_point, 0, 255).astype(np.uint8)
    expected = graph.infer(x).astype(float)
    got = (integers.infer(q).astype(float) - integers.output.zero_point) * (integers.output.scale or 1)
    return float(np.sqrt(((got - expected) ** 2).mean()) / expected.std())


@pytest.mark.parametrize("factory", [Residual, Inverted])
def test_more_bits_are_closer_to_the_network(factory: type[nn.Module]) -> None:
    graph, x = network(factory()), images()
    quantizer = Quantizer(graph, x)
    errors = [relative_error(graph, quantizer.quantize(uniform(graph, bits)), x) for bits in (8, 4, 2)]
    assert errors[0] < 0.05 and errors[0] < errors[1] < errors[2]


def test_a_policy_reaches_every_tensor() -> None:
    graph = network()
    weights = {layer: (2, 4, 8)[index % 3] for index, layer in enumerate(weighted_layers(graph))}
    activations = {layer: (4, 8, 2)[index % 3] for index, layer in enumerate(activation_layers(graph))}
    integers = quantize(graph, images(), policy=Policy("net", weights, activations))
    for layer in integers.layers:
        if layer.name in weights:
            bits = weights[layer.name]
            weight = layer.parameters["weight"]
            assert getattr(layer, "weight_bits") == bits  # noqa: B009 (of several operators)
            assert WEIGHT_RANGES[bits][0] <= weight.min() and weight.max() <= WEIGHT_RANGES[bits][1]
        if layer.name in activations:
            tensor = integers.tensors[layer.output]
            assert tensor.bits == activations[layer.name] and 0 <= tensor.zero_point < 2**tensor.bits
    assert integers.output.dtype == "int32"
    levels = {layer.output: len(np.unique(values)) for layer, values in integers.run(np.zeros((1, *SHAPE), np.uint8))}
    assert all(levels[layer] <= 2**bits for layer, bits in activations.items())


def test_eight_bits_everywhere_is_what_no_policy_gives() -> None:
    graph = network(Inverted())
    assert quantize(graph, images(), policy=uniform(graph)).sha256() == quantize(graph, images()).sha256()


def test_a_mean_that_rounding_takes_away_goes_into_the_bias() -> None:
    """The outputs of a layer with few bits are right on the average, whatever its weights are rounded to."""
    module = nn.Sequential(nn.Conv2d(4, 6, 3), nn.AvgPool2d(2))
    graph, x = network(module), images(64)
    integers = Quantizer(graph, x).quantize(uniform(graph, 2), corrected=True)
    q = np.clip(np.rint(x / integers.input_tensor.scale) + integers.input_tensor.zero_point, 0, 255).astype(np.uint8)
    layer, source = integers.layers[0], integers.input_tensor
    assert isinstance(layer, Conv2d) and layer.requantize is not None and source.scale is not None
    scale = layer.requantize.multiplier * 2.0**-layer.requantize.shift * (integers.tensors[layer.output].scale or 1)
    got = (layer.accumulate(q) * scale).mean(axis=(0, 1, 2))
    expected = next(iter(graph.run(x)))[1].mean(axis=(0, 1, 2), dtype=float)
    spread = next(iter(graph.run(x)))[1].std()
    assert np.abs(got - expected).max() < 0.03 * spread


@pytest.mark.parametrize("harmful", [False, True])
def test_biases_are_corrected_only_where_the_network_gets_nearer(
    harmful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = network(), images(64)
    if harmful:
        lost = Quantizer._lost
        monkeypatch.setattr(Quantizer, "_lost", lambda self, layer, bits: -3 * lost(self, layer, bits))
    quantizer = Quantizer(graph, x)
    few = uniform(graph, 4)
    choices = {choice: quantizer.quantize(few, corrected=choice) for choice in (True, False)}
    errors = {choice: relative_error(graph, integers, x) for choice, integers in choices.items()}
    assert quantizer.corrects(few) == (errors[True] < errors[False]) == (not harmful)
    decided = quantizer.quantize(few)
    assert decided.sha256() == choices[not harmful].sha256() == quantize(graph, x, policy=few).sha256()
    assert quantizer.corrects(None) and quantizer.corrects(uniform(graph))


def test_linear_bottlenecks_have_a_zero_point() -> None:
    integers = quantize(network(Inverted()), images())
    bottleneck = next(tensor for tensor in integers.tensors.values() if tensor.name.startswith("block_6"))
    assert 0 < bottleneck.zero_point < 255


@pytest.mark.parametrize("bits", [2, 4])
def test_scales_are_better_than_those_of_the_largest_weight(bits: int) -> None:
    weight = np.random.default_rng(0).normal(0, 1, (8, 200))
    lowest, highest = WEIGHT_RANGES[bits]

    def error(scales: Array) -> float:
        integers = np.clip(np.rint(weight / scales[:, None]), lowest, highest)
        return float(((integers * scales[:, None] - weight) ** 2).sum())

    assert error(_weight_scales(weight, bits)) < 0.8 * error(np.abs(weight).max(axis=1) / highest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "other"}, "is of network other"),
        ({"weights": {"stem": 3}}, "3 bits"),
        ({"weights": {"nothing": 8}}, "names? layer 'nothing'"),
        ({"activations": {}}, "lack layer"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    graph = network()
    policy = uniform(graph)
    weights = dict(policy.weights) | changes.pop("weights", {})  # type: ignore[call-overload]
    with pytest.raises(InputError, match=words):
        quantize(graph, images(), policy=dataclasses.replace(policy, **{"weights": weights, **changes}))


def test_what_could_overflow_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Conv2d(4, 32, 1), nn.Flatten(), nn.Linear(2**17, 2))
    module[2].weight.data.fill_(1.0)
    graph = trace(module, (64, 64, 4), "net")
    x = np.random.default_rng(0).random((1, 64, 64, 4), dtype=np.float32)
    with pytest.raises(InputError, match=r"layer _?\w*2: its accumulators may reach"):
        quantize(graph, x)
    # With four bits there is room enough.
    assert quantize(graph, x, policy=uniform(graph, 4)).layers[1].parameters["weight"].max() <= 7


def test_channels_that_are_all_but_zero_become_zero() -> None:
    module = randomized(Residual())
    module.stem.weight.data[1] = 1e-25  # type: ignore[union-attr, operator, index]
    module.stem.bias.data[1] = 0.0  # type: ignore[union-attr, operator, index]
    layer = quantize(trace(module, SHAPE, "net"), images()).layers[0]
    assert not layer.parameters["weight"][1].any() and layer.parameters["shift"].max() <= 62


def test_scales_outside_the_arithmetic_are_refused_by_name() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(120, 2))
    module[0].weight.data.zero_()
    module[0].weight.data[0, 0] = 1e-30
    with pytest.raises(InputError, match=r"layer _?\w*0: its requantisation factors"):
        quantize(trace(module, SHAPE, "net"), images())
