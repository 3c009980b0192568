/* What the kernels of sparse layers share: biases in the fewest bits, requantisation by one factor of 32 bits. */
#ifndef NN_SPARSE_H
#define NN_SPARSE_H

#include "nn_base.h"

/* A function that layers share; a network that has no use for it leaves it out. */
#define NN_SPARSE_SHARED static __attribute__((noinline, unused))

/* A word and a halfword at any address. */
typedef uint32_t __attribute__((aligned(1), may_alias)) nn_word_at;
typedef uint16_t __attribute__((aligned(1), may_alias)) nn_half_at;

/* The accumulators' way to the output, for functions that serve several layers. multipliers: one, or one per channel;
 * the shift is 32; NULL: accumulators are the output. bias: in units of 2^bias_shift. */
typedef struct {
    const void *bias;
    const int32_t *multipliers;
    uint8_t zero_point;
    uint8_t bias_shift;
} nn_sparse_finish;

/* What all layers that share a function have in common. bias_bytes: of each bias, 1, 2 or 4; per_channel: each channel
 * has its multiplier; offset: zero points are not 0. */
typedef struct {
    uint32_t bias_bytes;
    bool per_channel, offset;
} nn_sparse_kind;

/* The bias of channel `channel`. */
NN_INLINE int32_t nn_sparse_bias(const nn_sparse_finish *finish, nn_sparse_kind kind, uint32_t channel)
{
    const int32_t bias = kind.bias_bytes == 1   ? ((const int8_t *)finish->bias)[channel]
                         : kind.bias_bytes == 2 ? ((const int16_t *)finish->bias)[channel]
                                                : ((const int32_t *)finish->bias)[channel];
    return (int32_t)((uint32_t)bias << finish->bias_shift);
}

NN_INLINE int32_t nn_sparse_multiplier(const nn_sparse_finish *finish, nn_sparse_kind kind, uint32_t channel)
{
    return finish->multipliers[kind.per_channel ? channel : 0u];
}

/* clamp(zero_point + round(accumulator * multiplier / 2^32), 0, 255) */
NN_INLINE uint8_t nn_sparse_requantize(const nn_sparse_finish *finish, nn_sparse_kind kind, int32_t accumulator,
                                       int32_t multiplier)
{
    const int32_t zero_point = kind.offset ? finish->zero_point : 0;
#if NN_DSP
    return (uint8_t)nn_saturate(nn_scaled(accumulator, multiplier) + zero_point, 8);
#else
    const int64_t rounded = ((int64_t)accumulator * multiplier + ((int64_t)1 << 31)) >> 32;
    return (uint8_t)nn_clamp(rounded + zero_point, 8);
#endif
}

/* Row `row` of a fully connected layer into the output; returns where the next one goes. */
NN_INLINE uint8_t *nn_sparse_store_row(const nn_sparse_finish *finish, nn_sparse_kind kind, int32_t sum, uint32_t row,
                                       uint8_t *output)
{
    if (finish->multipliers) {
        *output = nn_sparse_requantize(finish, kind, sum, nn_sparse_multiplier(finish, kind, row));
        return output + 1;
    }
    *(int32_t *)(void *)output = sum;
    return output + 4;
}

#endif
