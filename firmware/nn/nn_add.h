/* The sum of two tensors of one shape, each of 2, 4 or 8 bits: the plain form, which every core runs. No scratch.
 *
 * y = clamp(zero_point + (((a - z_a) * M_a + (b - z_b) * M_b + 2^(T - 1)) >> T), 0, 2^bits - 1) with multipliers below
 * 2^15, so that each product fits 23 bits. The output may lie over an input whose rows are as long or longer: a word of
 * packed outputs, or an output of 8 bits, is written after its elements are read.
 */
#ifndef NN_ADD_H
#define NN_ADD_H

#include "nn_packed.h"

/* rows of `elements` elements each, as the tensors are stored. `offset` is what does not depend on a and b:
 * 2^(T - 1) - z_a * M_a - z_b * M_b. */
typedef struct {
    uint32_t rows, elements;
    nn_element input, second, output;
    int32_t multiplier[2];
    int64_t offset;
    uint32_t shift;
    int32_t zero_point;
    uint32_t bits;
} nn_add_layer;

typedef struct {
    uint32_t elements;
    bool relu;
    float clip; /* what an output is at most; 0: no limit */
} nn_add_f32_layer;

NN_INLINE int32_t nn_add_one(const nn_add_layer *layer, int32_t a, int32_t b)
{
    const int32_t products = a * layer->multiplier[0] + b * layer->multiplier[1]; /* below 2^24 */
    return nn_clamp(((products + layer->offset) >> layer->shift) + layer->zero_point, layer->bits);
}

NN_INLINE void nn_add(const nn_add_layer *layer, const void *input, const void *second, void *output)
{
    const uint8_t *a = input, *b = second;
    uint8_t *y = output;
    const uint32_t bits = nn_element_bits(layer->output), group = bits < 8u ? 32u / bits : 1u;
    for (uint32_t row = 0; row < layer->rows; row++) {
        for (uint32_t i = 0; i < layer->elements; i += group) {
            const uint32_t count = layer->elements - i < group ? layer->elements - i : group;
            uint32_t word = 0;
            for (uint32_t k = 0; k < count; k++) {
                const int32_t one = nn_get(a, i + k, layer->input), two = nn_get(b, i + k, layer->second);
                word |= (uint32_t)nn_add_one(layer, one, two) << k * bits;
            }
            if (bits < 8u) {
                ((nn_word *)(void *)y)[i / group] = word;
            } else {
                y[i] = (uint8_t)word;
            }
        }
        a += nn_row_bytes(layer->elements, layer->input);
        b += nn_row_bytes(layer->elements, layer->second);
        y += nn_row_bytes(layer->elements, layer->output);
    }
}

NN_INLINE void nn_add_f32(const nn_add_f32_layer *layer, const void *input, const void *second, void *output)
{
    const float *a = input, *b = second;
    float *y = output;
    for (uint32_t i = 0; i < layer->elements; i++) {
        y[i] = nn_rectify_f32(a[i] + b[i], layer->relu, layer->clip);
    }
}

#endif
