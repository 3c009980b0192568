/* What every kernel shares: how it is compiled, how elements are stored, and the one rounding of requantisation.
 *
 * A kernel takes one constant record that describes its layer and three pointers. Records are `static const` and
 * kernels are inlined into one function per layer, so that the compiler folds every dimension: there is no run-time
 * parameter.
 */
#ifndef NN_BASE_H
#define NN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn_observer.h"

/* The intrinsics path needs the DSP extension (Cortex-M4, M7, M33 with DSP). Its assembly wants constants for operands,
 * which exist only where the compiler folds them: at -O0 the portable path runs, with the same results. */
#if defined(__ARM_FEATURE_SIMD32) && defined(__thumb2__) && defined(__OPTIMIZE__)
#include <arm_acle.h>
#define NN_DSP 1
#else
#define NN_DSP 0
#endif

/* Single precision in hardware, in the Thumb-2 instruction set. */
#if defined(__ARM_FP) && defined(__thumb2__) && defined(__OPTIMIZE__)
#define NN_FPU 1
#else
#define NN_FPU 0
#endif

#define NN_INLINE static inline __attribute__((always_inline))

/* A function that layers share instead of each having its own copy. */
#define NN_SHARED static __attribute__((noinline))

/* One function per layer, never merged into its caller or renamed: profilers see layers by name. */
#if defined(__clang__)
#define NN_LAYER static __attribute__((noinline))
#else
#define NN_LAYER static __attribute__((noinline, noclone))
#endif

/* Before a loop of up to four turns over an array that should live in registers. */
#if defined(__clang__)
#define NN_UNROLL _Pragma("unroll")
#else
#define NN_UNROLL _Pragma("GCC unroll 4")
#endif

/* The same for up to sixteen turns. */
#if defined(__clang__)
#define NN_UNROLL_LONG _Pragma("unroll")
#else
#define NN_UNROLL_LONG _Pragma("GCC unroll 16")
#endif

/* Sections by which a linker map tells weights and activations from code. AddressSanitizer cannot guard objects in
 * sections of their own, so that its builds do without. */
#if defined(__SANITIZE_ADDRESS__)
#define NN_SECTION(name)
#else
#define NN_SECTION(name) __attribute__((section(name)))
#endif

/* Four bytes that may hold elements of any type. */
typedef uint32_t __attribute__((may_alias)) nn_word;

/* How accumulators become unsigned activations:
 * y = clamp(zero_point + ((acc * multiplier + 2^(shift - 1)) >> shift), 0, 2^bits - 1), in 64 bits.
 * multipliers, shifts: one per channel, or NULL where `multiplier`, `shift` serve all channels.
 * bits 0: no requantisation. */
typedef struct {
    const int32_t *multipliers;
    const uint8_t *shifts;
    int32_t multiplier;
    uint32_t shift;
    int32_t zero_point;
    uint32_t bits;
} nn_requantization;

NN_INLINE int32_t nn_clamp(int64_t value, uint32_t bits)
{
    const int32_t highest = (int32_t)((1u << bits) - 1u);
    return value < 0 ? 0 : value > highest ? highest : (int32_t)value;
}

#if NN_DSP
/* (accumulator * multiplier + 2^31) >> 32. */
NN_INLINE int32_t nn_scaled(int32_t accumulator, int32_t multiplier)
{
    int32_t rounded;
    __asm__("smmulr %0, %1, %2" : "=r"(rounded) : "r"(accumulator), "r"(multiplier));
    return rounded;
}

NN_INLINE int32_t nn_saturate(int32_t value, uint32_t bits)
{
    int32_t result;
    __asm__("usat %0, %1, %2" : "=r"(result) : "i"(bits), "r"(value) : "cc");
    return result;
}
#endif

/* The activation that belongs to `accumulator` in channel `channel`. */
NN_INLINE int32_t nn_requantize(const nn_requantization *r, int32_t accumulator, uint32_t channel)
{
    const int32_t multiplier = r->multipliers ? r->multipliers[channel] : r->multiplier;
    const uint32_t shift = r->shifts ? r->shifts[channel] : r->shift;
#if NN_DSP
    if (!r->shifts && shift == 32u) {
        /* What is rounded lies in [-2^30, 2^30]. */
        return nn_saturate(nn_scaled(accumulator, multiplier) + r->zero_point, r->bits);
    }
#endif
    /* |accumulator * multiplier| < 2^62 and shift <= 62: the sum fits. */
    const int64_t rounded = ((int64_t)accumulator * multiplier + ((int64_t)1 << (shift - 1u))) >> shift;
    return nn_clamp(rounded + r->zero_point, r->bits);
}

NN_INLINE int32_t nn_max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

NN_INLINE float nn_max_f32(float a, float b)
{
    return a > b ? a : b;
}

/* What a float layer's outputs are at least: a ReLU is the maximum with it. */
NN_INLINE float nn_lowest_f32(bool relu)
{
    return relu ? 0.0f : -__builtin_inff();
}

/* A finished output: at least 0 with a ReLU, and at most `clip` unless that is 0. */
NN_INLINE float nn_rectify_f32(float value, bool relu, float clip)
{
    const float rectified = relu && !(value > 0.0f) ? 0.0f : value;
    return clip > 0.0f && rectified > clip ? clip : rectified;
}

/* Element `index` of an integer tensor. */
NN_INLINE int32_t nn_load(const void *tensor, uint32_t index, nn_element element)
{
    return element == NN_U8         ? ((const uint8_t *)tensor)[index]
           : element == NN_U8_IN_16 ? ((const int16_t *)tensor)[index]
                                    : ((const int32_t *)tensor)[index];
}

NN_INLINE void nn_store(void *tensor, uint32_t index, nn_element element, int32_t value)
{
    if (element == NN_U8) {
        ((uint8_t *)tensor)[index] = (uint8_t)value;
    } else if (element == NN_U8_IN_16) {
        ((int16_t *)tensor)[index] = (int16_t)value;
    } else {
        ((int32_t *)tensor)[index] = value;
    }
}

/* A finished accumulator into the output: requantised, or as it is. */
NN_INLINE void nn_finish(void *output, uint32_t index, nn_element element, const nn_requantization *r, bool relu,
                         int32_t accumulator, uint32_t channel)
{
    if (r->bits) {
        nn_store(output, index, element, nn_requantize(r, accumulator, channel));
    } else {
        nn_store(output, index, element, relu && accumulator < 0 ? 0 : accumulator);
    }
}

#endif
