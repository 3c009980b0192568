/* Convolution of floats: groups of up to eight filters at two neighbouring positions, sums in registers.
 *
 * Optimal for Cortex-M4F and M7: one load of several registers feeds up to 32 multiplications. Multiplications and
 * additions round separately (VMLA, not VFMA) and each sum is taken in the order bias, then row, column, channel: the
 * portable path gives the same bits. Weights: for each group its biases, then for each tap (row, column, channel) one
 * weight of each filter. Taps that fall into padding are left out; the padding is narrower than the kernel. No scratch.
 */
#ifndef NN_CONV2D_F32_GROUPS_H
#define NN_CONV2D_F32_GROUPS_H

#include "nn_conv2d.h"

/* group: filters of one group. The last group may have places without a filter, whose sums are not stored. */
typedef struct {
    nn_conv2d_shape shape;
    uint32_t group;
    const float *weights;
} nn_conv2d_f32_groups_layer;

enum { NN_GROUP = 8 };

/* Kernels of so many taps take two at a time, which saves one instruction in eleven and costs 72 bytes of flash. */
enum { NN_F32_LARGE = 256 };

/* What one block of multiplications reads. first, second: of the two positions' input. skip: from the end of a row of
 * taps to the next row, in bytes. */
typedef struct {
    const float *first, *second, *weights;
    uint32_t rows, taps, input_skip, weight_skip;
} nn_conv2d_f32_block;

/* sums[0][f], sums[1][f] = bias[f] + all products, for `group` filters at the two positions. step: taps at a time, 1 or
 * 2. padded: whether weight_skip may be other than 0. */
