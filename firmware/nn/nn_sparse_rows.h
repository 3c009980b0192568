/* Layers that store only their nonzero weights, row by row (CSR): the generic sparse form, for every core.
 *
 * A row (of a matrix) or filter (of a convolution) is `lengths` many entries of two bytes: the distance of its element
 * from the one before it (the first: from the row's beginning), and the weight. Distances beyond 255 take entries
 * whose weight is 0. A convolution's distances are bytes in its rows of activations; each entry is read once for all
 * positions of a pooling window, or for up to four neighbouring positions where there is no pooling.
 */
#ifndef NN_SPARSE_ROWS_H
#define NN_SPARSE_ROWS_H

#include "nn_linear.h"
#include "nn_sparse.h"
#include "nn_window.h"

/* lengths, lengths16: entries of each row, in one byte or in two; the other is NULL. */
typedef struct {
    nn_linear_shape shape;
    const uint8_t *entries;
    const uint8_t *lengths;
    const uint16_t *lengths16;
    nn_sparse_finish finish;
    nn_sparse_kind kind;
    nn_requantization requantize;
} nn_sparse_rows_linear_layer;

typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint8_t *entries;
    const uint8_t *lengths;
    const uint16_t *lengths16;
    nn_sparse_finish finish;
    nn_sparse_kind kind;
    nn_requantization requantize;
} nn_sparse_rows_conv2d_layer;

/* Entries of row or filter `row`; one of the arrays is NULL. */
NN_INLINE uint32_t nn_sparse_length(const uint8_t *lengths, const uint16_t *lengths16, uint32_t row)
{
    return lengths ? lengths[row] : lengths16[row];
}

NN_INLINE void nn_sparse_rows_linear(const nn_sparse_rows_linear_layer *layer, const void *input, void *output)
{
    const nn_linear_shape *s = &layer->shape;
    const uint8_t *entry = layer->entries;
    for (uint32_t row = 0; row < s->outputs; row++) {
        const uint8_t *const end = entry + 2u * nn_sparse_length(layer->lengths, layer->lengths16, row);
        const uint8_t *x = input;
        int32_t sum = nn_sparse_bias(&layer->finish, layer->kind, row);
        for (; entry != end; entry += 2) {
            x += entry[0];
            sum += *x * (int8_t)entry[1];
        }
        nn_finish(output, row, s->output, &layer->requantize, s->relu, sum, row);
    }
}

/* Positions that share the reading of an entry: those of a pooling window, or neighbours. */
NN_INLINE uint32_t nn_sparse_positions(const nn_conv2d_shape *s)
{
    const uint32_t pooled = s->pool[0] * s->pool[1];
    return pooled > 1u ? pooled : s->columns % 4u == 0 ? 4u : s->columns % 2u == 0 ? 2u : 1u;
}

/* Most positions of a pooling window whose sums are kept side by side. */
enum { NN_SPARSE_POSITIONS = 9 };

/* Bytes from the first position of a tile to its position `i`. */
NN_INLINE uint32_t nn_sparse_offset(const nn_conv2d_shape *s, uint32_t i)
{
    const uint32_t pooled = s->pool[0] * s->pool[1];
    const uint32_t y = pooled > 1u ? i / s->pool[1] : 0u, x = pooled > 1u ? i % s->pool[1] : i;
    return y * s->stride[0] * nn_window_pitch(s) + x * s->stride[1] * s->channels;
}

/* The sums of one tile into the output: the largest of them, or one after the other. */
NN_INLINE void nn_sparse_store(const nn_conv2d_shape *s, const nn_requantization *requantize, const int32_t *sums,
                               int32_t bias, void *output, uint32_t pixel, uint32_t filter)
{
    const uint32_t positions = nn_sparse_positions(s);
    if (s->pool[0] * s->pool[1] > 1u) {
        int32_t best = sums[0];
        for (uint32_t i = 1; i < positions; i++) {
            best = sums[i] > best ? sums[i] : best;
        }
        nn_finish(output, pixel * s->filters + filter, s->output, requantize, s->relu, best + bias, filter);
    } else {
        for (uint32_t i = 0; i < positions; i++) {
            const uint32_t index = (pixel + i) * s->filters + filter;
            nn_finish(output, index, s->output, requantize, s->relu, sums[i] + bias, filter);
        }
    }
}

NN_INLINE void nn_sparse_rows_conv2d_row(const void *opaque, const uint8_t *rows, uint32_t row, void *output)
{
    const nn_sparse_rows_conv2d_layer *const layer = opaque;
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t positions = nn_sparse_positions(s);
    const bool pooled = s->pool[0] * s->pool[1] > 1u;
    for (uint32_t column = 0; column < s->columns; column += pooled ? 1u : positions) {
        const uint8_t *const tile = rows + column * (pooled ? s->pool_stride[1] : 1u) * s->stride[1] * s->channels;
        const uint8_t *entry = layer->entries;
        for (uint32_t filter = 0; filter < s->filters; filter++) {
            const uint8_t *const end = entry + 2u * nn_sparse_length(layer->lengths, layer->lengths16, filter);
            const uint8_t *x = tile;
            int32_t sums[NN_SPARSE_POSITIONS] = {0};
            for (; entry != end; entry += 2) {
                const int32_t weight = (int8_t)entry[1];
                x += entry[0];
#pragma GCC unroll 9
                for (uint32_t i = 0; i < positions; i++) {
                    sums[i] += x[nn_sparse_offset(s, i)] * weight;
                }
            }
            const int32_t bias = nn_sparse_bias(&layer->finish, layer->kind, filter);
            nn_sparse_store(s, &layer->requantize, sums, bias, output, row * s->columns + column, filter);
        }
    }
}

NN_INLINE void nn_sparse_rows_conv2d(const nn_sparse_rows_conv2d_layer *layer, const void *input, void *output)
{
    nn_window_slide(&layer->shape, layer->input_zero_point, nn_sparse_rows_conv2d_row, layer, input, NULL, output);
}

NN_INLINE void nn_sparse_rows_conv2d_padded(const nn_sparse_rows_conv2d_layer *layer, const void *input, void *output,
                                            void *scratch)
{
    nn_window_slide(&layer->shape, layer->input_zero_point, nn_sparse_rows_conv2d_row, layer, input, scratch, output);
}

#endif
