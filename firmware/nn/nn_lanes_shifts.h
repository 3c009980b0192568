/* Lane-packed convolution (nn_lanes.h) whose weights are lists of pixels: one byte for each bit of a weight, and one
 * UXTAB16 for every two products. The generated strip computes all filters for a few pooled columns, as many as
 * registers hold lanes of; its portable path is here. Optimal for cores with the DSP extension.
 *
 * A filter is a pair of lists for each bit of the weights' magnitudes, the highest first: of the pixels where weights
 * are positive, and of those where they are negative. Between the lists of a pair the sums so far are negated, behind
 * it they are doubled; the order within a pair is such that the last list is one to add. An entry is the distance in
 * bytes from the pixel before (the first: from the byte before the kernel's corner); 0 ends a list. Long distances are
 * split by pixels that are in both lists of a pair.
 */
#ifndef NN_LANES_SHIFTS_H
#define NN_LANES_SHIFTS_H

#include "nn_lanes.h"

/* The lanes of every filter in one strip. */
typedef void (*nn_lanes_strip)(const uint8_t *stream, const uint8_t *pixels, uint32_t *sums);

/* One list at one position: the pixels' sum. Moves *stream behind it. */
NN_INLINE uint32_t nn_lanes_shifts_list(const uint8_t **stream, const uint8_t *pixels)
{
    uint32_t sum = 0, behind = 0, distance;
    while ((distance = *(*stream)++) != 0u) {
        behind += distance;
        sum += pixels[behind - 1u];
    }
    return sum;
}

/* Lane `lane` of a unit: the largest sum of its four positions. Moves *stream behind the filter. */
NN_INLINE uint32_t nn_lanes_shifts_lane(const uint8_t **stream, const uint8_t *pixels, uint32_t lists, uint32_t pitch,
                                        uint32_t lane)
{
    const uint8_t *const filter = *stream;
    uint32_t largest = 0;
    for (uint32_t i = 0; i < 4; i++) {
        const uint8_t *const corner = pixels + 2u * lane + i / 2u * pitch + i % 2u;
        *stream = filter;
        uint32_t sum = nn_lanes_shifts_list(stream, corner);
        for (uint32_t left = lists - 1u; left; left--) {
            sum = (left & 1u ? 0u - sum : 2u * sum) + nn_lanes_shifts_list(stream, corner);
        }
        sum = (sum + NN_LANES_OFFSET) & 0xFFFFu;
        largest = sum > largest ? sum : largest;
    }
    return largest;
}

/* units: of a row; words: of the strip. */
NN_INLINE void nn_lanes_shifts_strip(const uint8_t *stream, const uint8_t *pixels, uint32_t *sums, uint32_t filters,
                                     uint32_t lists, uint32_t pitch, uint32_t units, uint32_t words)
{
    for (uint32_t filter = 0; filter < filters; filter++, sums += units) {
        const uint8_t *next = stream;
        for (uint32_t unit = 0; unit < words; unit++) {
            next = stream;
            const uint32_t low = nn_lanes_shifts_lane(&next, pixels + 4u * unit, lists, pitch, 0);
            next = stream;
            sums[unit] = low | nn_lanes_shifts_lane(&next, pixels + 4u * unit, lists, pitch, 1) << 16;
        }
        stream = next;
    }
}

/* The lanes of one row of outputs; strips, words, strip: constants. */
NN_INLINE void nn_lanes_shifts_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                   uint32_t strips, uint32_t words, nn_lanes_strip strip)
{
    do {
        strip(filters->weights, rows, sums);
        rows += 4u * words;
        sums += words;
    } while (--strips);
}

#endif
