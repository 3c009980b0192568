/* Convolution of stride 1 with a 2x2 max-pool in 16-bit lanes: two multiplications per MLA for any single weight.
 *
 * In a row of uint8_t pixels of one channel, UXTB16 of the word at x makes two lanes of the pixels x and x + 2; of the
 * word rotated by a byte, of x + 1 and x + 3. So one word of each of two rows has the 4x2 neighbouring positions of
 * two pooling windows, and a weight is multiplied with all of them by four MLAs. Lanes begin at 0x8000 and must stay
 * within 16 bits, which holds for any pixels when a filter's positive weights sum up to at most 128, and its negative
 * ones too: the generator proves it. USUB16 and SEL then take the maximum.
 *
 * Activations lie in rows, in each row channel after channel (hcw). The lanes of a whole row of outputs are put
 * together before any of them is written, so that the output may trail the input in the same memory: on the stack, or
 * where they are many in scratch.
 * Reads a few bytes behind its rows, and writes one column too many when their number is odd. Requantisation:
 * nn_sparse_finish.
 */
#ifndef NN_LANES_H
#define NN_LANES_H

#include "nn_sparse.h"
#include "nn_window.h"

/* Words of lanes of one row of outputs: the most that any layer has on the stack. */
#ifndef NN_LANES_SUMS
#define NN_LANES_SUMS 64
#endif

/* A unit's lanes before any weight, and what a lane must be lowered by. */
#define NN_LANES_START 0x80008000u
#define NN_LANES_OFFSET 0x8000

/* The filters of one layer. pitch: bytes from one row of pixels to the next. units: pairs of pooled columns. unit,
 * filter: words of lanes from one unit, and from one filter, to the next. pixel, channel: bytes from an output to its
 * neighbours. */
typedef struct {
    const void *weights;
    nn_sparse_finish finish;
    uint16_t pitch, units, filters, unit, filter, pixel, channel;
} nn_lanes_filters;

/* The lanes of one row of outputs from the rows that it needs. */
typedef void (*nn_lanes_row)(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums);

/* One row of outputs from its lanes. */
typedef void (*nn_lanes_finish)(const nn_lanes_filters *filters, const uint32_t *sums, uint8_t *output);

/* channel_major: the input is hcw. windowed: rows are read through a window in scratch, for padding and where the
 * input is not hcw. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    bool channel_major, windowed;
    nn_lanes_row row;
    nn_lanes_finish finish;
    const nn_lanes_filters *filters;
} nn_lanes_layer;

/* The larger of two words, lane by lane. */
NN_INLINE uint32_t nn_lanes_max(uint32_t a, uint32_t b)
{
    const uint32_t low = (a & 0xFFFFu) > (b & 0xFFFFu) ? a : b, high = a >> 16 > b >> 16 ? a : b;
    return (high & 0xFFFF0000u) | (low & 0xFFFFu);
}

/* The lanes of the pixels at p and p + 2, and of p + 1 and p + 3. */
NN_INLINE uint32_t nn_lanes_even(const uint8_t *p)
{
    return p[0] | (uint32_t)p[2] << 16;
}

/* kind: constants of the function that this is inlined into. */
NN_INLINE void nn_lanes_finish_row(const nn_lanes_filters *filters, const uint32_t *sums, uint8_t *output,
                                   nn_sparse_kind kind)
{
    /* Copies: a store of an output might change what is behind a pointer. */
    const uint32_t pixel = filters->pixel, unit = filters->unit;
    uint32_t filter = 0;
    do {
        const int32_t bias = nn_sparse_bias(&filters->finish, kind, filter) - NN_LANES_OFFSET;
        const int32_t multiplier = nn_sparse_multiplier(&filters->finish, kind, filter);
        const uint32_t *lanes = sums;
        uint8_t *out = output;
        uint32_t left = filters->units;
        do {
            const uint32_t both = *lanes;
            lanes += unit;
            *out = nn_sparse_requantize(&filters->finish, kind, bias + (int32_t)(both & 0xFFFFu), multiplier);
            out += pixel;
            *out = nn_sparse_requantize(&filters->finish, kind, bias + (int32_t)(both >> 16), multiplier);
            out += pixel;
        } while (--left);
        sums += filters->filter;
        output += filters->channel;
    } while (++filter < filters->filters);
}

NN_INLINE uint8_t *nn_lanes_pad(uint8_t *row, uint32_t bytes, int32_t zero_point)
{
    for (uint8_t *const end = row + bytes; row != end;) {
        *row++ = (uint8_t)zero_point;
    }
    return row;
}

/* Row `y` of the input with its margins, channel after channel, into `row`. */
NN_INLINE void nn_lanes_fill(const nn_lanes_layer *layer, const uint8_t *input, int32_t y, uint8_t *row)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pixel = layer->channel_major ? 1u : s->channels, channel = layer->channel_major ? s->width : 1u;
    if (y < 0 || y >= (int32_t)s->height) {
        nn_lanes_pad(row, nn_window_pitch(s), layer->input_zero_point);
        return;
    }
    for (uint32_t c = 0; c < s->channels; c++) {
        const uint8_t *source = input + (uint32_t)y * s->width * s->channels + c * channel;
        row = nn_lanes_pad(row, s->padding[1], layer->input_zero_point);
        for (uint8_t *const end = row + s->width; row != end; source += pixel) {
            *row++ = *source;
        }
        row = nn_lanes_pad(row, s->padding[1], layer->input_zero_point);
    }
}

