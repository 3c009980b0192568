/* Lane-packed convolution (nn_lanes.h) with its weights as a stream of bits (nn_rice.h), from which every filter's table is
 * made on the stack once for each row of outputs. Optimal for: flash that is scarce.
 *
 * The stream numbers a filter's elements in the order in which they lie in memory, without what lies between rows.
 */
#ifndef NN_LANES_RICE_H
#define NN_LANES_RICE_H

#include "nn_lanes_table.h"
#include "nn_rice.h"

/* Entries of a filter: the most that any layer has. */
#ifndef NN_LANES_ENTRIES
#define NN_LANES_ENTRIES 128
#endif

/* `weights` of an nn_lanes_filters. elements: of a filter; kernel: columns of it; skipped: bytes between the columns of one
 * row or channel and the next. */
typedef struct {
    nn_rice rice;
    uint16_t elements, kernel, skipped;
} nn_lanes_rice;

NN_INLINE void nn_lanes_rice_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums)
{
    uint16_t entries[NN_LANES_ENTRIES];
    const nn_lanes_rice *const weights = filters->weights;
    const nn_rice rice = weights->rice;
    uint32_t position = 0;
    int32_t weight;
    uint32_t element = nn_rice_read(&rice, &position, &weight);
    for (uint32_t filter = filters->filters; filter; filter--, sums += filters->units) {
        uint16_t *entry = entries;
        *entry = 0;
        while (element < weights->elements) {
            const uint32_t offset = element + element / weights->kernel * weights->skipped;
            *entry++ = (uint16_t)((uint32_t)weight << 12 | offset);
            element += 1u + nn_rice_read(&rice, &position, &weight);
        }
        element -= weights->elements;
        /* A filter without weights keeps its entry of weight 0. */
        entry[entry == entries ? 0 : -1] |= 1u << 11;
        nn_lanes_filter_11(entries, rows, filters->pitch, sums, filters->units);
    }
}

#endif
