/* Inner products of 16-bit pairs: two filters at two positions at once, and how 8-bit weights become such pairs.
 *
 * A tile holds the weights of two filters, row by row of the kernel, as words of two int16_t. In a row, two words of
 * filter 0 alternate with two words of filter 1; when a row has an odd number of words, its last one of each filter
 * comes at its end: 0 0 1 1  0 0 1 1  0 1. In flash each word has four int8_t weights, which make two words of the
 * tile: bytes 0 and 2 the first, bytes 1 and 3 the second.
 *
 * The assembly exists for LDM and LDRD, which GCC does not form here: 11 instructions for 16 multiplications.
 */
#ifndef NN_DOT_H
#define NN_DOT_H

#include "nn_base.h"

/* `words` packed words of weights (an even number) into the 2 * words words of `tile`. */
NN_INLINE void nn_unpack_s8(const uint32_t *packed, nn_word *tile, uint32_t words)
{
    const uint32_t *const end = packed + words;
#if NN_DSP
    do {
        __asm__("ldrd r12, lr, [%[packed]], #8\n\t"
                "sxtb16 r8, r12\n\t"
                "sxtb16 r9, r12, ror #8\n\t"
                "sxtb16 r10, lr\n\t"
                "sxtb16 r11, lr, ror #8\n\t"
                "stm %[tile]!, {r8, r9, r10, r11}"
                : [packed] "+r"(packed), [tile] "+r"(tile)
                :
                : "r8", "r9", "r10", "r11", "r12", "lr", "memory");
    } while (packed != end);
#else
    do {
        for (uint32_t shift = 0; shift <= 8; shift += 8) {
            const uint32_t low = (uint16_t)(int8_t)(*packed >> shift);
            const uint32_t high = (uint16_t)(int8_t)(*packed >> (shift + 16));
            *tile++ = low | high << 16;
        }
    } while (++packed != end);
#endif
}

#if NN_DSP
/* Two words of each filter; emitted when a row has at least `n` words. */
#define NN_DOT_TWO_WORDS(n)                                 \
    ".if %c[words] >= " #n "\n\t"                           \
    "ldm %[w]!, {r8, r9, r10, r11}\n\t"                     \
    "ldrd r12, lr, [%[x], #%c[next]]\n\t"                   \
    "smlad %[a01], r8, r12, %[a01]\n\t"                     \
    "smlad %[a11], r10, r12, %[a11]\n\t"                    \
    "smlad %[a01], r9, lr, %[a01]\n\t"                      \
    "smlad %[a11], r11, lr, %[a11]\n\t"                     \
    "ldrd r12, lr, [%[x]], #8\n\t"                          \
    "smlad %[a00], r8, r12, %[a00]\n\t"                     \
    "smlad %[a10], r10, r12, %[a10]\n\t"                    \
    "smlad %[a00], r9, lr, %[a00]\n\t"                      \
    "smlad %[a10], r11, lr, %[a10]\n\t"                     \
    ".endif\n\t"

/* The last word of each filter in a row with an odd number of words. */
#define NN_DOT_LAST_WORD                                    \
    ".if %c[words] & 1\n\t"                                 \
    "ldrd r8, r10, [%[w]], #8\n\t"                          \
    "ldr lr, [%[x], #%c[next]]\n\t"                         \
    "ldr r12, [%[x]], #4\n\t"                               \
    "smlad %[a00], r8, r12, %[a00]\n\t"                     \
    "smlad %[a10], r10, r12, %[a10]\n\t"                    \
    "smlad %[a01], r8, lr, %[a01]\n\t"                      \
    "smlad %[a11], r10, lr, %[a11]\n\t"                     \
    ".endif\n\t"

#define NN_DOT_STRAIGHT_ROW                                 \
    NN_DOT_TWO_WORDS(2) NN_DOT_TWO_WORDS(4) NN_DOT_TWO_WORDS(6) NN_DOT_TWO_WORDS(8) NN_DOT_TWO_WORDS(10)    \
    NN_DOT_TWO_WORDS(12) NN_DOT_TWO_WORDS(14) NN_DOT_TWO_WORDS(16) NN_DOT_LAST_WORD

/* What the assembly reads and writes: twelve registers. GCC wants low ones for values that it keeps on the stack, so
 * that the high ones are those named here; with more of either, it may not find enough. */
#define NN_DOT_OPERANDS [w] "+r"(w), [x] "+r"(x), [a00] "+r"(a00), [a01] "+r"(a01), [a10] "+r"(a10), [a11] "+r"(a11)
#define NN_DOT_CLOBBERS "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory"

