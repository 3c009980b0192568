"""The layers of arXiv 2103.15972 (paper A): 8-bit sparse weights in one flat stream, float arithmetic, planar tensors.

A baseline that other variants are compared with, with the flaws that the paper's published code has; not a form of our
own networks. The report of `harness reproduce 2103.15972` says what the flaws are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import Array, Operator, Shape
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage, Value, float_literal
from harness.ops.max_pool2d import Window

# What an 8-bit difference of indices can bridge.
LONGEST_STEP = 255

# The paper stores activations as int8, 128 below the Graph's unsigned ones.
OFFSET = 128


@dataclass(frozen=True, eq=False)
class _PaperALayer(Operator):
    """What both layers have.

    weight: int8, in the stream's order. bias: (O,) float32. weight_scale: one for the layer.
    input_scale, input_zero_point, output_scale, output_zero_point: of the unsigned activations in the Graph.
    """

    weight: Array
    bias: Array
    weight_scale: float
    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int
    relu: bool = False

    @property
    def forms(self) -> tuple[Form[Any], ...]:
        return (PaperA(),)

    @property
    def parameters(self) -> dict[str, Array]:
        return {"weight": self.weight, "bias": self.bias}

    def dequantized(self, x: Array) -> Array:
        """The input in real numbers: float32, as the C computes it for every multiplication anew."""
        real: Array = (x.astype(np.float32) - np.float32(self.input_zero_point)) * np.float32(self.input_scale)
        return real

    def finish(self, total: Array, bias: Array) -> Array:
        """Sums of float32 products -> real outputs: scaled once per sum, biased, and clamped by the ReLU."""
        real = total * np.float32(self.weight_scale) + bias
        return np.maximum(real, np.float32(0)) if self.relu else real

    def quantized(self, real: Array) -> Array:
        """Real outputs -> uint8. Truncated towards zero in the paper's signed range: negative values go up."""
        signed_zero = np.float32(self.output_zero_point - OFFSET)
        signed = np.trunc(real / np.float32(self.output_scale) + signed_zero)
        stored: Array = (np.clip(signed, -OFFSET, OFFSET - 1) + OFFSET).astype(np.uint8)
        return stored

    def stream(self) -> tuple[Array, Array]:
        """(values int8, steps uint8): every nonzero weight with its distance from the one before.

        Distances that 8 bits cannot hold are bridged by filler entries of value 0. A last one leads past the end, so
        that a reader need not count: the paper's own code reads on behind the array there.
        """
        flat = self.weight.ravel()
        values, steps, previous = [], [], 0
        for index in (*np.flatnonzero(flat).tolist(), flat.size):
            while index - previous > LONGEST_STEP:
                values.append(0)
                steps.append(LONGEST_STEP)
                previous += LONGEST_STEP
            values.append(int(flat[index]) if index < flat.size else 0)
            steps.append(index - previous)
            previous = index
        return np.array(values, np.int8), np.array(steps, np.uint8)


