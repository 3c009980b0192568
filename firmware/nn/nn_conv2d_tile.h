/* Convolution by tiles: two pixels with four filters at a time (nn_tile.h), activations as bytes.
 *
 * Optimal for cores with the DSP extension, for four filters or more; any kernel, stride and padding; no pooling; weights
 * and activations of 8, 4 and 2 bits. What a
 * pass reads is prepared in scratch, a block of outputs at a time, as pairs of words of two pixels `distance` apart in
 * their row of outputs; padding holds the input's zero point:
 *
 * - flat: a 1x1 kernel with stride 1, and rows that follow each other without gaps. All pixels are one row, a block is
 *   some of them.
 * - rows: channels in fours. A block is some rows of outputs; scratch has the rows of the input that they need. A pixel's
 *   words are in one run per row of the kernel.
 * - patches: everything else. A block is some rows of outputs, computed as one (just one where rows have gaps between
 *   them); scratch has each output's own copy of what it reads, in one
 *   run: of each row of the kernel the whole words, then the bytes that are left of all rows. They are made of a window
 *   of the rows of the padded image.
 *
 * Then, for each four filters, weights are unpacked into a tile, which serves the whole block. Scratch: the tile and its
 * constants, the block, the window. With an odd number of outputs in a row, the one in the middle is computed twice.
 */
#ifndef NN_CONV2D_TILE_H
#define NN_CONV2D_TILE_H

#include "nn_packed.h"
#include "nn_tile.h"

typedef enum { NN_TILE_FLAT, NN_TILE_ROWS, NN_TILE_PATCHES } nn_conv2d_tile_view;

/* weights: packed for four filters after each other, packed_words for each four; what is missing of the last four is 0.
 * constants: for each four filters their biases, then their multipliers. Biases include 128 * sum(odd weights).
 * block: pixels (flat) or rows of outputs. words: of activations that one output reads.
 * pass: nn_tile_run for these constants. direct: whether the pass requantises and stores; if not, it yields sums, which
 * `requantize` describes the rest of. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t packed_words;
    const int32_t *constants;
    nn_conv2d_tile_view view;
    uint32_t block;
    uint32_t words;
    void (*pass)(const nn_tile_pass *pass);
    bool direct;
    nn_requantization requantize;
} nn_conv2d_tile_layer;

enum { NN_TILE_ODD = 0x80008000u };

/* Four bytes at any address. */
typedef uint32_t __attribute__((may_alias, aligned(1))) nn_unaligned_word;

/* Positions in one of the two interleaved streams of a row of `columns` outputs. */
NN_INLINE uint32_t nn_conv2d_tile_positions(const nn_conv2d_shape *s, uint32_t columns)
{
    return ((columns + 1u) / 2u - 1u) * s->stride[1] + s->kernel[1];
}

NN_INLINE uint32_t nn_conv2d_tile_padding(const nn_conv2d_tile_layer *layer)
{
    return (uint32_t)layer->input_zero_point * 0x01010101u ^ NN_TILE_ODD;
}

/* `words` times four elements into every second word from `target` on; returns where the next ones go. */
NN_INLINE nn_word *nn_tile_spread(nn_word *target, const uint8_t *source, uint32_t words, nn_element element)
{
    if (element == NN_U8) {
        const nn_word *from = (const nn_word *)(const void *)source;
        for (; words >= 4u; words -= 4u, from += 4, target += 8) {
            const nn_word a = from[0], b = from[1], c = from[2], d = from[3];
            target[0] = a ^ NN_TILE_ODD;
            target[2] = b ^ NN_TILE_ODD;
            target[4] = c ^ NN_TILE_ODD;
            target[6] = d ^ NN_TILE_ODD;
        }
        source = (const uint8_t *)from;
    }
    for (; words; words--, target += 2, source += nn_element_bits(element) / 2u) {
        *target = nn_get_four(source, element) ^ NN_TILE_ODD;
    }
    return target;
}

