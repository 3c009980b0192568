/* Convolution with weights and activations of 2, 4 or 8 bits each, in any combination, with padding that may differ
 * between the sides of the image, and a max-pool on the spot: the form that every core runs.
 *
 * Rows of the input become bytes in a window that slides down the image. The weights of one filter at a time become bytes
 * in a tile, once for each row of outputs. Weights are stored as (filter, row, column, channel), each filter a row of
 * words below 8 bits. Scratch: window, then tile (below 8 bits), then one row of outputs (packed ones), each in whole
 * words. The output may trail the input: a row is written after the input's rows above it are in the window.
 */
#ifndef NN_CONV2D_PACKED_H
#define NN_CONV2D_PACKED_H

#include "nn_packed.h"

typedef struct {
    nn_conv2d_shape shape; /* padding: above and to the left */
    nn_packed_border border;
    const void *weights; /* int8_t, or words */
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
} nn_conv2d_packed_layer;

/* sum(weight * input) of one filter with its kernel's corner at `x`. */
NN_INLINE int32_t nn_conv2d_packed_dot(const nn_conv2d_shape *s, uint32_t pitch, const uint8_t *x, const int8_t *weights)
{
    int32_t sum = 0;
    for (uint32_t ky = 0; ky < s->kernel[0]; ky++, x += pitch) {
        for (uint32_t i = 0; i < s->kernel[1] * s->channels; i++) {
            sum += x[i] * *weights++;
        }
    }
    return sum;
}

NN_INLINE void nn_conv2d_packed(const nn_conv2d_packed_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_packed_pitch(s, &layer->border), size = s->kernel[0] * s->kernel[1] * s->channels;
    const uint32_t elements = s->columns * s->filters;
    uint8_t *const window = scratch;
    int8_t *const tile = (int8_t *)(window + nn_packed_height(s) * pitch);
    uint8_t *const buffer = (uint8_t *)tile + (layer->weight_bits < 8u ? (size + 3u) & ~3u : 0u);
    for (uint32_t row = 0; row < s->rows; row++) {
        nn_packed_slide(s, &layer->border, input, row, window);
        void *const target = nn_packed_row_begin(output, s->output, elements, row, buffer);
        for (uint32_t filter = 0; filter < s->filters; filter++) {
            const int8_t *weights = tile;
            if (layer->weight_bits < 8u) {
                const uint32_t words = nn_weight_words(size, layer->weight_bits);
                nn_unpack_weights((const uint32_t *)layer->weights + filter * words, layer->weight_bits, tile, size);
            } else {
                weights = (const int8_t *)layer->weights + filter * size;
            }
            for (uint32_t column = 0; column < s->columns; column++) {
                int32_t best = INT32_MIN;
                for (uint32_t py = 0; py < s->pool[0]; py++) {
                    for (uint32_t px = 0; px < s->pool[1]; px++) {
                        const uint32_t pixel = (column * s->pool_stride[1] + px) * s->stride[1] * s->channels;
                        const uint8_t *const x = window + py * s->stride[0] * pitch + pixel;
                        best = nn_max(best, nn_conv2d_packed_dot(s, pitch, x, weights));
                    }
                }
                nn_finish(target, column * s->filters + filter, nn_packed_collected(s->output), &layer->requantize,
                          s->relu, best + layer->bias[filter], filter);
            }
        }
        nn_packed_row_end(output, s->output, elements, row, buffer);
    }
}

#endif
