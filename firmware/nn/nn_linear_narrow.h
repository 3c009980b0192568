/* The fully connected layer with weights of 4 or 2 bits, two rows at a time, for cores with DSP.
 *
 * A word of weights has a byte's worth of them side by side in each of its bytes. Shifted so that one of these is at the
 * top of its byte, and masked, the four bytes are four weights times 2^(8 - bits): SXTB16 makes two pairs of 16-bit
 * numbers of them, and SMLAD multiplies each pair with two inputs. The inputs are put into that order once, as 16-bit
 * elements. Sums are exact: the exporter proves that they fit 32 bits with the factor that all products share.
 *
 * Weights: pairs of rows, word by word (one of the first row, one of the second); of an odd number, the last row's partner
 * is zero. Scratch: the inputs, 2 bytes each, in whole words of weights; then the outputs as bytes (packed ones), in whole
 * words.
 */
#ifndef NN_LINEAR_NARROW_H
#define NN_LINEAR_NARROW_H

#include "nn_linear.h"
#include "nn_packed.h"

/* rows: of the input as it is stored, of inputs / rows elements each. */
typedef struct {
    nn_linear_shape shape;
    uint32_t rows;
    const uint32_t *weights;
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_narrow_layer;

/* Bytes 0 and 2 of `word` (odd: 1 and 3), sign-extended, times the two halves of `x`; added to `sum`. */
NN_INLINE int32_t nn_narrow_pair(uint32_t word, bool odd, uint32_t x, int32_t sum)
{
#if NN_DSP
    uint32_t pair;
    if (odd) {
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    } else {
        __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    }
    return __smlad((int32_t)pair, (int32_t)x, sum);
#else
    word >>= odd ? 8 : 0;
    return sum + (int8_t)word * (int16_t)x + (int8_t)(word >> 16) * (int16_t)(x >> 16);
#endif
}

/* Where element `index` of the inputs lies among the 16-bit elements. */
NN_INLINE uint32_t nn_narrow_place(uint32_t index, uint32_t bits)
{
    const uint32_t per_word = 32u / bits, per_byte = 8u / bits, within = index % per_word;
    const uint32_t byte = within / per_byte, slot = within % per_byte;
    return index - within + 4u * slot + 2u * (byte & 1u) + byte / 2u;
}

NN_INLINE void nn_linear_narrow(const nn_linear_narrow_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t bits = layer->weight_bits, per_byte = 8u / bits, top = 0x01010101u * (256u - (1u << (8u - bits)));
    const uint32_t words = nn_weight_words(s->inputs, bits), elements = s->inputs / layer->rows;
    int16_t *const x = scratch;
    uint8_t *const buffer = (uint8_t *)(x + words * (32u / bits));
    for (uint32_t i = 0; i < words * (32u / bits); i++) {
        x[i] = 0;
    }
    for (uint32_t row = 0, i = 0; row < layer->rows; row++) {
        const uint8_t *const source = (const uint8_t *)input + row * nn_row_bytes(elements, s->input);
        for (uint32_t k = 0; k < elements; k++, i++) {
            x[nn_narrow_place(i, bits)] = (int16_t)nn_get(source, k, s->input);
        }
    }
    void *const target = nn_packed_row_begin(output, s->output, s->outputs, 0, buffer);
    const uint32_t *weights = layer->weights;
    for (uint32_t row = 0; row < s->outputs; row += 2u) {
        int32_t sums[2] = {0, 0};
        const nn_word *pairs = scratch;
        for (const uint32_t *const end = weights + 2u * words; weights != end; weights += 2u, pairs += 2u * per_byte) {
            NN_UNROLL
            for (uint32_t slot = 0; slot < per_byte; slot++) {
                const uint32_t even = pairs[2u * slot], odd = pairs[2u * slot + 1u], shift = 8u - bits * (slot + 1u);
                NN_UNROLL
                for (uint32_t r = 0; r < 2u; r++) {
                    const uint32_t word = weights[r] << shift & top;
                    sums[r] = nn_narrow_pair(word, false, even, sums[r]);
                    sums[r] = nn_narrow_pair(word, true, odd, sums[r]);
                }
            }
        }
        for (uint32_t r = 0; r < 2u && row + r < s->outputs; r++) {
            nn_finish(target, row + r, nn_packed_collected(s->output), &layer->requantize, s->relu,
                      (sums[r] >> (8u - bits)) + layer->bias[row + r], row + r);
        }
    }
    nn_packed_row_end(output, s->output, s->outputs, 0, buffer);
}

#endif