@dataclass(frozen=True, eq=False)
class PaperAConv2d(_PaperALayer):
    """Convolution with stride 1, ReLU and a square max-pool of stride = kernel, planar.

    weight: (O, C, KH, KW). Its input is (C, H, W), or for the network's input (H, W, C); its output is (O, H', W').
    padding: on all sides.
    """

    kind: ClassVar[str] = "paper_a_conv2d"

    padding: int = 0
    pool: Window | None = None
    planar_input: bool = True

    @property
    def label(self) -> str:
        return "conv2d" + ("+relu" if self.relu else "") + ("+max_pool2d" if self.pool else "")

    @property
    def window(self) -> int:
        """Rows, columns and stride of the pooling window; 1 where there is none."""
        return self.pool.kernel[0] if self.pool else 1

    def planes(self, shape: Shape) -> tuple[int, int, int]:
        """(C, H, W) of an input shape."""
        channels, height, width = shape if self.planar_input else (shape[2], *shape[:2])
        if channels != self.weight.shape[1]:
            raise InputError(f"layer {self.name} wants {self.weight.shape[1]} channels but its input has {channels}")
        return channels, height, width

    def convolved(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns before the max-pool."""
        _, height, width = self.planes(shape)
        return height + 2 * self.padding - self.weight.shape[2] + 1, width + 2 * self.padding - self.weight.shape[3] + 1

    def output_shape(self, *inputs: Shape) -> Shape:
        rows, columns = self.convolved(inputs[0])
        if rows < self.window or columns < self.window:
            raise InputError(f"layer {self.name}: its kernel or its pooling window does not fit into {inputs[0]}")
        return len(self.weight), rows // self.window, columns // self.window

    def macs(self, *inputs: Shape) -> int:
        rows, columns = self.convolved(inputs[0])
        return int(rows * columns * self.weight.size)

    def reference(self, *inputs: Array) -> Array:
        """In float32, product by product in the C's order, so that it is equal to the last bit."""
        x = inputs[0] if self.planar_input else inputs[0].transpose(0, 3, 1, 2)
        rows, columns = self.convolved(inputs[0].shape[1:])
        edge = ((0, 0), (0, 0), (self.padding, self.padding), (self.padding, self.padding))
        real = np.pad(self.dequantized(x), edge)
        outputs = []
        for kernel, bias in zip(self.weight, self.bias, strict=True):
            total = np.zeros((len(x), rows, columns), np.float32)
            for row, column, channel in np.argwhere(kernel.transpose(1, 2, 0)):
                taps = real[:, channel, row : row + rows, column : column + columns]
                total += taps * np.float32(kernel[channel, row, column])
            result = self.finish(total, bias)
            outputs.append(self.pool.maximum(result[..., None])[..., 0] if self.pool else result)
        return self.quantized(np.stack(outputs, axis=1))


@dataclass(frozen=True, eq=False)
class PaperALinear(_PaperALayer):
    """The fully connected layer. weight: (O, I), columns in the order of the planar input."""

    kind: ClassVar[str] = "paper_a_linear"

    @property
    def label(self) -> str:
        return "linear" + ("+relu" if self.relu else "")

    def output_shape(self, *inputs: Shape) -> Shape:
        features = int(np.prod(inputs[0]))
        if features != self.weight.shape[1]:
            raise InputError(f"layer {self.name} wants {self.weight.shape[1]} features but its input has {features}")
        return (len(self.weight),)

    def macs(self, *inputs: Shape) -> int:
        return int(self.weight.size)

    def reference(self, *inputs: Array) -> Array:
        """In float32, product by product in the C's order, so that it is equal to the last bit."""
        real = self.dequantized(inputs[0].reshape(len(inputs[0]), -1))
        outputs = np.zeros((len(real), len(self.weight)), np.float32)
        for row, weights in enumerate(self.weight):
            for column in np.flatnonzero(weights):
                outputs[:, row] += real[:, column] * np.float32(weights[column])
        return self.quantized(self.finish(outputs, self.bias))


class PaperA(Form[_PaperALayer]):
    """The paper's kernels: run-time dimensions, the stream walked serially, conv kernels expanded before use."""

    name = "paper-a"

    def applicable(self, layer: _PaperALayer, site: Site) -> bool:
        return True

    def cost(self, layer: _PaperALayer, site: Site) -> Cost:
        return Cost(0, 0, 0)  # there is no other form to compare with

    def reads(self, layer: _PaperALayer, site: Site) -> Storage:
        return Storage.S8

    def writes(self, layer: _PaperALayer, site: Site) -> frozenset[Storage]:
        return frozenset({Storage.U8, Storage.S8})

    def lower(self, layer: _PaperALayer, site: Site) -> Lowering:
        values, steps = layer.stream()
        convolution = isinstance(layer, PaperAConv2d)
        fields: dict[str, Value] = {
            "weights": {
                "outputs": len(layer.weight),
                "inputs": layer.weight.shape[1],
                "rows": layer.weight.shape[2] if convolution else 1,
                "columns": layer.weight.shape[3] if convolution else 1,
                "scale": float_literal(layer.weight_scale),
                "values": Reference("values"),
                "steps": Reference("steps"),
                "bias": Reference("bias"),
            },
            "input": _tensor(site.input_shape, site.input, layer.input_scale, layer.input_zero_point),
            "output": _tensor(site.output_shape, site.output, layer.output_scale, layer.output_zero_point),
            "relu": layer.relu,
        }
        if isinstance(layer, PaperAConv2d):
            channels, height, width = layer.planes(site.input_shape)
            fields["input"] = _tensor((channels, height, width), site.input, layer.input_scale, layer.input_zero_point)
            fields |= {"interleaved": not layer.planar_input and channels > 1}
            fields |= {"pool": layer.window, "padding": layer.padding}
        return Lowering(
            form=self.name,
            header="baselines/nn_paper_a.h",
            kernel="nn_paper_a_conv2d" if convolution else "nn_paper_a_linear",
            record="nn_paper_a_conv2d_layer" if convolution else "nn_paper_a_linear_layer",
            fields=fields,
            constants=(
                Constant("values", "int8_t", values),
                Constant("steps", "uint8_t", steps),
                Constant("bias", "float", layer.bias.astype(np.float32)),
            ),
            scratch_bytes=int(np.prod(layer.weight.shape[1:])) if convolution else 0,
        )


def _tensor(shape: Shape, storage: Storage, scale: float, zero_point: int) -> dict[str, Value]:
    """The initialiser of an nn_paper_a_tensor."""
    channels, rows, columns = shape if len(shape) == 3 else (1, int(np.prod(shape)), 1)
    return {
        "channels": channels,
        "rows": rows,
        "columns": columns,
        "scale": float_literal(scale),
        "zero_point": zero_point - OFFSET,
        "is_unsigned": storage is Storage.U8,
    }
