/* The fully connected layer with its weights as a stream of bits (nn_rice.h): the smallest form, at some twenty
 * instructions for each nonzero weight. Code is shared by all layers. Optimal for: flash that is scarce.
 */
#ifndef NN_SPARSE_RICE_H
#define NN_SPARSE_RICE_H

#include "nn_rice.h"

/* The stream ends in a gap beyond the last row. */
typedef struct {
    nn_rice rice;
    nn_sparse_finish finish;
    uint32_t inputs, outputs;
} nn_sparse_rice_layer;

#if NN_DSP
/* The symbols of one row, from the one at hand (its element at *at, its weight) to the first one beyond `end`.
 * Assembly, because GCC runs out of registers. */
NN_INLINE int32_t nn_sparse_rice_row(const nn_rice *rice, const uint8_t **at, const uint8_t *end, uint32_t *position,
                                     int32_t *weight, int32_t sum)
{
    const uint32_t unit = 1u << rice->k, mask = 2u * unit - 1u, skip = rice->k + 1u;
    uint32_t word, quotient, rest;
    __asm__("b 2f\n"
            "1:\n\t"
            "ldrb %[quotient], [%[at]], #1\n\t"
            "mla %[sum], %[weight], %[quotient], %[sum]\n\t"
            "lsr %[rest], %[position], #3\n\t"
            "ldr %[word], [%[bits], %[rest]]\n\t"
            "and %[rest], %[position], #7\n\t"
            "lsr %[word], %[word], %[rest]\n\t"
            "rbit %[quotient], %[word]\n\t"
            "clz %[quotient], %[quotient]\n\t"
            "add %[position], %[position], %[quotient]\n\t"
            "lsr %[word], %[word], %[quotient]\n\t" /* the lowest bit is the quotient's end */
            "mla %[at], %[quotient], %[unit], %[at]\n\t"
            "and %[rest], %[word], %[mask]\n\t"
            "add %[at], %[at], %[rest], lsr #1\n\t"
            "lsr %[word], %[word], %[skip]\n\t"
            "and %[word], %[word], #15\n\t"
            "ldrsb %[word], [%[codes], %[word]]\n\t"
            "and %[rest], %[word], #15\n\t"
            "add %[position], %[position], %[rest]\n\t"
            "asr %[weight], %[word], #4\n"
            "2:\n\t"
            "cmp %[at], %[end]\n\t"
            "blo 1b"
            : [at] "+&r"(*at), [position] "+&r"(*position), [weight] "+&r"(*weight), [sum] "+&r"(sum), [word] "=&r"(word),
              [quotient] "=&r"(quotient), [rest] "=&r"(rest)
            : [end] "r"(end), [bits] "r"(rice->bits), [codes] "r"(rice->codes), [unit] "r"(unit), [mask] "r"(mask),
              [skip] "r"(skip)
            : "cc", "memory");
    return sum;
}
#else
NN_INLINE int32_t nn_sparse_rice_row(const nn_rice *rice, const uint8_t **at, const uint8_t *end, uint32_t *position,
                                     int32_t *weight, int32_t sum)
{
    while ((uintptr_t)*at < (uintptr_t)end) {
        sum += *weight * **at;
        *at = (const uint8_t *)((uintptr_t)*at + 1u + nn_rice_read(rice, position, weight));
    }
    return sum;
}
#endif

/* kind: constants of the function that this is inlined into. */
NN_INLINE void nn_sparse_rice_linear(const nn_sparse_rice_layer *layer, const void *input, void *output,
                                     nn_sparse_kind kind)
{
    const uint8_t *const end = (const uint8_t *)input + layer->inputs;
    uint8_t *out = output;
    uint32_t position = 0;
    int32_t weight;
    const uint8_t *at = (const uint8_t *)((uintptr_t)input + nn_rice_read(&layer->rice, &position, &weight));
    for (uint32_t row = 0; row < layer->outputs; row++) {
        int32_t sum = nn_sparse_bias(&layer->finish, kind, row);
        sum = nn_sparse_rice_row(&layer->rice, &at, end, &position, &weight, sum);
        at = (const uint8_t *)((uintptr_t)at - layer->inputs);
        out = nn_sparse_store_row(&layer->finish, kind, sum, row, out);
    }
}

#endif
