/* Convolution by tiles (nn_conv2d_tile.h) with a max-pool behind it, whose windows do not overlap, or of one element: then
 * its outputs are only packed.
 *
 * Optimal for weights or activations of 4 and 2 bits, on cores with the DSP extension. A block of rows of the convolution is
 * computed to 8 bits, in scratch; the maxima of its windows, clamped to the output's bits, are the same as if they had
 * been taken of accumulators, because requantisation is monotone. Scratch: as nn_conv2d_tile.h, then the block's rows.
 */
#ifndef NN_CONV2D_TILE_POOL_H
#define NN_CONV2D_TILE_POOL_H

#include "nn_conv2d_tile.h"
#include "nn_halves.h"

/* conv: without the pool, to 8 bits, its filters in whole fours. collected: where in scratch, in bytes, its rows go.
 * pool: (rows, columns) of a window, which divide the convolution's. filters: of the layer. output: how maxima are
 * stored. */
typedef struct {
    nn_conv2d_tile_layer conv;
    uint32_t collected;
    uint32_t pool[2];
    uint32_t filters;
    nn_element output;
} nn_conv2d_tile_pool_layer;

/* The maxima of `rows` rows of the convolution from row `first` on, of which `block` has the bytes. */
NN_INLINE void nn_conv2d_tile_pool_rows(const void *context, const void *block, uint32_t first, uint32_t rows,
                                        void *output)
{
    const nn_conv2d_tile_pool_layer *const layer = context;
    const nn_conv2d_shape *s = &layer->conv.shape;
    const uint32_t down = layer->pool[0], across = layer->pool[1], columns = s->columns / across;
    const uint32_t bits = nn_element_bits(layer->output), pitch = s->columns * s->filters;
    const uint8_t *corner = block;
    for (uint32_t row = 0; row < rows / down; row++, corner += (down - 1u) * pitch) {
        uint8_t *const target =
            (uint8_t *)output + (first / down + row) * nn_row_bytes(columns * layer->filters, layer->output);
        uint32_t index = 0;
        for (uint32_t column = 0; column < columns; column++, corner += across * s->filters) {
            for (uint32_t filter = 0; filter < s->filters; filter += 4u) {
                uint32_t best = 0;
                for (uint32_t i = 0; i < down * across; i++) {
                    const uint8_t *const at = corner + i / across * pitch + i % across * s->filters + filter;
                    best = nn_bytes_max(best, *(const nn_word *)(const void *)at);
                }
                best = nn_bytes_clamp(best, bits);
                if (layer->filters % 4u == 0) {
                    nn_put_four(best, target + index * bits / 8u, layer->output);
                    index += 4u;
                    continue;
                }
                for (uint32_t i = 0; i < 4u && filter + i < layer->filters; i++, index++) {
                    nn_put(target, index, layer->output, (int32_t)(best >> 8u * i & 255u));
                }
            }
        }
    }
}

NN_INLINE void nn_conv2d_tile_pool(const nn_conv2d_tile_pool_layer *layer, const void *input, void *output,
                                   void *scratch)
{
    nn_conv2d_tile_blocks(&layer->conv, input, output, scratch, (uint8_t *)scratch + layer->collected,
                          nn_conv2d_tile_pool_rows, layer);
}

#endif
