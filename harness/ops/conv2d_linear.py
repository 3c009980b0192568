"""Convolution whose kernel covers its whole input: one position, as the kernels of fully connected layers have it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.ops.linear_fields import FieldsLinear
from harness.ops.linear_quads import QuadsLinear
from harness.ops.lowering import Cost, Form, Lowering, Site

if TYPE_CHECKING:
    from harness.ops.conv2d import Conv2d
    from harness.ops.linear import Linear


def as_linear(layer: Conv2d, site: Site) -> tuple[Linear, Site] | None:
    """The same layer as a fully connected one, and where that stands; None where there is more than one position."""
    from harness.ops.linear import Linear

    if layer.weight.shape[1:3] != site.input_shape[:2] or np.any(layer.edges) or layer.pool is not None:
        return None
    flat = Linear(
        layer.name,
        layer.inputs,
        layer.output,
        layer.weight.reshape(len(layer.weight), -1),
        layer.bias,
        layer.relu,
        layer.input_zero_point,
        layer.requantize,
        layer.clip,
        layer.weight_bits,
    )
    return flat, replace(site, output_shape=(len(layer.weight),))


class LinearConv2d(Form["Conv2d"]):
    """A form of fully connected layers, for such convolutions."""

    form: ClassVar[Form[Linear]]

    def __init_subclass__(cls) -> None:
        """What the other form is called and takes, this one is and does."""
        cls.name, cls.storages = cls.form.name, cls.form.storages
        cls.weight_bits, cls.widens = cls.form.weight_bits, cls.form.widens

    def applicable(self, layer: Conv2d, site: Site) -> bool:
        flat = as_linear(layer, site)
        return flat is not None and self.form.applicable(*flat)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        return self.form.cost(*self._flat(layer, site))

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        return self.form.lower(*self._flat(layer, site))

    def _flat(self, layer: Conv2d, site: Site) -> tuple[Linear, Site]:
        flat = as_linear(layer, site)
        assert flat is not None
        return flat


class QuadsConv2d(LinearConv2d):
    """Weights of 8 bits, and narrower ones of one or two outputs."""

    form = QuadsLinear()


class FieldsConv2d(LinearConv2d):
    """Weights of 4 and 2 bits."""

    form = FieldsLinear()