/* Two streams of bytes, each `words` times four, into pairs of words from `target` on. */
NN_INLINE void nn_tile_interleave(nn_word *target, const uint8_t *first, const uint8_t *second, uint32_t words,
                                  nn_element element)
{
#if NN_DSP
    if (element == NN_U8 && words >= 4u) {
        const nn_word *const end = target + words / 4u * 8u;
        __asm__ volatile("1:\n\t"
                         "ldm %[first]!, {r4, r6, r8, r10}\n\t"
                         "ldm %[second]!, {r5, r7, r9, r11}\n\t"
                         "eor r4, r4, #0x80008000\n\t"
                         "eor r5, r5, #0x80008000\n\t"
                         "eor r6, r6, #0x80008000\n\t"
                         "eor r7, r7, #0x80008000\n\t"
                         "eor r8, r8, #0x80008000\n\t"
                         "eor r9, r9, #0x80008000\n\t"
                         "eor r10, r10, #0x80008000\n\t"
                         "eor r11, r11, #0x80008000\n\t"
                         "stm %[target]!, {r4, r5, r6, r7, r8, r9, r10, r11}\n\t"
                         "cmp %[target], %[end]\n\t"
                         "bne 1b"
                         : [target] "+r"(target), [first] "+r"(first), [second] "+r"(second)
                         : [end] "r"(end)
                         : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "cc", "memory");
        words %= 4u;
    }
#endif
    nn_tile_spread(target, first, words, element);
    nn_tile_spread(target + 1, second, words, element);
}

NN_INLINE nn_word *nn_tile_repeat(nn_word *target, nn_word value, uint32_t words)
{
    for (; words; words--, target += 2) {
        *target = value;
    }
    return target;
}

NN_INLINE uint32_t nn_tile_least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- rows */

/* Rows of the input that `rows` rows of outputs read. */
NN_INLINE uint32_t nn_conv2d_tile_height(const nn_conv2d_shape *s, uint32_t rows)
{
    return (rows - 1u) * s->stride[0] + s->kernel[0];
}

/* `positions` pixels of row `y` from column `left` on into every second word from `target` on. */
NN_INLINE void nn_conv2d_tile_row(const nn_conv2d_tile_layer *layer, const uint8_t *input, int32_t y, int32_t left,
                                  uint32_t positions, nn_word *target)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pixel = s->channels / 4u;
    const nn_word padding = nn_conv2d_tile_padding(layer);
    if (y < 0 || y >= (int32_t)s->height) {
        nn_tile_repeat(target, padding, positions * pixel);
        return;
    }
    const uint32_t before = left < 0 ? nn_tile_least((uint32_t)-left, positions) : 0u;
    const uint32_t first = left < 0 ? 0u : (uint32_t)left;
    const uint32_t inside = nn_tile_least(positions - before, s->width > first ? s->width - first : 0u);
    const uint8_t *const source = input + (uint32_t)y * nn_row_bytes(s->width * s->channels, s->input) +
                                  first * pixel * nn_element_bits(s->input) / 2u;
    target = nn_tile_repeat(target, padding, before * pixel);
    target = nn_tile_spread(target, source, inside * pixel, s->input);
    nn_tile_repeat(target, padding, (positions - before - inside) * pixel);
}

/* Bytes of a row in scratch. */
NN_INLINE uint32_t nn_conv2d_tile_pitch(const nn_conv2d_shape *s)
{
    return 2u * nn_conv2d_tile_positions(s, s->columns) * s->channels;
}

/* What `rows` rows of outputs from `row` on read. */
NN_INLINE void nn_conv2d_tile_rows(const nn_conv2d_tile_layer *layer, const uint8_t *input, uint32_t row,
                                   uint32_t rows, nn_word *target)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t positions = nn_conv2d_tile_positions(s, s->columns);
    const int32_t left = -(int32_t)s->padding[1];
    const int32_t right = left + (int32_t)(s->columns / 2u * s->stride[1]);
    int32_t y = (int32_t)(row * s->stride[0]) - (int32_t)s->padding[0];
    for (uint32_t i = 0; i < nn_conv2d_tile_height(s, rows); i++, y++) {
        nn_conv2d_tile_row(layer, input, y, left, positions, target);
        nn_conv2d_tile_row(layer, input, y, right, positions, target + 1);
        target += 2u * positions * s->channels / 4u;
    }
}

/* ---- patches */

/* Columns that a row of outputs reads, padding included. */
NN_INLINE uint32_t nn_conv2d_tile_columns(const nn_conv2d_shape *s)
{
    return (s->columns - 1u) * s->stride[1] + s->kernel[1];
}

