/* Where a convolution over uint8_t rows finds them: in its input, or in a window of padded rows that slides down it.
 *
 * A kernel computes one row of outputs from `nn_window_height` rows, each nn_window_pitch bytes after the other, which
 * begin with the padding. Without padding these rows are the input itself. Else they are copied into scratch: the rows
 * of the window, and what a kernel may read behind them.
 */
#ifndef NN_WINDOW_H
#define NN_WINDOW_H

#include "nn_conv2d.h"

NN_INLINE uint32_t nn_window_pitch(const nn_conv2d_shape *s)
{
    return (s->width + 2u * s->padding[1]) * s->channels;
}

/* Rows that one row of outputs needs. */
NN_INLINE uint32_t nn_window_height(const nn_conv2d_shape *s)
{
    return s->kernel[0] + (s->pool[0] - 1u) * s->stride[0];
}

/* Rows from one row of outputs to the next. */
NN_INLINE uint32_t nn_window_step(const nn_conv2d_shape *s)
{
    return s->stride[0] * s->pool_stride[0];
}

/* Row `y` of the input with its margins, into `row`. */
NN_INLINE void nn_window_fill(const nn_conv2d_shape *s, int32_t zero_point, const uint8_t *input, int32_t y,
                               uint8_t *row)
{
    const uint32_t margin = s->padding[1] * s->channels, elements = s->width * s->channels;
    const bool inside = y >= 0 && y < (int32_t)s->height;
    const uint8_t *const source = input + (inside ? (uint32_t)y * elements : 0u);
    for (uint32_t i = 0; i < elements + 2u * margin; i++) {
        const bool pixel = inside && i >= margin && i < margin + elements;
        row[i] = pixel ? source[i - margin] : (uint8_t)zero_point;
    }
}

/* Computes one row of outputs from its window. */
typedef void (*nn_window_row)(const void *layer, const uint8_t *rows, uint32_t row, void *output);

/* All rows of outputs, from the top. `compute` is inlined: it must be known where this is called. */
NN_INLINE void nn_window_slide(const nn_conv2d_shape *s, int32_t zero_point, nn_window_row compute, const void *layer,
                               const uint8_t *input, uint8_t *scratch, void *output)
{
    const uint32_t pitch = nn_window_pitch(s), height = nn_window_height(s), step = nn_window_step(s);
    if (s->padding[0] == 0 && s->padding[1] == 0) {
        for (uint32_t row = 0; row < s->rows; row++) {
            compute(layer, input + row * step * pitch, row, output);
        }
        return;
    }
    const uint32_t kept = height > step ? height - step : 0u;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t i = 0; row > 0 && i < kept * pitch; i++) {
            scratch[i] = scratch[i + step * pitch];
        }
        for (uint32_t i = row > 0 ? kept : 0u; i < height; i++) {
            const int32_t y = (int32_t)(row * step + i) - (int32_t)s->padding[0];
            nn_window_fill(s, zero_point, input, y, scratch + i * pitch);
        }
        compute(layer, scratch, row, output);
    }
}

#endif
