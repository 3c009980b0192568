"""Convolution with weights and activations of 2, 4 or 8 bits (nn_conv2d_packed.h): the form that every core runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.lowering import (
    Constant,
    Cost,
    Form,
    Lowering,
    Site,
    Storage,
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

if TYPE_CHECKING:
    from harness.ops.conv2d import Conv2d


class PackedConv2d(Form["Conv2d"]):
    """One multiplication at a time, on rows and filters that are made bytes before."""

    name = "packed"
    storages = STORAGES
    weight_bits = WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        return True

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        filters, size = len(layer.weight), int(layer.weight[0].size)
        rows = site.output_shape[0]
        unpacking = 0 if layer.weight_bits == 8 else 4 * rows * layer.weight.size
        return Cost(
            flash=weights_bytes(filters, size, layer.weight_bits) + 9 * filters,
            scratch=self._scratch(layer, site),
            instructions=7 * layer.macs(site.input_shape)
            + unpacking
            + 20 * int(np.prod(site.output_shape))
            + 5 * int(np.prod(site.input_shape)),
            code=600,
            overlap=self._window(layer, site).overlap(),
        )

    def writes(self, layer: Conv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        from harness.ops.conv2d import conv_shape

        return Lowering(
            form=self.name,
            header="nn_conv2d_packed.h",
            kernel="nn_conv2d_packed",
            record="nn_conv2d_packed_layer",
            fields={
                "shape": conv_shape(layer, site),
                "border": border(layer),
                **weight_fields(layer.weight_bits),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(
                weights_constant(layer.weight.reshape(len(layer.weight), -1), layer.weight_bits),
                Constant("bias", "int32_t", layer.bias.astype(np.int32)),
                *requantization_constants(layer.requantize),
            ),
            scratch_bytes=self._scratch(layer, site),
            overlap=self._window(layer, site).overlap(),
        )

    def _window(self, layer: Conv2d, site: Site) -> Window:
        pool = (layer.pool.kernel[0], layer.pool.stride[0]) if layer.pool else (1, 1)
        return Window(layer, site, int(layer.weight.shape[1]), pool)

    def _scratch(self, layer: Conv2d, site: Site) -> int:
        """Bytes of the window, of one filter and of one row of outputs."""
        tile = words(int(layer.weight[0].size)) if layer.weight_bits < 8 else 0
        return self._window(layer, site).bytes + tile + row_buffer(site)
