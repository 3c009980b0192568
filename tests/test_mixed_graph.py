"""Graphs with branches, depthwise convolutions, sums and asymmetric padding: traced, and their reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.trace import trace
from harness.ops.add import Add
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d

SHAPE = (12, 10, 4)


def randomized(module: nn.Module) -> nn.Module:
    """Seeded weights, and statistics of BatchNorm that are not the trivial ones."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.running_mean.shape, generator=generator)
            layer.running_var = torch.rand(layer.running_var.shape, generator=generator) + 0.5
    return module.eval()


class Residual(nn.Module):
    """Two branches of one tensor, one of them a convolution; the sum is rectified."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.long = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Conv2d(6, 6, 3, padding=1)
        self.short = nn.Conv2d(4, 6, 1, 2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.last(self.long(x)) + self.short(x))
        return self.fc(x.mean([2, 3]))


class Inverted(nn.Module):
    """MobileNetV2's block: a linear bottleneck that is added to its input, with ReLU6 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(4, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x + self.block(x)


class KerasSame(nn.Module):
    """Padding as Keras has it for stride 2: one row less above than below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 2)
        self.depthwise = nn.Conv2d(4, 4, (4, 3), groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.pad(x, (0, 1, 0, 1))))
        return torch.clamp(self.depthwise(F.pad(x, (1, 1, 1, 2))), 0.0, 1.0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "residual": (Residual, ["conv2d+relu", "conv2d+relu", "conv2d", "conv2d", "add+relu", "avg_pool2d", "linear"]),
    "inverted residual": (
        Inverted,
        ["conv2d+relu6", "depthwise_conv2d+relu6", "conv2d"] * 2 + ["add"],
    ),
    "asymmetric padding": (KerasSame, ["conv2d+relu", "depthwise_conv2d+relu1"]),
    "padded max-pool": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        ["conv2d+relu", "max_pool2d"],
    ),
    "'same' with an even kernel": (lambda: nn.Conv2d(4, 3, (2, 4), padding="same"), ["conv2d"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trace_computes_what_the_network_computes(name: str, tmp_path: Path) -> None:
    factory, labels = NETWORKS[name]
    module = randomized(factory())
    graph = trace(module, SHAPE, "net")
    assert [layer.label for layer in graph.layers] == labels
    x = np.random.default_rng(3).normal(size=(3, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    got = graph.infer(x)
    got = got.transpose(0, 3, 1, 2) if got.ndim == 4 else got
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    graph_file.save(graph, tmp_path / "g.safetensors", {})
    assert graph_file.load(tmp_path / "g.safetensors")[0].sha256() == graph.sha256()


def test_an_image_alone_is_what_it_is_in_a_batch() -> None:
    """`infer` splits batches, and `run` gives tensors up once nobody reads them."""
    graph = trace(randomized(Residual()), SHAPE, "net")
    x = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
    assert np.allclose(graph.infer(x, batch=2), graph.infer(x), atol=1e-6)
    assert [layer.output for layer, _ in graph.run(x)] == [layer.output for layer in graph.layers]


class Padded(nn.Module):
    def __init__(self, padding: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.padding, self.mode, self.value = padding, mode, value

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding, self.mode, self.value if self.mode == "constant" else None))


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, x, alpha=2)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Padded((1, 1, 1, 1), "reflect"), "pad"),
        (Padded((1, 1), value=1.0), "does not pad an image with zeros"),
        (Padded((-1, 0)), "does not pad an image with zeros"),
        (Summed(), "scales what it adds"),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.Hardtanh(-1.0, 1.0)), "clamps to"),
        (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)), "groups"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "padded tensor"),
    ],
)
def test_what_cannot_be_expressed_is_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words):
        trace(module, SHAPE, "net")


def slow_convolution(layer: Conv2d, x: Array) -> Array:
    """What the definition says, in Python's own integers."""
    (top, bottom), (left, right) = layer.edges
    padded = np.pad(x.astype(object), ((top, bottom), (left, right), (0, 0)), constant_values=layer.input_zero_point)
    rows, columns, outputs = layer.output_shape(x.shape)
    result = np.empty((rows, columns, outputs), object)
    _, height, width, _ = layer.weight.shape
    for row in range(rows):
        for column in range(columns):
            y, z = row * layer.stride[0], column * layer.stride[1]
            window = padded[y : y + height, z : z + width]
            for output in range(outputs):
                result[row, column, output] = int(layer.bias[output]) + sum(
                    int(w) * int(v) for w, v in zip(layer.weight[output].ravel(), window.ravel(), strict=True)
                )
    return result


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_reference_is_exact(seed: int, large: bool) -> None:
    """Sums in float32 where they stay below 2**24, else in float64: both as in unbounded integers."""
    random = np.random.default_rng(seed)
    channels = int(random.integers(1, 5)) if not large else 64
    kernel = tuple(random.integers(1, 4 if not large else 3, 2).tolist())
    padding, after = (tuple(pair) for pair in random.integers(0, 3, (2, 2)).tolist())
    limit = 127 if large else int(random.choice((1, 8, 127)))
    weight = random.integers(-limit, limit + 1, (2, *kernel, channels)).astype(np.int8)
    if large:
        weight[0] = 127
    layer = Conv2d(
        "c",
        ("x",),
        "y",
        weight,
        random.integers(-(2**20), 2**20, 2).astype(np.int32),
        stride=tuple(random.integers(1, 3, 2).tolist()),
        padding=padding,
        padding_after=after,
        input_zero_point=int(random.integers(0, 256)),
    )
    x = random.integers(0, 256, (4, 5, channels)).astype(np.uint8)
    x[0] = 255
    assert (layer.accumulate(x[None])[0] == slow_convolution(layer, x)).all()
    depthwise = DepthwiseConv2d(
        "d", ("x",), "y", weight[0].transpose(2, 0, 1), np.zeros(channels, np.int32), layer.stride, padding,
        padding_after=after, input_zero_point=layer.input_zero_point,
    )  # fmt: skip
    for channel in range(channels):
        single = Conv2d(
            "c", ("x",), "y", weight[:1, ..., channel : channel + 1], np.zeros(1, np.int32), layer.stride, padding,
            padding_after=after, input_zero_point=layer.input_zero_point,
        )  # fmt: skip
        expected = slow_convolution(single, x[..., channel : channel + 1])
        assert (depthwise.accumulate(x[None])[0][..., channel : channel + 1] == expected).all()


