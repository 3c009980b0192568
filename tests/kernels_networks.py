"""Random networks for the tests of kernels, and the ways to run them: on this machine and on a bare emulated core."""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.codegen.generate import Generated, generate, logical_bytes, parse_output, serialize_input
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.toolchain.host import HostNetwork

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import count_instructions
from count_instructions import BareCore, Inference
from networks import lenet5 as lenet5  # for the tests

CHANNELS = (1, 2, 3, 4, 5, 6, 8)
KERNELS = ((1, 1), (2, 2), (3, 3), (5, 5), (3, 1), (2, 5))
POOLS = (None, Window((2, 2), (2, 2)), Window((3, 3), (2, 2)), Window((2, 1), (2, 1)), Window((1, 3), (1, 3)))
DTYPES = {"uint8": "u1", "int32": "<i4", "float32": "<f4"}


class RandomNetwork:
    """A network of random layers. `seed` walks through channels, kernels, strides, paddings and pools evenly."""

    def __init__(self, seed: int, *, integer: bool) -> None:
        self._random = np.random.RandomState(seed)
        self._seed = seed
        self._integer = integer
        height, width = self._random.randint(7, 13, 2).tolist()
        channels = CHANNELS[seed % len(CHANNELS)]
        self._input = self._last = Tensor("x", (height, width, channels), *self._kind(seed % 3 * 100))
        self._layers: list[Operator] = []
        self._tensors: dict[str, Tensor] = {}

    def build(self) -> Graph:
        self._conv(KERNELS[self._seed % len(KERNELS)], POOLS[self._seed % len(POOLS)])
        if self._seed % 4 == 1:
            self._pool()
        self._conv(KERNELS[(self._seed // 3) % len(KERNELS)], POOLS[(self._seed // 2) % len(POOLS)])
        self._linear(int(self._random.randint(1, 12)))
        self._linear(int(self._random.randint(2, 10)), last=self._seed % 3 != 2)
        return build(f"random {self._seed}", self._input, tuple(self._layers), self._tensors)

    def _conv(self, kernel: tuple[int, int], pool: Window | None) -> None:
        random = self._random
        height, width, channels = self._last.shape
        filters = int(random.choice(CHANNELS))
        kernel = (min(kernel[0], height), min(kernel[1], width))
        padding = tuple(random.randint(0, 3, 2).tolist()) if random.randint(2) else (0, 0)
        stride = tuple(random.choice((1, 1, 2), 2).tolist())
        weight, bias, requantize = self._parameters((filters, *kernel, channels))
        options = {"stride": stride, "padding": padding, "relu": bool(random.randint(2)), "requantize": requantize}
        name = f"conv{len(self._layers)}"
        options["input_zero_point"] = self._last.zero_point
        layer = Conv2d(name, (self._last.name,), name, weight, bias, **options)
        rows, columns = layer.convolved(self._last.shape)
        if pool is not None and min(pool.pooled(rows, columns)) >= 1:
            layer = Conv2d(name, (self._last.name,), name, weight, bias, pool=pool, **options)
        self._add(layer)

    def _linear(self, outputs: int, *, last: bool = False) -> None:
        weight, bias, requantize = self._parameters((outputs, self._last.elements))
        name = f"fc{len(self._layers)}"
        requantize = None if last else requantize
        relu = not last or bool(self._random.randint(2))
        zero_point = self._last.zero_point
        self._add(Linear(name, (self._last.name,), name, weight, bias, relu, zero_point, requantize))

    def _pool(self) -> None:
        """A pooling layer of its own; the average changes the scale."""
        window = Window((2, 1), (1, 2)) if min(self._last.shape[:2]) >= 2 else Window((1, 1), (1, 1))
        name = f"pool{len(self._layers)}"
        if self._seed % 8 == 1:
            layer: Operator = MaxPool2d(name, (self._last.name,), name, window)
            self._add(layer, zero_point=self._last.zero_point)
            return
        scale = np.array([0.9 / (window.kernel[0] * window.kernel[1])])
        requantize = Requantization.from_scales(scale, 7) if self._integer else None
        self._add(AvgPool2d(name, (self._last.name,), name, window, self._last.zero_point, requantize))

    def _parameters(self, shape: tuple[int, ...]) -> tuple[Array, Array, Requantization | None]:
        """Weights, a folded bias, and a requantisation: usual, of one scale, extreme, or near the limits of int32."""
        random, fan_in = self._random, int(np.prod(shape[1:]))
        if not self._integer:
            weight = random.normal(0, 1 / np.sqrt(fan_in), shape).astype(np.float32)
            return weight, random.normal(0, 0.5, shape[0]).astype(np.float32), None
        style = self._seed % 4
        weight = random.randint(-127, 128, shape)
        if style == 1:
            weight = random.choice((-128, -127, 127), shape)
        weight = weight.astype(np.int8)
        reach = np.abs(weight.astype(np.int64)).reshape(shape[0], -1).sum(axis=1) * 255
        bias = random.randint(-20000, 20000, shape[0])
        if style == 2:
            bias = np.where(random.randint(2, size=shape[0]), 1, -1) * (2**31 - 1 - reach)
        zero_point = int(random.choice((0, 0, 3, 128)))
        spread = random.uniform(0.5, 2.0, 1 if style == 3 else shape[0]) * 100
        scales = np.broadcast_to(spread / np.maximum(reach if style != 2 else 2.0**31, 1), shape[0])
        requantize = Requantization.from_scales(scales, zero_point, bits=4 if self._seed % 7 == 6 else 8)
        if self._seed % 5 == 4:
            shift = random.randint(33, 50, shape[0])
            multiplier = np.clip(np.rint(scales * 2.0**shift), 1, 2**31 - 1).astype(np.int64)
            requantize = Requantization(multiplier, shift.astype(np.int64), zero_point)
        return weight, bias.astype(np.int32), requantize

    def _kind(self, zero_point: int = 0) -> tuple[object, ...]:
        return ("uint8", 0.05, zero_point) if self._integer else ("float32",)

    def _add(self, layer: Operator, zero_point: int | None = None) -> None:
        shape = layer.output_shape(self._last.shape)
        requantize = getattr(layer, "requantize", None)
        if self._integer and requantize is None and zero_point is None:
            tensor = Tensor(layer.output, shape, "int32", 0.001, bits=32)
        else:
            point = requantize.zero_point if requantize is not None else zero_point or 0
            tensor = Tensor(layer.output, shape, *self._kind(point))
        self._layers.append(layer)
        self._tensors[layer.output] = self._last = tensor


def random_network(seed: int, *, integer: bool) -> Graph:
    return RandomNetwork(seed, integer=integer).build()


def single_conv(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    filters: int,
    *,
    integer: bool,
    last: bool = False,
    **options: Any,
) -> Graph:
    """One convolution; options: stride, padding, pool, input_zero_point of Conv2d. last: ends in int32 accumulators."""
    random = np.random.RandomState(filters)
    weight = random.normal(0, 0.2, (filters, *kernel, shape[2])).astype(np.float32)
    bias = random.normal(0, 0.2, filters).astype(np.float32)
    requantize = None
    if integer:
        weight, bias = np.rint(weight * 300).clip(-127, 127).astype(np.int8), (bias * 9999).astype(np.int32)
        scale = 0.4 / kernel[0] / kernel[1] / shape[2]
        requantize = None if last else Requantization.from_scales(np.full(filters, scale), 9)
    layer = Conv2d("conv", ("x",), "y", weight, bias, relu=True, requantize=requantize, **options)
    kind = ("uint8", 0.05) if integer else ("float32",)
    output = Tensor("y", layer.output_shape(shape), *(("int32", 0.01, 0, 32) if last else kind))
    return build("single", Tensor("x", shape, *kind), (layer,), {"y": output})


def random_inputs(graph: Graph, count: int, seed: int = 0) -> Array:
    """(count, H, W, C): random inputs; of integers the first is all 0, the second all 255."""
    random = np.random.RandomState(seed)
    shape = (count, *graph.input_tensor.shape)
    if not graph.integer:
        return random.normal(0, 1, shape).astype(np.float32)
    x = random.randint(0, 256, shape).astype(np.uint8)
    x[0], x[1] = 0, 255
    return x


def reference_crcs(graph: Graph, x: Array) -> Array:
    """(N, layers): the CRC-32 of every layer's tensor, by the Graph's own arithmetic."""
    columns = []
    for layer, values in graph.run(x):
        columns.append([zlib.crc32(logical_bytes(graph, layer, value)) for value in values])
    return np.array(columns, np.uint32).T


def on_host(generated: Generated, graph: Graph, x: Array, cache_dir: Path, *, sanitize: bool) -> tuple[Array, Array]:
    """(outputs, CRC-32s (N, layers)) of the C compiled for this machine."""
    ran = HostNetwork(generated, cache_dir=cache_dir, sanitize=sanitize).infer([serialize_input(graph, i) for i in x])
    return np.stack([parse_output(graph, output) for output in ran.outputs]), ran.crcs


def on_core(
    graph: Graph, x: Array, core: str, kernels: str = "default", forms: Mapping[str, str] | None = None
) -> tuple[Generated, BareCore, list[Inference]]:
    """What an emulated core with nothing but the network does with each input. forms: of single layers."""
    generated = generate(graph, variant="test", core=core, kernels=kernels, forms=forms)
    with tempfile.TemporaryDirectory(prefix="bare core ") as folder:
        bare = BareCore(count_instructions.build(generated, Path(folder)), core)
    return generated, bare, [bare.infer(serialize_input(graph, image)) for image in x]


def core_crcs(ran: list[Inference]) -> Array:
    """(N, layers): the CRC-32 of every layer's logical tensor."""
    return np.array([[zlib.crc32(_logical(*layer)) for layer in inference.layers] for inference in ran], np.uint32)


def _logical(element: int, data: bytes) -> bytes:
    """An activation that is kept in 16 bits is one byte of its tensor."""
    return np.frombuffer(data, "<i2").astype(np.uint8).tobytes() if element == 1 else data