/* Bytes in front of a row of the window, so that the image's first pixel is at a whole word. */
NN_INLINE uint32_t nn_conv2d_tile_margin(const nn_conv2d_shape *s)
{
    return (4u - s->padding[1] * s->channels % 4u) % 4u;
}

/* Bytes of a row of the window. */
NN_INLINE uint32_t nn_conv2d_tile_window_pitch(const nn_conv2d_shape *s)
{
    return (nn_conv2d_tile_margin(s) + nn_conv2d_tile_columns(s) * s->channels + 3u) / 4u * 4u;
}

/* `words` words from any address. */
NN_INLINE void nn_tile_copy(nn_word *target, const uint8_t *source, uint32_t words)
{
    const nn_word *const end = target + words;
#if NN_DSP
    if (words >= 4u) {
        __asm__ volatile("1:\n\t"
                         "ldr r4, [%[source]]\n\t"
                         "ldr r5, [%[source], #4]\n\t"
                         "ldr r6, [%[source], #8]\n\t"
                         "ldr r8, [%[source], #12]\n\t"
                         "add %[source], %[source], #16\n\t"
                         "stm %[target]!, {r4, r5, r6, r8}\n\t"
                         "cmp %[target], %[fours]\n\t"
                         "bne 1b"
                         : [target] "+r"(target), [source] "+r"(source)
                         : [fours] "r"(target + words / 4u * 4u)
                         : "r4", "r5", "r6", "r8", "cc", "memory");
    }
#endif
    for (; target != end; target++, source += 4) {
        *target = *(const nn_unaligned_word *)(const void *)source;
    }
}

/* `height` rows of the padded image from row `y` on, each with its margin in front. */
NN_INLINE void nn_conv2d_tile_window(const nn_conv2d_shape *s, int32_t zero_point, const uint8_t *input, int32_t y,
                                     uint32_t height, uint8_t *window)
{
    const uint32_t before = s->padding[1], columns = nn_conv2d_tile_columns(s);
    const uint32_t bytes = nn_tile_least(s->width, columns > before ? columns - before : 0u) * s->channels;
    const uint32_t front = nn_conv2d_tile_margin(s) + before * s->channels, pitch = nn_conv2d_tile_window_pitch(s);
    const nn_word padding = (uint32_t)zero_point * 0x01010101u;
    for (uint32_t i = 0; i < height; i++, y++, window += pitch) {
        nn_word *words = (nn_word *)(void *)window;
        if (y < 0 || y >= (int32_t)s->height) {
            for (uint32_t word = 0; word < pitch / 4u; word++) {
                words[word] = padding;
            }
            continue;
        }
        const uint8_t *const source = input + (uint32_t)y * nn_row_bytes(s->width * s->channels, s->input);
        for (uint32_t word = 0; word < front / 4u; word++) {
            words[word] = padding;
        }
        /* The last word of the row may have padding in it, and so may those behind. */
        for (uint32_t word = (front + bytes) / 4u; word < pitch / 4u; word++) {
            words[word] = padding;
        }
        if (s->input != NN_U8) {
            nn_unpack_row(source, s->input, window + front, bytes);
            continue;
        }
        words += front / 4u;
        nn_tile_copy(words, source, bytes / 4u);
        for (uint32_t byte = bytes / 4u * 4u; byte < bytes; byte++) {
            window[front + byte] = source[byte];
        }
    }
}

