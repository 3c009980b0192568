"""What the sparse forms share: the proof that accumulators fit, narrow biases, and how rows of entries are stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from harness.errors import InputError
from harness.ops.base import INT32_LIMIT, Array
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Constant, Form, Reference, Site, Storage, Value

# The largest uint8 activation, also where a tensor uses fewer bits: the proofs need no more than that.
ACTIVATION_LIMIT = 255

# The longest distance and the weights that entries of one byte each hold.
DISTANCE_LIMIT = 255

O = TypeVar("O", Conv2d, Linear)  # noqa: E741 (an operator)


class SparseForm(Form[O]):
    """A form that says why it does not fit a layer."""

    @abstractmethod
    def refusal(self, layer: O, site: Site) -> str | None:
        """Why this form cannot compute `layer` exactly, None when it can."""

    def applicable(self, layer: O, site: Site) -> bool:
        return self.refusal(layer, site) is None


def filters_of(layer: Conv2d | Linear) -> Array:
    """(O, weights of one output) int64."""
    return layer.weight.reshape(len(layer.weight), -1).astype(np.int64)


def refuse_accumulators(layer: Conv2d | Linear) -> str | None:
    """Why 32 bits do not hold every partial sum of a layer, in whatever order its products are added."""
    bound = np.abs(layer.bias.astype(np.int64)) + np.abs(filters_of(layer)).sum(axis=1) * ACTIVATION_LIMIT
    largest = int(bound.max(initial=0))
    return None if largest < INT32_LIMIT else f"its accumulators may reach {largest}, which 32 bits cannot hold"


def refuse_common_finish(layer: Conv2d | Linear, site: Site) -> str | None:
    """Why code that several layers share cannot finish this layer's accumulators (nn_sparse_finish)."""
    r = layer.requantize
    if r is None:
        return "its ReLU is taken on 32-bit outputs" if layer.relu else None
    if not r.one_instruction or r.bits != 8:
        return "its requantisation is not one multiplication with a shift of 32 to 8 bits"
    return None


@dataclass(frozen=True, eq=False)
class Bias:
    """Biases in the fewest bits: value << shift. bytes: 1, 2 or 4 each."""

    constant: Constant
    bytes: int
    shift: int


def narrow_bias(bias: Array) -> Bias:
    """All biases in one byte each under a common shift if that is exact, else in two, else in four."""
    values = bias.astype(np.int64)
    common = int(np.bitwise_or.reduce(np.abs(values), initial=0))
    shift = (common & -common).bit_length() - 1 if common else 0
    for size, scaled, used in ((1, values >> shift, shift), (2, values, 0), (2, values >> shift, shift)):
        limit = 2 ** (8 * size - 1)
        if ((scaled >= -limit) & (scaled < limit)).all():
            return Bias(Constant("bias", f"int{8 * size}_t", scaled.astype(f"int{8 * size}")), size, used)
    return Bias(Constant("bias", "int32_t", values.astype(np.int32)), 4, 0)


