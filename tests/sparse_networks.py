"""Networks with seeded sparse integers, and the two ways in which tests run their C: on this machine and in Unicorn."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.codegen.generate import Generated, generate, logical_bytes, serialize_input
from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Array, Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window
from harness.toolchain.host import HostNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from count_instructions import BareCore, Image, Inference
from count_instructions import build as build_bare
from networks import Builder as Builder

POOL2 = Window((2, 2), (2, 2))


class Sparse:
    """Layers one after the other, with few nonzero weights of few levels. Their outputs stay inside their range.

    levels: weights are in -levels..levels. lanes: no filter's positive or negative weights sum up to more than 128.
    """

    def __init__(self, shape: tuple[int, ...], *, seed: int, density: float = 0.3, levels: int = 7) -> None:
        self._random = np.random.default_rng(seed)
        self._density, self._levels = density, levels
        self._layers: list[Operator] = []
        self._input = self._last = Tensor("x", shape, "uint8", 1 / 255, zero_point=3)
        self._tensors = {"x": self._input}

    def conv2d(self, filters: int, kernel: tuple[int, int], **options: Any) -> Sparse:
        """options: of Conv2d; of `_parameters`."""
        settings = {key: options.pop(key) for key in ("zero_point", "shared", "pruned", "density") if key in options}
        parameters = self._parameters((filters, *kernel, self._last.shape[2]), **settings)
        name = f"conv{len(self._layers) + 1}"
        return self._add(
            Conv2d(name, (self._last.name,), name, **parameters, input_zero_point=self._last.zero_point, **options)
        )

    def linear(self, outputs: int, *, last: bool = False, **settings: Any) -> Sparse:
        """A fully connected layer, or one that ends the network in int32."""
        parameters = self._parameters((outputs, self._last.elements), **settings)
        if last:
            parameters["requantize"] = None
        name = f"fc{len(self._layers) + 1}"
        return self._add(Linear(name, (self._last.name,), name, **parameters, input_zero_point=self._last.zero_point))

    def build(self) -> Graph:
        return build("sparse", self._input, tuple(self._layers), self._tensors)

    def _parameters(
        self,
        shape: tuple[int, ...],
        *,
        zero_point: int = 0,
        shared: bool = True,
        pruned: tuple[int, ...] = (),
        density: float | None = None,
    ) -> dict[str, Any]:
        """shared: one scale for all channels; pruned: outputs whose weights are all zero."""
        random = self._random
        chosen = random.random(shape) < (self._density if density is None else density)
        weight = np.where(chosen, random.integers(-self._levels, self._levels + 1, shape), 0)
        weight[list(pruned)] = 0
        flat = weight.reshape(len(weight), -1)
        for row in flat:
            for sign in (1, -1):
                while np.where(row * sign > 0, row * sign, 0).sum() > 128:
                    row[random.choice(np.flatnonzero(row * sign > 0))] = 0
        bias = random.integers(-60, 60, len(weight)) * 16
        spread = max(60.0, 90.0 * np.sqrt((flat**2).sum(axis=1).max()))
        scales = np.full(len(weight), 128 / spread)
        if not shared:
            scales *= random.uniform(0.5, 1.0, len(weight))
        return {
            "weight": weight.astype(np.int8),
            "bias": bias.astype(np.int32),
            "requantize": Requantization.from_scales(scales / 2, zero_point),
        }

    def _add(self, layer: Conv2d | Linear) -> Sparse:
        shape = layer.output_shape(self._last.shape)
        if layer.requantize is None:
            self._last = Tensor(layer.output, shape, "int32", 1e-4, bits=32)
        else:
            self._last = Tensor(layer.output, shape, "uint8", 1 / 255, zero_point=layer.requantize.zero_point)
        self._tensors[layer.output] = self._last
        self._layers.append(layer)
        return self


@dataclass(frozen=True)
class Outcome:
    """Which layers came out as the reference has them. inference, image: what Unicorn saw, None on the host."""

    exact: tuple[bool, ...]
    inference: Inference | None = None
    image: Image | None = None


def images(graph: Graph, count: int = 3, seed: int = 1) -> Array:
    """(N, H, W, C) uint8: one of the lowest values, one of the highest, and random ones."""
    values = np.random.default_rng(seed).integers(0, 256, (count, *graph.input_tensor.shape)).astype(np.uint8)
    values[0], values[1] = 0, 255
    return values


def in_c(graph: Graph, forms: Mapping[str, str] | None = None, core: str = "cortex-m4", **options: Any) -> Generated:
    return generate(graph, variant="deep", core=core, forms=forms, **options)


def on_host(graph: Graph, generated: Generated, cache: Path) -> Outcome:
    """Under AddressSanitizer and UndefinedBehaviorSanitizer: the portable path."""
    inputs = images(graph)
    ran = HostNetwork(generated, cache_dir=cache, sanitize=True).infer([serialize_input(graph, x) for x in inputs])
    exact = []
    for index, (layer, value) in enumerate(graph.run(inputs)):
        layout = generated.layers[index].layout
        expected = [zlib.crc32(logical_bytes(graph, layer, one, layout)) for one in value]
        exact.append(expected == ran.crcs[:, index].tolist())
    return Outcome(tuple(exact))


def on_core(graph: Graph, generated: Generated, folder: Path) -> Outcome:
    """In Unicorn: the path with intrinsics and assembly."""
    folder.mkdir(parents=True, exist_ok=True)
    core = BareCore(build_bare(generated, folder), generated.core)
    results = []
    inputs = images(graph)
    for image in inputs:
        ran = core.infer(serialize_input(graph, image))
        results.append([zlib.crc32(data) for _, data in ran.layers])
    exact = []
    for index, (layer, value) in enumerate(graph.run(inputs)):
        layout = generated.layers[index].layout
        expected = [zlib.crc32(logical_bytes(graph, layer, one, layout)) for one in value]
        exact.append(expected == [result[index] for result in results])
    return Outcome(tuple(exact), ran, core.image)
