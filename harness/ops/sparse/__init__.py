"""Storage forms for integer layers with zeros and few weight levels: one form per file. All are exact, or refuse."""

from __future__ import annotations

from typing import Any

from harness.ops.base import Operator
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.lowering import Form
from harness.ops.sparse.blocks import BlocksConv2d, BlocksLinear
from harness.ops.sparse.bytes import BytesLinear
from harness.ops.sparse.lanes_bytes import LanesBytesConv2d
from harness.ops.sparse.lanes_code import LanesCodeConv2d
from harness.ops.sparse.lanes_table import LanesTableConv2d
from harness.ops.sparse.rice_linear import RiceLinear
from harness.ops.sparse.rows import RowsConv2d, RowsLinear


def forms(layer: Operator) -> tuple[Form[Any], ...]:
    """The sparse forms of a layer's operator, whether or not they fit."""
    if isinstance(layer, Conv2d) and layer.integer:
        partly = (LanesCodeConv2d(coded) for coded in range(4, len(layer.weight)))
        return RowsConv2d(), BlocksConv2d(), LanesTableConv2d(), LanesCodeConv2d(), *partly, LanesBytesConv2d()
    if isinstance(layer, Linear) and layer.integer:
        return RowsLinear(), BlocksLinear(), *(BytesLinear(bits) for bits in BytesLinear.splits), RiceLinear()
    return ()
