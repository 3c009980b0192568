"""Post-training quantisation: the integer arithmetic itself, and what the integers keep of the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compress.quantize import quantize
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window


@given(
    scale=st.floats(min_value=2.0**-31, max_value=0.999),
    accumulator=st.integers(min_value=-(2**31) + 1, max_value=2**31 - 1),
    zero_point=st.integers(min_value=0, max_value=255),
)
def test_requantisation_rounds_once(scale: float, accumulator: int, zero_point: int) -> None:
    requantize = Requantization.from_scales(np.array([scale]), zero_point)
    multiplier, shift = int(requantize.multiplier[0]), int(requantize.shift[0])
    assert 0 < multiplier < 2**31 and 1 <= shift <= 62
    # Python's integers are exact, so this is the definition itself.
    exact = (accumulator * multiplier + 2 ** (shift - 1)) >> shift
    got = requantize.apply(np.array([[accumulator]], np.int64))
    assert got.dtype == np.uint8 and got[0, 0] == min(max(exact + zero_point, 0), 255)
    assert multiplier / 2.0**shift == pytest.approx(scale, rel=2.0**-16)


@given(st.floats(min_value=2.0**-16, max_value=0.4999))
def test_common_scales_take_the_shift_that_is_one_instruction(scale: float) -> None:
    assert Requantization.from_scales(np.array([scale]), 0).shift[0] == 32


def network(rng: np.random.Generator) -> Graph:
    """conv+relu+pool, conv, average pool, linear+relu, linear, with random weights."""
    layers: tuple[Operator, ...] = (
        Conv2d(
            "conv1",
            ("input",),
            "conv1",
            weight=rng.normal(0, 0.3, (4, 3, 3, 2)).astype(np.float32),
            bias=rng.normal(0, 0.1, 4).astype(np.float32),
            padding=(1, 1),
            relu=True,
            pool=Window((2, 2), (2, 2)),
        ),
        Conv2d(
            "conv2",
            ("conv1",),
            "conv2",
            weight=rng.normal(0, 0.3, (5, 3, 3, 4)).astype(np.float32),
            bias=rng.normal(0, 0.1, 5).astype(np.float32),
        ),
        AvgPool2d("pool", ("conv2",), "pool", Window((2, 2), (2, 2))),
        Linear(
            "fc1",
            ("pool",),
            "fc1",
            weight=rng.normal(0, 0.2, (7, 45)).astype(np.float32),
            bias=rng.normal(0, 0.1, 7).astype(np.float32),
            relu=True,
        ),
        Linear(
            "fc2",
            ("fc1",),
            "fc2",
            weight=rng.normal(0, 0.3, (3, 7)).astype(np.float32),
            bias=rng.normal(0, 0.1, 3).astype(np.float32),
        ),
    )
    shapes: dict[str, tuple[int, ...]] = {"input": (16, 16, 2)}
    for layer in layers:
        shapes[layer.output] = layer.output_shape(shapes[layer.inputs[0]])
    tensors = {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    return build("net", tensors["input"], layers, tensors)


def test_integers_follow_the_float_network() -> None:
    rng = np.random.default_rng(5)
    graph = network(rng)
    data = rng.integers(0, 256, (300, 16, 16, 2)).astype(np.uint8)
    scale, zero_point = 1 / 64, 100
    real = (scale * (data.astype(np.float32) - zero_point)).astype(np.float32)
    integer = quantize(graph, real[:100], scale, zero_point)
    expected = graph.infer(real)
    got = integer.infer(data)
    assert got.dtype == np.int32 and integer.output.scale is not None
    error = np.abs(got * integer.output.scale - expected).max() / np.abs(expected).max()
    assert error < 0.05
    assert (got.argmax(1) == expected.argmax(1)).mean() > 0.97
    # conv2 has no ReLU: its output needs a zero point, and its input's is not folded away.
    assert integer.tensors["conv2"].zero_point > 0


def test_channels_without_weights_keep_their_bias() -> None:
    graph = network(np.random.default_rng(5))
    conv = graph.layers[0]
    assert isinstance(conv, Conv2d)
    weight, bias = conv.weight.copy(), conv.bias.copy()
    weight[1], bias[1] = 0, 0.37
    weight[2], bias[2] = 0, 0
    layers = (dataclasses.replace(conv, weight=weight, bias=bias), *graph.layers[1:])
    graph = build("net", graph.input_tensor, layers, graph.tensors)
    data = np.random.default_rng(6).random((50, 16, 16, 2), dtype=np.float32)
    integer = quantize(graph, data, 1 / 255, 0)
    _, first = next(iter(integer.run(np.rint(data * 255).astype(np.uint8))))
    scale = integer.tensors["conv1"].scale
    assert scale is not None
    assert np.unique(first[..., 1]).tolist() == [round(0.37 / scale)]
    assert not first[..., 2].any()


def test_a_bias_that_dwarfs_its_weights_does_not_overflow() -> None:
    graph = network(np.random.default_rng(5))
    fc = graph.layers[3]
    assert isinstance(fc, Linear)
    bias = fc.bias.copy()
    bias[0] = 1e6
    layers = (*graph.layers[:3], dataclasses.replace(fc, bias=bias), graph.layers[4])
    graph = build("net", graph.input_tensor, layers, graph.tensors)
    data = np.random.default_rng(6).random((50, 16, 16, 2), dtype=np.float32)
    integer = quantize(graph, data, 1 / 255, 0)
    folded = integer.layers[3]
    assert isinstance(folded, Linear)
    assert np.abs(folded.bias.astype(np.int64)).max() + 45 * 127 * 255 < 2**31


def test_calibration_data_that_is_not_finite_is_refused() -> None:
    data = np.zeros((4, 16, 16, 2), np.float32)
    data[2, 3, 3, 1] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        quantize(network(np.random.default_rng(0)), data)
