/* A baseline: layers computed by Arm's CMSIS-NN (Apache-2.0), which is not part of this repository.
 *
 * Activations are int8, 128 below our unsigned ones; bias and weights are the same integers. The library is built with
 * CMSIS_NN_USE_SINGLE_ROUNDING, which makes its requantisation ours. Its status codes are not looked at: the generator
 * gives it nothing that it refuses, and the layers' checksums would tell. */
#ifndef NN_CMSIS_NN_H
#define NN_CMSIS_NN_H

#include "cmsis_nn/arm_nnfunctions.h"

#include "../nn_base.h"

/* Extents of one image. */
typedef struct {
    int32_t rows, columns, channels;
} nn_cmsis_nn_extent;

/* multipliers, shifts: one per output channel, factor = multiplier * 2^(shift - 31). input_offset, output_offset: what
 * makes the int8 values zero-based, and back. highest: of the int8 output. pairs are (vertical, horizontal).
 * is_unsigned: (input, output) where others write and read them as uint8_t. buffer_bytes: of the scratch that the library
 * wants. */
typedef struct {
    nn_cmsis_nn_extent input, output;
    int32_t kernel[2], stride[2], padding[2];
    int32_t input_offset, output_offset, highest;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multipliers;
    const int32_t *shifts;
    int32_t buffer_bytes;
    int32_t is_unsigned[2];
} nn_cmsis_nn_conv2d_layer;

typedef struct {
    nn_cmsis_nn_extent input, output;
    int32_t kernel[2], stride[2];
    int32_t is_unsigned[2];
} nn_cmsis_nn_max_pool2d_layer;

/* offsets, multipliers, shifts: of both inputs, then of the output; inputs are made 2^left_shift times as large.
 * is_unsigned: whether others read the output as uint8_t. */
typedef struct {
    int32_t elements;
    int32_t offsets[3], multipliers[3], shifts[3];
    int32_t left_shift, highest;
    int32_t is_unsigned;
} nn_cmsis_nn_add_layer;

/* multiplier, shift: for all outputs, where multipliers is NULL. */
typedef struct {
    int32_t inputs, outputs;
    int32_t input_offset, output_offset, highest;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multipliers;
    const int32_t *shifts;
    int32_t multiplier, shift;
    int32_t is_unsigned[2];
} nn_cmsis_nn_linear_layer;

/* uint8_t to the int8_t that is 128 lower, or back, in place and by words as far as they go. The arena starts at a word,
 * and so does every tensor in it. */
NN_INLINE void nn_cmsis_nn_flip(const void *data, int32_t size)
{
    nn_word *words = (nn_word *)data;
    int32_t done = 0;
    for (; done + 4 <= size; done += 4) {
        *words++ ^= 0x80808080u;
    }
    for (uint8_t *byte = (uint8_t *)words; done < size; done++) {
        *byte++ ^= 0x80u;
    }
}

NN_INLINE int32_t nn_cmsis_nn_elements(const nn_cmsis_nn_extent *extent)
{
    return extent->rows * extent->columns * extent->channels;
}

NN_INLINE cmsis_nn_dims nn_cmsis_nn_dims(const nn_cmsis_nn_extent *extent)
{
    const cmsis_nn_dims dims = {.n = 1, .h = extent->rows, .w = extent->columns, .c = extent->channels};
    return dims;
}

typedef enum { NN_CMSIS_NN_CONV2D, NN_CMSIS_NN_POINTWISE, NN_CMSIS_NN_DEPTHWISE } nn_cmsis_nn_function;

NN_INLINE void nn_cmsis_nn_convolve(const nn_cmsis_nn_conv2d_layer *layer, const void *input, void *output,
                                    void *scratch, nn_cmsis_nn_function function)
{
    if (layer->is_unsigned[0]) {
        nn_cmsis_nn_flip(input, nn_cmsis_nn_elements(&layer->input));
    }
    const cmsis_nn_context context = {scratch, layer->buffer_bytes};
    const cmsis_nn_tile stride = {.w = layer->stride[1], .h = layer->stride[0]};
    const cmsis_nn_tile padding = {.w = layer->padding[1], .h = layer->padding[0]};
    const cmsis_nn_tile dilation = {.w = 1, .h = 1};
    const cmsis_nn_activation activation = {.min = -128, .max = layer->highest};
    const cmsis_nn_conv_params parameters = {
        .input_offset = layer->input_offset,
        .output_offset = layer->output_offset,
        .stride = stride,
        .padding = padding,
        .dilation = dilation,
        .activation = activation,
    };
    const cmsis_nn_per_channel_quant_params factors = {(int32_t *)layer->multipliers, (int32_t *)layer->shifts};
    const cmsis_nn_dims in = nn_cmsis_nn_dims(&layer->input), out = nn_cmsis_nn_dims(&layer->output);
    const cmsis_nn_dims filter = {.n = function == NN_CMSIS_NN_DEPTHWISE ? 1 : layer->output.channels,
                                  .h = layer->kernel[0],
                                  .w = layer->kernel[1],
                                  .c = layer->input.channels};
    const cmsis_nn_dims bias = {.n = 1, .h = 1, .w = 1, .c = layer->output.channels};
    if (function == NN_CMSIS_NN_DEPTHWISE) {
        const cmsis_nn_dw_conv_params depthwise = {
            .input_offset = layer->input_offset,
            .output_offset = layer->output_offset,
            .ch_mult = 1,
            .stride = stride,
            .padding = padding,
            .dilation = dilation,
            .activation = activation,
        };
        (void)arm_depthwise_conv_wrapper_s8(&context, &depthwise, &factors, &in, input, &filter, layer->weights, &bias,
                                            layer->bias, &out, output);
    } else if (function == NN_CMSIS_NN_CONV2D) {
        (void)arm_convolve_s8(&context, &parameters, &factors, &in, input, &filter, layer->weights, &bias, layer->bias,
                              NULL, &out, output);
    } else if (layer->stride[0] == 1 && layer->stride[1] == 1) {
        (void)arm_convolve_1x1_s8_fast(&context, &parameters, &factors, &in, input, &filter, layer->weights, &bias,
                                       layer->bias, &out, output);
    } else {
        (void)arm_convolve_1x1_s8(&context, &parameters, &factors, &in, input, &filter, layer->weights, &bias,
                                  layer->bias, &out, output);
    }
    if (layer->is_unsigned[1]) {
        nn_cmsis_nn_flip(output, nn_cmsis_nn_elements(&layer->output));
    }
}

