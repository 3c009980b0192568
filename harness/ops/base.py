"""What every operator is: a frozen node of the Graph that knows its shapes, its cost and its exact result.

Arrays carry the batch first: (N, H, W, C) for images, (N, C) for vectors. A float graph holds float32 tensors;
an integer graph holds unsigned activations (uint8), and its last linear or convolution layer may end in int32
accumulators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from harness.ops.lowering import Form

Shape = tuple[int, ...]
Array = NDArray[Any]

INT32_LIMIT = 2**31

# Of scales of 2**-16 and more: nine bits and this many fit in 64.
_LARGEST_SHIFT = 46


@dataclass(frozen=True, eq=False)
class Requantization:
    """How int32 accumulators become unsigned activations, one rounding, in integers only.

    multiplier: (C,) int64, 0 < M < 2**31. shift: (C,) int64, 1..62. One pair per output channel.
    y = clamp(zero_point + ((acc * M + 2**(shift-1)) >> shift), 0, 2**bits - 1)
    """

    multiplier: Array
    shift: Array
    zero_point: int
    bits: int = 8

    @property
    def one_instruction(self) -> bool:
        """Whether every T is 32: an SMMULR then is the whole step but for the clamp."""
        return bool((self.shift == 32).all())

    def apply(self, accumulators: Array) -> Array:
        """accumulators: (..., C) int64 with |acc| < 2**31 -> uint8, same shape."""
        rounded = (accumulators * self.multiplier + (np.int64(1) << (self.shift - 1))) >> self.shift
        result: Array = np.clip(rounded + self.zero_point, 0, 2**self.bits - 1).astype(np.uint8)
        return result

    def at_32(self, lifts: Array, lowest: Array, highest: Array) -> Requantization | None:
        """What makes of `acc << lifts` with every T = 32 exactly what this makes of acc; None where nothing does.

        lifts: (C,) int64, 0..31. lowest, highest: (C,) int64, between which accumulators lie; lifted ones are to fit
        in 32 bits. An output is k or more from a certain accumulator on: a multiplier is right that puts all these
        limits, of which there are 2**bits - 1, where they were.
        """
        spare = self.shift + lifts - 32
        multipliers = np.rint(self.multiplier * 2.0**-spare).astype(np.int64)
        same = (spare <= 0) | (self.multiplier % (np.int64(1) << spare.clip(0)) == 0)
        unsure = ~same | (multipliers >= INT32_LIMIT)
        # Limits of scales below 2**-16 do not fit in 64 bits.
        for small, kind in ((False, np.dtype(np.int64)), (True, np.dtype(object))):
            channels = np.flatnonzero(unsure & ((self.shift > _LARGEST_SHIFT) == small))
            if not channels.size:
                continue
            columns = (self.multiplier, self.shift, lifts, lowest, highest)
            least, most = self._multipliers_at_32(*(values[channels].astype(kind)[:, None] for values in columns))
            if (least > most).any():
                return None
            multipliers[channels] = np.clip(multipliers[channels], least, most)
        return Requantization(multipliers, np.full_like(self.shift, 32), self.zero_point, self.bits)

    def _multipliers_at_32(
        self, multiplier: Array, shift: Array, lifts: Array, low: Array, high: Array
    ) -> tuple[Array, Array]:
        """The smallest and the largest multiplier that `at_32` can take; (C, 1) -> (C,)."""
        halves = (2 * (np.arange(1, 2**self.bits) - self.zero_point) - 1).astype(multiplier.dtype)
        # Of k: the first accumulator whose output is at least k, and what it must reach, lifted and multiplied.
        first = np.clip(-(-(halves << (shift - 1)) // multiplier), low, high + 1)
        bound = halves << (31 - lifts)
        least, most = np.ones_like(first), np.full_like(first, INT32_LIMIT - 1)
        before, one = first - 1, first.dtype.type(1) if first.dtype != object else 1
        # first * M >= bound, and before * M < bound, where there are such accumulators.
        for at, there, reached in ((first, first <= high, True), (before, before >= low, False)):
            divisor = np.where(at == 0, one, at)
            at_least = -(-bound // divisor) if reached else bound // divisor + 1
            at_most = bound // divisor if reached else -(-bound // divisor) - 1
            least = np.where(there & ((at > 0) if reached else (at < 0)), np.maximum(least, at_least), least)
            most = np.where(there & ((at < 0) if reached else (at > 0)), np.minimum(most, at_most), most)
        return least.max(axis=1).astype(np.int64), most.min(axis=1).astype(np.int64)

    @staticmethod
    def from_scales(scales: Array, zero_point: int, bits: int = 8) -> Requantization:
        """The multipliers for real factors `scales` (C,), each > 0.

        T = 32 wherever it keeps 16 bits of precision and M below 2**31, because there the whole step is one SMMULR;
        smaller factors take a larger shift, larger ones a smaller.
        """
        multipliers, shifts = [], []
        for scale in scales.tolist():
            shift = 32
            if round(scale * 2.0**32) < 2**16:
                while shift < 62 and round(scale * 2.0**shift) < 2**30:
                    shift += 1
            while shift > 1 and round(scale * 2.0**shift) >= INT32_LIMIT:
                shift -= 1
            multipliers.append(min(max(round(scale * 2.0**shift), 1), INT32_LIMIT - 1))
            shifts.append(shift)
        return Requantization(np.array(multipliers, np.int64), np.array(shifts, np.int64), zero_point, bits)


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """One layer. `inputs` and `output` are names of tensors in the Graph."""

    kind: ClassVar[str]

    name: str
    inputs: tuple[str, ...]
    output: str

    @abstractmethod
    def output_shape(self, *inputs: Shape) -> Shape:
        """The shape without batch; InputError when the inputs do not fit."""

    @abstractmethod
    def macs(self, *inputs: Shape) -> int:
        """Multiply-accumulates of one inference, counted dense."""

    @abstractmethod
    def reference(self, *inputs: Array) -> Array:
        """The result that every other execution is compared with: exact in integers, float64 inside for floats."""

    @property
    @abstractmethod
    def forms(self) -> tuple[Form[Any], ...]:
        """The ways to store and compute this layer in C, at least one of which applies everywhere."""

    @property
    def parameters(self) -> dict[str, Array]:
        """The arrays that the layer stores, by field name."""
        return {}

    @property
    def label(self) -> str:
        """The kind, with what is fused into it: conv2d+relu+max_pool2d."""
        return self.kind


def exact_float(weight: Array) -> type[np.floating[Any]]:
    """The narrowest float type whose sums of `weight` (O, ...) times uint8 values are exact, in whatever order.

    All partial sums are integers below sum(|w|) * 255: float32 holds them below 2**24, float64 below 2**53. Where the
    weights are floats themselves it is float64.
    """
    if not np.issubdtype(weight.dtype, np.integer):
        return np.float64
    largest = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1).max(initial=0)
    return np.float32 if largest * 255 < 2**24 else np.float64


def relu_label(relu: bool, clip: float | None) -> str:
    """What a layer's label says of the ReLU fused into it: +relu, or with its upper limit +relu6."""
    if not relu:
        return ""
    return "+relu" if clip is None else f"+relu{clip:g}"


