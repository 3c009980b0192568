/* Words as two halves or four bytes, computed side by side: what kernels share of the DSP extension, and in plain C. */
#ifndef NN_HALVES_H
#define NN_HALVES_H

#include "nn_base.h"

NN_INLINE uint32_t nn_halves_add(uint32_t a, uint32_t b)
{
#if NN_DSP
    return (uint32_t)__sadd16((int16x2_t)a, (int16x2_t)b);
#else
    return ((a + b) & 0xFFFFu) | ((a & 0xFFFF0000u) + (b & 0xFFFF0000u));
#endif
}

NN_INLINE uint32_t nn_halves_subtract(uint32_t a, uint32_t b)
{
#if NN_DSP
    return (uint32_t)__ssub16((int16x2_t)a, (int16x2_t)b);
#else
    return ((a - b) & 0xFFFFu) | ((a & 0xFFFF0000u) - (b & 0xFFFF0000u));
#endif
}

/* Bytes 0 and 2 (odd: 1 and 3) as halves; with their sign, or not. */
NN_INLINE uint32_t nn_halves_of(uint32_t bytes, bool odd, bool is_signed)
{
#if NN_DSP
    uint32_t halves;
    if (odd && is_signed) {
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(bytes));
    } else if (odd) {
        __asm__("uxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(bytes));
    } else if (is_signed) {
        __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(bytes));
    } else {
        __asm__("uxtb16 %0, %1" : "=r"(halves) : "r"(bytes));
    }
    return halves;
#else
    const uint32_t shifted = odd ? bytes >> 8 : bytes;
    if (!is_signed) {
        return shifted & 0x00FF00FFu;
    }
    return ((uint32_t)(int8_t)shifted & 0xFFFFu) | (uint32_t)(int8_t)(shifted >> 16) << 16;
#endif
}

/* halves + nn_halves_of(bytes, odd, false). */
NN_INLINE uint32_t nn_halves_add_bytes(uint32_t halves, uint32_t bytes, bool odd)
{
#if NN_DSP
    if (odd) {
        __asm__("uxtab16 %0, %0, %1, ror #8" : "+r"(halves) : "r"(bytes));
    } else {
        __asm__("uxtab16 %0, %0, %1" : "+r"(halves) : "r"(bytes));
    }
    return halves;
#else
    return nn_halves_add(halves, nn_halves_of(bytes, odd, false));
#endif
}

/* (factor * the lower or upper half, with its sign, >> 16) + addend, in 32 bits that it fits in. */
NN_INLINE int32_t nn_halves_scale(int32_t factor, uint32_t halves, bool upper, int32_t addend)
{
#if NN_DSP
    int32_t result;
    if (upper) {
        __asm__("smlawt %0, %1, %2, %3" : "=r"(result) : "r"(factor), "r"(halves), "r"(addend));
    } else {
        __asm__("smlawb %0, %1, %2, %3" : "=r"(result) : "r"(factor), "r"(halves), "r"(addend));
    }
    return result;
#else
    return (int32_t)(((int64_t)factor * (int16_t)(halves >> (upper ? 16 : 0))) >> 16) + addend;
#endif
}

/* Two numbers of 16 bits as halves, clamped to `bits` bits without sign. */
NN_INLINE uint32_t nn_halves_saturate(uint32_t halves, uint32_t bits)
{
#if NN_DSP
    __asm__("usat16 %0, %1, %0" : "+r"(halves) : "i"(bits) : "cc");
    return halves;
#else
    return (uint32_t)nn_clamp((int16_t)halves, bits) | (uint32_t)nn_clamp((int16_t)(halves >> 16), bits) << 16;
#endif
}

/* The upper halves of two words, clamped to `bits` bits without sign: that of `low` in the lower half. */
NN_INLINE uint32_t nn_halves_saturate_tops(int32_t low, int32_t high, uint32_t bits)
{
#if NN_DSP
    uint32_t tops;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(tops) : "r"(high), "r"(low));
    __asm__("usat16 %0, %1, %0" : "+r"(tops) : "i"(bits) : "cc");
    return tops;
#else
    return (uint32_t)nn_clamp(low >> 16, bits) | (uint32_t)nn_clamp(high >> 16, bits) << 16;
#endif
}

/* Products of halves: of two words at r0 with four at r1, `count` times, both moved behind them. What they add up to, with
 * the first word in r6 to r9, with the second in r10, r11, r12 and lr. Changes r2 to r5. `dual`, an operand of the
 * assembly: for cores that issue two instructions at once, but LDRD alone. */
