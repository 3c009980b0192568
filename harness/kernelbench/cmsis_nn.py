"""Layers as calls of the user's CMSIS-NN, in C: what our kernels are measured beside. Its wrappers pick the functions.

Only layers whose arithmetic is ours are compared bit by bit: the library's sums and averages round differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear

if TYPE_CHECKING:
    from harness.graph.graph import Graph
    from harness.ops.base import Array, Operator, Requantization

ROOTS = ("cmsis_nn_input", "cmsis_nn_output", "cmsis_nn_buffer_bytes", "cmsis_nn_run")

# More than any function here wants of scratch.
_BUFFER = 32768

_OFFSET = 128


def comparable(layer: Operator) -> bool:
    """Whether the library's result is the same integers, 128 lower."""
    return not isinstance(layer, Add | AvgPool2d)


def supported(graph: Graph) -> bool:
    """Whether the library has the network's one layer: with weights of 8 or 4 bits, and activations of 8."""
    weights = getattr(graph.layers[0], "weight_bits", 8)
    return weights in (8, 4) and graph.input_tensor.bits == graph.output.bits == 8


def source(graph: Graph) -> str:
    """C with ROOTS: pointers to int8 input and output, bytes of scratch, and the layer. graph: of one layer."""
    layer = graph.layers[0]
    given, result = graph.input_tensor, graph.output
    rows, columns, channels = given.shape if len(given.shape) == 3 else (1, 1, given.shape[0])
    out_rows, out_columns, filters = result.shape if len(result.shape) == 3 else (1, 1, result.shape[0])
    body, buffer, arrays = _call(layer)
    return f"""#include "cmsis_nn/arm_nnfunctions.h"

static int8_t input[{given.elements}] __attribute__((aligned(4)));
static int8_t output[{result.elements}] __attribute__((aligned(4)));
static int8_t buffer[{_BUFFER}] __attribute__((aligned(8)));
{arrays}
static const cmsis_nn_dims in = {{1, {rows}, {columns}, {channels}}};
static const cmsis_nn_dims out = {{1, {out_rows}, {out_columns}, {filters}}};
static const cmsis_nn_dims bias_dims = {{1, 1, 1, {filters}}};

void *cmsis_nn_input(void) {{ return input; }}
void *cmsis_nn_output(void) {{ return output; }}
int32_t cmsis_nn_buffer_bytes(void) {{ {buffer} }}
int32_t cmsis_nn_run(void)
{{
    const cmsis_nn_context context = {{buffer, sizeof buffer}};
    (void)context, (void)in, (void)out, (void)bias_dims;
    {body}
}}
"""


def _call(layer: Operator) -> tuple[str, str, str]:
    """The statement that runs a layer, the one that returns its scratch, and the arrays that both read."""
    if isinstance(layer, Add):
        scales = "128, 1 << 30, 0, 128, 1 << 30, 0, 20"
        result = "output, -128, 1 << 30, -19, -128, 127, sizeof input"
        run = f"return arm_elementwise_add_s8(input, input, {scales}, {result});"
        return run, "return 0;", ""
    if isinstance(layer, AvgPool2d):
        (rows, columns), (down, across) = layer.window.kernel, layer.window.stride
        run = (
            f"const cmsis_nn_pool_params parameters = {{{{{across}, {down}}}, {{0, 0}}, {{-128, 127}}}};\n"
            f"    const cmsis_nn_dims window = {{1, {rows}, {columns}, 1}};\n"
            "    return arm_avgpool_s8(&context, &parameters, &in, input, &window, &out, output);"
        )
        return run, "return arm_avgpool_s8_get_buffer_size(out.w, in.c);", ""
    assert isinstance(layer, Conv2d | DepthwiseConv2d | Linear) and layer.requantize is not None
    suffix = f"s{layer.weight_bits}"
    if isinstance(layer, Linear):
        return _linear(layer, suffix)
    depthwise = isinstance(layer, DepthwiseConv2d)
    rows, columns = layer.weight.shape[1:3]
    function = f"arm_{'depthwise_conv' if depthwise else 'convolve'}_wrapper_{suffix}"
    multiplier = "1, " if depthwise else ""
    (down, across), (top, left) = layer.stride, layer.padding
    parameters = (
        f"const cmsis_nn_{'dw_' if depthwise else ''}conv_params parameters = {{{_OFFSET}, -{_OFFSET}, {multiplier}"
        f"{{{across}, {down}}}, {{{left}, {top}}}, {{1, 1}}, {{-128, 127}}}};\n"
        f"    const cmsis_nn_dims filter = {{{1 if depthwise else len(layer.weight)}, {rows}, {columns}, in.c}};\n    "
    )
    # A depthwise filter has the channel last; a filter of a convolution already has.
    weight = layer.weight.transpose(1, 2, 0) if depthwise else layer.weight
    factors = "cmsis_nn_per_channel_quant_params factors = {(int32_t *)multipliers, (int32_t *)shifts}"
    run = (
        f"{parameters}const {factors};\n"
        f"    return {function}(&context, &parameters, &factors, &in, input, &filter, weights, &bias_dims, bias, &out,"
        " output);"
    )
    size = f"{parameters}return {function}_get_buffer_size(&parameters, &in, &filter, &out);"
    return run, size, _arrays(weight, layer.bias, layer.requantize, layer.weight_bits)


def _linear(layer: Linear, suffix: str) -> tuple[str, str, str]:
    """One factor for all outputs: the library's faster function."""
    assert layer.requantize is not None
    run = (
        "const cmsis_nn_fc_params parameters = {128, 0, -128, {-128, 127}};\n"
        "    const cmsis_nn_dims filter = {in.c, 1, 1, out.c};\n"
        "    const cmsis_nn_per_tensor_quant_params factor = {multipliers[0], shifts[0]};\n"
        f"    return arm_fully_connected_{suffix}(&context, &parameters, &factor, &in, input, &filter, weights,"
        " &bias_dims, bias, &out, output);"
    )
    return run, "return 0;", _arrays(layer.weight, layer.bias, layer.requantize, layer.weight_bits)


def _arrays(weight: Array, bias: Array, requantize: Requantization, bits: int) -> str:
    flat = weight.astype(np.int64).ravel()
    if bits == 4:
        padded = np.append(flat, np.zeros(len(flat) % 2, np.int64)) & 0xF
        flat = ((padded[::2] | padded[1::2] << 4) ^ 0x80) - 0x80
    lines = (
        ("int8_t weights", flat),
        ("int32_t bias", bias),
        ("int32_t multipliers", requantize.multiplier),
        ("int32_t shifts", 31 - requantize.shift),
    )
    return "\n".join(
        f"static const {name}[{len(values)}] __attribute__((aligned(4))) = {{{', '.join(map(str, values.tolist()))}}};"
        for name, values in lines
    )
