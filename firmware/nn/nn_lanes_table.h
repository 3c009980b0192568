/* Lane-packed convolution (nn_lanes.h) whose weights are a table: two bytes and 14 instructions for each weight and
 * unit of eight multiplications.
 *
 * An entry has the weight in its highest bits, then a bit that marks the filter's last entry, then the offset in bytes
 * from the kernel's corner. A filter without weights has one entry of weight 0. Larger weights take several entries.
 * Optimal for cores with the DSP extension.
 */
#ifndef NN_LANES_TABLE_H
#define NN_LANES_TABLE_H

#include "nn_lanes.h"

/* The lanes of one filter in `units` units along a row, into `sums`; offset_bits: of an entry, without the mark.
 * Returns the entry behind the filter's last one. */
#if NN_DSP
#define NN_LANES_FILTER(offset_bits)                                                                                  \
    __attribute__((naked, noinline, unused)) static const uint16_t *nn_lanes_filter_##offset_bits(                    \
        const uint16_t *entries __attribute__((unused)), const uint8_t *pixels __attribute__((unused)),               \
        uint32_t pitch __attribute__((unused)), uint32_t *sums __attribute__((unused)),                               \
        uint32_t units __attribute__((unused)))                                                                       \
    {                                                                                                                 \
        __asm__("push {r0, r4-r11, lr}\n\t"                                                                           \
                "ldr lr, [sp, #40]\n\t"                                                                               \
                "add r2, r1, r2\n\t" /* the second row */                                                             \
                "1:\n\t"                                                                                              \
                "ldr r0, [sp]\n\t"                                                                                    \
                "mov r4, #0x80008000\n\t"                                                                             \
                "mov r5, r4\n\t"                                                                                      \
                "mov r6, r4\n\t"                                                                                      \
                "mov r7, r4\n\t"                                                                                      \
                "2:\n\t"                                                                                              \
                "ldrsh r8, [r0], #2\n\t"                                                                              \
                "asrs r9, r8, #" #offset_bits " + 1\n\t" /* the carry is the mark */                                  \
                "ubfx r8, r8, #0, #" #offset_bits "\n\t"                                                              \
                "ldr r10, [r1, r8]\n\t"                                                                               \
                "ldr r11, [r2, r8]\n\t"                                                                               \
                "uxtb16 r12, r10\n\t"                                                                                 \
                "mla r4, r12, r9, r4\n\t"                                                                             \
                "uxtb16 r10, r10, ror #8\n\t"                                                                         \
                "mla r5, r10, r9, r5\n\t"                                                                             \
                "uxtb16 r12, r11\n\t"                                                                                 \
                "mla r6, r12, r9, r6\n\t"                                                                             \
                "uxtb16 r11, r11, ror #8\n\t"                                                                         \
                "mla r7, r11, r9, r7\n\t"                                                                             \
                "bcc 2b\n\t"                                                                                          \
                "usub16 r8, r4, r5\n\t"                                                                               \
                "sel r4, r4, r5\n\t"                                                                                  \
                "usub16 r8, r6, r7\n\t"                                                                               \
                "sel r6, r6, r7\n\t"                                                                                  \
                "usub16 r8, r4, r6\n\t"                                                                               \
                "sel r4, r4, r6\n\t"                                                                                  \
                "stm r3!, {r4}\n\t"                                                                                   \
                "adds r1, #4\n\t"                                                                                     \
                "adds r2, #4\n\t"                                                                                     \
                "subs lr, #1\n\t"                                                                                     \
                "bne 1b\n\t"                                                                                          \
                "pop {r1, r4-r11, pc}");                                                                              \
    }
#else
#define NN_LANES_FILTER(offset_bits)                                                                                  \
    __attribute__((unused)) static const uint16_t *nn_lanes_filter_##offset_bits(                                     \
        const uint16_t *entries, const uint8_t *pixels, uint32_t pitch, uint32_t *sums, uint32_t units)               \
    {                                                                                                                 \
        const uint16_t *next = entries;                                                                               \
        for (uint32_t unit = 0; unit < units; unit++, pixels += 4) {                                                  \
            uint32_t lanes[4] = {NN_LANES_START, NN_LANES_START, NN_LANES_START, NN_LANES_START};                     \
            bool last = false;                                                                                        \
            for (next = entries; !last; next++) {                                                                     \
                const uint32_t sign = *next & 0x8000u ? ~0u << (15 - offset_bits) : 0u;                               \
                const uint32_t weight = sign | *next >> (offset_bits + 1);                                            \
                const uint8_t *const p = pixels + (*next & ((1u << offset_bits) - 1u));                               \
                for (uint32_t i = 0; i < 4; i++) {                                                                    \
                    lanes[i] += weight * nn_lanes_even(p + i / 2u * pitch + i % 2u);                                  \
                }                                                                                                     \
                last = *next >> offset_bits & 1u;                                                                     \
            }                                                                                                         \
            sums[unit] = nn_lanes_max(nn_lanes_max(lanes[0], lanes[1]), nn_lanes_max(lanes[2], lanes[3]));            \
        }                                                                                                             \
        return next;                                                                                                  \
    }
#endif

NN_LANES_FILTER(11)
NN_LANES_FILTER(12)

/* Computes the lanes of one filter. */
typedef const uint16_t *(*nn_lanes_filter)(const uint16_t *entries, const uint8_t *pixels, uint32_t pitch,
                                           uint32_t *sums, uint32_t units);

NN_INLINE void nn_lanes_table_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums,
                                  nn_lanes_filter multiply)
{
    const uint16_t *entries = filters->weights;
    uint32_t left = filters->filters;
    do {
        entries = multiply(entries, rows, filters->pitch, sums, filters->units);
        sums += filters->units;
    } while (--left);
}

#endif
