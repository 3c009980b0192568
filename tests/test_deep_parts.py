"""Parts of deep compression: what storage costs, which weights stay, exact integers, exact removal of dead units."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from harness.compress.deep import checkpoint, cost, network, pruning
from harness.compress.deep.network import Setting, Student, repair_lanes
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear


def odd_network() -> Graph:
    """Padded convolution, one without ReLU, average pooling, flattening, two linear layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 7, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(7, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    return trace(module, (8, 8, 2), "odd")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 2)).astype(np.uint8)


def odd_student(levels: int = 7) -> Student:
    graph = odd_network()
    count = len(network.weighted(graph))
    calibration = (images(64).astype(np.float32) - 100) / 255
    return Student(graph, (Setting(levels, True, False),) * count, calibration, 1 / 255, 100)


def test_bias_bytes_follow_the_narrowest_exact_form() -> None:
    assert cost.bias_bytes(np.array([1, -128, 127])) == 3
    assert cost.bias_bytes(np.array([64 * 127, -64 * 128, 64])) == 3
    assert cost.bias_bytes(np.array([1, 200])) == 4
    assert cost.bias_bytes(np.array([1, 2**15])) == 8
    assert cost.bias_bytes(np.zeros(5, np.int32)) == 5


@pytest.mark.parametrize(("levels", "limit"), [(1, 127), (2, 63), (3, 31), (4, 31), (7, 15), (8, 15)])
def test_a_stream_byte_holds_the_value_and_the_distance(levels: int, limit: int) -> None:
    assert cost.delta_limit(levels) == limit
    assert 2 * levels * (limit + 1) <= 256


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300), st.sampled_from([1, 2, 4]))
def test_stream_bytes_equal_an_encoder_that_counts(row: list[int], levels: int) -> None:
    weight = np.array([[min(value, levels) if value <= levels else 0 for value in row]], np.int8)
    entries, position = 0, -1
    limit = cost.delta_limit(int(max(1, weight.max())))
    for column in np.flatnonzero(weight[0]):
        gap = column - position
        while gap > limit:
            gap -= limit
            entries += 1
        entries += 1
        position = column
    layer = Linear("fc", ("x",), "fc", weight, np.zeros(1, np.int32))
    estimate = cost.StreamCostModel().estimate(layer, 1)
    if estimate.form == "stream":
        assert estimate.bytes == entries + 1 + 1  # and the bias, and the row's length
    else:
        assert weight.size <= 6 * (entries + 1)


def test_dense_is_estimated_where_sparse_is_larger() -> None:
    full = Linear("fc", ("x",), "fc", np.ones((4, 50), np.int8), np.zeros(4, np.int32))
    assert cost.StreamCostModel().estimate(full, 1).form == "dense"
    thin = dataclasses.replace(full, weight=np.eye(4, 50, dtype=np.int8))
    assert cost.StreamCostModel().estimate(thin, 1).form == "stream"


def test_convolutions_too_large_for_lanes_keep_all_levels() -> None:
    def conv(filters: int, kernel: int, channels: int) -> Conv2d:
        weight = np.zeros((filters, kernel, kernel, channels), np.int8)
        weight[:, 0] = 1
        return Conv2d("conv", ("x",), "conv", weight, np.zeros(filters, np.int32))

    model = cost.StreamCostModel()
    small, large = conv(16, 5, 6), conv(16, 5, 32)
    assert model.needs_lanes(small) and model.levels(small) == 7
    assert not model.needs_lanes(large) and model.levels(large) == 127
    estimate = model.estimate(large, 256)
    assert estimate.form == "pairs"
    nonzero = int(np.count_nonzero(large.weight))
    assert estimate.bytes - estimate.unit_bytes == 2 * nonzero < large.weight.size
    assert model.estimate(dataclasses.replace(large, weight=np.ones_like(large.weight)), 256).form == "dense"


def prices(weight: float, unit: float, count: int, prunable: bool = True) -> list[pruning.Price]:
    return [pruning.Price(weight, unit, prunable)] * count


def kept_cost(masks: list[torch.Tensor], weight: float, unit: float) -> float:
    units = [int(mask.reshape(len(mask), -1).any(dim=1).sum()) for mask in masks]
    return sum(weight * float(mask.sum()) + unit * count for mask, count in zip(masks, units, strict=True))


def test_allocation_keeps_the_most_salient_within_the_target() -> None:
    torch.manual_seed(0)
    saliency = [torch.rand(12, 3, 3, 2), torch.rand(20, 48), torch.rand(5, 20) * 100]
    masks = pruning.allocate(saliency, prices(1.0, 0.0, 3), 300.0)
    assert 285 <= kept_cost(masks, 1.0, 0.0) <= 300
    # Layers whose weights matter more keep a larger share.
    assert masks[2].mean() > 0.9 > masks[1].mean()
    for values, mask in zip(saliency, masks, strict=True):
        if 0 < mask.sum() < mask.numel() and mask.all(dim=0).any():
            assert values[mask == 1].min() >= values[mask == 0].min()


def test_units_that_do_not_pay_for_themselves_go_with_all_their_weights() -> None:
    torch.manual_seed(0)
    saliency = [torch.rand(12, 30), torch.rand(5, 12)]
    masks = pruning.allocate(saliency, prices(1.0, 10.0, 2), 250.0)
    incoming, outgoing = masks[0].any(dim=1), masks[1].any(dim=0)
    assert 0 < int(incoming.sum()) < 12
    assert not outgoing[~incoming].any()
    assert kept_cost(masks, 1.0, 10.0) <= 250


