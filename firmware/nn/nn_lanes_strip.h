/* Lane-packed convolution (nn_lanes.h) with one byte for each weight, as nn_lanes_bytes.h stores them, for rows of at
 * most five pooled columns. Optimal for cores with the DSP extension and flash that is scarce.
 *
 * The generated function makes a filter's entries into words on the stack, once for each row of outputs: ten
 * instructions for each weight. Registers then hold the lanes of the whole row, so that a weight is taken from the
 * stack only once. The last of an odd number of columns has the lanes of two rows in a word. The portable path is that
 * of nn_lanes_bytes.h.
 */
#ifndef NN_LANES_STRIP_H
#define NN_LANES_STRIP_H

#include "nn_lanes_bytes.h"

/* kernel, skipped: as an nn_lanes_bytes has them; offset_bits, multiply: as nn_lanes_bytes_row takes them. */
NN_INLINE void nn_lanes_strip_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                  uint32_t kernel, uint32_t skipped, uint32_t offset_bits, nn_lanes_filter multiply)
{
    const nn_lanes_bytes weights = {filters->weights, (uint16_t)kernel, (uint16_t)skipped};
    nn_lanes_filters own = *filters;
    own.weights = &weights;
    nn_lanes_bytes_row(&own, rows, sums, offset_bits, multiply);
}

#endif
