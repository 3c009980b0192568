/* Lane-packed convolution (nn_lanes.h) whose weights are straight-line code: for most weights one instruction of two or
 * four bytes, which makes two multiplications. The generated unit computes all filters for one unit; its portable
 * path reads a table. Optimal for cores with the DSP extension that fetch code from flash without many wait states.
 */
#ifndef NN_LANES_CODE_H
#define NN_LANES_CODE_H

#include "nn_lanes_table.h"

/* The lanes of every filter in one unit, the larger of those in `best` already, into `best`. */
typedef void (*nn_lanes_unit)(const uint8_t *pixels, uint32_t *best);

/* The lanes of one row of outputs; unit: a constant. */
NN_INLINE void nn_lanes_code_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                 nn_lanes_unit unit)
{
    for (uint32_t i = 0; i < filters->units * filters->filters; i++) {
        sums[i] = 0;
    }
    for (uint32_t i = 0; i < filters->units; i++, rows += 4, sums += filters->filters) {
        unit(rows, sums);
    }
}

#endif
