/* Convolution on (H, W, C) of any shape: the plain form, which every core runs and which serves layers that no faster
 * form takes.
 *
 * Weights are stored as (filter, row, column, channel). Padding holds the input's zero point. A max-pool may follow on
 * the spot (pool 1x1, stride 1x1: none): it is taken on accumulators, before the bias and the single requantisation,
 * both of which are monotone. No scratch. Optimal for: nothing; correct everywhere.
 */
#ifndef NN_CONV2D_H
#define NN_CONV2D_H

#include "nn_base.h"

/* One convolution. rows, columns: of the output, after pooling. pairs are (vertical, horizontal). */
typedef struct {
    uint32_t height, width, channels;
    uint32_t rows, columns, filters;
    uint32_t kernel[2], stride[2], padding[2];
    uint32_t pool[2], pool_stride[2];
    bool relu;
    nn_element input, output;
} nn_conv2d_shape;

typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const int8_t *weights;
    const int32_t *bias;
    nn_requantization requantize;
} nn_conv2d_layer;

typedef struct {
    nn_conv2d_shape shape;
    const float *weights;
    const float *bias;
    float clip; /* what an output is at most; 0: no limit */
} nn_conv2d_f32_layer;

/* sum(weight * input) of one filter with its kernel's corner at (top, left), which may be in the padding. */
NN_INLINE int32_t nn_conv2d_accumulate(const nn_conv2d_layer *layer, const void *input, const int8_t *weights,
                                       int32_t top, int32_t left)
{
    const nn_conv2d_shape *s = &layer->shape;
    int32_t sum = 0;
    for (uint32_t ky = 0; ky < s->kernel[0]; ky++) {
        for (uint32_t kx = 0; kx < s->kernel[1]; kx++) {
            const int32_t y = top + (int32_t)ky, x = left + (int32_t)kx;
            const bool inside = y >= 0 && y < (int32_t)s->height && x >= 0 && x < (int32_t)s->width;
            const uint32_t pixel = inside ? ((uint32_t)y * s->width + (uint32_t)x) * s->channels : 0u;
            for (uint32_t c = 0; c < s->channels; c++) {
                const int32_t value = inside ? nn_load(input, pixel + c, s->input) : layer->input_zero_point;
                sum += value * *weights++;
            }
        }
    }
    return sum;
}

NN_INLINE void nn_conv2d(const nn_conv2d_layer *layer, const void *input, void *output)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t size = s->kernel[0] * s->kernel[1] * s->channels;
    uint32_t index = 0;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t filter = 0; filter < s->filters; filter++, index++) {
                int32_t best = INT32_MIN;
                for (uint32_t py = 0; py < s->pool[0]; py++) {
                    for (uint32_t px = 0; px < s->pool[1]; px++) {
                        const uint32_t y = (row * s->pool_stride[0] + py) * s->stride[0];
                        const uint32_t x = (column * s->pool_stride[1] + px) * s->stride[1];
                        const int32_t sum = nn_conv2d_accumulate(layer, input, layer->weights + filter * size,
                                                                 (int32_t)y - (int32_t)s->padding[0],
                                                                 (int32_t)x - (int32_t)s->padding[1]);
                        best = sum > best ? sum : best;
                    }
                }
                nn_finish(output, index, s->output, &layer->requantize, s->relu, best + layer->bias[filter], filter);
            }
        }
    }
}

NN_INLINE float nn_conv2d_f32_accumulate(const nn_conv2d_f32_layer *layer, const float *input, const float *weights,
                                         int32_t top, int32_t left)
{
    const nn_conv2d_shape *s = &layer->shape;
    float sum = 0.0f;
    for (uint32_t ky = 0; ky < s->kernel[0]; ky++) {
        for (uint32_t kx = 0; kx < s->kernel[1]; kx++, weights += s->channels) {
            const int32_t y = top + (int32_t)ky, x = left + (int32_t)kx;
            if (y < 0 || y >= (int32_t)s->height || x < 0 || x >= (int32_t)s->width) {
                continue;
            }
            const float *pixel = input + ((uint32_t)y * s->width + (uint32_t)x) * s->channels;
            for (uint32_t c = 0; c < s->channels; c++) {
                sum += pixel[c] * weights[c];
            }
        }
    }
    return sum;
}

NN_INLINE void nn_conv2d_f32(const nn_conv2d_f32_layer *layer, const void *input, void *output)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t size = s->kernel[0] * s->kernel[1] * s->channels;
    float *out = output;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t filter = 0; filter < s->filters; filter++) {
                float best = 0.0f;
                for (uint32_t py = 0; py < s->pool[0]; py++) {
                    for (uint32_t px = 0; px < s->pool[1]; px++) {
                        const uint32_t y = (row * s->pool_stride[0] + py) * s->stride[0];
                        const uint32_t x = (column * s->pool_stride[1] + px) * s->stride[1];
                        const float sum = nn_conv2d_f32_accumulate(layer, input, layer->weights + filter * size,
                                                                   (int32_t)y - (int32_t)s->padding[0],
                                                                   (int32_t)x - (int32_t)s->padding[1]);
                        best = (py == 0 && px == 0) || sum > best ? sum : best;
                    }
                }
                best += layer->bias[filter];
                *out++ = nn_rectify_f32(best, s->relu, layer->clip);
            }
        }
    }
}

#endif