#if NN_DSP
#define NN_HALVES_PRODUCTS(count)                          \
    ".if %c[dual]\n\t"                                     \
    "ldr r2, [r0]\n\t"                                     \
    "ldr r4, [r1]\n\t"                                     \
    ".set nn_halves_word, 0\n\t"                           \
    ".rept " count "\n\t"                                  \
    "ldr r3, [r0, #(8 * nn_halves_word + 4)]\n\t"          \
    "smlad r6, r2, r4, r6\n\t"                             \
    "ldr r5, [r1, #(16 * nn_halves_word + 4)]\n\t"         \
    "smlad r10, r3, r4, r10\n\t"                           \
    "smlad r7, r2, r5, r7\n\t"                             \
    "ldr r4, [r1, #(16 * nn_halves_word + 8)]\n\t"         \
    "smlad r11, r3, r5, r11\n\t"                           \
    "ldr r5, [r1, #(16 * nn_halves_word + 12)]\n\t"        \
    "smlad r8, r2, r4, r8\n\t"                             \
    "smlad r9, r2, r5, r9\n\t"                             \
    ".set nn_halves_word, nn_halves_word + 1\n\t"          \
    ".if nn_halves_word < " count "\n\t"                   \
    "ldr r2, [r0, #(8 * nn_halves_word)]\n\t"              \
    ".endif\n\t"                                           \
    "smlad r12, r3, r4, r12\n\t"                           \
    ".if nn_halves_word < " count "\n\t"                   \
    "ldr r4, [r1, #(16 * nn_halves_word)]\n\t"             \
    ".endif\n\t"                                           \
    "smlad lr, r3, r5, lr\n\t"                             \
    ".endr\n\t"                                            \
    "add r1, r1, #(16 * " count ")\n\t"                    \
    "add r0, r0, #(8 * " count ")\n\t"                     \
    ".else\n\t"                                            \
    ".rept " count "\n\t"                                  \
    "ldrd r2, r3, [r0], #8\n\t"                            \
    "ldrd r4, r5, [r1], #8\n\t"                            \
    "smlad r6, r2, r4, r6\n\t"                             \
    "smlad r10, r3, r4, r10\n\t"                           \
    "smlad r7, r2, r5, r7\n\t"                             \
    "smlad r11, r3, r5, r11\n\t"                           \
    "ldrd r4, r5, [r1], #8\n\t"                            \
    "smlad r8, r2, r4, r8\n\t"                             \
    "smlad r12, r3, r4, r12\n\t"                           \
    "smlad r9, r2, r5, r9\n\t"                             \
    "smlad lr, r3, r5, lr\n\t"                             \
    ".endr\n\t"                                            \
    ".endif\n\t"
#else
NN_INLINE void nn_halves_products(const nn_word *x, const nn_word *y, uint32_t *sums)
{
    for (uint32_t i = 0; i < 8u; i++) {
        const uint32_t a = x[i / 4u], b = y[i % 4u];
        sums[i] += (uint32_t)((int16_t)a * (int16_t)b);
        sums[i] += (uint32_t)((int16_t)(a >> 16) * (int16_t)(b >> 16));
    }
}
#endif

/* Bytes without sign, clamped to `bits` bits. */
NN_INLINE uint32_t nn_bytes_clamp(uint32_t bytes, uint32_t bits)
{
    const uint32_t above = (0x100u - (1u << bits)) * 0x01010101u;
    if (bits == 8u) {
        return bytes;
    }
#if NN_DSP
    return (uint32_t)__uqsub8(__uqadd8((uint8x4_t)bytes, (uint8x4_t)above), (uint8x4_t)above);
#else
    uint32_t clamped = 0;
    for (uint32_t shift = 0; shift < 32u; shift += 8u) {
        clamped |= (uint32_t)nn_clamp(bytes >> shift & 0xFFu, bits) << shift;
    }
    (void)above;
    return clamped;
#endif
}

/* The larger of each two bytes without sign. */
NN_INLINE uint32_t nn_bytes_max(uint32_t a, uint32_t b)
{
#if NN_DSP
    uint32_t difference;
    __asm__("usub8 %[difference], %[a], %[b]\n\t"
            "sel %[a], %[a], %[b]"
            : [a] "+r"(a), [difference] "=&r"(difference)
            : [b] "r"(b)
            : "cc");
    return a;
#else
    uint32_t largest = 0;
    for (uint32_t mask = 0xFFu; mask; mask <<= 8) {
        largest |= (a & mask) > (b & mask) ? a & mask : b & mask;
    }
    return largest;
#endif
}

#endif
