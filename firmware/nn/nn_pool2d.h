/* Max- and average-pooling on (H, W, C) without padding; partial windows are dropped. No scratch. */
#ifndef NN_POOL2D_H
#define NN_POOL2D_H

#include "nn_base.h"

/* kernel, stride: (vertical, horizontal). rows, columns: of the output. */
typedef struct {
    uint32_t height, width, channels;
    uint32_t rows, columns;
    uint32_t kernel[2], stride[2];
    nn_element input, output;
} nn_pool2d_shape;

typedef struct {
    nn_pool2d_shape shape;
} nn_max_pool2d_layer;

/* The mean's factor 1 / (kernel[0] * kernel[1]) is part of the requantisation, which has one multiplier. */
typedef struct {
    nn_pool2d_shape shape;
    int32_t input_zero_point;
    nn_requantization requantize;
} nn_avg_pool2d_layer;

/* Index of the first element of the window that yields output element (row, column, channel). */
NN_INLINE uint32_t nn_pool2d_corner(const nn_pool2d_shape *s, uint32_t row, uint32_t column, uint32_t channel)
{
    return (row * s->stride[0] * s->width + column * s->stride[1]) * s->channels + channel;
}

NN_INLINE void nn_max_pool2d(const nn_max_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    uint32_t index = 0;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++, index++) {
                const uint32_t corner = nn_pool2d_corner(s, row, column, channel);
                int32_t best = nn_load(input, corner, s->input);
                for (uint32_t y = 0; y < s->kernel[0]; y++) {
                    for (uint32_t x = 0; x < s->kernel[1]; x++) {
                        const int32_t value = nn_load(input, corner + (y * s->width + x) * s->channels, s->input);
                        best = value > best ? value : best;
                    }
                }
                nn_store(output, index, s->output, best);
            }
        }
    }
}

NN_INLINE void nn_max_pool2d_f32(const nn_max_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const float *in = input;
    float *out = output;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++) {
                const float *corner = in + nn_pool2d_corner(s, row, column, channel);
                float best = *corner;
                for (uint32_t y = 0; y < s->kernel[0]; y++) {
                    for (uint32_t x = 0; x < s->kernel[1]; x++) {
                        const float value = corner[(y * s->width + x) * s->channels];
                        best = value > best ? value : best;
                    }
                }
                *out++ = best;
            }
        }
    }
}

NN_INLINE void nn_avg_pool2d(const nn_avg_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    uint32_t index = 0;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++, index++) {
                const uint32_t corner = nn_pool2d_corner(s, row, column, channel);
                int32_t sum = -(int32_t)(s->kernel[0] * s->kernel[1]) * layer->input_zero_point;
                for (uint32_t y = 0; y < s->kernel[0]; y++) {
                    for (uint32_t x = 0; x < s->kernel[1]; x++) {
                        sum += nn_load(input, corner + (y * s->width + x) * s->channels, s->input);
                    }
                }
                nn_finish(output, index, s->output, &layer->requantize, false, sum, 0);
            }
        }
    }
}

NN_INLINE void nn_avg_pool2d_f32(const nn_avg_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const float *in = input;
    float *out = output;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++) {
                const float *corner = in + nn_pool2d_corner(s, row, column, channel);
                float sum = 0.0f;
                for (uint32_t y = 0; y < s->kernel[0]; y++) {
                    for (uint32_t x = 0; x < s->kernel[1]; x++) {
                        sum += corner[(y * s->width + x) * s->channels];
                    }
                }
                *out++ = sum * (1.0f / (float)(s->kernel[0] * s->kernel[1]));
            }
        }
    }
}

#endif