@dataclass(frozen=True, eq=False)
class Finish:
    """How a layer's accumulators become outputs in functions that layers share (nn_sparse_finish, nn_sparse_kind)."""

    bias: Bias
    multipliers: Constant | None
    zero_point: int
    per_channel: bool

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The arrays that the fields refer to."""
        return (self.bias.constant, self.multipliers) if self.multipliers else (self.bias.constant,)

    @property
    def bytes(self) -> int:
        return sum(constant.bytes for constant in self.constants)

    @property
    def fields(self) -> dict[str, Value]:
        """The initialiser of an nn_sparse_finish."""
        fields: dict[str, Value] = {"bias": Reference("bias")}
        if self.multipliers:
            fields |= {"multipliers": Reference("multipliers"), "zero_point": self.zero_point}
        return fields | {"bias_shift": self.bias.shift}

    @property
    def suffix(self) -> str:
        """What the names of functions for layers of this kind end in."""
        return f"b{8 * self.bias.bytes}" + ("c" if self.per_channel else "") + ("z" if self.zero_point else "")

    @property
    def kind(self) -> str:
        """The nn_sparse_kind in C."""
        flags = f"{str(self.per_channel).lower()}, {str(self.zero_point != 0).lower()}"
        return f"(nn_sparse_kind){{{self.bias.bytes}, {flags}}}"


def finish_of(layer: Conv2d | Linear) -> Finish:
    """For a layer of which refuse_common_finish is None."""
    bias, r = narrow_bias(layer.bias), layer.requantize
    if r is None:
        return Finish(bias, None, 0, False)
    per_channel = bool((r.multiplier != r.multiplier[0]).any())
    values = r.multiplier if per_channel else r.multiplier[:1]
    return Finish(bias, Constant("multipliers", "int32_t", values.astype(np.int32)), r.zero_point, per_channel)


def shared_function(name: str, parameters: str, body: str) -> str:
    """A C function that layers share."""
    return f"NN_SPARSE_SHARED void {name}({parameters})\n{{\n    {body}\n}}"


def lengths_constant(lengths: Sequence[int]) -> tuple[str, Constant]:
    """The numbers of entries per row, and which field of the record takes them."""
    if max(lengths, default=0) <= 255:
        return "lengths", Constant("lengths", "uint8_t", np.array(lengths, np.uint8))
    if max(lengths) > 65535:
        raise InputError("a row has more than 65,535 entries")
    return "lengths16", Constant("lengths", "uint16_t", np.array(lengths, np.uint16))


def window_pitch(layer: Conv2d, site: Site) -> int:
    """Bytes from one padded row of uint8 activations to the next (nn_window.h)."""
    _, width, channels = site.input_shape
    return (width + 2 * layer.padding[1]) * channels


def window_height(layer: Conv2d) -> int:
    """Rows of activations that one row of outputs needs."""
    pool = layer.pool.kernel[0] if layer.pool else 1
    return int(layer.weight.shape[1]) + (pool - 1) * layer.stride[0]


def window_step(layer: Conv2d) -> int:
    """Rows of activations from one row of outputs to the next."""
    return layer.stride[0] * (layer.pool.stride[0] if layer.pool else 1)


def offsets(layer: Conv2d, site: Site) -> Array:
    """(KH * KW * C,) bytes from a kernel's corner to its elements, in padded rows with the channel fastest."""
    _, rows, columns, channels = layer.weight.shape
    y, x, c = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(channels), indexing="ij")
    return np.asarray(y * window_pitch(layer, site) + x * channels + c).ravel()


def overlap(layer: Conv2d, site: Site, *, windowed: bool, buffered: bool, overwrite: int = 0) -> int | None:
    """How far before its input the output of a convolution must start to trail it, in bytes (Lowering.overlap).

    The layer writes its output row by row: as it goes, or (buffered) after all reads of that row. windowed: rows are
    copied before they are used. overwrite: bytes that it writes behind every row.
    """
    rows = site.output_shape[0]
    consumed = [consumed_rows(layer, site, row, windowed=windowed, buffered=buffered) for row in range(rows)]
    return trailing_distance(site, site, consumed, overwrite)


def consumed_rows(layer: Conv2d, site: Site, row: int, *, windowed: bool, buffered: bool) -> int:
    """How many rows of its input a convolution needs no more when it writes row `row` of its output."""
    height = site.input_shape[0]
    if row + 1 == site.output_shape[0] and buffered:
        return height
    if windowed:
        return min(max(row * window_step(layer) + window_height(layer) - layer.padding[0], 0), height)
    return min((row + buffered) * window_step(layer), height)


def trailing_distance(first: Site, last: Site, consumed: Sequence[int], overwrite: int) -> int:
    """How far before the input of `first` the output of `last` must start.

    consumed: for each row of the output, how many rows of the input are needed no more when it is written.
    """
    written = int(np.prod(last.output_shape[1:])) * last.output.bytes
    read = int(np.prod(first.input_shape[1:])) * first.input.bytes
    distance = max(written * (row + 1) + overwrite - read * rows for row, rows in enumerate(consumed))
    return max(-(-distance // 4) * 4, 0)


def plain_storage(site: Site) -> str | None:
    """Why a kernel that reads uint8 activations cannot serve here."""
    return None if site.input is Storage.U8 else "its input is not stored as uint8"