/* One output's words, from the corner of what it reads in the window. */
NN_INLINE void nn_conv2d_tile_patch(const nn_conv2d_shape *s, const uint8_t *corner, nn_word *target)
{
    const uint32_t whole = s->kernel[1] * s->channels / 4u, left = s->kernel[1] * s->channels % 4u;
    const uint32_t pitch = nn_conv2d_tile_window_pitch(s);
    uint32_t rest = 0, bytes = 0;
    nn_word *end = target + 2u * s->kernel[0] * whole;
    NN_UNROLL_LONG
    for (uint32_t ky = 0; ky < s->kernel[0]; ky++) {
        const nn_unaligned_word *const from = (const nn_unaligned_word *)(const void *)(corner + ky * pitch);
        uint32_t word = 0;
        /* Loads follow each other, which saves a Cortex-M4 cycles. */
        for (; word + 2u <= whole; word += 2u) {
            const nn_word a = from[word], b = from[word + 1u];
            target[2u * (ky * whole + word)] = a ^ NN_TILE_ODD;
            target[2u * (ky * whole + word) + 2u] = b ^ NN_TILE_ODD;
        }
        for (; word < whole; word++) {
            target[2u * (ky * whole + word)] = from[word] ^ NN_TILE_ODD;
        }
        NN_UNROLL
        for (uint32_t i = 0; i < left; i++) {
            rest |= (uint32_t)corner[ky * pitch + 4u * whole + i] << (8u * bytes);
            if (++bytes == 4u) {
                *end = rest ^ NN_TILE_ODD;
                end += 2;
                rest = bytes = 0;
            }
        }
    }
    if (bytes) {
        *end = rest ^ NN_TILE_ODD;
    }
}

/* The patches of `rows` rows of outputs from `row` on, as one row; `window` is memory for the rows that they read. */
NN_INLINE void nn_conv2d_tile_patches(const nn_conv2d_tile_layer *layer, const uint8_t *input, uint32_t row,
                                      uint32_t rows, nn_word *target, uint8_t *window)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t step = s->stride[1] * s->channels, pitch = s->stride[0] * nn_conv2d_tile_window_pitch(s);
    const uint32_t distance = rows * s->columns / 2u, pairs = rows * s->columns - distance;
    const int32_t top = (int32_t)(row * s->stride[0]) - (int32_t)s->padding[0];
    nn_conv2d_tile_window(s, layer->input_zero_point, input, top, nn_conv2d_tile_height(s, rows), window);
    const uint8_t *line = window + nn_conv2d_tile_margin(s);
    nn_word *place = target;
    uint32_t index = 0;
    for (uint32_t i = 0; i < rows; i++, line += pitch) {
        const uint8_t *corner = line;
        for (uint32_t column = 0; column < s->columns;) {
            /* Up to the end of the row, or to the last output that is the first of a pair. */
            const uint32_t stop = index < pairs ? nn_tile_least(s->columns, column + pairs - index) : s->columns;
            index += stop - column;
            for (; column < stop; column++, corner += step, place += 2u * layer->words) {
                nn_conv2d_tile_patch(s, corner, place);
            }
            if (index == pairs) {
                place = target + (pairs - distance) * 2u * layer->words + 1;
            }
        }
    }
    if (pairs != distance) {
        /* The output in the middle is the second of the first pair, too. */
        const uint8_t *const middle = window + distance / s->columns * pitch + distance % s->columns * step;
        nn_conv2d_tile_patch(s, middle + nn_conv2d_tile_margin(s), target + 1);
    }
}

/* ---- all views */

/* `columns` outputs of filters from `filter` on, of as many as a pass takes, from `row` and `column` of the output on. */
NN_INLINE void nn_conv2d_tile_pass(const nn_conv2d_tile_layer *layer, nn_tile_pass *pass, uint32_t columns,
                                   void *output, uint32_t row, uint32_t column, uint32_t filter)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pairs = (columns + 1u) / 2u, distance = columns / 2u;
    if (layer->direct) {
        const uint32_t bits = nn_element_bits(s->output);
        pass->output = (uint8_t *)output + row * nn_row_bytes(s->columns * s->filters, s->output) +
                       (column * s->filters + filter) * bits / 8u;
        pass->distance = distance * s->filters * bits / 8u;
        pass->x_end = (const nn_word *)((uintptr_t)pass->x + pairs * pass->x_step);
        layer->pass(pass);
        return;
    }
    int32_t sums[8];
    pass->output = sums;
    for (uint32_t pair = 0; pair < pairs; pair++) {
        pass->x_end = (const nn_word *)((uintptr_t)pass->x + pass->x_step);
        layer->pass(pass);
        pass->x = pass->x_end;
        pass->weights = NULL;
        for (uint32_t i = 0; i < 4u && filter + i < s->filters; i++) {
            const uint32_t at = (row * s->columns + column + pair) * s->filters + filter + i;
            nn_finish(output, at, s->output, &layer->requantize, s->relu, sums[i], filter + i);
            nn_finish(output, at + distance * s->filters, s->output, &layer->requantize, s->relu, sums[4u + i],
                      filter + i);
        }
    }
    pass->output = NULL;
}

