/* The fully connected layer with weights of 4 or 2 bits, four rows at a time, multiplied as the fields of words.
 *
 * Optimal for cores with the DSP extension. Weights are stored with an offset, w + 2^(bits - 1), so that a shift and a mask
 * make two of them an operand of SMLAD. What the offset adds to a row is the same for all: 2^(bits - 1) * sum(x).
 *
 * The input becomes pairs of halves in scratch, of each four elements (x0, x2), (x1, x3). Field f of a word of weights, at
 * bits f * bits, and the one 16 bits above belong to the f-th pair. Rows come in groups of four, of which word i follows
 * each other; what is missing of the last group is 0. Scratch: 2 bytes per input, in whole words of weights.
 */
#ifndef NN_LINEAR_FIELDS_H
#define NN_LINEAR_FIELDS_H

#include "nn_linear.h"
#include "nn_packed.h"

typedef struct {
    nn_linear_shape shape;
    const uint32_t *weights;
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_fields_layer;

/* Sum of two products of halves, added to `sum`, modulo 2^32. */
NN_INLINE uint32_t nn_fields_multiply(uint32_t a, uint32_t b, uint32_t sum)
{
#if NN_DSP
    return (uint32_t)__smlad((int16x2_t)a, (int16x2_t)b, (int32_t)sum);
#else
    return sum + (uint32_t)((int16_t)a * (int16_t)b) + (uint32_t)((int16_t)(a >> 16) * (int16_t)(b >> 16));
#endif
}

/* The input as pairs; returns its sum. words: of weights in a row. */
NN_INLINE uint32_t nn_linear_fields_prepare(const nn_linear_fields_layer *layer, const uint8_t *input, nn_word *pairs,
                                            uint32_t words)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t bits = nn_element_bits(s->input), fours = words * 8u / layer->weight_bits;
    uint32_t sum = 0;
    for (uint32_t four = 0; four < fours; four++, pairs += 2) {
        uint32_t bytes = 0;
        if (4u * four + 4u <= s->inputs) {
            bytes = nn_get_four(input + four * bits / 2u, s->input);
        } else {
            for (uint32_t i = 4u * four; i < s->inputs; i++) {
                bytes |= (uint32_t)nn_get(input, i, s->input) << (8u * (i % 4u));
            }
        }
        pairs[0] = bytes & 0x00FF00FFu;
        pairs[1] = bytes >> 8 & 0x00FF00FFu;
        sum = nn_fields_multiply(pairs[0], 0x00010001u, nn_fields_multiply(pairs[1], 0x00010001u, sum));
    }
    return sum;
}

NN_INLINE void nn_linear_fields(const nn_linear_fields_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t bits = layer->weight_bits, words = (s->inputs * bits + 31u) / 32u;
    const uint32_t pairs = 16u / bits;
    uint32_t mask = ((1u << bits) - 1u) * 0x00010001u;
#if NN_DSP
    /* In a register, AND shifts its other operand by itself; as a constant it would take another instruction. */
    __asm__("" : "+r"(mask));
#endif
    const uint32_t correction = nn_linear_fields_prepare(layer, input, scratch, words) << (bits - 1u);
    const uint32_t *weights = layer->weights;
    for (uint32_t row = 0; row < s->outputs; row += 4u) {
        uint32_t sums[4] = {0, 0, 0, 0};
        const nn_word *x = scratch;
        for (const nn_word *const end = x + words * pairs; x != end; weights += 4) {
            NN_UNROLL
            for (uint32_t half = 0; half < pairs / 4u; half++, x += 4) {
                const uint32_t a = x[0], b = x[1], c = x[2], d = x[3];
                NN_UNROLL
                for (uint32_t i = 0; i < 4u; i++) {
                    const uint32_t fields = weights[i] >> (4u * half * bits);
                    sums[i] = nn_fields_multiply(fields & mask, a, sums[i]);
                    sums[i] = nn_fields_multiply(fields >> bits & mask, b, sums[i]);
                    sums[i] = nn_fields_multiply(fields >> (2u * bits) & mask, c, sums[i]);
                    sums[i] = nn_fields_multiply(fields >> (3u * bits) & mask, d, sums[i]);
                }
            }
        }
        NN_UNROLL
        for (uint32_t i = 0; i < 4u; i++) {
            if (s->outputs % 4u == 0 || row + i < s->outputs) {
                const int32_t sum = (int32_t)(sums[i] + (uint32_t)layer->bias[row + i] - correction);
                nn_finish(output, row + i, s->output, &layer->requantize, s->relu, sum, row + i);
            }
        }
    }
}

#endif
