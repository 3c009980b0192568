/* Layers that store their nonzero weights by neighbouring pairs (1x2 blocks): two multiplications per SMLAD.
 *
 * As nn_sparse_rows.h, with entries of three bytes: the distance, and two weights for two neighbouring elements. Blocks
 * may begin at any element. Optimal for cores with the DSP extension and weights that come in clusters.
 */
#ifndef NN_SPARSE_BLOCKS_H
#define NN_SPARSE_BLOCKS_H

#include "nn_sparse_rows.h"

/* Two weights as signed halves of a word. */
NN_INLINE int32_t nn_sparse_block_weights(const uint8_t *entry)
{
    const uint32_t both = *(const nn_half_at *)(entry + 1);
#if NN_DSP
    return (int32_t)__sxtb16(both | both << 8);
#else
    return (int32_t)((uint32_t)(uint16_t)(int8_t)both | (uint32_t)(int8_t)(both >> 8) << 16);
#endif
}

/* sum + x[0] * low half of weights + x[1] * high half. */
NN_INLINE int32_t nn_sparse_block(const uint8_t *x, int32_t weights, int32_t sum)
{
#if NN_DSP
    const uint32_t both = *(const nn_half_at *)x;
    return __smlad((int16x2_t)__uxtb16(both | both << 8), weights, sum);
#else
    return sum + x[0] * (int16_t)(weights & 0xFFFF) + x[1] * (int16_t)((uint32_t)weights >> 16);
#endif
}

NN_INLINE void nn_sparse_blocks_linear(const nn_sparse_rows_linear_layer *layer, const void *input, void *output)
{
    const nn_linear_shape *s = &layer->shape;
    const uint8_t *entry = layer->entries;
    for (uint32_t row = 0; row < s->outputs; row++) {
        const uint8_t *const end = entry + 3u * nn_sparse_length(layer->lengths, layer->lengths16, row);
        const uint8_t *x = input;
        int32_t sum = nn_sparse_bias(&layer->finish, layer->kind, row);
        for (; entry != end; entry += 3) {
            x += entry[0];
            sum = nn_sparse_block(x, nn_sparse_block_weights(entry), sum);
        }
        nn_finish(output, row, s->output, &layer->requantize, s->relu, sum, row);
    }
}

NN_INLINE void nn_sparse_blocks_conv2d_row(const void *opaque, const uint8_t *rows, uint32_t row, void *output)
{
    const nn_sparse_rows_conv2d_layer *const layer = opaque;
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t positions = nn_sparse_positions(s);
    const bool pooled = s->pool[0] * s->pool[1] > 1u;
    for (uint32_t column = 0; column < s->columns; column += pooled ? 1u : positions) {
        const uint8_t *const tile = rows + column * (pooled ? s->pool_stride[1] : 1u) * s->stride[1] * s->channels;
        const uint8_t *entry = layer->entries;
        for (uint32_t filter = 0; filter < s->filters; filter++) {
            const uint8_t *const end = entry + 3u * nn_sparse_length(layer->lengths, layer->lengths16, filter);
            const uint8_t *x = tile;
            int32_t sums[NN_SPARSE_POSITIONS] = {0};
            for (; entry != end; entry += 3) {
                const int32_t weights = nn_sparse_block_weights(entry);
                x += entry[0];
#pragma GCC unroll 9
                for (uint32_t i = 0; i < positions; i++) {
                    sums[i] = nn_sparse_block(x + nn_sparse_offset(s, i), weights, sums[i]);
                }
            }
            const int32_t bias = nn_sparse_bias(&layer->finish, layer->kind, filter);
            nn_sparse_store(s, &layer->requantize, sums, bias, output, row * s->columns + column, filter);
        }
    }
}

NN_INLINE void nn_sparse_blocks_conv2d(const nn_sparse_rows_conv2d_layer *layer, const void *input, void *output)
{
    nn_window_slide(&layer->shape, layer->input_zero_point, nn_sparse_blocks_conv2d_row, layer, input, NULL, output);
}

NN_INLINE void nn_sparse_blocks_conv2d_padded(const nn_sparse_rows_conv2d_layer *layer, const void *input, void *output,
                                              void *scratch)
{
    nn_window_slide(&layer->shape, layer->input_zero_point, nn_sparse_blocks_conv2d_row, layer, input, scratch, output);
}

#endif
