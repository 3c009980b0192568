/* Lane-packed convolution (nn_lanes.h) whose weights are straight-line code: one instruction for most weights and four
 * multiplications, four to eight bytes for each. The generated unit computes all filters for one unit; its portable path
 * reads a table. Optimal for cores with the DSP extension that fetch code from flash without many wait states.
 */
#ifndef NN_LANES_CODE_H
#define NN_LANES_CODE_H

#include "nn_lanes_table.h"

/* The lanes of every filter in one unit, the larger of those in `best` already, into `best`. */
typedef void (*nn_lanes_unit)(const uint8_t *pixels, uint32_t *best);

/* One row of outputs. unit, bias_bytes: constants; best: room for a word per filter. */
NN_INLINE void nn_lanes_code_row(const nn_lanes_filters *filters, const uint8_t *rows, uint8_t *output, nn_lanes_unit unit,
                                 uint32_t *best, uint32_t bias_bytes)
{
    _Alignas(4) uint8_t line[NN_LANES_LINE];
    uint8_t *out = line;
    for (uint32_t i = 0; i < filters->units; i++, rows += 4, out += 2u * filters->pixel) {
        for (uint32_t filter = 0; filter < filters->filters; filter++) {
            best[filter] = 0;
        }
        unit(rows, best);
        for (uint32_t filter = 0; filter < filters->filters; filter++) {
            const int32_t bias = nn_sparse_bias(&filters->finish, filter, bias_bytes) - NN_LANES_OFFSET;
            nn_lanes_finish(filters, best[filter], bias, filter, out + filter * filters->channel);
        }
    }
    nn_lanes_write(output, line, filters->line);
}

#endif