def test_layers_that_are_not_prunable_keep_everything() -> None:
    saliency = [torch.rand(12, 30), torch.rand(5, 12)]
    kept = [*prices(1.0, 1.0, 1, prunable=False), *prices(1.0, 1.0, 1)]
    masks = pruning.allocate(saliency, kept, 1.0)
    assert masks[0].all()


def test_uniform_sparsity_is_the_same_in_every_layer() -> None:
    torch.manual_seed(0)
    masks = pruning.uniform([torch.rand(10, 10), torch.rand(4, 50), torch.rand(3, 7)], [True, True, False], 0.9)
    assert [int(mask.sum()) for mask in masks] == [10, 20, 21]


@settings(max_examples=50)
@given(arrays.arrays(np.int8, (3, 60), elements=st.integers(-15, 15)))
def test_repaired_filters_fit_into_lanes_and_others_stay(weights: np.ndarray) -> None:
    repaired = repair_lanes(weights, weights.astype(np.float32)).astype(int)
    for before, after in zip(weights.astype(int), repaired, strict=True):
        assert after.clip(min=0).sum() <= cost.LANE_LIMIT
        assert -after.clip(max=0).sum() <= cost.LANE_LIMIT
        assert (np.abs(after) <= np.abs(before)).all()
        if before.clip(min=0).sum() <= cost.LANE_LIMIT and -before.clip(max=0).sum() <= cost.LANE_LIMIT:
            assert (after == before).all()


def test_the_integer_graph_computes_what_the_student_does() -> None:
    student = odd_student()
    torch.manual_seed(1)
    student.set_masks([(torch.rand_like(mask) < 0.7).float() for mask in student.masks])
    with torch.no_grad():
        # Training moves scales away from each other; the export must follow.
        for index, scale in enumerate([*student.log_scale, *student.log_activation]):
            scale.add_(0.05 * (index % 3 - 1))
    graph = student.to_graph()
    x = images(500)
    with torch.no_grad():
        expected = student(torch.from_numpy(x).float().permute(0, 3, 1, 2)).numpy()
    scale = graph.output.scale
    assert scale is not None and graph.output.dtype == "int32"
    got = graph.infer(x) * scale
    # Float32 and exact arithmetic may round an activation differently: one step of it through one weight.
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert np.median(np.abs(got - expected)) < 1e-5 * np.abs(expected).max()
    assert (got.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_biases_are_whole_numbers_of_eight_bits_under_one_shift() -> None:
    student = odd_student()
    for layer in network.weighted(student.to_graph()):
        if layer.input_zero_point == 0:
            assert cost.bias_bytes(layer.bias) == len(layer.bias)


@pytest.mark.parametrize("seed", range(4))
def test_removing_dead_units_changes_no_bit(seed: int) -> None:
    student = odd_student()
    torch.manual_seed(seed)
    masks = [(torch.rand_like(mask) < 0.8).float() for mask in student.masks]
    masks[0][1] = 0  # constant, read by a padded convolution
    masks[1][[0, 4]] = 0  # constant, behind average pooling
    masks[2][3] = 0
    masks[3][[1, 2]] = 0
    masks[4][:, 5] = 0  # never read
    masks[1][..., 2] = 0  # never read
    student.set_masks(masks)
    graph = student.to_graph()
    smaller = pruning.remove_dead(graph)
    x = images(200)
    assert (smaller.infer(x) == graph.infer(x)).all()
    layers = network.weighted(smaller)
    assert [len(layer.weight) for layer in layers[1:-1]] <= [4, 6, 5]
    for first, second in itertools.pairwise(layers):
        assert second.weight.reshape(len(second.weight), -1, len(first.weight)).any(axis=(0, 1)).all()
    for layer in layers[1:-1]:
        assert layer.weight.reshape(len(layer.weight), -1).any(axis=1).all()


def test_a_network_pruned_to_nothing_keeps_one_unit_per_layer_and_its_bits() -> None:
    student = odd_student()
    student.set_masks([torch.zeros_like(mask) for mask in student.masks])
    graph = student.to_graph()
    smaller = pruning.remove_dead(graph)
    x = images(20)
    assert (smaller.infer(x) == graph.infer(x)).all()
    assert [len(layer.weight) for layer in network.weighted(smaller)] == [1, 1, 1, 1, 3]


def test_a_constant_that_a_padded_convolution_reads_stays() -> None:
    """Its border sees the zero point, not the constant: folding would change the border's outputs."""
    student = odd_student()
    with torch.no_grad():
        student.bias[0].fill_(0.5)
    masks = [mask.clone() for mask in student.masks]
    masks[0][1] = 0
    student.set_masks(masks)
    graph = student.to_graph()
    first = graph.layers[0]
    assert isinstance(first, Conv2d) and not first.weight[1].any()
    smaller = pruning.remove_dead(graph)
    assert len(network.weighted(smaller)[0].weight) == 5
    assert (smaller.infer(images(20)) == graph.infer(images(20))).all()


def test_checkpoints_come_back_or_are_refused(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    assert checkpoint.load(path) is None
    checkpoint.save(path, {"a": torch.arange(5.0), "b": torch.tensor(2)}, {"epoch": 3})
    kept = checkpoint.load(path)
    assert kept is not None
    assert kept[0]["a"].tolist() == [0, 1, 2, 3, 4] and int(kept[0]["b"]) == 2 and kept[1] == {"epoch": 3}
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path)
    path.write_bytes(content[:40])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path)
