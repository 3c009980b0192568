/* The fully connected layer with weights and activations of 2, 4 or 8 bits each: the form that every core runs.
 *
 * Weights are stored row by row as (output, input), each row of words below 8 bits. Scratch: the input as bytes (packed
 * ones), then one row of weights as bytes (below 8 bits), then the outputs as bytes (packed ones), each in whole words.
 */
#ifndef NN_LINEAR_PACKED_H
#define NN_LINEAR_PACKED_H

#include "nn_linear.h"
#include "nn_packed.h"

/* rows: of the input as it is stored, of inputs / rows elements each. */
typedef struct {
    nn_linear_shape shape;
    uint32_t rows;
    const void *weights; /* int8_t, or words */
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_packed_layer;

NN_INLINE void nn_linear_packed(const nn_linear_packed_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const bool unpacked = s->input == NN_U8;
    const uint32_t bytes = (s->inputs + 3u) & ~3u, elements = s->inputs / layer->rows;
    uint8_t *const unpacking = scratch;
    int8_t *const tile = (int8_t *)unpacking + (unpacked ? 0u : bytes);
    uint8_t *const buffer = (uint8_t *)tile + (layer->weight_bits < 8u ? bytes : 0u);
    for (uint32_t row = 0; !unpacked && row < layer->rows; row++) {
        nn_unpack_row((const uint8_t *)input + row * nn_row_bytes(elements, s->input), s->input,
                      unpacking + row * elements, elements);
    }
    const uint8_t *const x = unpacked ? input : unpacking;
    void *const target = nn_packed_row_begin(output, s->output, s->outputs, 0, buffer);
    for (uint32_t row = 0; row < s->outputs; row++) {
        const int8_t *weights = tile;
        if (layer->weight_bits < 8u) {
            const uint32_t words = nn_weight_words(s->inputs, layer->weight_bits);
            nn_unpack_weights((const uint32_t *)layer->weights + row * words, layer->weight_bits, tile, s->inputs);
        } else {
            weights = (const int8_t *)layer->weights + row * s->inputs;
        }
        int32_t sum = layer->bias[row];
        for (uint32_t i = 0; i < s->inputs; i++) {
            sum += x[i] * weights[i];
        }
        nn_finish(target, row, nn_packed_collected(s->output), &layer->requantize, s->relu, sum, row);
    }
    nn_packed_row_end(output, s->output, s->outputs, 0, buffer);
}

#endif
