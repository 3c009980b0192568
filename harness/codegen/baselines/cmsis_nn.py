"""Kernels `cmsis-nn`: Arm's CMSIS-NN s8 on the same integers, linked from a library that the user built.

CMSIS-NN (Apache-2.0) is no part of this repository, and nothing here builds it. $HARNESS_CMSIS_NN names a folder with
its headers in Include/ and, for each core, what its own build files made of it: lib/cortex-m7/libcmsis-nn.a, built
with CMSIS_NN_USE_SINGLE_ROUNDING and the board's FPU and float ABI.

The library's layers are not fused and its activations are int8, 128 below ours. Its last layer requantises too, which
ours does not, and its sums round three times: `adapt` gives the Graph that the library can run, and every layer of that
one is compared bit for bit. Averages are left to our plain kernel: the library's cannot change the scale.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.codegen.baselines import Library
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d, PlainAvgPool2d
from harness.ops.base import INT32_LIMIT, Array, Operator, Requantization, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage, Value
from harness.ops.max_pool2d import MaxPool2d

# Of network.c, which only calls the library.
OPTIMIZE = "-O2"

VARIABLE = "HARNESS_CMSIS_NN"
_INCLUDE = "Include"
_LANDMARK = "arm_nnfunctions.h"
_ARCHIVE = "libcmsis-nn.a"
_ARCHIVE_MAGIC = b"!<arch>\n"
# Otherwise it rounds twice per requantisation, like TensorFlow Lite's old reference: another result than ours.
_ROUNDING = "CMSIS_NN_USE_SINGLE_ROUNDING"

# The folder beside network.c that the library's files go to; nn_cmsis_nn.h includes them from there.
_FOLDER = "cmsis_nn"

_HEADER = "baselines/nn_cmsis_nn.h"
_OFFSET = 128


# ---- the library


def library(core: str) -> Library:
    """The user's headers and his library for `core`; InputError where either is missing."""
    named = os.environ.get(VARIABLE)
    if not named:
        raise InputError(
            "kernels cmsis-nn link CMSIS-NN, which is not part of this repository",
            hint=f"set {VARIABLE} to a folder with {_INCLUDE}/{_LANDMARK} and {_archive_name(core)}, "
            + _how_built(core),
        )
    folder = Path(named).expanduser()
    if not (folder / _INCLUDE / _LANDMARK).is_file():
        raise InputError(
            f"${VARIABLE} is {named}, but there is no {_INCLUDE}/{_LANDMARK} in it",
            hint=f"copy CMSIS-NN's own {_INCLUDE} folder there",
        )
    archive = folder / _archive_name(core)
    if not archive.is_file():
        raise InputError(
            f"there is no CMSIS-NN for {core}: {archive} is missing",
            hint=f"put the library there, {_how_built(core)}",
        )
    try:
        content = archive.read_bytes()
        headers = {
            path.relative_to(folder / _INCLUDE).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted((folder / _INCLUDE).rglob("*.h"))
        }
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the CMSIS-NN in {folder}: {error}") from error
    if not content.startswith(_ARCHIVE_MAGIC):
        # A thin archive is one of these: its objects lie elsewhere.
        raise InputError(f"{archive} is no static library with its objects inside")
    return Library(
        headers={f"{_FOLDER}/{name}": text for name, text in headers.items()},
        archives={f"{_FOLDER}/{_ARCHIVE}": content},
    )


def available(core: str) -> bool:
    """Whether the user has built the library for `core`."""
    try:
        library(core)
    except InputError:
        return False
    return True


def _archive_name(core: str) -> str:
    return f"lib/{core}/{_ARCHIVE}"


def _how_built(core: str) -> str:
    return (
        f"built for {core} with CMSIS-NN's own build files and {_ROUNDING} defined: "
        "without it layers differ from the reference, and the run fails"
    )


# ---- the graph that the library can run


