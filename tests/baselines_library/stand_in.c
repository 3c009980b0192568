/* The stand-in's functions: see its header. One rounding per requantisation, unless STAND_IN_ROUNDS_DOWN is defined. */
#include "arm_nnfunctions.h"

static int64_t scale(int64_t value, int32_t multiplier, int32_t shift)
{
    const int32_t total = 31 - shift;
#ifdef STAND_IN_ROUNDS_DOWN
    const int64_t half = 0;
#else
    const int64_t half = (int64_t)1 << (total - 1);
#endif
    return (value * multiplier + half) >> total;
}

static int8_t requantize(int64_t sum, int32_t multiplier, int32_t shift, int32_t offset, cmsis_nn_activation limits)
{
    int64_t value = scale(sum, multiplier, shift) + offset;
    value = value < limits.min ? limits.min : value;
    return (int8_t)(value > limits.max ? limits.max : value);
}

arm_cmsis_nn_status arm_convolve_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                    const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                    const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                    const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                    const cmsis_nn_dims *upscale, const cmsis_nn_dims *out, int8_t *output)
{
    (void)context, (void)bias_dims, (void)upscale;
    for (int32_t row = 0; row < out->h; row++) {
        for (int32_t column = 0; column < out->w; column++) {
            for (int32_t o = 0; o < out->c; o++) {
                int64_t sum = bias[o];
                for (int32_t i = 0; i < filter->h * filter->w; i++) {
                    const int32_t y = row * parameters->stride.h - parameters->padding.h + i / filter->w;
                    const int32_t x = column * parameters->stride.w - parameters->padding.w + i % filter->w;
                    for (int32_t c = 0; c < in->c && y >= 0 && y < in->h && x >= 0 && x < in->w; c++) {
                        sum += (input[(y * in->w + x) * in->c + c] + parameters->input_offset)
                               * weights[(o * filter->h * filter->w + i) * in->c + c];
                    }
                }
                *output++ = requantize(sum, factors->multiplier[o], factors->shift[o], parameters->output_offset,
                                       parameters->activation);
            }
        }
    }
    return ARM_CMSIS_NN_SUCCESS;
}

arm_cmsis_nn_status arm_convolve_1x1_s8_fast(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                             const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                             const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                             const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                             const cmsis_nn_dims *out, int8_t *output)
{
    return arm_convolve_s8(context, parameters, factors, in, input, filter, weights, bias_dims, bias, 0, out, output);
}

arm_cmsis_nn_status arm_convolve_1x1_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                        const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                        const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                        const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *out,
                                        int8_t *output)
{
    return arm_convolve_s8(context, parameters, factors, in, input, filter, weights, bias_dims, bias, 0, out, output);
}

arm_cmsis_nn_status arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context,
                                                  const cmsis_nn_dw_conv_params *parameters,
                                                  const cmsis_nn_per_channel_quant_params *factors,
                                                  const cmsis_nn_dims *in, const int8_t *input,
                                                  const cmsis_nn_dims *filter, const int8_t *weights,
                                                  const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                                  const cmsis_nn_dims *out, int8_t *output)
{
    (void)bias_dims;
    /* Kernels other than 3x3 are promised a window of scratch: write all of it. */
    for (int32_t i = 0; i < context->size; i++) {
        ((int8_t *)context->buf)[i] = 0;
    }
    for (int32_t i = 0; i < out->h * out->w * out->c; i++) {
        const int32_t c = i % out->c, row = i / out->c / out->w, column = i / out->c % out->w;
        int64_t sum = bias[c];
        for (int32_t j = 0; j < filter->h * filter->w; j++) {
            const int32_t y = row * parameters->stride.h - parameters->padding.h + j / filter->w;
            const int32_t x = column * parameters->stride.w - parameters->padding.w + j % filter->w;
            if (y >= 0 && y < in->h && x >= 0 && x < in->w) {
                sum += (input[(y * in->w + x) * in->c + c] + parameters->input_offset) * weights[j * out->c + c];
            }
        }
        output[i] = requantize(sum, factors->multiplier[c], factors->shift[c], parameters->output_offset,
                               parameters->activation);
    }
    return ARM_CMSIS_NN_SUCCESS;
}

