/* Max- and average-pooling on (H, W, C), four channels side by side in the bytes of a word.
 *
 * Optimal for cores with the DSP extension. Pixels are whole words, each of which has the activations of 8, 4 or 2 bits
 * of four channels or more: shifted and masked, it is four of them a byte each. A max-pool takes maxima of bytes and may
 * have padding, which no maximum sees. An average sums bytes up while they hold the sum, and adds them to halves, whose
 * sums have 16 bits with their sign: the exporter proves it. The output may lie over the input. No scratch.
 */
#ifndef NN_POOL2D_FOURS_H
#define NN_POOL2D_FOURS_H

#include "nn_halves.h"
#include "nn_pool2d_packed.h"

/* Bytes of which a word has one activation each. */
NN_INLINE uint32_t nn_fours_mask(uint32_t bits)
{
    return ((1u << bits) - 1u) * 0x01010101u;
}

/* Where a row of outputs starts. */
NN_INLINE uint8_t *nn_fours_row(const nn_pool2d_shape *s, void *output, uint32_t row)
{
    return (uint8_t *)output + row * nn_row_bytes(s->columns * s->channels, s->output);
}

/* The maxima of the words from `corner` on, `down` of them `pitch` words apart, and as many more `pixel` apart. */
NN_INLINE uint32_t nn_fours_max(const nn_word *corner, uint32_t down, uint32_t across, uint32_t pitch, uint32_t pixel,
                                uint32_t bits)
{
    const uint32_t fields = 8u / bits;
    uint32_t best[4] = {0, 0, 0, 0}, word = 0;
    for (uint32_t y = 0; y < down; y++, corner += pitch) {
        NN_UNROLL
        for (uint32_t x = 0; x < across; x++) {
            NN_UNROLL
            for (uint32_t field = 0; field < fields; field++) {
                best[field] = nn_bytes_max(best[field], corner[x * pixel] >> (field * bits) & nn_fours_mask(bits));
            }
        }
    }
    NN_UNROLL
    for (uint32_t field = 0; field < fields; field++) {
        word |= best[field] << (field * bits);
    }
    return word;
}

NN_INLINE void nn_max_pool2d_fours(const nn_max_pool2d_packed_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const uint32_t bits = nn_element_bits(s->input), pixel = s->channels * bits / 32u, pitch = s->width * pixel;
    const bool padded = layer->padding[0] || layer->padding[1];
    for (uint32_t row = 0; row < s->rows; row++) {
        const nn_pool2d_span ys = nn_pool2d_inside(row, s->stride[0], s->kernel[0], layer->padding[0], s->height);
        const uint32_t down = ys.last - ys.first;
        nn_word *target = (nn_word *)(void *)nn_fours_row(s, output, row);
        for (uint32_t column = 0; column < s->columns; column++) {
            const nn_pool2d_span xs = nn_pool2d_inside(column, s->stride[1], s->kernel[1], layer->padding[1], s->width);
            const uint32_t across = xs.last - xs.first;
            const nn_word *corner = (const nn_word *)input + ys.first * pitch + xs.first * pixel;
            const nn_word *const end = corner + pixel;
            /* Most windows are whole: for them, the loops are known when this is compiled. */
            if (!padded || (down == s->kernel[0] && across == s->kernel[1])) {
                for (; corner != end; corner++) {
                    *target++ = nn_fours_max(corner, s->kernel[0], s->kernel[1], pitch, pixel, bits);
                }
            } else {
                for (; corner != end; corner++) {
                    *target++ = nn_fours_max(corner, down, across, pitch, pixel, bits);
                }
            }
        }
    }
}

/* The sums of the words from `corner` on, over the window: of each field, of bytes 0 and 2, then of bytes 1 and 3. */
NN_INLINE void nn_fours_sum(const nn_pool2d_shape *s, const nn_word *corner, uint32_t *sums)
{
    const uint32_t bits = nn_element_bits(s->input), pixel = s->channels * bits / 32u, pitch = s->width * pixel;
    const uint32_t fields = 8u / bits, held = 255u / ((1u << bits) - 1u);
    for (uint32_t y = 0; y < s->kernel[0]; y++, corner += pitch) {
        NN_UNROLL_LONG
        for (uint32_t first = 0; first < s->kernel[1]; first += held) {
            const uint32_t end = s->kernel[1] - first > held ? first + held : s->kernel[1];
            uint32_t bytes[4] = {0, 0, 0, 0};
            NN_UNROLL_LONG
            for (uint32_t x = first; x < end; x++) {
                NN_UNROLL
                for (uint32_t field = 0; field < fields; field++) {
                    bytes[field] += corner[x * pixel] >> (field * bits) & nn_fours_mask(bits);
                }
            }
            NN_UNROLL
            for (uint32_t field = 0; field < fields; field++) {
                sums[2u * field] = nn_halves_add_bytes(sums[2u * field], bytes[field], false);
                sums[2u * field + 1u] = nn_halves_add_bytes(sums[2u * field + 1u], bytes[field], true);
            }
        }
    }
}

/* What the sum of channel `channel` of a word becomes, in an upper half. */
NN_INLINE int32_t nn_fours_mean(const nn_requantization *r, const uint32_t *sums, uint32_t channel, uint32_t fields)
{
    const uint32_t byte = channel / fields, field = channel % fields;
    return nn_halves_scale(r->multiplier, sums[2u * field + byte % 2u], byte / 2u, (r->zero_point << 16) + 0x8000);
}

/* shift: 32. */
NN_INLINE void nn_avg_pool2d_fours(const nn_avg_pool2d_layer *layer, const void *input, void *output)
{
    const nn_pool2d_shape *s = &layer->shape;
    const nn_requantization *r = &layer->requantize;
    const uint32_t bits = nn_element_bits(s->input), pixel = s->channels * bits / 32u, pitch = s->width * pixel;
    const uint32_t fields = 8u / bits;
    const uint32_t zeros = s->kernel[0] * s->kernel[1] * (uint32_t)layer->input_zero_point;
    const uint32_t start = ((0u - zeros) & 0xFFFFu) * 0x00010001u;
    for (uint32_t row = 0; row < s->rows; row++) {
        uint8_t *target = nn_fours_row(s, output, row);
        for (uint32_t column = 0; column < s->columns; column++) {
            const nn_word *corner = (const nn_word *)input + row * s->stride[0] * pitch + column * s->stride[1] * pixel;
            for (const nn_word *const end = corner + pixel; corner != end; corner++) {
                uint32_t sums[8] = {start, start, start, start, start, start, start, start};
                nn_fours_sum(s, corner, sums);
                NN_UNROLL
                for (uint32_t channel = 0; channel < 4u * fields; channel += 4u) {
                    int32_t means[4];
                    NN_UNROLL
                    for (uint32_t i = 0; i < 4u; i++) {
                        means[i] = nn_fours_mean(r, sums, channel + i, fields);
                    }
                    uint32_t word = nn_halves_saturate_tops(means[0], means[2], r->bits);
                    word |= nn_halves_saturate_tops(means[1], means[3], r->bits) << r->bits;
                    if (r->bits == 8u) {
                        *(nn_word *)(void *)target = word;
                    } else if (r->bits == 4u) {
                        target[0] = (uint8_t)word;
                        target[1] = (uint8_t)(word >> 16);
                    } else {
                        target[0] = (uint8_t)(word | word >> 12);
                    }
                    target += r->bits / 2u;
                }
            }
        }
    }
}

#endif