/* What is done with a block of rows of outputs when it is complete. */
typedef void nn_conv2d_tile_then(const void *context, const void *block, uint32_t first, uint32_t rows, void *output);

/* The layer. then: NULL, or what takes blocks of outputs on from `collected`, where they then are instead of in
 * `output`. */
NN_INLINE void nn_conv2d_tile_blocks(const nn_conv2d_tile_layer *layer, const void *input, void *output, void *scratch,
                                     void *collected, nn_conv2d_tile_then *then, const void *context)
{
    const nn_conv2d_shape *s = &layer->shape;
    void *const target = then ? collected : output;
    const bool flat = layer->view == NN_TILE_FLAT, rows = layer->view == NN_TILE_ROWS;
    /* Whether rows of outputs have gaps between them: then no pass goes over more than one. */
    const bool gaps = s->columns * s->filters * nn_element_bits(s->output) % 32u != 0 && s->output != NN_U8;
    nn_word *const tile = scratch, *const block = tile + 8u * layer->words + NN_TILE_CONSTANTS;
    const uint32_t total = flat ? s->rows * s->columns : s->rows;
    const uint32_t run = rows ? s->kernel[1] * s->channels / 4u : layer->words;
    const uint32_t row_words = rows ? s->stride[0] * nn_conv2d_tile_pitch(s) / 4u
                                    : (s->columns + 1u) / 2u * layer->words * 2u;
    /* Passes over runs, and to sums, are of four filters; others are of all. */
    const uint32_t filters = layer->direct && !rows ? s->filters : 4u;
    nn_tile_pass pass = {
        .tile = tile,
        .output = target,
        .distance = 0,
        .output_step = s->filters * nn_element_bits(s->output) / 8u,
        .x_end = block,
        .zero_points = (uint32_t)layer->requantize.zero_point * 0x00010001u,
        .tile_end = tile + NN_TILE_CONSTANTS / 2u + 8u * layer->words,
        .weights = layer->weights,
        .constants = layer->constants,
        .constants_end = layer->constants + 2u * s->filters,
        .x = block,
        .run_bytes = 32u * run,
        .skip = rows ? nn_conv2d_tile_pitch(s) - 8u * run : 0u,
        .x_step = rows ? 2u * s->stride[1] * s->channels : 8u * layer->words,
    };
    for (uint32_t first = 0; first < total; first += layer->block) {
        const uint32_t count = nn_tile_least(layer->block, total - first);
        if (flat) {
            const uint32_t pixel = layer->words * nn_element_bits(s->input) / 2u, pairs = (count + 1u) / 2u;
            const uint8_t *const source = (const uint8_t *)input + first * pixel;
            nn_tile_interleave(block, source, source + count / 2u * pixel, pairs * layer->words, s->input);
        } else if (rows) {
            nn_conv2d_tile_rows(layer, input, first, count, block);
        } else {
            uint8_t *const window = (uint8_t *)(block + layer->block * row_words);
            nn_conv2d_tile_patches(layer, input, first, count, block, window);
        }
        for (uint32_t filter = 0; filter < s->filters; filter += filters) {
            pass.weights = layer->weights + filter / 4u * layer->packed_words;
            pass.constants = layer->constants + 2u * filter;
            for (uint32_t i = 0; i < (rows ? count : 1u); i++) {
                pass.x = block + i * row_words;
                const uint32_t at = then ? i : first + i;
                nn_conv2d_tile_pass(layer, &pass, rows ? s->columns : flat ? count : count * s->columns, target,
                                    gaps ? at : 0u, gaps ? 0u : at * (flat ? 1u : s->columns), filter);
                pass.weights = NULL;
            }
        }
        if (then) {
            then(context, collected, first, count, output);
        }
    }
}

NN_INLINE void nn_conv2d_tile(const nn_conv2d_tile_layer *layer, const void *input, void *output, void *scratch)
{
    nn_conv2d_tile_blocks(layer, input, output, scratch, NULL, NULL, NULL);
}

#endif