NN_INLINE void nn_conv2d_f32_multiply(nn_conv2d_f32_block b, const float *bias, uint32_t group, uint32_t step,
                                      bool padded, float (*sums)[NN_GROUP])
{
#if NN_FPU
#define NN_F32_FILTER(f, first, second, sum1, sum2, weight) \
    ".if %c[group] > " #f "\n\t"                            \
    "vmla.f32 " sum1 ", " first ", " weight "\n\t"          \
    "vmla.f32 " sum2 ", " second ", " weight "\n\t"         \
    ".endif\n\t"
/* A transfer of the group's registers, which are `first` to the operand `last`. */
#define NN_F32_GROUP(transfer, first, last)                 \
    ".if %c[group] > 1\n\t" transfer ", {" first "-s%c[" last "]}\n\t.else\n\t" transfer ", {" first "}\n\t.endif\n\t"
#define NN_F32_TAP(first, second)                           \
    NN_F32_GROUP("vldmia %[weights]!", "s20", "last_weight") \
    NN_F32_FILTER(0, first, second, "s0", "s8", "s20")      \
    NN_F32_FILTER(1, first, second, "s1", "s9", "s21")      \
    NN_F32_FILTER(2, first, second, "s2", "s10", "s22")     \
    NN_F32_FILTER(3, first, second, "s3", "s11", "s23")     \
    NN_F32_FILTER(4, first, second, "s4", "s12", "s24")     \
    NN_F32_FILTER(5, first, second, "s5", "s13", "s25")     \
    NN_F32_FILTER(6, first, second, "s6", "s14", "s26")     \
    NN_F32_FILTER(7, first, second, "s7", "s15", "s27")
    uint32_t count;
    __asm__ volatile(
        NN_F32_GROUP("vldmia %[bias]", "s0", "last") NN_F32_GROUP("vldmia %[bias]", "s8", "last_second")
        "1:\n\t" /* a row */
        "mov %[count], %[taps]\n\t"
        "2:\n\t"
        ".if %c[step] == 1\n\t"
        "vldmia %[first]!, {s16}\n\t"
        "vldmia %[second]!, {s18}\n\t" NN_F32_TAP("s16", "s18")
        ".else\n\t"
        "vldmia %[first]!, {s16-s17}\n\t"
        "vldmia %[second]!, {s18-s19}\n\t" NN_F32_TAP("s16", "s18") NN_F32_TAP("s17", "s19")
        ".endif\n\t"
        "subs %[count], %[count], #%c[step]\n\t"
        "bne 2b\n\t"
        "add %[first], %[first], %[input_skip]\n\t"
        "add %[second], %[second], %[input_skip]\n\t"
        ".if %c[padded]\n\t"
        "add %[weights], %[weights], %[weight_skip]\n\t"
        ".endif\n\t"
        "subs %[rows], %[rows], #1\n\t"
        "bne 1b\n\t"
        "add %[count], %[sums], #32\n\t"
        NN_F32_GROUP("vstmia %[sums]", "s0", "last") NN_F32_GROUP("vstmia %[count]", "s8", "last_second")
        /* &: an input of the same value must not share their registers. */
        : [first] "+&r"(b.first), [second] "+&r"(b.second), [weights] "+&r"(b.weights), [rows] "+&r"(b.rows),
          [count] "=&r"(count)
        : [taps] "rI"(b.taps), [input_skip] "rI"(b.input_skip), [weight_skip] "rI"(b.weight_skip), [bias] "r"(bias),
          [sums] "r"(sums), [group] "i"(group), [step] "i"(step), [padded] "i"(padded), [last] "i"(group - 1u),
          [last_second] "i"(group + 7u), [last_weight] "i"(group + 19u)
        : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16",
          "s17", "s18", "s19", "s20", "s21", "s22", "s23", "s24", "s25", "s26", "s27", "cc", "memory");
#else
    (void)step;
    (void)padded;
    for (uint32_t f = 0; f < group; f++) {
        sums[0][f] = bias[f];
        sums[1][f] = bias[f];
    }
    for (uint32_t row = 0; row < b.rows; row++) {
        for (uint32_t tap = 0; tap < b.taps; tap++, b.weights += group) {
            for (uint32_t f = 0; f < group; f++) {
                sums[0][f] += b.first[tap] * b.weights[f];
                sums[1][f] += b.second[tap] * b.weights[f];
            }
        }
        b.first = (const float *)((uintptr_t)(b.first + b.taps) + b.input_skip);
        b.second = (const float *)((uintptr_t)(b.second + b.taps) + b.input_skip);
        b.weights = (const float *)((uintptr_t)b.weights + b.weight_skip);
    }
#endif
}

/* The part [first, end) of `kernel` taps from input position `start` on that lies inside `size`. */
typedef struct {
    uint32_t first, end;
} nn_conv2d_f32_range;

NN_INLINE nn_conv2d_f32_range nn_conv2d_f32_inside(int32_t start, uint32_t kernel, uint32_t size, uint32_t padding)
{
    nn_conv2d_f32_range range = {0, kernel};
    if (padding) {
        range.first = start < 0 ? (uint32_t)-start : 0u;
        range.end = start + (int32_t)kernel > (int32_t)size ? (uint32_t)((int32_t)size - start) : kernel;
    }
    return range;
}

