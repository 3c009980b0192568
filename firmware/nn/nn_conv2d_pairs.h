/* Convolution by 16-bit pairs: two filters at two positions at a time, two multiplications per instruction.
 *
 * Optimal for cores with the DSP extension; any kernel, stride and padding, any number of channels. Filters go in pairs
 * (an odd last one has a partner of zeros); the weights of one pair are unpacked into a tile. Activations are read as
 * rows of 16 bits, in which the kernel's rows begin at whole words:
 *
 * - direct: the input is such rows (NN_U8_IN_16, even channels, no padding). Scratch: the tile.
 * - else through a window of rows that slides down the image, padded with the input's zero point. Where one step to the
 *   right is an odd number of elements, the window holds every row a second time, shifted by one element: odd positions
 *   read that one. Scratch: the tile, then the window.
 *
 * A max-pool is taken on the accumulators. A pair's weights are unpacked once per block of rows of outputs.
 */
#ifndef NN_CONV2D_PAIRS_H
#define NN_CONV2D_PAIRS_H

#include "nn_conv2d.h"
#include "nn_dot.h"
#include "nn_rows.h"

/* weights: the packed words of each pair of filters after the other, packed_words of them for one pair.
 * block: rows of outputs that the window serves. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t packed_words;
    uint32_t block;
    const int32_t *bias;
    nn_requantization requantize;
} nn_conv2d_pairs_layer;

/* How the rows that a kernel reads lie in memory. */
typedef struct {
    uint32_t words;    /* of one row of the kernel */
    uint32_t pitch;    /* bytes from one row to the next */
    uint32_t step;     /* elements from one position to the next on its right */
    uint32_t shifted;  /* bytes from a row to its shifted copy; 0: there is none */
} nn_conv2d_pairs_rows;

NN_INLINE bool nn_conv2d_pairs_direct(const nn_conv2d_pairs_layer *layer)
{
    const nn_conv2d_shape *s = &layer->shape;
    return s->input == NN_U8_IN_16 && s->channels % 2u == 0 && s->padding[0] == 0 && s->padding[1] == 0;
}

NN_INLINE nn_conv2d_pairs_rows nn_conv2d_pairs_layout(const nn_conv2d_pairs_layer *layer)
{
    const nn_conv2d_shape *s = &layer->shape;
    nn_conv2d_pairs_rows rows = {
        .words = (s->kernel[1] * s->channels + 1u) / 2u,
        .step = s->stride[1] * s->channels,
    };
    if (nn_conv2d_pairs_direct(layer)) {
        rows.pitch = 2u * s->width * s->channels;
    } else {
        /* Rounded up to words, with room for the second half of a last word. */
        const uint32_t row = 4u * (((s->width + 2u * s->padding[1]) * s->channels + 2u) / 2u);
        rows.shifted = rows.step % 2u ? row : 0u;
        rows.pitch = rows.step % 2u ? 2u * row : row;
    }
    return rows;
}

/* Accumulators of two filters at horizontal positions `x` and, when `both`, x + 1 (else twice at x). Where rows have
 * shifted copies, `x` is even. */
NN_INLINE void nn_conv2d_pairs_sums(const nn_conv2d_pairs_layer *layer, const nn_conv2d_pairs_rows *rows,
                                    const nn_word *tile, const void *row, uint32_t x, bool both, int32_t sums[2][2])
{
    const nn_word *const first = (const nn_word *)((uintptr_t)row + 2u * x * rows->step);
    const uint32_t next = both ? rows->shifted + rows->step / 2u * 4u : 0u;
    sums[0][0] = sums[0][1] = sums[1][0] = sums[1][1] = 0;
    nn_dot_2x2(tile, first, next, layer->shape.kernel[0], rows->words, rows->pitch, sums);
}

/* One output of filters `filter` and, where there is one, `filter + 1`, at `index` of the output. */
NN_INLINE void nn_conv2d_pairs_finish(const nn_conv2d_pairs_layer *layer, void *output, uint32_t index, uint32_t filter,
                                      int32_t first, int32_t second)
{
    const nn_conv2d_shape *s = &layer->shape;
    nn_finish(output, index, s->output, &layer->requantize, s->relu, first + layer->bias[filter], filter);
    if (s->filters % 2u == 0 || filter + 1u < s->filters) {
        nn_finish(output, index + 1u, s->output, &layer->requantize, s->relu, second + layer->bias[filter + 1u],
                  filter + 1u);
    }
}

