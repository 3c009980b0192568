/* Depthwise convolution on (H, W, C): every channel has a kernel of its own. The plain form, which every core runs, with
 * weights and activations of 2, 4 or 8 bits each, and padding that may differ between the sides of the image.
 *
 * Weights are stored as (row, column, channel), each position of the kernel a row of words below 8 bits; those become
 * bytes in a tile, once. Rows of the input become bytes in a window that slides down the image. Scratch: window, then
 * tile (below 8 bits), then one row of outputs (packed ones), each in whole words. The output may trail the input.
 */
#ifndef NN_DEPTHWISE_H
#define NN_DEPTHWISE_H

#include "nn_packed.h"

typedef struct {
    nn_conv2d_shape shape; /* filters: as many as channels; pool: 1x1; padding: above and to the left */
    nn_packed_border border;
    const void *weights; /* int8_t, or words */
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
} nn_depthwise_layer;

typedef struct {
    nn_conv2d_shape shape;
    const float *weights;
    const float *bias;
    float clip; /* what an output is at most; 0: no limit */
} nn_depthwise_f32_layer;

NN_INLINE void nn_depthwise(const nn_depthwise_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_packed_pitch(s, &layer->border), taps = s->kernel[0] * s->kernel[1];
    const uint32_t elements = s->columns * s->channels;
    uint8_t *const window = scratch;
    int8_t *const tile = (int8_t *)(window + nn_packed_height(s) * pitch);
    uint8_t *const buffer = (uint8_t *)tile + (layer->weight_bits < 8u ? (taps * s->channels + 3u) & ~3u : 0u);
    const int8_t *weights = layer->weights;
    if (layer->weight_bits < 8u) {
        const uint32_t words = nn_weight_words(s->channels, layer->weight_bits);
        for (uint32_t tap = 0; tap < taps; tap++) {
            nn_unpack_weights((const uint32_t *)layer->weights + tap * words, layer->weight_bits, tile + tap * s->channels,
                              s->channels);
        }
        weights = tile;
    }
    for (uint32_t row = 0; row < s->rows; row++) {
        nn_packed_slide(s, &layer->border, input, row, window);
        void *const target = nn_packed_row_begin(output, s->output, elements, row, buffer);
        uint32_t index = 0;
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++, index++) {
                const uint8_t *x = window + column * s->stride[1] * s->channels + channel;
                const int8_t *w = weights + channel;
                int32_t sum = layer->bias[channel];
                for (uint32_t ky = 0; ky < s->kernel[0]; ky++, x += pitch) {
                    for (uint32_t kx = 0; kx < s->kernel[1]; kx++, w += s->channels) {
                        sum += x[kx * s->channels] * *w;
                    }
                }
                nn_finish(target, index, nn_packed_collected(s->output), &layer->requantize, s->relu, sum, channel);
            }
        }
        nn_packed_row_end(output, s->output, elements, row, buffer);
    }
}

/* Floats: no scratch. */
NN_INLINE void nn_depthwise_f32(const nn_depthwise_f32_layer *layer, const void *input, void *output)
{
    const nn_conv2d_shape *s = &layer->shape;
    const float *const in = input;
    float *out = output;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++) {
            for (uint32_t channel = 0; channel < s->channels; channel++) {
                const float *w = layer->weights + channel;
                float sum = layer->bias[channel];
                for (uint32_t ky = 0; ky < s->kernel[0]; ky++) {
                    for (uint32_t kx = 0; kx < s->kernel[1]; kx++, w += s->channels) {
                        const int32_t y = (int32_t)(row * s->stride[0] + ky) - (int32_t)s->padding[0];
                        const int32_t x = (int32_t)(column * s->stride[1] + kx) - (int32_t)s->padding[1];
                        if (y >= 0 && y < (int32_t)s->height && x >= 0 && x < (int32_t)s->width) {
                            sum += in[((uint32_t)y * s->width + (uint32_t)x) * s->channels + channel] * *w;
                        }
                    }
                }
                *out++ = nn_rectify_f32(sum, s->relu, layer->clip);
            }
        }
    }
}

#endif
