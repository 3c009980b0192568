"""The shapes of layers in C: the initialisers of the records that kernels read them from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.ops.base import Weighted
    from harness.ops.convolution import Convolution
    from harness.ops.lowering import Site, Value
    from harness.ops.max_pool2d import Window


def conv_shape(layer: Convolution, site: Site) -> dict[str, Value]:
    """The initialiser of an nn_conv2d_shape."""
    height, width, channels = site.input_shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "rows": site.output_shape[0],
        "columns": site.output_shape[1],
        "filters": site.output_shape[2],
        "kernel": layer.weight.shape[1:3],
        "stride": layer.stride,
        "padding": layer.padding,
        "pool": layer.pool.kernel if layer.pool else (1, 1),
        "pool_stride": layer.pool.stride if layer.pool else (1, 1),
        "relu": layer.relu,
        "input": site.input.value,
        "output": site.output.value,
    }


def linear_shape(layer: Weighted, site: Site) -> dict[str, Value]:
    """The initialiser of an nn_linear_shape."""
    return {
        "inputs": layer.weight.shape[1],
        "outputs": layer.weight.shape[0],
        "relu": layer.relu,
        "input": site.input.value,
        "output": site.output.value,
    }


def pool_shape(window: Window, site: Site) -> dict[str, Value]:
    """The initialiser of an nn_pool2d_shape."""
    height, width, channels = site.input_shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "rows": site.output_shape[0],
        "columns": site.output_shape[1],
        "kernel": window.kernel,
        "stride": window.stride,
        "input": site.input.value,
        "output": site.output.value,
    }