class Weighted(Operator):
    """What convolutions and linear layers share: they multiply with stored weights. Fields are the subclasses' own."""

    weight: Array
    bias: Array
    relu: bool
    input_zero_point: int
    requantize: Requantization | None
    clip: float | None
    weight_bits: int

    @abstractmethod
    def accumulate(self, x: Array) -> Array:
        """(N, ...) -> sums of products and biases (N, ..., C) as float64, exact for integers: they stay below 2**53."""

    def reference(self, *inputs: Array) -> Array:
        """The sums requantised, or int32, or float32 clamped by ReLU and clip."""
        sums = self.accumulate(inputs[0])
        if self.requantize is not None:
            return self.requantize.apply(sums.astype(np.int64))
        result: Array = sums.astype(np.int32 if self.integer else np.float32)
        if self.relu:
            result = np.maximum(result, 0)
        return result if self.clip is None else np.minimum(result, np.float32(self.clip))

    @property
    def label(self) -> str:
        return self.kind + relu_label(self.relu, self.clip)

    @property
    def integer(self) -> bool:
        """Whether weights are integers."""
        return bool(np.issubdtype(self.weight.dtype, np.integer))

    @property
    def parameters(self) -> dict[str, Array]:
        stored = {"weight": self.weight, "bias": self.bias}
        if self.requantize is not None:
            stored |= {"multiplier": self.requantize.multiplier, "shift": self.requantize.shift}
        return stored
