/* What the kernels of sparse layers share: biases in the fewest bits, requantisation by one factor of 32 bits. */
#ifndef NN_SPARSE_H
#define NN_SPARSE_H

#include "nn_base.h"

/* A function that layers share; a network that has no use for it leaves it out. */
#define NN_SPARSE_SHARED static __attribute__((noinline, unused))

/* A word and a halfword at any address. */
typedef uint32_t __attribute__((aligned(1), may_alias)) nn_word_at;
typedef uint16_t __attribute__((aligned(1), may_alias)) nn_half_at;

/* The accumulators' way to the output, for kernels whose code serves several layers. multipliers: one per channel, or NULL
 * where `multiplier` serves all; the shift is 32. multiplier 0: accumulators are the output. bias: of the type that the
 * kernel's name says, in units of 2^bias_shift. */
typedef struct {
    const void *bias;
    const int32_t *multipliers;
    int32_t multiplier;
    uint8_t zero_point;
    uint8_t bias_shift;
} nn_sparse_finish;

/* The bias of channel `channel`; bias_bytes: 1, 2 or 4, a constant. */
NN_INLINE int32_t nn_sparse_bias(const nn_sparse_finish *finish, uint32_t channel, uint32_t bias_bytes)
{
    const int32_t bias = bias_bytes == 1   ? ((const int8_t *)finish->bias)[channel]
                         : bias_bytes == 2 ? ((const int16_t *)finish->bias)[channel]
                                           : ((const int32_t *)finish->bias)[channel];
    return (int32_t)((uint32_t)bias << finish->bias_shift);
}

/* clamp(zero_point + round(accumulator * multiplier / 2^32), 0, 255) */
NN_INLINE uint8_t nn_sparse_requantize(const nn_sparse_finish *finish, int32_t accumulator, uint32_t channel)
{
    const int32_t multiplier = finish->multipliers ? finish->multipliers[channel] : finish->multiplier;
#if NN_DSP
    int32_t rounded;
    __asm__("smmulr %0, %1, %2" : "=r"(rounded) : "r"(accumulator), "r"(multiplier));
    return (uint8_t)nn_saturate(rounded + finish->zero_point, 8);
#else
    const int64_t rounded = ((int64_t)accumulator * multiplier + ((int64_t)1 << 31)) >> 32;
    return (uint8_t)nn_clamp(rounded + finish->zero_point, 8);
#endif
}

#endif
