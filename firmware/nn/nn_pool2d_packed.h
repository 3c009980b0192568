/* Max- and average-pooling on (H, W, C) with activations of 2, 4 or 8 bits; a max-pool may have padding, which no maximum
 * sees. The form that every core runs. No scratch. */
#ifndef NN_POOL2D_PACKED_H
#define NN_POOL2D_PACKED_H

#include "nn_packed.h"
#include "nn_pool2d.h"

typedef struct {
    nn_pool2d_shape shape;
    uint32_t padding[2];
} nn_max_pool2d_packed_layer;

/* The part of a window that is inside the image: [first, last) of `limit` rows or columns. */
typedef struct {
    uint32_t first, last;
} nn_pool2d_span;

NN_INLINE nn_pool2d_span nn_pool2d_inside(uint32_t index, uint32_t stride, uint32_t kernel, uint32_t padding, uint32_t limit)
{
    const uint32_t start = index * stride, end = start + kernel;
    const uint32_t last = end > padding ? end - padding : 0u;
    return (nn_pool2d_span){start > padding ? start - padding : 0u, last < limit ? last : limit};
}

NN_INLINE void nn_max_pool2d_packed(const nn_max_pool2d_packed_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_row_bytes(s->width * s->channels, s->input);
    uint8_t *target = output;
    for (uint32_t row = 0; row < s->rows; row++, target += nn_row_bytes(s->columns * s->channels, s->output)) {
        const nn_pool2d_span ys = nn_pool2d_inside(row, s->stride[0], s->kernel[0], layer->padding[0], s->height);
        uint32_t index = 0;
        for (uint32_t column = 0; column < s->columns; column++) {
            const nn_pool2d_span xs = nn_pool2d_inside(column, s->stride[1], s->kernel[1], layer->padding[1], s->width);
            for (uint32_t channel = 0; channel < s->channels; channel++, index++) {
                int32_t best = INT32_MIN;
                for (uint32_t y = ys.first; y < ys.last; y++) {
                    for (uint32_t x = xs.first; x < xs.last; x++) {
                        const uint8_t *const source = (const uint8_t *)input + y * pitch;
                        best = nn_max(best, nn_get(source, x * s->channels + channel, s->input));
                    }
                }
                nn_put(target, index, s->output, best);
            }
        }
    }
}

/* Floats, with padding. */
NN_INLINE void nn_max_pool2d_padded_f32(const nn_max_pool2d_packed_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const float *const in = input;
    float *out = output;
    for (uint32_t row = 0; row < s->rows; row++) {
        const nn_pool2d_span ys = nn_pool2d_inside(row, s->stride[0], s->kernel[0], layer->padding[0], s->height);
        for (uint32_t column = 0; column < s->columns; column++) {
            const nn_pool2d_span xs = nn_pool2d_inside(column, s->stride[1], s->kernel[1], layer->padding[1], s->width);
            for (uint32_t channel = 0; channel < s->channels; channel++) {
                float best = -__builtin_inff();
                for (uint32_t y = ys.first; y < ys.last; y++) {
                    for (uint32_t x = xs.first; x < xs.last; x++) {
                        best = nn_max_f32(in[(y * s->width + x) * s->channels + channel], best);
                    }
                }
                *out++ = best;
            }
        }
    }
}

NN_INLINE void nn_avg_pool2d_packed(const nn_avg_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_row_bytes(s->width * s->channels, s->input);
    uint8_t *target = output;
    for (uint32_t row = 0; row < s->rows; row++, target += nn_row_bytes(s->columns * s->channels, s->output)) {
        uint32_t index = 0;
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++, index++) {
                int32_t sum = -(int32_t)(s->kernel[0] * s->kernel[1]) * layer->input_zero_point;
                for (uint32_t y = 0; y < s->kernel[0]; y++) {
                    const uint8_t *const source = (const uint8_t *)input + (row * s->stride[0] + y) * pitch;
                    for (uint32_t x = 0; x < s->kernel[1]; x++) {
                        sum += nn_get(source, (column * s->stride[1] + x) * s->channels + channel, s->input);
                    }
                }
                nn_put(target, index, s->output, nn_requantize(&layer->requantize, sum, 0));
            }
        }
    }
}

#endif