/* GCC judges the length of assembly by its lines; blocks that the assembler repeats need some more. */
#define NN_LINES_8 "\n\n\n\n\n\n\n\n"
#define NN_LINES_64 NN_LINES_8 NN_LINES_8 NN_LINES_8 NN_LINES_8 NN_LINES_8 NN_LINES_8 NN_LINES_8 NN_LINES_8

/* A row of up to 17 words is a straight line, and so are all rows of a kernel of up to 24 words. Longer rows loop over
 * blocks of eight words. */
enum { NN_DOT_STRAIGHT = 17, NN_DOT_UNROLLED = 24, NN_DOT_BLOCK = 8 };
#endif

/* Adds to sums[filter][position] the products of `rows` rows of `words` words: those of the tile at `w` with those
 * at `x` (position 0) and `next` bytes further (position 1; at most 1020). Both are word-aligned; a row's next one
 * is `pitch` bytes further, at most 4095 from its end. Sums wrap at 32 bits. */
NN_INLINE void nn_dot_2x2(const nn_word *w, const nn_word *x, uint32_t next, uint32_t rows, uint32_t words,
                          uint32_t pitch, int32_t sums[2][2])
{
#if NN_DSP
    int32_t a00 = sums[0][0], a01 = sums[0][1], a10 = sums[1][0], a11 = sums[1][1];
    const uint32_t skip = pitch - 4u * words;
    if (rows * words <= NN_DOT_UNROLLED && words <= NN_DOT_STRAIGHT) {
        __asm__(".rept %c[rows]\n\t" NN_DOT_STRAIGHT_ROW ".if %c[rows] > 1\n\t"
                                                         "addw %[x], %[x], %[skip]\n\t"
                                                         ".endif\n\t"
                                                         ".endr" NN_LINES_64
                : NN_DOT_OPERANDS
                : [rows] "i"(rows), [words] "i"(words), [next] "i"(next), [skip] "i"(skip)
                : NN_DOT_CLOBBERS);
    } else if (words <= NN_DOT_STRAIGHT) {
        for (uint32_t row = 0; row < rows; row++) {
            __asm__(NN_DOT_STRAIGHT_ROW "addw %[x], %[x], %[skip]"
                    : NN_DOT_OPERANDS
                    : [words] "i"(words), [next] "i"(next), [skip] "i"(skip)
                    : NN_DOT_CLOBBERS);
        }
    } else {
        for (uint32_t row = 0; row < rows; row++) {
            const nn_word *const end = x + words / NN_DOT_BLOCK * NN_DOT_BLOCK;
            __asm__("1:\n\t" NN_DOT_TWO_WORDS(0) NN_DOT_TWO_WORDS(0) NN_DOT_TWO_WORDS(0) NN_DOT_TWO_WORDS(0)
                    "ldr r8, %[end]\n\t"
                    "cmp %[x], r8\n\t"
                    "bne 1b\n\t" NN_DOT_TWO_WORDS(2) NN_DOT_TWO_WORDS(4) NN_DOT_TWO_WORDS(6) NN_DOT_LAST_WORD
                    "addw %[x], %[x], %[skip]"
                    : NN_DOT_OPERANDS
                    : [end] "m"(end), [words] "i"(words % NN_DOT_BLOCK), [next] "i"(next), [skip] "i"(skip)
                    : NN_DOT_CLOBBERS);
        }
    }
    sums[0][0] = a00;
    sums[0][1] = a01;
    sums[1][0] = a10;
    sums[1][1] = a11;
#else
    for (uint32_t row = 0; row < rows; row++) {
        const int16_t *const first = (const int16_t *)(const void *)((uintptr_t)x + row * pitch);
        const int16_t *const second = (const int16_t *)(const void *)((uintptr_t)first + next);
        const int16_t *weights = (const int16_t *)(const void *)w;
        for (uint32_t i = 0; i < 2u * words;) {
            const uint32_t step = i + 4u <= 2u * words ? 4u : 2u;
            for (uint32_t k = 0; k < step; k++, i++) {
                sums[0][0] += weights[k] * first[i];
                sums[0][1] += weights[k] * second[i];
                sums[1][0] += weights[step + k] * first[i];
                sums[1][1] += weights[step + k] * second[i];
            }
            weights += 2u * step;
        }
        w += 2u * words;
    }
#endif
}

#endif
