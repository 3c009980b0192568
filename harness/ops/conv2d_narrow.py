"""Pointwise convolution of narrow types in lanes of 64-bit sums (nn_conv2d_narrow.h): four products per instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import tile
from harness.ops.base import INT32_LIMIT
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage
from harness.ops.packing import pack_rows
from harness.ops.passes import pass_function, pass_name

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.conv2d import Conv2d

# Bits of a lane: wider ones leave less room for weights, narrower ones hold smaller sums.
_LANES = (14, 15)

# Bytes of pixels in scratch, where four pixels do with less.
_BLOCK = 9216

# In which order four filters lie in words: those of one word are 0 and 2, of the other 1 and 3.
_ORDER = (0, 2, 1, 3)


@dataclass(frozen=True)
class _Plan:
    """lane: its bits. block: pixels at a time."""

    lane: int
    block: int


class NarrowConv2d(Form["Conv2d"]):
    """Four pixels and four filters at a time, two by two in one multiplication."""

    name = "narrow"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})
    weight_bits = frozenset({4, 2})

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        if not site.target.dsp or (*layer.weight.shape[1:3], *layer.stride) != (1, 1, 1, 1) or np.any(layer.edges):
            return False
        height, width, channels = site.input_shape
        filters = len(layer.weight)
        # Pixels are whole words, and rows follow each other without gaps.
        if height * width < 4 or channels * site.input.bits % 32 or channels * layer.weight_bits % 8 or filters % 4:
            return False
        if site.output.packed and width * filters * site.output.bits % 32:
            return False
        if layer.pool is not None or layer.requantize is None or layer.requantize.bits != site.output.bits:
            return False
        return self._lane(layer, site) is not None and tile.rounds(
            layer.weight, layer.bias, layer.requantize, site.input.bits
        )

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if self._lane(layer, site) is None:
            return "its sums do not fit the lanes"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        plan, channels, groups = self._plan(layer, site), int(layer.weight.shape[3]), len(layer.weight) // 4
        pixels = int(np.prod(site.output_shape[:2]))
        blocks, fours = -(-pixels // plan.block), -(-pixels // 4)
        one_pass = channels * 6 + 3 * channels // _unroll(channels) + 103
        return Cost(
            flash=groups * (channels * layer.weight_bits // 2 + 32) + 32,
            scratch=8 * channels + 2 * plan.block * channels,
            instructions=groups * (fours * one_pass + blocks * (10 * channels + 40)) + fours * channels * 11,
            code=700,
            shared={self._pass(layer, site)[0]: 460 + 24 * _unroll(channels)},
        )

    def reads(self, layer: Conv2d, site: Site) -> Storage:
        return site.input

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        assert layer.requantize is not None
        plan, matrix = self._plan(layer, site), self._matrix(layer)
        filters, channels = matrix.shape
        one_pass, definition = self._pass(layer, site)
        # (four filters, in the order of words, channel) -> of each channel four weights.
        fields = matrix.reshape(-1, 4, channels)[:, _ORDER].transpose(0, 2, 1).reshape(filters // 4, -1)
        values = np.stack([layer.bias.astype(np.int64) - 2 ** (plan.lane - 1), layer.requantize.multiplier])
        constants = values.reshape(2, -1, 4)[:, :, _ORDER].transpose(1, 0, 2)
        start = sum(1 << (plan.lane * (lane + 1) - 1) for lane in range(4))
        return Lowering(
            form=self.name,
            header="nn_conv2d_narrow.h",
            kernel="nn_conv2d_narrow",
            record="nn_conv2d_narrow_layer",
            fields={
                "pixels": int(np.prod(site.output_shape[:2])),
                "channels": channels,
                "filters": filters,
                "input": site.input.value,
                "output": site.output.value,
                "lane": plan.lane,
                "block": plan.block,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "constants": Reference("constants"),
                "lanes": Reference("lanes"),
                "zero_point": layer.requantize.zero_point,
                "pass": one_pass,
            },
            constants=(
                Constant("weights", "uint32_t", pack_rows(fields, layer.weight_bits).ravel()),
                Constant("constants", "int32_t", constants.ravel().astype(np.int32)),
                Constant("lanes", "uint32_t", np.array([start % 2**32, start >> 32] * 4, np.uint32)),
            ),
            scratch_bytes=8 * channels + 2 * plan.block * channels,
            functions={one_pass: definition},
        )

    def _pass(self, layer: Conv2d, site: Site) -> tuple[str, str]:
        """The name and the definition of the C function that computes four filters."""
        assert layer.requantize is not None
        kind = {
            "lane": self._plan(layer, site).lane,
            "unroll": _unroll(int(layer.weight.shape[3])),
            "centred": layer.requantize.zero_point != 0,
            "bits": layer.requantize.bits,
        }
        name = pass_name("nn_narrow", kind)
        return name, pass_function("nn_narrow", name, kind)

    def _plan(self, layer: Conv2d, site: Site) -> _Plan:
        lane, pixels = self._lane(layer, site), int(np.prod(site.output_shape[:2]))
        assert lane is not None
        block = max(4, min(_BLOCK // (2 * int(layer.weight.shape[3])), pixels) // 4 * 4)
        blocks = -(-pixels // block)
        return _Plan(lane, min(block, -(-pixels // blocks // 4) * 4))

    def _lane(self, layer: Conv2d, site: Site) -> int | None:
        """The bits of a lane that holds every sum, next to weights that fit in 32 bits; None where there is none."""
        matrix = self._matrix(layer).astype(np.int64)
        highest = 2**site.input.bits - 1
        reach = highest * max(int(matrix.clip(min=0).sum(axis=1).max()), int(-matrix.clip(max=0).sum(axis=1).min()))
        fours = matrix[: len(matrix) // 4 * 4].reshape(-1, 4, matrix.shape[1])
        for lane in _LANES:
            words = fours[:, (0, 1)] + (fours[:, (2, 3)] << 2 * lane)
            if reach < 2 ** (lane - 1) and -INT32_LIMIT <= words.min(initial=0) <= words.max(initial=0) < INT32_LIMIT:
                return lane
        return None

    def _matrix(self, layer: Conv2d) -> Array:
        """(O, I) weights."""
        matrix: Array = layer.weight.reshape(len(layer.weight), -1)
        return matrix


def _unroll(channels: int) -> int:
    """Channels per turn of the loop."""
    return max(size for size in (16, 8, 4, 2, 1) if channels % size == 0)
