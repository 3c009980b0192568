/* Lane-packed convolution (nn_lanes.h) whose weights are straight-line code: for most weights one instruction of two or
 * four bytes, which makes two multiplications. Generated functions compute a row of up to eight filters each; their
 * portable path, and the filters that are not code, read a table. Optimal for cores with the DSP extension that fetch
 * code from flash without many wait states.
 */
#ifndef NN_LANES_CODE_H
#define NN_LANES_CODE_H

#include "nn_lanes_table.h"

/* The lanes of filters in one unit. */
typedef void (*nn_lanes_unit)(const uint8_t *pixels, uint32_t *sums);

/* One row of outputs, unit by unit; unit: a constant. */
NN_INLINE void nn_lanes_code_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                 nn_lanes_unit unit)
{
    for (uint32_t i = 0; i < filters->units; i++, rows += 4, sums += filters->filters) {
        unit(rows, sums);
    }
}

#endif
