"""The memory model of mixed precision, the memory-driven rule with its published policies, and the policy file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_networks import mobilenet_v1

from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.models import catalogue, resolve
from harness.search import memory_rule, policy, tensors
from harness.search.tensors import Activation, Limits, Step, Table, Weights

FLASH, RAM = 2_048_000, 512_000

# A rerun of the code of arXiv 1905.13082, per channel: weights of 27 convolutions and the last layer, activations from
# the first layer's output on, of which the rest has 8 bits.
GOLDEN = {
    (0.5, 224): ("8" * 28, "884"),
    (0.75, 192): ("8" * 26 + "44", "884"),
    (0.75, 224): ("8" * 26 + "44", "844884"),
    (1.0, 192): ("8888888888888848484848884822", "844884"),
    (1.0, 224): ("8888888888888848484848884822", "442844488"),
}


@pytest.mark.parametrize(("width", "resolution"), GOLDEN)
def test_the_rule_finds_the_published_policies(width: float, resolution: int) -> None:
    network = mobilenet_v1(width, resolution)
    found = memory_rule.find(network, Limits(FLASH, RAM))
    weights, activations = GOLDEN[width, resolution]
    assert "".join(map(str, found.weights.values())) == weights
    assert "".join(map(str, found.activations.values())) == activations.ljust(len(found.activations), "8")
    assert found.bytes is not None and found.bytes <= FLASH
    assert found.peak_ram is not None and found.peak_ram <= RAM


def test_eight_bit_sizes_are_the_published_ones() -> None:
    network = mobilenet_v1(1.0, 224)
    weights, activations = network.uniform(8)
    assert network.weight_bytes(weights) == 4_209_088
    assert network.ram(activations) == 1_204_224
    assert network.flash(weights) == 4_209_088 + 9 * sum(tensor.channels for tensor in network.weights)
    assert network.mean_bits(2 * 2**20) == pytest.approx(3.99, abs=0.005)


def test_weights_only_leaves_activations_alone() -> None:
    found = memory_rule.find(mobilenet_v1(1.0, 224), Limits(2 * 2**20), weights_only=True)
    assert set(found.activations.values()) == {8} and found.bytes <= 2 * 2**20
    with pytest.raises(InputError, match="512,000 bytes of RAM: with 8 bits") as refused:
        memory_rule.find(mobilenet_v1(1.0, 224), Limits(2 * 2**20, RAM), weights_only=True)
    assert "--ram 1204224" in str(refused.value.hint)


def test_limits_that_two_bits_cannot_meet_name_the_smallest_that_would_do() -> None:
    network = mobilenet_v1(1.0, 224)
    narrow_weights, narrow = network.uniform(2)
    least_flash, least_ram = network.flash(narrow_weights), network.ram(narrow)
    with pytest.raises(InputError, match=f"takes {least_flash:,}") as refused:
        memory_rule.find(network, Limits(least_flash - 1, RAM))
    assert refused.value.hint == f"the smallest that would do: --flash {least_flash}"
    with pytest.raises(InputError, match=f"takes {least_ram:,}") as refused:
        memory_rule.find(network, Limits(FLASH, least_ram - 1))
    assert refused.value.hint == f"the smallest that would do: --ram {least_ram}"
    with pytest.raises(InputError, match=rf"takes {least_flash:,}, .*; nor into .* takes {least_ram:,}") as refused:
        memory_rule.find(network, Limits(1_000, 1_000))
    assert refused.value.hint == f"the smallest that would do: --flash {least_flash} --ram {least_ram}"
    found = memory_rule.find(network, Limits(least_flash, least_ram))
    assert (found.bytes, found.peak_ram) == (least_flash, least_ram)
    with pytest.raises(InputError, match="must be above 0"):
        Limits(0)


@st.composite
def networks(draw: st.DrawFn) -> Table:
    """Chains with skip connections: some tensors stay alive while others are computed."""
    sizes = draw(st.lists(st.integers(1, 4000), min_size=2, max_size=8))
    waits = draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    values = [Activation("input", draw(st.integers(1, 4000)), None)]
    values += [Activation(f"l{i}", size, f"l{i}") for i, size in enumerate(sizes[:-1])]
    values.append(Activation("last", sizes[-1], None, 32))
    steps = []
    for index in range(1, len(values)):
        waiting = [v for i, v in enumerate(values[: index - 1]) if i + 1 + waits[i] >= index]
        live = (*waiting, values[index - 1], values[index])
        steps.append(Step(values[index].name, (values[index - 1],), values[index], live))
    counts = draw(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 64)), min_size=1, max_size=8))
    weights = tuple(Weights(f"l{i}", elements, channels) for i, (elements, channels) in enumerate(counts))
    return Table("random", weights, tuple(steps))


@given(networks(), st.floats(0, 1), st.floats(0, 1))
def test_the_rule_ends_and_fits_wherever_two_bits_do(network: Table, flash: float, ram: float) -> None:
    (wide_weights, wide), (narrow_weights, narrow) = network.uniform(8), network.uniform(2)
    least, most = network.flash(narrow_weights), network.flash(wide_weights)
    lowest, highest = network.ram(narrow), network.ram(wide)
    limits = Limits(least + int(flash * (most - least)), lowest + int(ram * (highest - lowest)))
    found = memory_rule.find(network, limits)
    assert network.fits(found.weights, found.activations, limits)
    assert set(found.weights.values()) | set(found.activations.values()) <= {2, 4, 8}
    if most <= limits.flash:
        assert set(found.weights.values()) == {8}


@settings(max_examples=60)
@given(networks(), st.floats(0, 1), st.floats(0, 1))
def test_filling_uses_what_can_be_used_and_takes_as_little_as_possible(
    network: Table, flash: float, ram: float
) -> None:
    network = dataclasses.replace(network, weights=network.weights[:5])
    (wide_weights, wide), (narrow_weights, narrow) = network.uniform(8), network.uniform(2)
    least, most = network.flash(narrow_weights), network.flash(wide_weights)
    lowest, highest = network.ram(narrow), network.ram(wide)
    limits = Limits(least + int(flash * (most - least)), lowest + int(ram * (highest - lowest)))
    ruled, filled = (memory_rule.find(network, limits, fill=fill) for fill in (False, True))
    assert network.fits(filled.weights, filled.activations, limits)
    assert (ruled.method, filled.method) == ("memory-rule", "memory-rule-filled")
    for layer, bits in filled.activations.items():
        assert bits >= ruled.activations[layer]
        assert bits == 8 or network.ram({**filled.activations, layer: 2 * bits}) > limits.ram

    layers = list(filled.weights)
    every = (dict(zip(layers, bits, strict=True)) for bits in itertools.product((2, 4, 8), repeat=len(layers)))
    legal = [widths for widths in every if network.flash(widths) <= limits.flash]
    goal = min(max(map(network.flash, legal)), math.ceil(0.99 * limits.flash))

    def lost(widths: dict[str, int]) -> int:
        """Steps from 4 bits to 2 count as sixteen from 8 to 4."""
        noise = {8: 0, 4: 1, 2: 17}
        return sum(max(noise[bits] - noise[ruled.weights[layer]], 0) for layer, bits in widths.items())

    best = min(
        (widths for widths in legal if network.flash(widths) >= goal),
        key=lambda widths: (lost(widths), -network.flash(widths), [-bits for bits in widths.values()]),
    )
    assert filled.weights == best


@pytest.mark.parametrize(("width", "resolution"), [(0.75, 128), (0.75, 224), (1.0, 96), (1.0, 192), (1.0, 224)])
def test_a_filled_policy_uses_the_flash(width: float, resolution: int) -> None:
    network = mobilenet_v1(width, resolution)
    ruled, filled = (memory_rule.find(network, Limits(FLASH, RAM), fill=fill) for fill in (False, True))
    assert ruled.bytes < 0.99 * FLASH <= filled.bytes <= FLASH and filled.peak_ram <= RAM
    alone = memory_rule.find(network, Limits(2 * 2**20), weights_only=True, fill=True)
    assert 0.99 * 2 * 2**20 <= alone.bytes <= 2 * 2**20 and set(alone.activations.values()) == {8}


@pytest.mark.parametrize(
    ("name", "parameters", "weight_bytes", "peak", "bits", "filled"),
    [
        # Parameters as torchvision states them; bytes, peak and bits of a rerun of arXiv 1905.13082's code.
        ("mobilenet-v2-1.0-224", 3_504_872, 3_469_760, 1_505_280, 4.84, 0.993),
        ("mnasnet-b1-1.0-224", 4_383_312, 4_344_392, 802_816, 3.86, 0.999),
    ],
)
def test_the_other_papers_networks_have_the_published_sizes(
    name: str, parameters: int, weight_bytes: int, peak: int, bits: float, filled: float
) -> None:
    entry = catalogue.entry(name)
    module = catalogue.build(entry)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    network = tensors.table(trace(module, entry.input_shape, name))
    weights, activations = network.uniform(8)
    assert network.weight_bytes(weights) == weight_bytes and network.ram(activations) == peak
    assert network.mean_bits(2 * 2**20) == pytest.approx(bits, abs=0.005)
    published, full = (
        memory_rule.find(network, Limits(2 * 2**20), weights_only=True, fill=fill) for fill in (False, True)
    )
    assert published.peak_ram == full.peak_ram == peak and set(full.activations.values()) == {8}
    assert published.bytes <= full.bytes <= 2 * 2**20 and full.bytes >= filled * 2 * 2**20


@pytest.fixture(scope="module")
def lenet() -> Graph:
    source = resolve.source("lenet5", None)
    return resolve.float_graph(source, (32, 32, 1))[0]


def test_a_graphs_tensors(lenet: Graph) -> None:
    network = tensors.table(lenet)
    assert network.network == lenet.name == "lenet5"
    assert [(w.layer, w.elements, w.channels) for w in network.weights] == [
        ("conv1", 150, 6),
        ("conv2", 2400, 16),
        ("fc1", 48_000, 120),
        ("fc2", 10_080, 84),
        ("fc3", 840, 10),
    ]
    assert network.activations == ("conv1", "conv2", "fc1", "fc2")
    weights, activations = network.uniform(8)
    assert network.flash(weights) == 61_470 + 9 * 236
    # The image and what conv1 leaves of it after its pool.
    assert network.ram(activations) == 32 * 32 + 14 * 14 * 6
    assert network.ram({**activations, "conv1": 4}) == 32 * 32 + 14 * 14 * 3
    assert network.flash({**weights, "fc1": 2}) == network.flash(weights) - 36_000


def test_a_policy_is_written_and_read_again(lenet: Graph, tmp_path: Path) -> None:
    found = memory_rule.find(tensors.table(lenet), Limits(40_000, 2_000))
    path = tmp_path / "my policy.json"
    found.write(path)
    again = policy.read(path)
    assert again == found
    assert list(json.loads(path.read_text())) == [
        "network", "weights", "activations", "bytes", "peak_ram", "score", "method", "seed",
    ]  # fmt: skip
    assert list(again.weights) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    again.check(lenet)


def test_a_policy_of_another_network_is_refused(lenet: Graph) -> None:
    good = policy.uniform(lenet, 4)
    good.check(lenet)
    with pytest.raises(InputError, match="of network resnet8, not of lenet5"):
        dataclasses.replace(good, network="resnet8").check(lenet)
    with pytest.raises(InputError, match="name layer 'conv9', which lenet5 lacks"):
        dataclasses.replace(good, weights={**good.weights, "conv9": 8}).check(lenet)
    with pytest.raises(InputError, match="activations lack layer conv1"):
        dataclasses.replace(good, activations={"conv2": 4, "fc1": 4, "fc2": 4}).check(lenet)
    with pytest.raises(InputError, match="give layer fc1 3 bits"):
        dataclasses.replace(good, weights={**good.weights, "fc1": 3}).check(lenet)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"network": "lenet5", "weights": {}}', "lacks the key activations"),
        ('{"network": "lenet5", "weights": {"fc1": 5}, "activations": {}}', "layer fc1 have 5 bits"),
        ('{"network": "lenet5", "weights": {"fc1": 8.0}, "activations": {}}', "layer fc1 have 8.0 bits"),
        ('{"network": "lenet5", "weights": {"fc1": [8]}, "activations": {}}', r"layer fc1 have \[8\] bits"),
        ('{"network": "lenet5", "weights": {}, "activations": {}, "score": NaN}', "NaN is not a figure"),
        ('{"network": "lenet5", "weights": {}, "activations": {}, "score": 1e999}', "1e999 is not a figure"),
        ("[" * 100_000, "nested too deeply"),
        ('{"network": "lenet5", "weights": {"fc1": true}, "activations": {}}', "layer fc1 have True bits"),
        ('{"network": "lenet5", "weights": [], "activations": {}}', "weights is not an object"),
        ('{"network": "lenet5", "weights": {}, "activations": {}, "bites": 1}', "unknown key"),
        ('{"network": "lenet5", "weights": {}, "activations": {}, "score": "good"}', "score is 'good'"),
    ],
)
def test_a_damaged_policy_is_refused_with_what_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(InputError, match=words):
        policy.read(tmp_path / "policy.json")
    with pytest.raises(InputError, match="cannot be read"):
        policy.read(tmp_path / "none.json")
