"""Small networks with seeded random parameters, in shapes that the baselines can run."""

from __future__ import annotations

import numpy as np

from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window
from harness.ops.paper_a import PaperAConv2d, PaperALinear

POOL = Window((2, 2), (2, 2))


def floats(seed: int = 0, *, channels: int = 3) -> Graph:
    """Padded conv + pool, conv without pool, then two fully connected layers; the input has `channels`."""
    random = np.random.default_rng(seed)

    def conv(name: str, source: str, filters: int, inputs: int, padding: int, pool: Window | None) -> Conv2d:
        weight = random.normal(0, 0.3, (filters, 3, 3, inputs)).astype(np.float32)
        bias = random.normal(0, 0.2, filters).astype(np.float32)
        return Conv2d(name, (source,), name, weight, bias, padding=(padding, padding), relu=True, pool=pool)

    def linear(name: str, source: str, outputs: int, inputs: int, relu: bool) -> Linear:
        weight = random.normal(0, 0.2, (outputs, inputs)).astype(np.float32)
        return Linear(name, (source,), name, weight, random.normal(0, 0.2, outputs).astype(np.float32), relu=relu)

    layers = (
        conv("conv1", "input", 5, channels, 1, POOL),
        conv("conv2", "conv1", 4, 5, 0, None),
        linear("fc1", "conv2", 7, 4 * 3 * 2, True),
        linear("fc2", "fc1", 3, 7, False),
    )
    shapes = {"conv1": (5, 4, 5), "conv2": (3, 2, 4), "fc1": (7,), "fc2": (3,)}
    tensors = {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    return build("small", Tensor("input", (10, 8, channels), "float32"), layers, tensors)


def integers(seed: int = 0, *, zero_point: int = 0, shared: bool = False) -> Graph:
    """The same in 8 bits with int32 scores, and a pointwise convolution more.

    zero_point: of the input. shared: all fully connected outputs of a layer have one factor.
    """
    random = np.random.default_rng(seed)
    layers: list[Operator] = []
    tensors = {"input": Tensor("input", (10, 8, 3), "uint8", 1 / 255, zero_point)}

    def add(
        kind: type[Conv2d] | type[Linear], weights: tuple[int, ...], *, last: bool = False, **options: object
    ) -> None:
        name = f"layer{len(layers) + 1}"
        source = layers[-1].output if layers else "input"
        offset = tensors[source].zero_point
        weight = random.integers(-127, 128, weights).astype(np.int8)
        flat = weight.reshape(len(weight), -1).astype(np.int64)
        bias = (random.integers(-3000, 3000, len(weight)) - offset * flat.sum(axis=1)).astype(np.int32)
        fan_in = flat.shape[1]
        factors = random.uniform(0.5, 1.5, len(weight)) / (60 * np.sqrt(fan_in))
        if shared and kind is Linear:
            factors[:] = factors[0]
        requantize = None if last else Requantization.from_scales(factors, 0)
        layer = kind(
            name,
            (source,),
            name,
            weight,
            bias,
            input_zero_point=offset,
            relu=not last,
            requantize=requantize,
            **options,
        )
        layers.append(layer)
        shape = layer.output_shape(tensors[source].shape)
        tensors[name] = Tensor(name, shape, "int32", 1e-4, bits=32) if last else Tensor(name, shape, "uint8", 0.01)

    add(Conv2d, (5, 3, 3, 3), padding=(1, 1), pool=POOL)
    add(Conv2d, (6, 1, 1, 5))
    add(Conv2d, (4, 3, 3, 6))
    add(Linear, (7, 4 * 3 * 2))
    add(Linear, (3, 7), last=True)
    return build("small", tensors["input"], tuple(layers), tensors)


def residual(seed: int = 0, *, zero_point: int = 0) -> Graph:
    """8 bits: a strided 1x1 shortcut beside depthwise and pointwise convolutions, their sum, its average, scores.

    zero_point: of the sum's inputs.
    """
    random = np.random.default_rng(seed)
    tensors = {"input": Tensor("input", (7, 8, 3), "uint8", 1 / 255, 3)}
    layers: list[Operator] = []

    def add(
        name: str,
        source: str,
        kind: type[Conv2d] | type[DepthwiseConv2d] | type[Linear],
        shape: tuple[int, ...],
        *,
        offset: int = 0,
        **options: object,
    ) -> None:
        weight = random.integers(-127, 128, shape).astype(np.int8)
        flat = weight.reshape(len(weight), -1).astype(np.int64)
        folded = tensors[source].zero_point
        bias = (random.integers(-3000, 3000, len(weight)) - folded * flat.sum(axis=1)).astype(np.int32)
        factors = random.uniform(0.5, 1.5, len(weight)) / (60 * np.sqrt(flat.shape[1]))
        last = name == "scores"
        layer = kind(
            name,
            (source,),
            name,
            weight,
            bias,
            input_zero_point=folded,
            relu=offset == 0 and not last,
            requantize=None if last else Requantization.from_scales(factors, offset),
            **options,
        )
        layers.append(layer)
        out = layer.output_shape(tensors[source].shape)
        kind_of = ("int32", 1e-4, 0, 32) if last else ("uint8", random.uniform(0.01, 0.03), offset, 8)
        tensors[name] = Tensor(name, out, *kind_of)

    add("first", "input", Conv2d, (8, 3, 3, 3), padding=(0, 0), padding_after=(1, 1), stride=(1, 2))
    add("depthwise", "first", DepthwiseConv2d, (8, 3, 3), padding=(1, 1), stride=(2, 2))
    add("wide", "depthwise", DepthwiseConv2d, (8, 1, 2))
    add("pointwise", "wide", Conv2d, (12, 1, 1, 8), offset=zero_point)
    add("shortcut", "first", Conv2d, (12, 1, 1, 8), stride=(2, 4), offset=zero_point)
    both = tensors["pointwise"], tensors["shortcut"]
    assert both[0].shape == both[1].shape
    scale = 0.04
    requantize = Add.requantization((both[0].scale / scale, both[1].scale / scale), 5)
    layers.append(
        Add("sum", ("pointwise", "shortcut"), "sum", input_zero_points=(zero_point,) * 2, requantize=requantize)
    )
    tensors["sum"] = Tensor("sum", both[0].shape, "uint8", scale, 5)
    rows, columns, channels = both[0].shape
    average = Requantization.from_scales(np.array([0.9 / (rows * columns)]), 0)
    layers.append(AvgPool2d("average", ("sum",), "average", Window((rows, columns), (rows, columns)), 5, average))
    tensors["average"] = Tensor("average", (1, 1, channels), "uint8", scale / 0.9, 0)
    add("scores", "average", Linear, (4, channels))
    return build("residual", tensors["input"], tuple(layers), tensors)


def paper_a(seed: int = 0, *, channels: int = 3, sparsity: float = 0.7) -> Graph:
    """Two convolutions and two fully connected layers as arXiv 2103.15972 has them."""
    random = np.random.default_rng(seed)

    def weights(shape: tuple[int, ...]) -> np.ndarray:
        dense = random.integers(-127, 128, shape)
        return (dense * (random.random(shape) > sparsity)).astype(np.int8)

    def common(name: str, source: str, outputs: int, scales: tuple[float, float], zeros: tuple[int, int]) -> dict:
        return {
            "name": name,
            "inputs": (source,),
            "output": name,
            "bias": random.normal(0, 0.3, outputs).astype(np.float32),
            "weight_scale": 0.004,
            "input_scale": scales[0],
            "input_zero_point": zeros[0],
            "output_scale": scales[1],
            "output_zero_point": zeros[1],
        }

    layers: tuple[Operator, ...] = (
        PaperAConv2d(
            **common("conv1", "input", 5, (1 / 255, 0), (0, 0)) | {"output_scale": 0.01},
            weight=weights((5, channels, 3, 3)),
            relu=True,
            padding=1,
            pool=POOL,
            planar_input=False,
        ),
        PaperAConv2d(**common("conv2", "conv1", 4, (0.01, 0.02), (0, 0)), weight=weights((4, 5, 3, 3)), relu=True),
        PaperALinear(**common("fc1", "conv2", 7, (0.02, 0.03), (0, 0)), weight=weights((7, 4 * 3 * 2)), relu=True),
        PaperALinear(**common("fc2", "fc1", 3, (0.03, 0.04), (0, 130)), weight=weights((3, 7))),
    )
    shapes = {"conv1": (5, 5, 4), "conv2": (4, 3, 2), "fc1": (7,), "fc2": (3,)}
    tensors = {name: Tensor(name, shape, "uint8", 0.01) for name, shape in shapes.items()}
    tensors["fc2"] = Tensor("fc2", (3,), "uint8", 0.04, 130)
    return build("small", Tensor("input", (10, 8, channels), "uint8", 1 / 255), layers, tensors)
