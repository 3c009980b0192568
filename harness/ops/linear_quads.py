"""The fully connected layer four rows at a time (nn_linear_quads.h): the dense form for cores with DSP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Reference,
    Site,
    requantization_constants,
    requantization_fields,
)

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.linear import Linear

# The even inputs' offset: with it, every prepared input fits in 16 bits (nn_linear_quads.h).
_OFFSET = 127


def pack_quads(weight: Array) -> Array:
    """(O, I) int8 -> (O * ceil(I / 4),) uint32: groups of four rows, word by word; bytes 0 and 2 are stored ^ 0x80."""
    outputs, inputs = weight.shape
    padded = np.zeros((outputs, -(-inputs // 4) * 4), np.int8)
    padded[:, :inputs] = weight
    words = (padded.view(np.uint8) ^ np.tile(np.array([0x80, 0], np.uint8), padded.shape[1] // 2)).view("<u4")
    packed: Array = np.concatenate([words[row : row + 4].T.ravel() for row in range(0, outputs, 4)])
    return packed


def folded_bias(layer: Linear) -> Array:
    """(O,) int32: bias + 127 * sum(weights of even inputs), modulo 2**32."""
    even = layer.weight[:, ::2].astype(np.int64).sum(axis=1)
    folded = (layer.bias.astype(np.int64) + _OFFSET * even) % 2**32
    wrapped: Array = folded.astype(np.uint32).view(np.int32)
    return wrapped


class QuadsLinear(Form["Linear"]):
    """Four rows at a time, int8 weights multiplied as they lie in flash."""

    name = "quads"

    def applicable(self, layer: Linear, site: Site) -> bool:
        return site.target.dsp

    def cost(self, layer: Linear, site: Site) -> Cost:
        outputs, inputs = layer.weight.shape
        words, groups = -(-inputs // 4), -(-outputs // 4)
        return Cost(
            flash=4 * outputs * words + 8 * outputs,
            scratch=self._scratch(layer),
            instructions=groups * (16 * words + 45) + 9 * words,
            code=330,
        )

    def lower(self, layer: Linear, site: Site) -> Lowering:
        from harness.ops.linear import linear_shape

        return Lowering(
            form=self.name,
            header="nn_linear_quads.h",
            kernel="nn_linear_quads",
            record="nn_linear_quads_layer",
            fields={
                "shape": linear_shape(layer, site),
                "weights": Reference("weights"),
                "bias": Reference("bias"),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                Constant("weights", "uint32_t", pack_quads(layer.weight)),
                Constant("bias", "int32_t", folded_bias(layer)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer),
        )

    def _scratch(self, layer: Linear) -> int:
        """Bytes of the prepared input."""
        return -(-int(layer.weight.shape[1]) // 4) * 8
