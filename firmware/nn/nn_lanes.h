/* Convolution of stride 1 with a 2x2 max-pool in 16-bit lanes: two multiplications per MLA for any single weight.
 *
 * In a row of uint8_t pixels of one channel, UXTB16 of the word at x makes two lanes of the pixels x and x + 2; of the
 * word rotated by a byte, of x + 1 and x + 3. So one word of each of two rows has the 4x2 neighbouring positions of two
 * pooling windows, and a weight is multiplied with all of them by four MLAs. Lanes begin at 0x8000 and must stay within 16
 * bits, which holds for any pixels when a filter's positive weights sum up to at most 128, and its negative ones too: the
 * generator proves it. USUB16 and SEL then take the maximum.
 *
 * Activations lie in rows, in each row channel after channel (hcw). The lanes of a whole row of outputs are put together on
 * the stack before any of them is written, so that the output may trail the input in the same memory. Reads a few bytes
 * behind its rows, and writes one column too many when their number is odd. Requantisation: nn_sparse_finish.
 */
#ifndef NN_LANES_H
#define NN_LANES_H

#include "nn_sparse.h"
#include "nn_window.h"

/* Words of lanes of one row of outputs: the most that any layer has. */
#ifndef NN_LANES_SUMS
#define NN_LANES_SUMS 256
#endif

/* A unit's lanes before any weight, and what a lane must be lowered by. */
#define NN_LANES_START 0x80008000u
#define NN_LANES_OFFSET 0x8000

/* The filters of one layer. pitch: bytes from one row of pixels to the next. units: pairs of pooled columns.
 * unit, filter: words of lanes from one unit, and from one filter, to the next. pixel, channel: bytes from an output to its
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

/* channel_major: the input is hcw. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    bool channel_major;
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
NN_INLINE void nn_lanes_finish_row(const nn_lanes_filters *filters, const uint32_t *sums, uint8_t *output, nn_sparse_kind kind)
{
    /* Copies: a store of an output might change what is behind a pointer. */
    const uint32_t pixel = filters->pixel, unit = filters->unit;
    for (uint32_t filter = 0; filter < filters->filters; filter++) {
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
    }
}

/* All rows of outputs from an input without padding whose rows are hcw. */
NN_INLINE void nn_lanes_direct(const nn_lanes_layer *layer, const void *input, void *output)
{
    const nn_conv2d_shape *s = &layer->shape;
    uint32_t sums[NN_LANES_SUMS];
    for (uint32_t row = 0; row < s->rows; row++) {
        layer->row(layer->filters, (const uint8_t *)input + row * 2u * s->width * s->channels, sums);
        layer->finish(layer->filters, sums, (uint8_t *)output + row * s->columns * s->filters);
    }
}

/* Row `y` of the input with its margins, channel after channel, into `row`. */
NN_INLINE void nn_lanes_fill(const nn_lanes_layer *layer, const uint8_t *input, int32_t y, uint8_t *row)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pixel = layer->channel_major ? 1u : s->channels, channel = layer->channel_major ? s->width : 1u;
    const bool inside = y >= 0 && y < (int32_t)s->height;
    const uint8_t *const source = input + (inside ? (uint32_t)y * s->width * s->channels : 0u);
    for (uint32_t c = 0; c < s->channels; c++) {
        for (uint32_t x = 0; x < s->width + 2u * s->padding[1]; x++) {
            const bool filled = inside && x >= s->padding[1] && x < s->padding[1] + s->width;
            *row++ = filled ? source[(x - s->padding[1]) * pixel + c * channel] : (uint8_t)layer->input_zero_point;
        }
    }
}

/* All rows of outputs through a window in scratch: for padding, and for inputs with the channel fastest. */
NN_INLINE void nn_lanes_windowed(const nn_lanes_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_window_pitch(s), height = s->kernel[0] + 1u;
    const uint32_t kept = (height - 2u) * pitch;
    uint8_t *const window = scratch;
    uint32_t sums[NN_LANES_SUMS];
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t i = 0; row > 0 && i < kept; i++) {
            window[i] = window[i + 2u * pitch];
        }
        for (uint32_t i = row > 0 ? height - 2u : 0u; i < height; i++) {
            nn_lanes_fill(layer, input, (int32_t)(2u * row + i) - (int32_t)s->padding[0], window + i * pitch);
        }
        layer->row(layer->filters, window, sums);
        layer->finish(layer->filters, sums, (uint8_t *)output + row * s->columns * s->filters);
    }
}

#endif
