"""What the convolutions that every core runs with weights and activations of 2, 4 or 8 bits have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from harness.ops.lowering import Cost, Form, Lowering, Site, finish_constants, requantization_fields
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
from harness.ops.shapes import conv_shape

if TYPE_CHECKING:
    from harness.ops.base import Array
    from harness.ops.convolution import Convolution

C = TypeVar("C", bound="Convolution")


class PackedConvolution(Form[C]):
    """One multiplication at a time, on rows and weights that are made bytes before.

    kernel: in firmware/nn/; its record is called as the kernel, with _layer. code: its bytes.
    """

    storages = STORAGES
    weight_bits = WEIGHT_BITS
    asymmetric = True

    header: ClassVar[str]
    kernel: ClassVar[str]
    code: ClassVar[int]

    @abstractmethod
    def rows(self, layer: C) -> Array:
        """(R, N) weights as they are stored: each row begins at a word."""

    @abstractmethod
    def unpacked(self, layer: C) -> int:
        """How many weights of less than 8 bits lie in scratch as bytes at a time."""

    @abstractmethod
    def unpacking(self, layer: C, site: Site) -> int:
        """Instructions that this takes."""

    def applicable(self, layer: C, site: Site) -> bool:
        return True

    def cost(self, layer: C, site: Site) -> Cost:
        rows, elements = self.rows(layer).shape
        return Cost(
            flash=weights_bytes(rows, elements, layer.weight_bits) + 9 * len(layer.bias),
            scratch=self._scratch(layer, site),
            instructions=7 * layer.macs(site.input_shape)
            + self.unpacking(layer, site)
            + 20 * int(np.prod(site.output_shape))
            + 5 * int(np.prod(site.input_shape)),
            code=self.code,
            overlap=self._window(layer, site).overlap(),
        )

    def lower(self, layer: C, site: Site) -> Lowering:
        return Lowering(
            form=self.name,
            header=self.header,
            kernel=self.kernel,
            record=f"{self.kernel}_layer",
            fields={
                "shape": conv_shape(layer, site),
                "border": border(layer),
                **weight_fields(layer.weight_bits),
                "requantize": requantization_fields(layer.requantize),
            },
            constants=(weights_constant(self.rows(layer), layer.weight_bits), *finish_constants(layer)),
            scratch_bytes=self._scratch(layer, site),
            overlap=self._window(layer, site).overlap(),
        )

    def _window(self, layer: C, site: Site) -> Window:
        pool = (layer.pool.kernel[0], layer.pool.stride[0]) if layer.pool else (1, 1)
        return Window(layer, site, int(layer.weight.shape[1]), pool)

    def _scratch(self, layer: C, site: Site) -> int:
        """Bytes of the window, of unpacked weights and of one row of outputs."""
        tile = words(self.unpacked(layer)) if layer.weight_bits < 8 else 0
        return self._window(layer, site).bytes + tile + row_buffer(site)
