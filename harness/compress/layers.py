"""One layer of a Graph in PyTorch, on real numbers (N, C, H, W): for fast evaluation and for fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import InputError
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window

Weighted = Conv2d | DepthwiseConv2d | Linear


def apply(
    layer: Operator,
    inputs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Sequence[float] = (1.0, 1.0),
) -> Tensor:
    """What the layer computes before it clamps or rounds; a fused max-pool is included.

    inputs: (N, C, H, W) or (N, C) each. weight: in torch's layout, see `planar`. factors: of each input of a sum, and
    of an average's; weighted layers have them in their weights. InputError for an operator without an integer form.
    """
    x = inputs[0]
    if isinstance(layer, Conv2d | DepthwiseConv2d):
        assert weight is not None
        (top, bottom), (left, right) = layer.edges
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        groups = len(weight) if isinstance(layer, DepthwiseConv2d) else 1
        y = F.conv2d(x, weight, bias, layer.stride, padding, groups=groups)
        return pooled(layer, y)
    if isinstance(layer, Linear):
        assert weight is not None
        # The columns are in the order of the flattened NHWC image.
        return F.linear(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x, weight, bias)
    if isinstance(layer, MaxPool2d):
        return _max_pool(x, layer.window)
    if isinstance(layer, AvgPool2d):
        return F.avg_pool2d(x, layer.window.kernel, layer.window.stride) * factors[0]
    if isinstance(layer, Add):
        return x * factors[0] + inputs[1] * factors[1]
    raise InputError(f"layer {layer.name}: {layer.kind} has no integer form")


def convolved(layer: Weighted, x: Tensor, weight: Tensor) -> Tensor:
    """What the layer's weights alone make of its input, (N, O, H, W) or (N, O): without bias and fused max-pool."""
    if isinstance(layer, Conv2d) and layer.pool is not None:
        layer = dataclasses.replace(layer, pool=None)
    return apply(layer, [x], weight, None)


def pooled(layer: Weighted, y: Tensor) -> Tensor:
    """`y` after the layer's fused max-pool, where it has one."""
    return _max_pool(y, layer.pool) if isinstance(layer, Conv2d) and layer.pool is not None else y


def rectified(layer: Operator, y: Tensor) -> Tensor:
    """`y` after the layer's ReLU and its upper limit, where it has them."""
    if getattr(layer, "relu", False):
        y = F.relu(y)
    clip: float | None = getattr(layer, "clip", None)
    return y if clip is None else y.clamp(max=clip)


def planar(layer: Weighted, weight: Array) -> Tensor:
    """Weights of the Graph's layout in torch's, float32."""
    array = np.asarray(weight, np.float32)
    if isinstance(layer, Conv2d):
        array = array.transpose(0, 3, 1, 2)
    elif isinstance(layer, DepthwiseConv2d):
        array = array[:, None]
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if tensor.ndim != 4 else tensor.contiguous(memory_format=torch.channels_last)


def natural(layer: Weighted, weight: Tensor) -> Array:
    """The inverse of `planar`."""
    array: Array = weight.detach().numpy()
    if isinstance(layer, Conv2d):
        array = array.transpose(0, 2, 3, 1)
    elif isinstance(layer, DepthwiseConv2d):
        array = array[:, 0]
    return np.ascontiguousarray(array)


def _max_pool(x: Tensor, window: Window) -> Tensor:
    return F.max_pool2d(x, window.kernel, window.stride, window.padding)
