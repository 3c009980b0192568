/* The fully connected layer of floats, two rows at a time, sums in registers.
 *
 * Optimal for Cortex-M4F and M7. Multiplications and additions round separately (VMLA, not VFMA), and a row has two
 * sums, one of blocks of eight inputs' even ones, which begins with the bias, and one of the odd ones; what is left of
 * the inputs goes to the first. The portable path does the same and gives the same bits. Weights: pairs of rows (an odd
 * last row has a partner of zeros); in a pair their biases, then eight of the one row and eight of the other; what is
 * left alternates. No scratch.
 */
#ifndef NN_LINEAR_F32_ROWS_H
#define NN_LINEAR_F32_ROWS_H

#include "nn_linear.h"

typedef struct {
    nn_linear_shape shape;
    const float *weights;
} nn_linear_f32_rows_layer;

enum { NN_F32_BLOCK = 8 };

/* sums[row] += weights * input for a pair of rows; returns the end of the weights. */
NN_INLINE const float *nn_linear_f32_multiply(const float *weights, const float *input, uint32_t inputs, float sums[2])
{
    float a = sums[0], b = sums[1], odd_a = 0.0f, odd_b = 0.0f;
    for (const float *const end = input + inputs / NN_F32_BLOCK * NN_F32_BLOCK; input != end;) {
#if NN_FPU
#define NN_F32_INPUTS(even, odd, a_even, a_odd, b_even, b_odd)  \
    "vmla.f32 %[a], " even ", " a_even "\n\t"                   \
    "vmla.f32 %[b], " even ", " b_even "\n\t"                   \
    "vmla.f32 %[odd_a], " odd ", " a_odd "\n\t"                 \
    "vmla.f32 %[odd_b], " odd ", " b_odd "\n\t"
        __asm__("vldmia %[input]!, {s8-s15}\n\t"
                "vldmia %[weights]!, {s16-s31}\n\t"
                NN_F32_INPUTS("s8", "s9", "s16", "s17", "s24", "s25")
                NN_F32_INPUTS("s10", "s11", "s18", "s19", "s26", "s27")
                NN_F32_INPUTS("s12", "s13", "s20", "s21", "s28", "s29")
                NN_F32_INPUTS("s14", "s15", "s22", "s23", "s30", "s31")
                : [weights] "+r"(weights), [input] "+r"(input), [a] "+t"(a), [b] "+t"(b), [odd_a] "+t"(odd_a),
                  [odd_b] "+t"(odd_b)
                :
                : "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20", "s21", "s22",
                  "s23", "s24", "s25", "s26", "s27", "s28", "s29", "s30", "s31", "memory");
#else
        for (uint32_t i = 0; i < NN_F32_BLOCK; i += 2u, input += 2, weights += 2) {
            a += input[0] * weights[0];
            b += input[0] * weights[NN_F32_BLOCK];
            odd_a += input[1] * weights[1];
            odd_b += input[1] * weights[NN_F32_BLOCK + 1];
        }
        weights += NN_F32_BLOCK;
#endif
    }
    for (inputs %= NN_F32_BLOCK; inputs; inputs--) {
#if NN_FPU
        __asm__("vldmia %[input]!, {s8}\n\t"
                "vldmia %[weights]!, {s16-s17}\n\t"
                "vmla.f32 %[a], s8, s16\n\t"
                "vmla.f32 %[b], s8, s17"
                : [weights] "+r"(weights), [input] "+r"(input), [a] "+t"(a), [b] "+t"(b)
                :
                : "s8", "s16", "s17", "memory");
#else
        a += *input * *weights++;
        b += *input++ * *weights++;
#endif
    }
    sums[0] = a + odd_a;
    sums[1] = b + odd_b;
    return weights;
}

/* One copy serves all layers: it takes hardly more instructions than specialised ones, and less flash than two. */
NN_SHARED void nn_linear_f32_rows(const nn_linear_f32_rows_layer *layer, const void *input, void *output)
{
    const float lowest = nn_lowest_f32(layer->shape.relu);
    const float *weights = layer->weights;
    float *out = output;
    for (uint32_t left = layer->shape.outputs; left; left -= 2u) {
        float sums[2] = {weights[0], weights[1]};
        weights = nn_linear_f32_multiply(weights + 2, input, layer->shape.inputs, sums);
        *out++ = nn_max_f32(lowest, sums[0]);
        if (left == 1u) {
            break;
        }
        *out++ = nn_max_f32(lowest, sums[1]);
    }
}

#endif