/* The window two rows down; returns how many rows of it are to be filled then. */
NN_INLINE uint32_t nn_lanes_slide(const nn_conv2d_shape *s, uint8_t *window, uint32_t row)
{
    const uint32_t pitch = nn_window_pitch(s), height = s->kernel[0] + 1u;
    if (row == 0 || height <= 2u) {
        return height;
    }
    for (uint32_t i = 0; i < (height - 2u) * pitch; i++) {
        window[i] = window[i + 2u * pitch];
    }
    return 2;
}

/* Row `row` of outputs; with a window, rows are asked for one after the other. */
NN_INLINE void nn_lanes_next(const nn_lanes_layer *layer, const uint8_t *input, uint32_t row, uint8_t *window,
                             uint32_t *sums, uint8_t *output)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_window_pitch(s), height = s->kernel[0] + 1u;
    const uint8_t *rows = input + 2u * row * pitch;
    if (layer->windowed) {
        for (uint32_t i = height - nn_lanes_slide(s, window, row); i < height; i++) {
            nn_lanes_fill(layer, input, (int32_t)(2u * row + i) - (int32_t)s->padding[0], window + i * pitch);
        }
        rows = window;
    }
    layer->row(layer->filters, rows, sums);
    layer->finish(layer->filters, sums, output);
}

NN_INLINE void nn_lanes_rows(const nn_lanes_layer *layer, const void *input, void *output, void *window,
                             uint32_t *sums)
{
    const nn_conv2d_shape *s = &layer->shape;
    for (uint32_t row = 0; row < s->rows; row++) {
        nn_lanes_next(layer, input, row, window, sums, (uint8_t *)output + row * s->columns * s->filters);
    }
}

NN_INLINE void nn_lanes_windowed(const nn_lanes_layer *layer, const void *input, void *output, void *scratch)
{
    uint32_t sums[NN_LANES_SUMS];
    nn_lanes_rows(layer, input, output, scratch, sums);
}

NN_INLINE void nn_lanes_direct(const nn_lanes_layer *layer, const void *input, void *output)
{
    nn_lanes_windowed(layer, input, output, NULL);
}

/* Words of lanes of one row of outputs. */
NN_INLINE uint32_t nn_lanes_words(const nn_lanes_layer *layer)
{
    return (uint32_t)layer->filters->units * layer->filters->filters;
}

/* Scratch: lanes, then the window if there is one. */
NN_INLINE void nn_lanes_apart(const nn_lanes_layer *layer, const void *input, void *output, void *scratch)
{
    uint32_t *const sums = scratch;
    nn_lanes_rows(layer, input, output, sums + nn_lanes_words(layer), sums);
}

/* The observer's view of a row that lies in a window with margins. */
NN_INLINE void nn_lanes_show(const nn_conv2d_shape *s, const uint8_t *row, nn_observer observer, uint32_t index)
{
    for (uint32_t c = 0; observer && c < s->channels; c++) {
        observer(index, row + c * (s->width + 2u * s->padding[1]) + s->padding[1], s->width, NN_U8);
    }
}

/* Two layers in turns: rows of the first one's output, which is nowhere as a whole, go straight into the second one's
 * window. index: of the first layer; the observer sees its rows as they come. */
NN_INLINE void nn_lanes_turns(const nn_lanes_layer *first, const nn_lanes_layer *second, nn_observer observer,
                              uint32_t index, const void *input, void *output, uint8_t *window, uint8_t *first_window,
                              uint32_t *sums)
{
    const nn_conv2d_shape *s = &second->shape;
    const uint32_t pitch = nn_window_pitch(s), height = s->kernel[0] + 1u;
    uint32_t made = 0;
    nn_lanes_pad(window, height * pitch, second->input_zero_point);
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t i = height - nn_lanes_slide(s, window, row); i < height; i++) {
            uint8_t *const next = window + i * pitch;
            const int32_t y = (int32_t)(2u * row + i) - (int32_t)s->padding[0];
            if (y >= 0 && y < (int32_t)s->height) {
                nn_lanes_next(first, input, made++, first_window, sums, next + s->padding[1]);
                nn_lanes_show(s, next, observer, index);
            } else {
                nn_lanes_pad(next, pitch, second->input_zero_point);
            }
        }
        second->row(second->filters, window, sums);
        second->finish(second->filters, sums, (uint8_t *)output + row * s->columns * s->filters);
    }
    /* Rows that the second layer has no use for are still the first one's output. */
    for (; observer && made < s->height; made++) {
        nn_lanes_next(first, input, made, first_window, sums, window + s->padding[1]);
        nn_lanes_show(s, window, observer, index);
    }
}

/* Scratch: the second window, then the first. */
NN_INLINE void nn_lanes_interleaved(const nn_lanes_layer *first, const nn_lanes_layer *second, nn_observer observer,
                                    uint32_t index, const void *input, void *output, void *scratch,
                                    uint32_t second_window)
{
    uint8_t *const window = scratch;
    uint32_t sums[NN_LANES_SUMS];
    nn_lanes_turns(first, second, observer, index, input, output, window, window + second_window, sums);
}

/* Scratch: lanes of the layer that has more, the second window, then the first. */
NN_INLINE void nn_lanes_interleaved_apart(const nn_lanes_layer *first, const nn_lanes_layer *second,
                                          nn_observer observer, uint32_t index, const void *input, void *output,
                                          void *scratch, uint32_t second_window)
{
    const uint32_t one = nn_lanes_words(first), two = nn_lanes_words(second);
    uint32_t *const sums = scratch;
    uint8_t *const window = (uint8_t *)(sums + (one > two ? one : two));
    nn_lanes_turns(first, second, observer, index, input, output, window, window + second_window, sums);
}

#endif
