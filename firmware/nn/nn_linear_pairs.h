/* What the fully connected forms for cores with the DSP extension share: the input in pairs of 16-bit numbers.
 *
 * Of each four inputs, (x0, x2) and (x1, x3) are operands of SMLAD. They are prepared once, in scratch: two bytes per
 * input, in whole fours; what the last four lacks is 0.
 */
#ifndef NN_LINEAR_PAIRS_H
#define NN_LINEAR_PAIRS_H

#include "nn_linear.h"
#include "nn_packed.h"

/* Of a layer's inputs. */
NN_INLINE uint32_t nn_linear_fours(const nn_linear_shape *s)
{
    return (s->inputs + 3u) / 4u;
}

/* Four bytes as two pairs; returns `sum` plus all four. */
NN_INLINE uint32_t nn_linear_pair(uint32_t bytes, nn_word *pairs, uint32_t sum)
{
    pairs[0] = bytes & 0x00FF00FFu;
    pairs[1] = bytes >> 8 & 0x00FF00FFu;
#if NN_DSP
    return __usada8(bytes, 0, sum);
#else
    return sum + (bytes & 255u) + (bytes >> 8 & 255u) + (bytes >> 16 & 255u) + (bytes >> 24);
#endif
}

/* Inputs from `first` to the end or a whole four, as bytes. rows: of the stored input. */
NN_INLINE uint32_t nn_linear_gather(const nn_linear_shape *s, uint32_t rows, const void *input, uint32_t first)
{
    const uint32_t elements = s->inputs / rows, pitch = nn_row_bytes(elements, s->input);
    uint32_t bytes = 0;
    for (uint32_t i = first; i < s->inputs && i < first + 4u; i++) {
        const uint8_t *const row = (const uint8_t *)input + i / elements * pitch;
        bytes |= (uint32_t)nn_get(row, i % elements, s->input) << (8u * (i - first));
    }
    return bytes;
}

/* Prepares the input in `fours` fours; returns the sum of all inputs where it is `summed`. rows: of the input as it is
 * stored, of inputs / rows elements each. */
NN_INLINE uint32_t nn_linear_prepare(const nn_linear_shape *s, uint32_t rows, const void *input, nn_word *pairs,
                                     uint32_t fours, bool summed)
{
    const uint32_t elements = s->inputs / rows, bits = nn_element_bits(s->input);
    const bool dense = bits <= 8u && (rows == 1u || elements * bits % 32u == 0u);
    const uint32_t whole = dense ? s->inputs / 4u : 0u;
    const uint8_t *next = input;
    uint32_t four = 0, sum = 0;
    (void)summed;
#if NN_DSP
    if (dense && s->input == NN_U8) {
        for (; four < whole / 2u * 2u; four += 2u) {
            __asm__ volatile("ldrd r8, r10, [%[next]], #8\n\t"
                    ".if %c[summed]\n\t"
                    "usada8 %[sum], r8, %[zero], %[sum]\n\t"
                    "usada8 %[sum], r10, %[zero], %[sum]\n\t"
                    ".endif\n\t"
                    "uxtb16 r9, r8, ror #8\n\t"
                    "uxtb16 r11, r10, ror #8\n\t"
                    "uxtb16 r8, r8\n\t"
                    "uxtb16 r10, r10\n\t"
                    "stm %[pairs]!, {r8, r9, r10, r11}"
                    : [next] "+&r"(next), [pairs] "+&r"(pairs), [sum] "+&r"(sum)
                    : [zero] "r"(0), [summed] "i"(summed)
                    : "r8", "r9", "r10", "r11", "memory");
        }
    }
#endif
    for (; four < whole; four++, next += bits / 2u, pairs += 2) {
        sum = nn_linear_pair(nn_get_four(next, s->input), pairs, sum);
    }
    for (; four < fours; four++, pairs += 2) {
        sum = nn_linear_pair(nn_linear_gather(s, rows, input, 4u * four), pairs, sum);
    }
    return sum;
}

/* Stores the outputs of rows `row` to `row + rows - 1`, up to four. narrow: whether the exporter proves that what they
 * are rounded to fits in 16 bits, with T = 32. */
NN_INLINE void nn_linear_finish(const nn_linear_shape *s, const nn_requantization *r, bool narrow, void *output,
                                uint32_t row, uint32_t rows, const uint32_t sums[4])
{
#if NN_DSP
    if (narrow && rows == 4u) {
        int32_t rounded[4];
        NN_UNROLL
        for (uint32_t i = 0; i < 4u; i++) {
            const int32_t multiplier = r->multipliers ? r->multipliers[row + i] : r->multiplier;
            __asm__("smmulr %0, %1, %2" : "=r"(rounded[i]) : "r"(sums[i]), "r"(multiplier));
        }
        const uint32_t zero_points = (uint32_t)r->zero_point * 0x00010001u;
        uint32_t halves[2];
        NN_UNROLL
        for (uint32_t i = 0; i < 2u; i++) {
            __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(halves[i]) : "r"(rounded[i]), "r"(rounded[i + 2u]));
            if (r->zero_point) {
                halves[i] = (uint32_t)__sadd16((int16x2_t)halves[i], (int16x2_t)zero_points);
            }
            __asm__("usat16 %0, %1, %2" : "=r"(halves[i]) : "i"(r->bits), "r"(halves[i]) : "cc");
        }
        *(nn_word *)(void *)((uint8_t *)output + row) = halves[0] | halves[1] << 8;
        return;
    }
#else
    (void)narrow;
#endif
    NN_UNROLL
    for (uint32_t i = 0; i < rows; i++) {
        nn_finish(output, row + i, nn_packed_collected(s->output), r, s->relu, (int32_t)sums[i], row + i);
    }
}

#endif