def adapt(graph: Graph, images: Array) -> Graph:
    """`graph` with every max-pool as a layer of its own, the library's sums, and scores of 8 bits instead of 32.

    images: (N, H, W, C) uint8, from which the range of the scores is taken; not test images. All else is unchanged: up
    to the first sum, and of networks without sums up to the last layer, values are the same as in `graph`.
    """
    _require_integers(graph)
    layers: list[Operator] = []
    tensors = dict(graph.tensors)
    for layer in graph.layers:
        if isinstance(layer, Conv2d) and layer.pool is not None:
            unpooled = dataclasses.replace(layer, pool=None, output=f"{layer.output}.unpooled")
            shape = unpooled.output_shape(*graph.input_shapes(layer))
            tensors[unpooled.output] = dataclasses.replace(tensors[layer.output], name=unpooled.output, shape=shape)
            pool = MaxPool2d(f"{layer.name}.pool", (unpooled.output,), layer.output, layer.pool)
            layers += [unpooled, pool]
        elif isinstance(layer, Add):
            layers.append(CmsisSum.of(layer, graph))
        else:
            layers.append(layer)
    last = layers[-1]
    if isinstance(last, Conv2d | Linear) and last.requantize is None:
        output = graph.output
        scores = graph.infer(images).astype(np.float64) * (output.scale or 1.0)
        low, high = min(float(scores.min()), 0.0), max(float(scores.max()), 0.0)
        scale = (high - low) / 255 or 1.0
        zero_point = round(-low / scale)
        factors = np.full(len(last.weight), (output.scale or 1.0) / scale)
        layers[-1] = dataclasses.replace(last, requantize=Requantization.from_scales(factors, zero_point))
        tensors[output.name] = Tensor(output.name, output.shape, "uint8", scale, zero_point)
    return build(graph.name, graph.input_tensor, tuple(layers), tensors)


# The library makes inputs of a sum so many bits longer before it brings them to one scale.
_SUM_BITS = 20


@dataclass(frozen=True, eq=False)
class CmsisSum(Add):
    """A sum with the library's arithmetic: each input, then their sum, is multiplied and rounded.

    multipliers, shifts: of input a, input b and the output; factor = multiplier * 2^(shift - 31).
    """

    multipliers: tuple[int, int, int] = (0, 0, 0)
    shifts: tuple[int, int, int] = (0, 0, 0)

    @staticmethod
    def of(layer: Add, graph: Graph) -> CmsisSum:
        """The library's counterpart of `layer`, whose scales stand in `graph`."""
        a, b, y = (graph.tensors[name].scale or 1.0 for name in (*layer.inputs, layer.output))
        largest = 2 * max(a, b)
        factors = [_factor(scale) for scale in (a / largest, b / largest, largest / (2**_SUM_BITS * y))]
        return CmsisSum(
            **{field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)},
            multipliers=(factors[0][0], factors[1][0], factors[2][0]),
            shifts=(factors[0][1], factors[1][1], factors[2][1]),
        )

    @property
    def parameters(self) -> dict[str, Array]:
        return {"factors": np.array([self.multipliers, self.shifts])}

    def reference(self, *inputs: Array) -> Array:
        assert self.requantize is not None
        longer = [
            (x.astype(np.int64) - zero_point) << _SUM_BITS
            for x, zero_point in zip(inputs, self.input_zero_points, strict=True)
        ]
        total = self._rounded(longer[0], 0) + self._rounded(longer[1], 1)
        highest = 2**self.requantize.bits - 1
        result: Array = np.clip(self._rounded(total, 2) + self.requantize.zero_point, 0, highest).astype(np.uint8)
        return result

    def _rounded(self, x: Array, which: int) -> Array:
        shift = 31 - self.shifts[which]
        result: Array = (x * self.multipliers[which] + (1 << (shift - 1))) >> shift
        return result


