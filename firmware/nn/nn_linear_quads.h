/* The fully connected layer, four rows at a time, with weights multiplied as they lie in flash.
 *
 * Optimal for cores with the DSP extension. A word of weights has bytes (w0 ^ 0x80, w1, w2 ^ 0x80, w3), so that its two
 * halfwords are, as signed numbers, w0 + 128 + 256 w1 and w2 + 128 + 256 w3. The input x is prepared once, in scratch:
 *     even = (x0 - 127, x2 - 127), odd = (x1 - 256 (x0 - 127), x3 - 256 (x2 - 127)), all of which fit in 16 bits.
 * Then word * even + (w1, w3) * odd = w0 x0 + w1 x1 + w2 x2 + w3 x3 - 127 (w0 + w2) + 128 (x0 - 127 + x2 - 127): half
 * of the weights need no unpacking. The first correction is part of the bias, the second is the same for all rows. Sums
 * wrap at 32 bits; what they end in fits.
 *
 * Rows come in groups of four (the last group has the rest); in a group, word i of each row follows the other. Scratch:
 * 2 bytes per input, rounded up to 4 inputs.
 */
#ifndef NN_LINEAR_QUADS_H
#define NN_LINEAR_QUADS_H

#include "nn_linear.h"

/* bias: with 127 * sum(even weights) of its row added, modulo 2^32. */
typedef struct {
    nn_linear_shape shape;
    const uint32_t *weights;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_quads_layer;

enum { NN_LINEAR_QUADS_OFFSET = 127 };

/* The input into `prepared`; returns 128 * sum(even elements - 127). Reads up to three bytes behind an NN_U8 input. */
NN_INLINE uint32_t nn_linear_quads_prepare(const nn_linear_shape *s, const void *input, nn_word *prepared)
{
    const uint32_t words = (s->inputs + 3u) / 4u;
    uint32_t sum = 0;
#if NN_DSP
    if (s->input == NN_U8) {
        const nn_word *next = input;
        for (const nn_word *const end = next + words; next != end; next++, prepared += 2) {
            const int16x2_t even = __ssub16((int16x2_t)__uxtb16(*next), NN_LINEAR_QUADS_OFFSET * 0x00010001);
            const int16x2_t odd = (int16x2_t)__uxtb16(*next >> 8);
            sum = (uint32_t)__smlad(even, 128 * 0x00010001, (int32_t)sum);
            prepared[0] = (uint32_t)even;
            prepared[1] = (uint32_t)__ssub16(odd, (int16x2_t)(((uint32_t)even << 8) & 0xFF00FF00u));
        }
        return sum;
    }
#endif
    for (uint32_t word = 0; word < words; word++, prepared += 2) {
        prepared[0] = 0;
        prepared[1] = 0;
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t i = 4u * word + 2u * half;
            const int32_t even = (i < s->inputs ? nn_load(input, i, s->input) : 0) - NN_LINEAR_QUADS_OFFSET;
            const int32_t odd = (i + 1u < s->inputs ? nn_load(input, i + 1u, s->input) : 0) - 256 * even;
            sum += 128u * (uint32_t)even;
            prepared[0] |= ((uint32_t)even & 0xFFFFu) << (16u * half);
            prepared[1] |= ((uint32_t)odd & 0xFFFFu) << (16u * half);
        }
    }
    return sum;
}