arm_cmsis_nn_status arm_elementwise_add_s8(const int8_t *a, const int8_t *b, int32_t a_offset, int32_t a_multiplier,
                                           int32_t a_shift, int32_t b_offset, int32_t b_multiplier, int32_t b_shift,
                                           int32_t left_shift, int8_t *output, int32_t offset, int32_t multiplier,
                                           int32_t shift, int32_t lowest, int32_t highest, int32_t elements)
{
    const cmsis_nn_activation limits = {lowest, highest};
    for (int32_t i = 0; i < elements; i++) {
        const int64_t one = scale((int64_t)(a[i] + a_offset) << left_shift, a_multiplier, a_shift);
        const int64_t two = scale((int64_t)(b[i] + b_offset) << left_shift, b_multiplier, b_shift);
        output[i] = requantize(one + two, multiplier, shift, offset, limits);
    }
    return ARM_CMSIS_NN_SUCCESS;
}

arm_cmsis_nn_status arm_fully_connected_per_channel_s8(const cmsis_nn_context *context,
                                                       const cmsis_nn_fc_params *parameters,
                                                       const cmsis_nn_per_channel_quant_params *factors,
                                                       const cmsis_nn_dims *in, const int8_t *input,
                                                       const cmsis_nn_dims *filter, const int8_t *weights,
                                                       const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                                       const cmsis_nn_dims *out, int8_t *output)
{
    (void)context, (void)in, (void)bias_dims;
    for (int32_t o = 0; o < out->c; o++) {
        int64_t sum = bias[o];
        for (int32_t i = 0; i < filter->n; i++) {
            sum += (input[i] + parameters->input_offset) * weights[o * filter->n + i];
        }
        output[o] = requantize(sum, factors->multiplier[o], factors->shift[o], parameters->output_offset,
                               parameters->activation);
    }
    return ARM_CMSIS_NN_SUCCESS;
}

arm_cmsis_nn_status arm_fully_connected_s8(const cmsis_nn_context *context, const cmsis_nn_fc_params *parameters,
                                           const cmsis_nn_per_tensor_quant_params *factor, const cmsis_nn_dims *in,
                                           const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                           const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                           const cmsis_nn_dims *out, int8_t *output)
{
    cmsis_nn_dims one = *out;
    one.c = 1;
    for (int32_t o = 0; o < out->c; o++) {
        const cmsis_nn_per_channel_quant_params factors = {(int32_t *)&factor->multiplier, (int32_t *)&factor->shift};
        (void)arm_fully_connected_per_channel_s8(context, parameters, &factors, in, input, filter,
                                                 weights + o * filter->n, bias_dims, bias + o, &one, output + o);
    }
    return ARM_CMSIS_NN_SUCCESS;
}

arm_cmsis_nn_status arm_max_pool_s8(const cmsis_nn_context *context, const cmsis_nn_pool_params *parameters,
                                    const cmsis_nn_dims *in, const int8_t *input, const cmsis_nn_dims *window,
                                    const cmsis_nn_dims *out, int8_t *output)
{
    (void)context;
    for (int32_t i = 0; i < out->h * out->w * out->c; i++) {
        const int32_t row = i / out->c / out->w, column = i / out->c % out->w;
        int32_t largest = parameters->activation.min;
        for (int32_t j = 0; j < window->h * window->w; j++) {
            const int32_t y = row * parameters->stride.h + j / window->w;
            const int32_t x = column * parameters->stride.w + j % window->w;
            const int32_t value = input[(y * in->w + x) * in->c + i % out->c];
            largest = value > largest ? value : largest;
        }
        output[i] = (int8_t)largest;
    }
    return ARM_CMSIS_NN_SUCCESS;
}
