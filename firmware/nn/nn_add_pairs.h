/* The sum of two tensors of 8, 4 or 2 bits on pairs of halves: one multiplication per element for both inputs.
 *
 * Optimal for cores with the DSP extension. y = clamp((a * M_a + b * M_b + offset) >> T, 0, 2^bits - 1), all in 32 bits:
 * the exporter proves that multipliers fit in 16 bits and the sum in 32; `offset` holds the rounding and all three zero
 * points. Four elements at a time; the output may lie over an input. Packed tensors have no gaps between rows, and
 * elements in fours. No scratch.
 */
#ifndef NN_ADD_PAIRS_H
#define NN_ADD_PAIRS_H

#include "nn_packed.h"

/* multipliers: M_a in the lower half, M_b in the upper one. shift: T, 1 to 31. bits: of the output. */
typedef struct {
    uint32_t elements;
    nn_element input, second, output;
    uint32_t multipliers;
    int32_t offset;
    uint32_t shift, bits;
} nn_add_pairs_layer;

#if NN_DSP
/* Four bytes of either input, in r2 and r3, into four of the output, in r2. */
#define NN_ADD_PAIRS_FOUR                                      \
    "pkhbt r4, r2, r3, lsl #16\n\t"                            \
    "pkhtb r5, r3, r2, asr #16\n\t"                            \
    "uxtb16 r2, r4\n\t"                                        \
    "uxtb16 r4, r4, ror #8\n\t"                                \
    "uxtb16 r3, r5\n\t"                                        \
    "uxtb16 r5, r5, ror #8\n\t"                                \
    "smlad r2, r2, %[multipliers], %[offset]\n\t"              \
    "smlad r4, r4, %[multipliers], %[offset]\n\t"              \
    "smlad r3, r3, %[multipliers], %[offset]\n\t"              \
    "smlad r5, r5, %[multipliers], %[offset]\n\t"              \
    "usat r2, %[bits], r2, asr %[shift]\n\t"                   \
    "usat r4, %[bits], r4, asr %[shift]\n\t"                   \
    "usat r3, %[bits], r3, asr %[shift]\n\t"                   \
    "usat r5, %[bits], r5, asr %[shift]\n\t"                   \
    "orr r2, r2, r4, lsl #8\n\t"                               \
    "orr r3, r3, r5, lsl #8\n\t"                               \
    "orr r2, r2, r3, lsl #16\n\t"
#endif

NN_INLINE void nn_add_pairs(const nn_add_pairs_layer *layer, const void *input, const void *other, void *output)
{
    const uint8_t *a = input, *b = other;
    uint8_t *y = output;
    uint32_t left = layer->elements;
#if NN_DSP
    const uint32_t multipliers = layer->multipliers;
    const int32_t offset = layer->offset;
    if (layer->input == NN_U8 && layer->second == NN_U8 && layer->output == NN_U8) {
        for (const uint8_t *const end = a + left / 4u * 4u; a != end;) {
            __asm__("ldr r2, [%[a]], #4\n\t"
                    "ldr r3, [%[b]], #4\n\t" NN_ADD_PAIRS_FOUR "str r2, [%[y]], #4"
                    : [a] "+r"(a), [b] "+r"(b), [y] "+r"(y)
                    : [multipliers] "r"(multipliers), [offset] "r"(offset), [bits] "i"(layer->bits),
                      [shift] "i"(layer->shift)
                    : "r2", "r3", "r4", "r5", "cc", "memory");
        }
        left %= 4u;
    } else {
        for (; left; left -= 4u) {
            const uint32_t first = nn_get_four(a, layer->input), second = nn_get_four(b, layer->second);
            register uint32_t one __asm__("r2") = first;
            register uint32_t two __asm__("r3") = second;
            __asm__(NN_ADD_PAIRS_FOUR
                    : "+r"(one), "+r"(two)
                    : [multipliers] "r"(multipliers), [offset] "r"(offset), [bits] "i"(layer->bits),
                      [shift] "i"(layer->shift)
                    : "r4", "r5", "cc");
            nn_put_four(one, y, layer->output);
            a += nn_element_bits(layer->input) / 2u;
            b += nn_element_bits(layer->second) / 2u;
            y += nn_element_bits(layer->output) / 2u;
        }
    }
#endif
    for (uint32_t i = 0; i < left; i++) {
        const int32_t products = nn_get(a, i, layer->input) * (int16_t)layer->multipliers +
                                 nn_get(b, i, layer->second) * (int16_t)(layer->multipliers >> 16);
        nn_put(y, i, layer->output, nn_clamp((products + layer->offset) >> layer->shift, layer->bits));
    }
}

#endif
