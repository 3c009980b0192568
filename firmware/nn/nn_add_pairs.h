/* The sum of two tensors of 8 bits on pairs of halves: one multiplication per element for both inputs.
 *
 * Optimal for cores with the DSP extension. y = clamp((a * M_a + b * M_b + offset) >> T, 0, 2^bits - 1), all in 32 bits:
 * the exporter proves that multipliers fit in 16 bits and the sum in 32; `offset` holds the rounding and all three zero
 * points. Four elements at a time; the output may lie over an input. No scratch.
 */
#ifndef NN_ADD_PAIRS_H
#define NN_ADD_PAIRS_H

#include "nn_base.h"

/* multipliers: M_a in the lower half, M_b in the upper one. shift: T, 1 to 31. */
typedef struct {
    uint32_t elements;
    uint32_t multipliers;
    int32_t offset;
    uint32_t shift, bits;
} nn_add_pairs_layer;

NN_INLINE void nn_add_pairs(const nn_add_pairs_layer *layer, const void *input, const void *second, void *output)
{
    const uint8_t *a = input, *b = second;
    uint8_t *y = output;
    uint32_t left = layer->elements;
#if NN_DSP
    const uint32_t multipliers = layer->multipliers;
    const int32_t offset = layer->offset;
    for (const uint8_t *const end = a + left / 4u * 4u; a != end;) {
        __asm__("ldr r2, [%[a]], #4\n\t"
                "ldr r3, [%[b]], #4\n\t"
                "pkhbt r4, r2, r3, lsl #16\n\t"
                "pkhtb r5, r3, r2, asr #16\n\t"
                "uxtb16 r2, r4\n\t"
                "uxtb16 r4, r4, ror #8\n\t"
                "uxtb16 r3, r5\n\t"
                "uxtb16 r5, r5, ror #8\n\t"
                "smlad r2, r2, %[multipliers], %[offset]\n\t"
                "smlad r4, r4, %[multipliers], %[offset]\n\t"
                "smlad r3, r3, %[multipliers], %[offset]\n\t"
                "smlad r5, r5, %[multipliers], %[offset]\n\t"
                "usat r2, %[bits], r2, asr %[shift]\n\t"
                "usat r4, %[bits], r4, asr %[shift]\n\t"
                "usat r3, %[bits], r3, asr %[shift]\n\t"
                "usat r5, %[bits], r5, asr %[shift]\n\t"
                "orr r2, r2, r4, lsl #8\n\t"
                "orr r3, r3, r5, lsl #8\n\t"
                "orr r2, r2, r3, lsl #16\n\t"
                "str r2, [%[y]], #4"
                : [a] "+r"(a), [b] "+r"(b), [y] "+r"(y)
                : [multipliers] "r"(multipliers), [offset] "r"(offset), [bits] "i"(layer->bits), [shift] "i"(layer->shift)
                : "r2", "r3", "r4", "r5", "cc", "memory");
    }
    left %= 4u;
#endif
    for (; left; left--) {
        const int32_t products = *a++ * (int16_t)layer->multipliers + *b++ * (int16_t)(layer->multipliers >> 16);
        *y++ = (uint8_t)nn_clamp((products + layer->offset) >> layer->shift, layer->bits);
    }
}

#endif
