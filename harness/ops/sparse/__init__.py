"""Storage forms for integer layers with zeros and few weight levels: one form per file. All are exact, or refuse."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.ops.base import Operator
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Form
from harness.ops.sparse.blocks import BlocksConv2d, BlocksLinear
from harness.ops.sparse.bytes import BytesLinear
from harness.ops.sparse.lanes_bytes import LanesBytesConv2d
from harness.ops.sparse.lanes_code import LanesCodeConv2d
from harness.ops.sparse.lanes_strip import LanesStripConv2d
from harness.ops.sparse.lanes_table import LanesTableConv2d
from harness.ops.sparse.rice_linear import RiceLinear
from harness.ops.sparse.rows import RowsConv2d, RowsLinear

# Encoding is slow: layers of more weights than these are only tried where this share of them is zero or more.
_MANY = {Conv2d: 2**14, Linear: 2**16}
_FEWEST_ZEROS = 0.25


def worthwhile(layer: Operator) -> bool:
    """Whether a sparse form could be smaller or faster than a dense one, as far as can be told at a glance."""
    if not isinstance(layer, Conv2d | Linear) or layer.weight.size <= _MANY[type(layer)]:
        return True
    return bool(np.count_nonzero(layer.weight) <= (1 - _FEWEST_ZEROS) * layer.weight.size)


def forms(layer: Operator) -> tuple[Form[Any], ...]:
    """The sparse forms of a layer's operator, whether or not they fit."""
    if isinstance(layer, Conv2d) and layer.integer:
        partly = (LanesCodeConv2d(coded) for coded in range(4, len(layer.weight)))
        tables = (LanesTableConv2d(), LanesBytesConv2d(), LanesStripConv2d())
        return RowsConv2d(), BlocksConv2d(), *tables, LanesCodeConv2d(), *partly
    if isinstance(layer, Linear) and layer.integer:
        return RowsLinear(), BlocksLinear(), *(BytesLinear(bits) for bits in BytesLinear.splits), RiceLinear()
    return ()