@given(st.floats(1e-4, 100), st.floats(1e-4, 100), st.integers(0, 255), st.integers(0, 255), st.sampled_from((2, 4, 8)))
def test_a_sum_rounds_once(left: float, right: float, zero_a: int, zero_b: int, bits: int) -> None:
    """Within what 15-bit multipliers allow of the sum in real numbers, and clamped to the range."""
    requantize = Add.requantization((left, right), 3, bits)
    assert 1 <= requantize.shift[0] <= 62 and requantize.multiplier.max() < 2**15
    layer = Add("s", ("a", "b"), "y", False, None, (zero_a, zero_b), requantize)
    a, b = np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8)[::-1]
    real = 3 + (a.astype(float) - zero_a) * left + (b.astype(float) - zero_b) * right
    error = np.abs(layer.reference(a[None], b[None])[0] - np.clip(real, 0, 2**bits - 1))
    assert error.max() <= 0.5 + 255 * 2.0**-14 * max(left, right) + 1e-9


def test_a_layer_that_reads_nothing_known_is_refused() -> None:
    graph = trace(randomized(Residual()), SHAPE, "net")
    with pytest.raises(InputError, match="which no layer before it writes"):
        graph_file.build("net", graph.input_tensor, graph.layers[1:], graph.tensors)