/* sums[p][f] of filters `filter` on, at row y and columns x and (when `both`) x + 1 of the convolution's result. */
NN_INLINE void nn_conv2d_f32_sums(const nn_conv2d_f32_groups_layer *layer, const float *input, uint32_t filter,
                                  uint32_t y, uint32_t x, bool both, float (*sums)[NN_GROUP])
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t kernel_row = s->kernel[1] * s->channels;
    const float *const weights = layer->weights + filter * (1u + s->kernel[0] * kernel_row);
    const uint32_t step = s->channels % 2u == 0 && s->kernel[0] * kernel_row >= NN_F32_LARGE ? 2u : 1u;
    const int32_t top = (int32_t)(y * s->stride[0]) - (int32_t)s->padding[0];
    const nn_conv2d_f32_range rows = nn_conv2d_f32_inside(top, s->kernel[0], s->height, s->padding[0]);
    for (uint32_t p = 0; p < 2u; p++) {
        const int32_t left = (int32_t)((x + p) * s->stride[1]) - (int32_t)s->padding[1];
        const nn_conv2d_f32_range columns = nn_conv2d_f32_inside(left, s->kernel[1], s->width, s->padding[1]);
        /* Neighbours that see the same taps are computed together; at the border each is computed by itself. */
        const bool together = both && (!s->padding[1] || (left >= 0 && left + (int32_t)(s->stride[1] + s->kernel[1]) <=
                                                                           (int32_t)s->width));
        const uint32_t taps = (columns.end - columns.first) * s->channels;
        const int32_t begin = (top + (int32_t)rows.first) * (int32_t)s->width + left + (int32_t)columns.first;
        const nn_conv2d_f32_block block = {
            .first = input + (uint32_t)begin * s->channels,
            .second = input + ((uint32_t)begin + (together ? s->stride[1] : 0u)) * s->channels,
            .weights = weights + (1u + rows.first * kernel_row + columns.first * s->channels) * layer->group,
            .rows = rows.end - rows.first,
            .taps = taps,
            .input_skip = 4u * (s->width * s->channels - taps),
            .weight_skip = 4u * (kernel_row - taps) * layer->group,
        };
        nn_conv2d_f32_multiply(block, weights, layer->group, step, s->padding[1] > 0, sums + p);
        if (together || !both) {
            break;
        }
    }
}

/* All outputs of one group of `count` filters (the last group may have fewer than the others). */
NN_INLINE void nn_conv2d_f32_group(const nn_conv2d_f32_groups_layer *layer, const float *input, float *out,
                                   uint32_t filter, uint32_t count)
{
    const nn_conv2d_shape *s = &layer->shape;
    const bool pooled = s->pool[0] * s->pool[1] > 1u;
    const float lowest = nn_lowest_f32(s->relu);
    /* A third row, because the second position may be computed alone. */
    float sums[3][NN_GROUP];
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t column = 0; column < s->columns; column++, out += s->filters) {
            for (uint32_t f = 0; f < count; f++) {
                out[f] = lowest;
            }
            if (!pooled) {
                const bool pair = s->columns % 2u == 0 || column + 1u < s->columns;
                nn_conv2d_f32_sums(layer, input, filter, row, column, pair, sums);
                for (uint32_t f = 0; f < count; f++) {
                    out[f] = nn_max_f32(lowest, sums[0][f]);
                    if (pair) {
                        out[s->filters + f] = nn_max_f32(lowest, sums[1][f]);
                    }
                }
                if (pair) {
                    column++;
                    out += s->filters;
                }
                continue;
            }
            for (uint32_t py = 0; py < s->pool[0]; py++) {
                for (uint32_t px = 0; px < s->pool[1]; px += 2u) {
                    const bool both = s->pool[1] % 2u == 0 || px + 1u < s->pool[1];
                    nn_conv2d_f32_sums(layer, input, filter, row * s->pool_stride[0] + py,
                                       column * s->pool_stride[1] + px, both, sums);
                    /* Where there is no second position, the first stands in for it. */
                    for (uint32_t f = 0; f < count; f++) {
                        out[f] = nn_max_f32(out[f], nn_max_f32(sums[0][f], sums[1][f]));
                    }
                }
            }
        }
    }
}

NN_INLINE void nn_conv2d_f32_groups(const nn_conv2d_f32_groups_layer *layer, const void *input, void *output)
{
    const uint32_t filters = layer->shape.filters;
    for (uint32_t filter = 0; filter < filters; filter += layer->group) {
        const bool whole = filters % layer->group == 0 || filter + layer->group <= filters;
        nn_conv2d_f32_group(layer, input, (float *)output + filter, filter, whole ? layer->group : filters - filter);
    }
}

#endif