def _factor(real: float) -> tuple[int, int]:
    """(multiplier, shift) with real = multiplier * 2^(shift - 31), multiplier in [2^30, 2^31)."""
    mantissa, exponent = math.frexp(real)
    multiplier = round(mantissa * 2**31)
    return (2**30, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


def _require_integers(graph: Graph) -> None:
    if not graph.integer:
        raise InputError("kernels cmsis-nn compute with 8-bit integers", hint="add --variant int8")


# ---- the layers in C


def forms(graph: Graph) -> tuple[Form[Any], ...]:
    """One form per layer of an adapted graph; InputError for what the library cannot do exactly."""
    _require_integers(graph)
    if sum(graph.input in layer.inputs for layer in graph.layers) > 1:
        raise InputError("kernels cmsis-nn change the network's input where it lies, but several layers read it")
    # The library has a function for one factor per layer and one for a factor per channel: both would only cost flash.
    shared = all(_shared(layer) for layer in graph.layers if isinstance(layer, Linear))
    return tuple(_form(layer, shared) for layer in graph.layers)


def _form(layer: Operator, shared: bool) -> Form[Any]:
    if isinstance(layer, MaxPool2d):
        return CmsisMaxPool2d()
    if isinstance(layer, CmsisSum):
        return CmsisAdd()
    if isinstance(layer, AvgPool2d):
        return PlainAvgPool2d()
    if not isinstance(layer, Conv2d | DepthwiseConv2d | Linear) or (
        isinstance(layer, Conv2d) and layer.pool is not None
    ):
        raise InputError(f"layer {layer.name}: kernels cmsis-nn have no {layer.label}")
    if layer.weight_bits != 8:
        raise InputError(f"layer {layer.name}: kernels cmsis-nn run weights of 8 bits, not of {layer.weight_bits}")
    if layer.requantize is None:
        raise InputError(f"layer {layer.name}: kernels cmsis-nn yield 8 bits, not accumulators")
    _check_range(layer)
    if isinstance(layer, DepthwiseConv2d):
        return CmsisDepthwise()
    return CmsisConv2d() if isinstance(layer, Conv2d) else CmsisLinear(shared=shared)


def _shared(layer: Linear) -> bool:
    """Whether all outputs have the same factor."""
    r = layer.requantize
    return r is not None and bool((r.multiplier == r.multiplier[0]).all() and (r.shift == r.shift[0]).all())


def _check_range(layer: Conv2d | DepthwiseConv2d | Linear) -> None:
    """arm_nn_requantize keeps twice the result in 32 bits before it rounds; ours has 64."""
    assert layer.requantize is not None
    flat = np.abs(layer.weight.reshape(len(layer.weight), -1).astype(np.int64))
    largest = np.abs(layer.bias.astype(np.int64)) + flat.sum(axis=1) * 255
    doubled = (largest * layer.requantize.multiplier) >> (layer.requantize.shift - 1)
    if (doubled >= INT32_LIMIT).any():
        raise InputError(f"layer {layer.name}: its accumulators may leave the range of CMSIS-NN's requantisation")


class _Cmsis(Form[Any]):
    """What the forms share: signed storage wherever nobody else looks."""

    name = "cmsis-nn"
    asymmetric = True  # it is told where the output ends

    def applicable(self, layer: Any, site: Site) -> bool:
        return True

    def cost(self, layer: Any, site: Site) -> Cost:
        return Cost(0, 0, 0)  # asked for by name, never compared

    def reads(self, layer: Any, site: Site) -> Storage:
        return Storage.S8

    def writes(self, layer: Any, site: Site) -> frozenset[Storage]:
        return frozenset({Storage.U8, Storage.S8})

    def _lowering(
        self, kernel: str, record: str, fields: Mapping[str, Value], constants: tuple[Constant, ...], scratch: int = 0
    ) -> Lowering:
        return Lowering(
            form=self.name,
            header=_HEADER,
            kernel=kernel,
            record=record,
            fields=fields,
            constants=constants,
            scratch_bytes=scratch,
        )


class CmsisConv2d(_Cmsis):
    """arm_convolve_s8, or one of the two for 1x1 kernels where those apply, as arm_convolve_wrapper_s8 would choose."""

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        rows, columns = layer.weight.shape[1:3]
        pointwise = (rows, columns) == (1, 1) and not np.any(layer.edges)
        # arm_convolve_s8_get_buffer_size: two columns of 16-bit pixels, each padded to four.
        buffer = 0 if pointwise else 2 * 2 * _round_up(int(np.prod(layer.weight.shape[1:])), 4)
        kernel = "nn_cmsis_nn_pointwise" if pointwise else "nn_cmsis_nn_conv2d"
        return self._convolution(kernel, layer, site, buffer)

    def _convolution(self, kernel: str, layer: Conv2d | DepthwiseConv2d, site: Site, buffer: int) -> Lowering:
        fields: dict[str, Value] = {
            "input": _extent(site.input_shape),
            "output": _extent(site.output_shape),
            "kernel": layer.weight.shape[1:3],
            "stride": layer.stride,
            "padding": layer.padding,
            **_quantization(layer),
            "multipliers": Reference("multipliers"),
            "shifts": Reference("shifts"),
            "buffer_bytes": buffer,
            "is_unsigned": _is_unsigned(site),
        }
        constants = (*_weights(layer), *_factors(layer))
        return self._lowering(kernel, "nn_cmsis_nn_conv2d_layer", fields, constants, buffer)


class CmsisDepthwise(CmsisConv2d):
    """arm_depthwise_conv_wrapper_s8, which chooses the function itself."""

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:  # type: ignore[override]
        channels, rows, columns = layer.weight.shape
        if (rows, columns) == (3, 3) and max(layer.padding) <= 1:
            return self._convolution("nn_cmsis_nn_depthwise", layer, site, 0)
        # arm_depthwise_conv_wrapper_s8_get_buffer_size: the window in 16 bits.
        return self._convolution("nn_cmsis_nn_depthwise_any", layer, site, 2 * channels * rows * columns)


class CmsisAdd(_Cmsis):
    """arm_elementwise_add_s8."""

    def lower(self, layer: CmsisSum, site: Site) -> Lowering:
        assert layer.requantize is not None
        if (site.input, site.second_input) != (Storage.S8, Storage.S8):
            raise InputError(f"layer {layer.name}: kernels cmsis-nn add what layers of theirs wrote, and nothing else")
        zero_a, zero_b = layer.input_zero_points
        fields: dict[str, Value] = {
            "elements": int(np.prod(site.output_shape)),
            "offsets": (_OFFSET - zero_a, _OFFSET - zero_b, layer.requantize.zero_point - _OFFSET),
            "multipliers": layer.multipliers,
            "shifts": layer.shifts,
            "left_shift": _SUM_BITS,
            "highest": 2**layer.requantize.bits - 1 - _OFFSET,
            "is_unsigned": _is_unsigned(site)[1],
        }
        return self._lowering("nn_cmsis_nn_add", "nn_cmsis_nn_add_layer", fields, ())


class CmsisMaxPool2d(_Cmsis):
    """arm_max_pool_s8."""

    def lower(self, layer: MaxPool2d, site: Site) -> Lowering:
        fields: dict[str, Value] = {
            "input": _extent(site.input_shape),
            "output": _extent(site.output_shape),
            "kernel": layer.window.kernel,
            "stride": layer.window.stride,
            "is_unsigned": _is_unsigned(site),
        }
        return self._lowering("nn_cmsis_nn_max_pool2d", "nn_cmsis_nn_max_pool2d_layer", fields, ())


class CmsisLinear(_Cmsis):
    """arm_fully_connected_s8 where every layer has one factor (`shared`), else arm_fully_connected_per_channel_s8."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared

    def lower(self, layer: Linear, site: Site) -> Lowering:
        assert layer.requantize is not None
        fields: dict[str, Value] = {
            "inputs": layer.weight.shape[1],
            "outputs": layer.weight.shape[0],
            **_quantization(layer),
        }
        constants = _weights(layer)
        if self._shared:
            multiplier, shift = layer.requantize.multiplier, layer.requantize.shift
            fields |= {"multiplier": int(multiplier[0]), "shift": 31 - int(shift[0])}
        else:
            fields |= {"multipliers": Reference("multipliers"), "shifts": Reference("shifts")}
            constants += _factors(layer)
        fields["is_unsigned"] = _is_unsigned(site)
        return self._lowering("nn_cmsis_nn_linear", "nn_cmsis_nn_linear_layer", fields, constants)


def _quantization(layer: Conv2d | DepthwiseConv2d | Linear) -> dict[str, Value]:
    assert layer.requantize is not None
    return {
        "input_offset": _OFFSET - layer.input_zero_point,
        "output_offset": layer.requantize.zero_point - _OFFSET,
        "highest": 2**layer.requantize.bits - 1 - _OFFSET,
        "weights": Reference("weights"),
        "bias": Reference("bias"),
    }


def _weights(layer: Conv2d | DepthwiseConv2d | Linear) -> tuple[Constant, ...]:
    """Weights and bias. The library adds the input's offset itself, so the bias gives back what was folded into it."""
    weight = layer.weight.astype(np.int8)
    if isinstance(layer, DepthwiseConv2d):
        weight = np.moveaxis(weight, 0, -1)  # the library has the channel last
    flat = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    bias = layer.bias.astype(np.int64) + layer.input_zero_point * flat.sum(axis=1)
    return (
        Constant("weights", "int8_t", weight.ravel()),
        Constant("bias", "int32_t", bias.astype(np.int32)),
    )


def _factors(layer: Conv2d | DepthwiseConv2d | Linear) -> tuple[Constant, ...]:
    """M and T of each channel as the library wants them: a shift counts from 2^-31."""
    assert layer.requantize is not None
    return (
        Constant("multipliers", "int32_t", layer.requantize.multiplier.astype(np.int32)),
        Constant("shifts", "int32_t", (31 - layer.requantize.shift).astype(np.int32)),
    )


def _extent(shape: Shape) -> dict[str, Value]:
    rows, columns, channels = shape
    return {"rows": rows, "columns": columns, "channels": channels}


def _is_unsigned(site: Site) -> tuple[int, int]:
    return int(site.input is Storage.U8), int(site.output is Storage.U8)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
