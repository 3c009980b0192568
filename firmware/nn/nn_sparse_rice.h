/* The fully connected layer with its weights as a stream of bits (nn_rice.h): the smallest form, at some twenty instructions
 * for each nonzero weight. Code is shared by all layers. Optimal for: flash that is scarce.
 */
#ifndef NN_SPARSE_RICE_H
#define NN_SPARSE_RICE_H

#include "nn_rice.h"

/* The stream ends in a gap beyond the last row. */
typedef struct {
    nn_rice rice;
    nn_sparse_finish finish;
    uint32_t inputs, outputs;
} nn_sparse_rice_layer;

NN_INLINE void nn_sparse_rice_linear(const nn_sparse_rice_layer *layer, const void *input, void *output, uint32_t bias_bytes)
{
    const nn_rice rice = layer->rice;
    const uint32_t inputs = layer->inputs;
    uint8_t *out = output;
    uint32_t position = 0;
    int32_t weight;
    uint32_t column = nn_rice_read(&rice, &position, &weight);
    for (uint32_t row = 0; row < layer->outputs; row++) {
        int32_t sum = nn_sparse_bias(&layer->finish, row, bias_bytes);
        while (column < inputs) {
            sum += weight * ((const uint8_t *)input)[column];
            column += 1u + nn_rice_read(&rice, &position, &weight);
        }
        column -= inputs;
        if (layer->finish.multipliers || layer->finish.multiplier) {
            *out++ = nn_sparse_requantize(&layer->finish, sum, row);
        } else {
            *(int32_t *)(void *)out = sum;
            out += 4;
        }
    }
}

#define NN_SPARSE_RICE(bias_bits)                                                                                             \
    NN_SPARSE_SHARED void nn_sparse_rice_b##bias_bits(const nn_sparse_rice_layer *layer, const void *input, void *output)      \
    {                                                                                                                         \
        nn_sparse_rice_linear(layer, input, output, bias_bits / 8u);                                                          \
    }

NN_SPARSE_RICE(8)
NN_SPARSE_RICE(16)
NN_SPARSE_RICE(32)

#endif
