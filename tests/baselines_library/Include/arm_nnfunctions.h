/* A stand-in for tests, written by us: the functions and the fields that nn_cmsis_nn.h uses, under CMSIS-NN's names.
 * It is not CMSIS-NN and has nothing of it: plain loops, slow, enough to link and to compare layers. */
#ifndef ARM_NNFUNCTIONS_H
#define ARM_NNFUNCTIONS_H

#include <stdint.h>

typedef enum { ARM_CMSIS_NN_SUCCESS = 0 } arm_cmsis_nn_status;
typedef struct { void *buf; int32_t size; } cmsis_nn_context;
typedef struct { int32_t n, h, w, c; } cmsis_nn_dims;
typedef struct { int32_t w, h; } cmsis_nn_tile;
typedef struct { int32_t min, max; } cmsis_nn_activation;
typedef struct { int32_t *multiplier, *shift; } cmsis_nn_per_channel_quant_params;
typedef struct { int32_t multiplier, shift; } cmsis_nn_per_tensor_quant_params;
typedef struct {
    int32_t input_offset, output_offset;
    cmsis_nn_tile stride, padding, dilation;
    cmsis_nn_activation activation;
} cmsis_nn_conv_params;
typedef struct {
    int32_t input_offset, output_offset, ch_mult;
    cmsis_nn_tile stride, padding, dilation;
    cmsis_nn_activation activation;
} cmsis_nn_dw_conv_params;
typedef struct {
    int32_t input_offset, filter_offset, output_offset;
    cmsis_nn_activation activation;
} cmsis_nn_fc_params;
typedef struct {
    cmsis_nn_tile stride, padding;
    cmsis_nn_activation activation;
} cmsis_nn_pool_params;

arm_cmsis_nn_status arm_convolve_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                    const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                    const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                    const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                    const cmsis_nn_dims *upscale, const cmsis_nn_dims *out, int8_t *output);
arm_cmsis_nn_status arm_convolve_1x1_s8_fast(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                             const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                             const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                             const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                             const cmsis_nn_dims *out, int8_t *output);
arm_cmsis_nn_status arm_convolve_1x1_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *parameters,
                                        const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *in,
                                        const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                        const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *out,
                                        int8_t *output);
arm_cmsis_nn_status arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context,
                                                  const cmsis_nn_dw_conv_params *parameters,
                                                  const cmsis_nn_per_channel_quant_params *factors,
                                                  const cmsis_nn_dims *in, const int8_t *input,
                                                  const cmsis_nn_dims *filter, const int8_t *weights,
                                                  const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                                  const cmsis_nn_dims *out, int8_t *output);
arm_cmsis_nn_status arm_elementwise_add_s8(const int8_t *a, const int8_t *b, int32_t a_offset, int32_t a_multiplier,
                                           int32_t a_shift, int32_t b_offset, int32_t b_multiplier, int32_t b_shift,
                                           int32_t left_shift, int8_t *output, int32_t offset, int32_t multiplier,
                                           int32_t shift, int32_t lowest, int32_t highest, int32_t elements);
arm_cmsis_nn_status arm_fully_connected_s8(const cmsis_nn_context *context, const cmsis_nn_fc_params *parameters,
                                           const cmsis_nn_per_tensor_quant_params *factor, const cmsis_nn_dims *in,
                                           const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weights,
                                           const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                           const cmsis_nn_dims *out, int8_t *output);
arm_cmsis_nn_status arm_fully_connected_per_channel_s8(const cmsis_nn_context *context,
                                                       const cmsis_nn_fc_params *parameters,
                                                       const cmsis_nn_per_channel_quant_params *factors,
                                                       const cmsis_nn_dims *in, const int8_t *input,
                                                       const cmsis_nn_dims *filter, const int8_t *weights,
                                                       const cmsis_nn_dims *bias_dims, const int32_t *bias,
                                                       const cmsis_nn_dims *out, int8_t *output);
arm_cmsis_nn_status arm_max_pool_s8(const cmsis_nn_context *context, const cmsis_nn_pool_params *parameters,
                                    const cmsis_nn_dims *in, const int8_t *input, const cmsis_nn_dims *window,
                                    const cmsis_nn_dims *out, int8_t *output);

#endif
