/* Lane-packed convolution (nn_lanes.h) with one byte for each weight, from which every filter's table is made on the
 * stack once for each row of outputs: eight instructions for each weight, shared by all units of the row. Optimal for
 * cores with the DSP extension and flash that is scarce.
 *
 * A filter begins with its number of entries. An entry has the distance to its element from the one before it (the
 * first: from the filter's beginning) in its high bits, the weight in its low ones; what does not fit is split.
 * Elements are numbered in the order in which they lie in memory, without what lies between rows.
 */
#ifndef NN_LANES_BYTES_H
#define NN_LANES_BYTES_H

#include "nn_lanes_table.h"

/* Entries of a filter: the most that any layer has. */
#ifndef NN_LANES_ENTRIES
#define NN_LANES_ENTRIES 255
#endif

/* `weights` of an nn_lanes_filters. kernel: columns of it; skipped: bytes between the columns of one row or channel
 * and the next. */
typedef struct {
    const uint8_t *stream;
    uint16_t kernel, skipped;
} nn_lanes_bytes;

/* offset_bits, multiply: constants of the function that this is inlined into. */
NN_INLINE void nn_lanes_bytes_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                  uint32_t offset_bits, nn_lanes_filter multiply)
{
    uint16_t entries[NN_LANES_ENTRIES];
    const nn_lanes_bytes *const weights = filters->weights;
    const uint32_t kernel = weights->kernel, skipped = weights->skipped, weight_bits = 15u - offset_bits;
    const uint8_t *next = weights->stream;
    uint32_t left = filters->filters;
    do {
        uint16_t *entry = entries;
        uint32_t element = 0;
        const uint8_t *const end = next + 1 + *next;
        for (next++; next != end;) {
            const uint32_t byte = *next++;
            element += byte >> weight_bits;
            *entry++ = (uint16_t)(byte << (offset_bits + 1u) | (element + element / kernel * skipped));
        }
        entry[-1] |= (uint16_t)(1u << offset_bits);
        multiply(entries, rows, filters->pitch, sums, filters->units);
        sums += filters->units;
    } while (--left);
}

#endif
