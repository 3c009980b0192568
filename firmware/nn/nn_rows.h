/* Rows of activations as 16-bit elements: the windows that kernels read. */
#ifndef NN_ROWS_H
#define NN_ROWS_H

#include "nn_base.h"

/* A row with its margins. input: the tensor, NULL for a row of padding only; first: its first element in it;
 * margin: elements of padding on either side. */
typedef struct {
    const void *input;
    nn_element element;
    uint32_t first, elements, margin;
    int32_t zero_point;
} nn_row_source;

/* `words` words from `source` down to `target`, which may overlap its beginning. */
NN_INLINE void nn_copy_words(nn_word *target, const nn_word *source, uint32_t words)
{
#if NN_DSP
    for (const nn_word *const end = source + words / 4u * 4u; source != end;) {
        __asm__("ldm %[source]!, {r2, r3, r4, r5}\n\t"
                "stm %[target]!, {r2, r3, r4, r5}"
                : [source] "+r"(source), [target] "+r"(target)
                :
                : "r2", "r3", "r4", "r5", "memory");
    }
    words %= 4u;
#endif
    for (; words; words--) {
        *target++ = *source++;
    }
}

NN_INLINE void nn_fill(int16_t *row, uint32_t elements, int32_t value)
{
    for (uint32_t i = 0; i < elements; i++) {
        row[i] = (int16_t)value;
    }
}

/* uint8_t elements into 16 bits each. Neither pointer need be aligned. */
NN_INLINE void nn_widen(const uint8_t *source, int16_t *row, uint32_t elements)
{
#if NN_DSP
    for (const uint8_t *const end = source + elements / 4u * 4u; source != end;) {
        __asm__("ldr r2, [%[source]], #4\n\t"
                "uxtb16 r3, r2\n\t"
                "uxtb16 r2, r2, ror #8\n\t"
                "pkhbt r4, r3, r2, lsl #16\n\t"
                "pkhtb r2, r2, r3, asr #16\n\t"
                "str r4, [%[row]], #4\n\t"
                "str r2, [%[row]], #4"
                : [source] "+r"(source), [row] "+r"(row)
                :
                : "r2", "r3", "r4", "memory");
    }
    elements %= 4u;
#endif
    for (; elements; elements--) {
        *row++ = *source++;
    }
}

/* Two rows of uint8_t elements, aligned or not, into words: one element of `first` below one of `second`. */
NN_INLINE void nn_zip_rows(const uint8_t *first, const uint8_t *second, nn_word *words, uint32_t elements)
{
#if NN_DSP
    for (const uint8_t *const end = first + elements / 4u * 4u; first != end;) {
        __asm__("ldr r12, [%[first]], #4\n\t"
                "ldr lr, [%[second]], #4\n\t"
                "uxtb16 r8, r12\n\t"
                "uxtb16 r9, r12, ror #8\n\t"
                "uxtb16 r10, lr\n\t"
                "uxtb16 r11, lr, ror #8\n\t"
                "pkhbt r12, r8, r10, lsl #16\n\t"
                "pkhtb r10, r10, r8, asr #16\n\t"
                "pkhbt r8, r9, r11, lsl #16\n\t"
                "pkhtb r11, r11, r9, asr #16\n\t"
                "strd r12, r8, [%[words]], #8\n\t"
                "strd r10, r11, [%[words]], #8"
                : [first] "+r"(first), [second] "+r"(second), [words] "+r"(words)
                :
                : "r8", "r9", "r10", "r11", "r12", "lr", "memory");
    }
    elements %= 4u;
#endif
    for (; elements; elements--) {
        *words++ = (uint32_t)*first++ | (uint32_t)*second++ << 16;
    }
}

/* The row into `row`, without its first `skip` elements (0 or 1). */
NN_INLINE void nn_fill_row(const nn_row_source *source, int16_t *row, uint32_t skip)
{
    if (!source->input) {
        nn_fill(row, 2u * source->margin + source->elements - skip, source->zero_point);
        return;
    }
    const uint32_t left = source->margin > skip ? source->margin - skip : 0u;
    const uint32_t lost = source->margin > 0u ? 0u : skip;
    nn_fill(row, left, source->zero_point);
    row += left;
    if (source->element == NN_U8) {
        nn_widen((const uint8_t *)source->input + source->first + lost, row, source->elements - lost);
    } else {
        const int16_t *const wide = (const int16_t *)source->input + source->first + lost;
        for (uint32_t i = 0; i < source->elements - lost; i++) {
            row[i] = wide[i];
        }
    }
    nn_fill(row + source->elements - lost, source->margin, source->zero_point);
}

#endif
