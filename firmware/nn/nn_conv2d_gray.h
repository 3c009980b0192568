/* Convolution of one input channel with stride 1: four outputs of one filter - two rows, two columns - at a time.
 *
 * Optimal for cores with the DSP extension; without pooling, or with 2x2 pooling, whose window is just those four. The
 * input is read through a window of pairs of rows: a word holds two pixels, one below the other. The same words serve
 * an upper output, whose weights pair as (w0, w1) (w2, w3) (w4, 0), and the lower one beside it, whose weights pair as
 * (0, w0) (w1, w2) (w3, w4): for nn_dot.h these are two filters, at two positions one word apart. Rows outside the
 * input hold its zero point. Weights: the packed words of one filter after the other. Rows of outputs of 4 and 2 bits are
 * collected as bytes. Scratch: the tile of one filter, the window, these rows.
 */
#ifndef NN_CONV2D_GRAY_H
#define NN_CONV2D_GRAY_H

#include "nn_conv2d.h"
#include "nn_dot.h"
#include "nn_halves.h"
#include "nn_packed.h"
#include "nn_rows.h"

/* packed_words: of one filter, as nn_gray_unpack reads them. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t weight_bits;
    uint32_t packed_words;
    const int32_t *bias;
    nn_requantization requantize;
} nn_conv2d_gray_layer;

/* `words` packed words into a tile. 8 bits: see nn_dot.h. Less: each makes 16 / bits words of the tile, from the lowest
 * fields of its halves up, which hold weights + 2^(bits - 1). */
NN_INLINE void nn_gray_unpack(const uint32_t *packed, uint32_t bits, nn_word *tile, uint32_t words)
{
    if (bits == 8u) {
        nn_unpack_s8(packed, tile, words);
        return;
    }
    const uint32_t mask = ((1u << bits) - 1u) * 0x00010001u, offset = (1u << (bits - 1u)) * 0x00010001u;
    for (const uint32_t *const end = packed + words; packed != end; packed++) {
        NN_UNROLL_LONG
        for (uint32_t first = 0; first < 16u; first += bits) {
            *tile++ = nn_halves_subtract(*packed >> first & mask, offset);
        }
    }
}

/* Row `y` of the input and the one below it, with their margins, into words at `pairs`. */
NN_INLINE void nn_conv2d_gray_fill(const nn_conv2d_gray_layer *layer, const uint8_t *input, int32_t y, nn_word *pairs)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t zero_point = (uint32_t)layer->input_zero_point;
    const bool upper = y >= 0 && y < (int32_t)s->height, lower = y + 1 >= 0 && y + 1 < (int32_t)s->height;
    const uint8_t *const first = input + (upper ? (uint32_t)y : 0u) * s->width;
    const uint8_t *const second = input + (lower ? (uint32_t)(y + 1) : 0u) * s->width;
    for (uint32_t i = 0; i < s->padding[1]; i++) {
        pairs[i] = pairs[s->padding[1] + s->width + i] = zero_point | zero_point << 16;
    }
    pairs += s->padding[1];
    if (upper && lower) {
        nn_zip_rows(first, second, pairs, s->width);
        return;
    }
    for (uint32_t i = 0; i < s->width; i++) {
        pairs[i] = (upper ? first[i] : zero_point) | (lower ? second[i] : zero_point) << 16;
    }
}

/* The two (pooled: one) rows of outputs of filter `filter` that begin at row `row`, from the window at `window` to
 * `output`, in `element`. */
NN_INLINE void nn_conv2d_gray_rows(const nn_conv2d_gray_layer *layer, const nn_word *tile, const nn_word *window,
                                   uint32_t row, uint32_t filter, void *output, nn_element element)
{
    const nn_conv2d_shape *s = &layer->shape;
    const nn_requantization *r = &layer->requantize;
    const uint32_t words = s->width + 2u * s->padding[1];
    const uint32_t below = s->columns * s->filters;
    const bool pooled = s->pool[0] > 1u;
    uint32_t index = filter;
    for (uint32_t column = 0; column < s->columns; column += pooled ? 1u : 2u) {
        /* The last of an odd number of columns has no neighbour: it stands in for it. */
        const bool both = pooled || s->columns % 2u == 0 || column + 1u < s->columns;
        int32_t sums[2][2] = {{0, 0}, {0, 0}};
        if (both) {
            nn_dot_2x2(tile, window + column * (pooled ? 2u : 1u), 4, s->kernel[0] / 2u + 1u, s->kernel[1],
                       4u * words, sums);
        } else {
            nn_dot_2x2(tile, window + column, 0, s->kernel[0] / 2u + 1u, s->kernel[1], 4u * words, sums);
        }
        if (pooled) {
            const int32_t best = nn_max(nn_max(sums[0][0], sums[0][1]), nn_max(sums[1][0], sums[1][1]));
            nn_finish(output, index, element, r, s->relu, best + layer->bias[filter], filter);
            index += s->filters;
            continue;
        }
        for (uint32_t y = 0; y < 2u; y++) {
            if (y == 0 || s->rows % 2u == 0 || row + 1u < s->rows) {
                const uint32_t at = index + y * below;
                nn_finish(output, at, element, r, s->relu, sums[y][0] + layer->bias[filter], filter);
                if (both) {
                    nn_finish(output, at + s->filters, element, r, s->relu, sums[y][1] + layer->bias[filter], filter);
                }
            }
        }
        index += 2u * s->filters;
    }
}

NN_INLINE void nn_conv2d_gray(const nn_conv2d_gray_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t height = s->kernel[0] / 2u + 1u, words = s->width + 2u * s->padding[1];
    nn_word *const tile = scratch, *const window = tile + 16u / layer->weight_bits * layer->packed_words;
    uint8_t *const collected = (uint8_t *)(window + height * words);
    const uint32_t step = s->pool[0] > 1u ? 1u : 2u, elements = s->columns * s->filters;
    const nn_element element = nn_packed_collected(s->output);
    uint32_t kept = 0;
    for (uint32_t row = 0; row < s->rows; row += step) {
        const int32_t top = (int32_t)(row * (2u / step)) - (int32_t)s->padding[0];
        nn_copy_words(window, window + words, kept * words);
        for (uint32_t pair = kept; pair < height; pair++) {
            nn_conv2d_gray_fill(layer, input, top + 2 * (int32_t)pair, window + pair * words);
        }
        kept = height - 1u;
        void *const target = nn_packed_row_begin(output, s->output, elements, row, collected);
        for (uint32_t filter = 0; filter < s->filters; filter++) {
            const uint32_t *const packed = layer->weights + filter * layer->packed_words;
            nn_gray_unpack(packed, layer->weight_bits, tile, layer->packed_words);
            nn_conv2d_gray_rows(layer, tile, window, row, filter, target, element);
        }
        for (uint32_t i = 0; i < step && row + i < s->rows; i++) {
            nn_packed_row_end(output, s->output, elements, row + i, collected + i * elements);
        }
    }
}

#endif
