"""Depthwise convolution: every channel has a kernel of its own. The other half of a separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Requantization, Shape, Weighted, finished, padding_edges, relu_label
from harness.ops.depthwise_planes import PlanesDepthwise
from harness.ops.depthwise_strided import StridedDepthwise
from harness.ops.depthwise_strips import StripsDepthwise
from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    Storage,
    Value,
    clip_field,
    requantization_constants,
    requantization_fields,
)
from harness.ops.packed import (
    STORAGES,
    WEIGHT_BITS,
    Window,
    border,
    row_buffer,
    weight_fields,
    weights_bytes,
    weights_constant,
    words,
)


@dataclass(frozen=True, eq=False)
class DepthwiseConv2d(Weighted):
    """Depthwise convolution on (H, W, C): as many groups as channels, one filter each, dilation 1.

    weight: (C, KH, KW) float32 or int8. bias: (C,) float32, or int32 with -input_zero_point * sum(w) folded in.
    The other fields are those of Conv2d.
    """

    kind: ClassVar[str] = "depthwise_conv2d"

    weight: Array
    bias: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    relu: bool = False
    input_zero_point: int = 0
    requantize: Requantization | None = None
    padding_after: tuple[int, int] | None = None
    clip: float | None = None
    weight_bits: int = 8

    @property
    def edges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding as ((top, bottom), (left, right))."""
        return padding_edges(self.padding, self.padding_after)

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        if not self.integer:
            return (PlainDepthwiseF32(),)
        return StridedDepthwise(), StripsDepthwise(), PlanesDepthwise(), PlainDepthwise()

    @property
    def label(self) -> str:
        return self.kind + relu_label(self.relu, self.clip)

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width, channels = inputs[0]
        expected, kernel_height, kernel_width = self.weight.shape
        if channels != expected:
            raise InputError(f"layer {self.name} wants {expected} channels but its input has {channels}")
        vertical, horizontal = self.edges
        rows = (height + sum(vertical) - kernel_height) // self.stride[0] + 1
        columns = (width + sum(horizontal) - kernel_width) // self.stride[1] + 1
        if rows < 1 or columns < 1:
            raise InputError(
                f"layer {self.name}: a {kernel_height}x{kernel_width} kernel does not fit into {height}x{width}"
            )
        return rows, columns, channels

    def macs(self, *inputs: Shape) -> int:
        rows, columns, _ = self.output_shape(*inputs)
        return int(rows * columns * self.weight.size)

    def accumulate(self, x: Array) -> Array:
        """The convolution before clamping, as float64, tap by tap: exact for integers, whose sums stay below 2**53."""
        rows, columns, channels = self.output_shape(x.shape[1:])
        padded = np.pad(x, ((0, 0), *self.edges, (0, 0)), constant_values=x.dtype.type(self.input_zero_point))
        result = np.empty((len(x), rows, columns, channels))
        result[:] = self.bias.astype(np.float64)
        _, kernel_height, kernel_width = self.weight.shape
        weight = self.weight.astype(np.float64)
        for y in range(kernel_height):
            for x_offset in range(kernel_width):
                taps = padded[:, y :: self.stride[0], x_offset :: self.stride[1]][:, :rows, :columns]
                result += taps * weight[:, y, x_offset]
        return result

    def reference(self, *inputs: Array) -> Array:
        return finished(
            self.accumulate(inputs[0]), self.requantize, integer=self.integer, relu=self.relu, clip=self.clip
        )


def depthwise_shape(layer: DepthwiseConv2d, site: Site) -> dict[str, Value]:
    """The initialiser of an nn_conv2d_shape."""
    height, width, channels = site.input_shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "rows": site.output_shape[0],
        "columns": site.output_shape[1],
        "filters": channels,
        "kernel": layer.weight.shape[1:],
        "stride": layer.stride,
        "padding": layer.padding,
        "pool": (1, 1),
        "pool_stride": (1, 1),
        "relu": layer.relu,
        "input": site.input.value,
        "output": site.output.value,
    }


class PlainDepthwise(Form[DepthwiseConv2d]):
    """One multiplication at a time, with weights and activations of any width (nn_depthwise.h)."""

    name = "plain"
    storages = STORAGES
    weight_bits = WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        return True

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        channels, taps = len(layer.weight), int(layer.weight[0].size)
        return Cost(
            flash=weights_bytes(taps, channels, layer.weight_bits) + 9 * channels,
            scratch=self._scratch(layer, site),
            instructions=7 * layer.macs(site.input_shape)
            + 20 * int(np.prod(site.output_shape))
            + 5 * int(np.prod(site.input_shape)),
            code=500,
            overlap=self._window(layer, site).overlap(),
        )

    def writes(self, layer: DepthwiseConv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_depthwise.h",
            kernel="nn_depthwise",
            record="nn_depthwise_layer",
            fields={
                "shape": depthwise_shape(layer, site),
                "border": border(layer),
                **weight_fields(layer.weight_bits),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                weights_constant(by_tap(layer), layer.weight_bits),
                Constant("bias", "int32_t", layer.bias.astype(np.int32)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
            overlap=self._window(layer, site).overlap(),
        )

    def _window(self, layer: DepthwiseConv2d, site: Site) -> Window:
        return Window(layer, site, int(layer.weight.shape[1]))

    def _scratch(self, layer: DepthwiseConv2d, site: Site) -> int:
        """Bytes of the window, of all weights and of one row of outputs."""
        tile = words(int(layer.weight.size)) if layer.weight_bits < 8 else 0
        return self._window(layer, site).bytes + tile + row_buffer(site)


class PlainDepthwiseF32(Form[DepthwiseConv2d]):
    """Floats, one multiplication at a time."""

    name = "plain"
    asymmetric = True
    clips = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        return True

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        return Cost(4 * (layer.weight.size + len(layer.bias)), 0, 12 * layer.macs(site.input_shape))

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header="nn_depthwise.h",
            kernel="nn_depthwise_f32",
            record="nn_depthwise_f32_layer",
            fields={
                "shape": depthwise_shape(layer, site),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                **clip_field(layer.clip),
            },
            constants=(
                Constant("weights", "float", by_tap(layer).astype(np.float32).ravel()),
                Constant("bias", "float", layer.bias.astype(np.float32)),
            ),
        )


def by_tap(layer: DepthwiseConv2d) -> Array:
    """(KH * KW, C): the weights of each position of the kernel side by side, as they meet (H, W, C) inputs."""
    return np.ascontiguousarray(layer.weight.reshape(len(layer.weight), -1).T)
