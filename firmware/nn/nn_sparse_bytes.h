/* The fully connected layer as a stream of bytes: one byte and five instructions for each nonzero weight.
 *
 * A row begins with its number of entries. An entry has the distance to its column from the one before it (the first:
 * from the row's beginning) in its high bits, and the weight in its low ones. What does not fit is split: a long
 * distance takes entries of weight 0, a large weight several entries at distance 0. Code is shared by layers of the
 * same split. Optimal for cores with the DSP extension.
 */
#ifndef NN_SPARSE_BYTES_H
#define NN_SPARSE_BYTES_H

#include "nn_sparse.h"

/* outputs: rows. */
typedef struct {
    const uint8_t *stream;
    nn_sparse_finish finish;
    uint32_t outputs;
} nn_sparse_bytes_layer;

#if NN_DSP
#define NN_SPARSE_BYTES_ENTRY                                    \
    "ldrb %[weight], [%[entry]], #1\n\t"                         \
    "add %[x], %[x], %[weight], lsr %[bits]\n\t"                 \
    "sbfx %[weight], %[weight], #0, %[bits]\n\t"                 \
    "ldrb %[count], [%[x]]\n\t"                                  \
    "mla %[total], %[weight], %[count], %[total]\n"
#endif

/* Adds `count` entries to *sum; weight_bits: of an entry, a constant. Returns the end of the entries. */
NN_INLINE const uint8_t *nn_sparse_bytes_row(const uint8_t *x, const uint8_t *entry, uint32_t count,
                                             uint32_t weight_bits, int32_t *sum)
{
#if NN_DSP
    /* Four entries at a time, behind what is left of such a number. The count's register is free then. */
    uint32_t rounds, weight;
    int32_t total = *sum;
    __asm__("lsrs %[rounds], %[count], #1\n\t"
            "bcc 1f\n\t" NN_SPARSE_BYTES_ENTRY
            "1:\n\t"
            "lsrs %[rounds], %[rounds], #1\n\t"
            "bcc 2f\n\t" NN_SPARSE_BYTES_ENTRY "\t" NN_SPARSE_BYTES_ENTRY
            "2:\n\t"
            "beq 4f\n"
            "3:\n\t" NN_SPARSE_BYTES_ENTRY "\t" NN_SPARSE_BYTES_ENTRY "\t" NN_SPARSE_BYTES_ENTRY
            "\t" NN_SPARSE_BYTES_ENTRY "\t"
            "subs %[rounds], %[rounds], #1\n\t"
            "bne 3b\n"
            "4:"
            : [x] "+&r"(x), [entry] "+&r"(entry), [rounds] "=&r"(rounds), [total] "+&r"(total), [weight] "=&r"(weight),
              [count] "+&r"(count)
            : [bits] "i"(weight_bits)
            : "cc", "memory");
    *sum = total;
    return entry;
#else
    for (; count; count--, entry++) {
        const int32_t weight = *entry & ((1 << weight_bits) - 1);
        x += *entry >> weight_bits;
        *sum += *x * (weight - ((weight >> (weight_bits - 1u)) << weight_bits));
    }
    return entry;
#endif
}

/* weight_bits, kind: constants of the function that this is inlined into. */
NN_INLINE void nn_sparse_bytes_linear(const nn_sparse_bytes_layer *layer, const void *input, void *output,
                                      uint32_t weight_bits, nn_sparse_kind kind)
{
    /* Copies: a store of an output might change what is behind a pointer. */
    const nn_sparse_finish finish = layer->finish;
    const uint8_t *next = layer->stream;
    uint8_t *out = output;
    uint32_t row = 0, left = layer->outputs;
    do {
        int32_t sum = nn_sparse_bias(&finish, kind, row);
        next = nn_sparse_bytes_row(input, next + 1, *next, weight_bits, &sum);
        out = nn_sparse_store_row(&finish, kind, sum, row++, out);
    } while (--left);
}

#endif