NN_INLINE void nn_cmsis_nn_conv2d(const nn_cmsis_nn_conv2d_layer *layer, const void *input, void *output, void *scratch)
{
    nn_cmsis_nn_convolve(layer, input, output, scratch, NN_CMSIS_NN_CONV2D);
}

NN_INLINE void nn_cmsis_nn_pointwise(const nn_cmsis_nn_conv2d_layer *layer, const void *input, void *output)
{
    nn_cmsis_nn_convolve(layer, input, output, NULL, NN_CMSIS_NN_POINTWISE);
}

NN_INLINE void nn_cmsis_nn_depthwise(const nn_cmsis_nn_conv2d_layer *layer, const void *input, void *output)
{
    nn_cmsis_nn_convolve(layer, input, output, NULL, NN_CMSIS_NN_DEPTHWISE);
}

/* The same with scratch, which kernels other than 3x3 want. */
NN_INLINE void nn_cmsis_nn_depthwise_any(const nn_cmsis_nn_conv2d_layer *layer, const void *input, void *output,
                                         void *scratch)
{
    nn_cmsis_nn_convolve(layer, input, output, scratch, NN_CMSIS_NN_DEPTHWISE);
}

NN_INLINE void nn_cmsis_nn_add(const nn_cmsis_nn_add_layer *layer, const void *input, const void *second, void *output)
{
    (void)arm_elementwise_add_s8(input, second, layer->offsets[0], layer->multipliers[0], layer->shifts[0],
                                 layer->offsets[1], layer->multipliers[1], layer->shifts[1], layer->left_shift, output,
                                 layer->offsets[2], layer->multipliers[2], layer->shifts[2], -128, layer->highest,
                                 layer->elements);
    if (layer->is_unsigned) {
        nn_cmsis_nn_flip(output, layer->elements);
    }
}

NN_INLINE void nn_cmsis_nn_max_pool2d(const nn_cmsis_nn_max_pool2d_layer *layer, const void *input, void *output)
{
    if (layer->is_unsigned[0]) {
        nn_cmsis_nn_flip(input, nn_cmsis_nn_elements(&layer->input));
    }
    const cmsis_nn_context context = {NULL, 0};
    const cmsis_nn_pool_params parameters = {
        .stride = {.w = layer->stride[1], .h = layer->stride[0]},
        .padding = {.w = 0, .h = 0},
        .activation = {.min = -128, .max = 127},
    };
    const cmsis_nn_dims in = nn_cmsis_nn_dims(&layer->input), out = nn_cmsis_nn_dims(&layer->output);
    const cmsis_nn_dims window = {.n = 1, .h = layer->kernel[0], .w = layer->kernel[1], .c = 1};
    (void)arm_max_pool_s8(&context, &parameters, &in, input, &window, &out, output);
    if (layer->is_unsigned[1]) {
        nn_cmsis_nn_flip(output, nn_cmsis_nn_elements(&layer->output));
    }
}

NN_INLINE void nn_cmsis_nn_linear(const nn_cmsis_nn_linear_layer *layer, const void *input, void *output)
{
    if (layer->is_unsigned[0]) {
        nn_cmsis_nn_flip(input, layer->inputs);
    }
    const cmsis_nn_context context = {NULL, 0};
    const cmsis_nn_fc_params parameters = {
        .input_offset = layer->input_offset,
        .filter_offset = 0,
        .output_offset = layer->output_offset,
        .activation = {.min = -128, .max = layer->highest},
    };
    const cmsis_nn_dims in = {.n = 1, .h = 1, .w = 1, .c = layer->inputs};
    const cmsis_nn_dims filter = {.n = layer->inputs, .h = 1, .w = 1, .c = layer->outputs};
    const cmsis_nn_dims out = {.n = 1, .h = 1, .w = 1, .c = layer->outputs};
    if (layer->multipliers) {
        const cmsis_nn_per_channel_quant_params factors = {(int32_t *)layer->multipliers, (int32_t *)layer->shifts};
        (void)arm_fully_connected_per_channel_s8(&context, &parameters, &factors, &in, input, &filter, layer->weights,
                                                 &out, layer->bias, &out, output);
    } else {
        const cmsis_nn_per_tensor_quant_params factor = {layer->multiplier, layer->shift};
        (void)arm_fully_connected_s8(&context, &parameters, &factor, &in, input, &filter, layer->weights, &out,
                                     layer->bias, &out, output);
    }
    if (layer->is_unsigned[1]) {
        nn_cmsis_nn_flip(output, layer->outputs);
    }
}

#endif