/* One row of outputs of filters `filter` and `filter + 1`, from `index` of the output on. row: the first it reads. */
NN_INLINE void nn_conv2d_pairs_row(const nn_conv2d_pairs_layer *layer, const nn_conv2d_pairs_rows *rows,
                                   const nn_word *tile, const void *row, void *output, uint32_t index, uint32_t filter)
{
    const nn_conv2d_shape *s = &layer->shape;
    int32_t sums[2][2];
    if (s->pool[0] * s->pool[1] == 1u) {
        uint32_t column = 0;
        for (; column < s->columns / 2u * 2u; column += 2u, index += 2u * s->filters) {
            nn_conv2d_pairs_sums(layer, rows, tile, row, column, true, sums);
            nn_conv2d_pairs_finish(layer, output, index, filter, sums[0][0], sums[1][0]);
            nn_conv2d_pairs_finish(layer, output, index + s->filters, filter, sums[0][1], sums[1][1]);
        }
        if (s->columns % 2u) {
            nn_conv2d_pairs_sums(layer, rows, tile, row, column, false, sums);
            nn_conv2d_pairs_finish(layer, output, index, filter, sums[0][0], sums[1][0]);
        }
        return;
    }
    for (uint32_t column = 0; column < s->columns; column++, index += s->filters) {
        int32_t best[2] = {INT32_MIN, INT32_MIN};
        for (uint32_t y = 0; y < s->pool[0]; y++) {
            const void *const top = (const void *)((uintptr_t)row + y * s->stride[0] * rows->pitch);
            uint32_t x = column * s->pool_stride[1];
            for (uint32_t pair = 0; pair < s->pool[1] / 2u; pair++, x += 2u) {
                nn_conv2d_pairs_sums(layer, rows, tile, top, x, true, sums);
                best[0] = nn_max(best[0], nn_max(sums[0][0], sums[0][1]));
                best[1] = nn_max(best[1], nn_max(sums[1][0], sums[1][1]));
            }
            if (s->pool[1] % 2u) {
                nn_conv2d_pairs_sums(layer, rows, tile, top, x, false, sums);
                best[0] = nn_max(best[0], sums[0][0]);
                best[1] = nn_max(best[1], sums[1][0]);
            }
        }
        nn_conv2d_pairs_finish(layer, output, index, filter, best[0], best[1]);
    }
}

NN_INLINE void nn_conv2d_pairs(const nn_conv2d_pairs_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const nn_conv2d_pairs_rows rows = nn_conv2d_pairs_layout(layer);
    const uint32_t advance = s->pool_stride[0] * s->stride[0];
    const uint32_t height = (s->pool[0] - 1u) * s->stride[0] + s->kernel[0];
    const uint32_t pairs = (s->filters + 1u) / 2u;
    nn_word *const tile = scratch;

    if (nn_conv2d_pairs_direct(layer)) {
        for (uint32_t pair = 0; pair < pairs; pair++) {
            nn_unpack_s8(layer->weights + pair * layer->packed_words, tile, layer->packed_words);
            for (uint32_t row = 0; row < s->rows; row++) {
                const void *const top = (const void *)((uintptr_t)input + row * advance * rows.pitch);
                nn_conv2d_pairs_row(layer, &rows, tile, top, output,
                                    row * s->columns * s->filters + 2u * pair, 2u * pair);
            }
        }
        return;
    }

    uint8_t *const window = (uint8_t *)scratch + 8u * layer->packed_words;
    for (uint32_t row = 0; row < s->rows; row += layer->block) {
        const bool whole = s->rows % layer->block == 0 || row + layer->block <= s->rows;
        const uint32_t count = whole ? layer->block : s->rows - row;
        const uint32_t needed = (count - 1u) * advance + height;
        uint32_t fresh = 0;
        if (row > 0 && height > advance) {
            fresh = height - advance;
            nn_copy_words((nn_word *)window, (const nn_word *)(window + layer->block * advance * rows.pitch),
                          fresh * rows.pitch / 4u);
        }
        for (; fresh < needed; fresh++) {
            const int32_t y = (int32_t)(row * advance + fresh) - (int32_t)s->padding[0];
            const nn_row_source source = {
                .input = y >= 0 && y < (int32_t)s->height ? input : NULL,
                .element = s->input,
                .first = (uint32_t)y * s->width * s->channels,
                .elements = s->width * s->channels,
                .margin = s->padding[1] * s->channels,
                .zero_point = layer->input_zero_point,
            };
            int16_t *const copy = (int16_t *)(void *)(window + fresh * rows.pitch);
            nn_fill_row(&source, copy, 0);
            if (rows.shifted) {
                nn_fill_row(&source, copy + rows.shifted / 2u, 1);
            }
        }
        for (uint32_t pair = 0; pair < pairs; pair++) {
            nn_unpack_s8(layer->weights + pair * layer->packed_words, tile, layer->packed_words);
            for (uint32_t i = 0; i < count; i++) {
                nn_conv2d_pairs_row(layer, &rows, tile, window + i * advance * rows.pitch, output,
                                    (row + i) * s->columns * s->filters + 2u * pair, 2u * pair);
            }
        }
    }
}

#endif