/* Adds `rows` (1 to 4) rows of `words` words to `sums`; returns the end of their weights. */
NN_INLINE const uint32_t *nn_linear_quads_rows(const uint32_t *weights, const nn_word *prepared, uint32_t words,
                                               uint32_t rows, uint32_t sums[4])
{
#if NN_DSP
#define NN_LINEAR_QUADS_ROW(n, word, sum)                   \
    ".if %c[rows] > " #n "\n\t"                             \
    "smlad " sum ", " word ", r12, " sum "\n\t"             \
    "sxtb16 " word ", " word ", ror #8\n\t"                 \
    "smlad " sum ", " word ", lr, " sum "\n\t"              \
    ".endif\n\t"
#define NN_LINEAR_QUADS_WORD                                \
    ".if %c[rows] == 4\n\t"                                 \
    "ldm %[weights]!, {r8, r9, r10, r11}\n\t"               \
    ".elseif %c[rows] == 3\n\t"                             \
    "ldm %[weights]!, {r8, r9, r10}\n\t"                    \
    ".elseif %c[rows] == 2\n\t"                             \
    "ldrd r8, r9, [%[weights]], #8\n\t"                     \
    ".else\n\t"                                             \
    "ldr r8, [%[weights]], #4\n\t"                          \
    ".endif\n\t"                                            \
    "ldrd r12, lr, [%[prepared]], #8\n\t"                   \
    NN_LINEAR_QUADS_ROW(0, "r8", "%[a]")                    \
    NN_LINEAR_QUADS_ROW(1, "r9", "%[b]")                    \
    NN_LINEAR_QUADS_ROW(2, "r10", "%[c]")                   \
    NN_LINEAR_QUADS_ROW(3, "r11", "%[d]")
    const nn_word *const end = prepared + words / 2u * 4u;
    uint32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    __asm__(".if %c[words] >= 2\n\t"
            "1:\n\t" NN_LINEAR_QUADS_WORD NN_LINEAR_QUADS_WORD
            "ldr r12, %[end]\n\t"
            "cmp %[prepared], r12\n\t"
            "bne 1b\n\t"
            ".endif\n\t"
            ".if %c[words] & 1\n\t" NN_LINEAR_QUADS_WORD ".endif"
            : [weights] "+&r"(weights), [prepared] "+&r"(prepared), [a] "+&r"(a), [b] "+&r"(b), [c] "+&r"(c),
              [d] "+&r"(d)
            : [end] "m"(end), [rows] "i"(rows), [words] "i"(words)
            : "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
    return weights;
#else
    for (uint32_t word = 0; word < words; word++, prepared += 2) {
        for (uint32_t row = 0; row < rows; row++) {
            for (uint32_t half = 0; half < 32; half += 16) {
                const int32_t both = (int16_t)(*weights >> half), odd = (int8_t)(*weights >> (half + 8u));
                sums[row] += (uint32_t)(both * (int16_t)(prepared[0] >> half));
                sums[row] += (uint32_t)(odd * (int16_t)(prepared[1] >> half));
            }
            weights++;
        }
    }
    return weights;
#endif
}

/* Rows `row` to `row + rows - 1` from the prepared input; returns the end of their weights. */
NN_INLINE const uint32_t *nn_linear_quads_group(const nn_linear_quads_layer *layer, const uint32_t *weights,
                                                const nn_word *prepared, uint32_t correction, uint32_t row,
                                                uint32_t rows, void *output)
{
    const nn_linear_shape *s = &layer->shape;
    uint32_t sums[4] = {0, 0, 0, 0};
    NN_UNROLL
    for (uint32_t i = 0; i < rows; i++) {
        sums[i] = (uint32_t)layer->bias[row + i] - correction;
    }
    weights = nn_linear_quads_rows(weights, prepared, (s->inputs + 3u) / 4u, rows, sums);
    NN_UNROLL
    for (uint32_t i = 0; i < rows; i++) {
        nn_finish(output, row + i, s->output, &layer->requantize, s->relu, (int32_t)sums[i], row + i);
    }
    return weights;
}

NN_INLINE void nn_linear_quads(const nn_linear_quads_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t correction = nn_linear_quads_prepare(s, input, scratch);
    const uint32_t *weights = layer->weights;
    uint32_t row = 0;
    for (; row < s->outputs / 4u * 4u; row += 4u) {
        weights = nn_linear_quads_group(layer, weights, scratch, correction, row, 4, output);
    }
    if (s->outputs % 4u) {
        nn_linear_quads_group(layer, weights, scratch, correction, row, s->outputs % 4u, output);
    }
}

#endif
