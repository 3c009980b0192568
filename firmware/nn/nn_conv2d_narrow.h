/* Pointwise convolution (1x1, stride 1) of narrow types: four products per instruction, in lanes of one 64-bit sum.
 *
 * Optimal for cores with the DSP extension where activations and weights have 4 bits, or activations 8 and weights -1, 0
 * and 1. A word of activations is two pixels, x0 + x1 2^L; a word of weights is two filters, w0 + w1 2^2L. One SMLAL adds
 * x0 w0, x1 w0, x0 w1, x1 w1 to four lanes of L bits. The exporter proves that no lane leaves [-2^(L-1), 2^(L-1)) and that
 * w0 + w1 2^2L fits in 32 bits; lanes begin at 2^(L-1), so that they never borrow from each other.
 *
 * A block of pixels at a time becomes words in scratch, two per input channel and four pixels; then, for each four
 * filters, weights become words, two per input channel (filters 0 and 2, then 1 and 3). 6 instructions make 16 products.
 * Of a number of pixels that four does not divide, some are computed twice. Scratch: the weights, then the block.
 */
#ifndef NN_CONV2D_NARROW_H
#define NN_CONV2D_NARROW_H

#include "nn_packed.h"
#include "nn_tile.h"

/* What one pass computes: outputs of four filters at groups of four pixels. Assembly knows this record's layout.
 *
 * x, x_end: the first group's words, and the end of the last one's. constants: biases of filters 0, 2, 1, 3 with 2^(L-1)
 * taken off, then their multipliers. lanes: what sums begin at. distance: from an output to the next pixel's. */
typedef struct {
    const nn_word *x;
    const nn_word *weights;
    const int32_t *constants;
    const nn_word *weights_end;
    void *output;
    uint32_t distance;
    const uint32_t *lanes;
    const nn_word *x_end;
    uint32_t zero_points;
} nn_narrow_pass;

/* lane: L, 14 or 15. unroll: channels per turn. centred, bits: as nn_tile_kind. */
typedef struct {
    uint32_t lane, unroll;
    bool centred;
    uint32_t bits;
} nn_narrow_kind;

/* weights: of each four filters, for each channel four of weight_bits, filters 0, 2, 1, 3. constants: as a pass wants them.
 * lanes: the beginning of a 64-bit sum, four times. block: pixels at a time, a multiple of four. */
typedef struct {
    uint32_t pixels, channels, filters;
    nn_element input, output;
    uint32_t lane, block;
    const uint32_t *weights;
    uint32_t weight_bits;
    const int32_t *constants;
    const uint32_t *lanes;
    int32_t zero_point;
    void (*pass)(const nn_narrow_pass *pass);
} nn_conv2d_narrow_layer;

#if NN_DSP
/* The four outputs in the lanes of (low, high), as halves (first filter, second filter): `low` of the first pixel, `high`
 * of the second. at: of the two filters' biases and, 16 bytes further, multipliers. */
#define NN_NARROW_ROUND(low, high, at)                                \
    "ubfx r2, " low ", #0, #%c[lane]\n\t"                             \
    "ubfx r3, " low ", #%c[lane], #%c[lane]\n\t"                      \
    "lsr r4, " low ", #2 * %c[lane]\n\t"                              \
    "bfi r4, " high ", #32 - 2 * %c[lane], #3 * %c[lane] - 32\n\t"    \
    "ubfx r5, " high ", #3 * %c[lane] - 32, #%c[lane]\n\t"            \
    "ldrd " low ", " high ", [r1, #" at "]\n\t"                       \
    "add r2, r2, " low "\n\t"                                         \
    "add r3, r3, " low "\n\t"                                         \
    "add r4, r4, " high "\n\t"                                        \
    "add r5, r5, " high "\n\t"                                        \
    "ldrd " low ", " high ", [r1, #" at " + 16]\n\t"                  \
    "smmulr r2, r2, " low "\n\t"                                      \
    "smmulr r3, r3, " low "\n\t"                                      \
    "smmulr r4, r4, " high "\n\t"                                     \
    "smmulr r5, r5, " high "\n\t"                                     \
    "pkhbt " low ", r2, r4, lsl #16\n\t"                              \
    "pkhbt " high ", r3, r5, lsl #16\n\t"                             \
    ".if %c[centred]\n\t"                                             \
    "ldr r2, [sp, #32]\n\t"                                           \
    "sadd16 " low ", " low ", r2\n\t"                                 \
    "sadd16 " high ", " high ", r2\n\t"                               \
    ".endif\n\t"                                                      \
    "usat16 " low ", #%c[bits], " low "\n\t"                          \
    "usat16 " high ", #%c[bits], " high "\n\t"
#define NN_NARROW_STORE(even, odd)                                    \
    "orr " even ", " even ", " odd ", lsl #%c[bits]\n\t"              \
    ".if %c[bits] == 8\n\t"                                           \
    "str " even ", [r1]\n\t"                                          \
    ".elseif %c[bits] == 4\n\t"                                       \
    "orr " even ", " even ", " even ", lsr #8\n\t"                    \
    "strh " even ", [r1]\n\t"                                         \
    ".else\n\t"                                                       \
    "orr " even ", " even ", " even ", lsr #12\n\t"                   \
    "strb " even ", [r1]\n\t"                                         \
    ".endif\n\t"                                                      \
    "add r1, r1, r2\n\t"
#endif

NN_INLINE void nn_narrow_run(const nn_narrow_pass *pass, nn_narrow_kind kind)
{
#if NN_DSP
    register const nn_narrow_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        "sub sp, #36\n\t"
        "ldm r0, {r1, r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
        "mov r0, r1\n"
        "1:\n\t"
        "ldr r1, [sp, #24]\n\t"
        "ldm r1, {r6, r7, r8, r9, r10, r11, r12, lr}\n\t"
        "ldr r1, [sp, #4]\n"
        "2:\n\t"
        ".rept %c[unroll]\n\t"
        "ldrd r2, r3, [r0], #8\n\t"
        "ldrd r4, r5, [r1], #8\n\t"
        "smlal r6, r7, r2, r4\n\t"
        "smlal r8, r9, r3, r4\n\t"
        "smlal r10, r11, r2, r5\n\t"
        "smlal r12, lr, r3, r5\n\t"
        ".endr\n\t"
        "ldr r2, [sp, #12]\n\t"
        "cmp r1, r2\n\t"
        "bne 2b\n\t"
        "ldr r1, [sp, #8]\n\t"
        NN_NARROW_ROUND("r6", "r7", "0")
        NN_NARROW_ROUND("r8", "r9", "0")
        NN_NARROW_ROUND("r10", "r11", "8")
        NN_NARROW_ROUND("r12", "lr", "8")
        "ldrd r1, r2, [sp, #16]\n\t"
        NN_NARROW_STORE("r6", "r10")
        NN_NARROW_STORE("r7", "r11")
        NN_NARROW_STORE("r8", "r12")
        NN_NARROW_STORE("r9", "lr")
        "ldr r3, [sp, #28]\n\t"
        "str r1, [sp, #16]\n\t"
        "cmp r0, r3\n\t"
        "bne 1b\n\t"
        "add sp, #36"
        : "+r"(parameters)
        : [lane] "i"(kind.lane), [unroll] "i"(kind.unroll), [centred] "i"(kind.centred), [bits] "i"(kind.bits)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const uint64_t mask = ((uint64_t)1 << kind.lane) - 1u;
    uint8_t *output = pass->output;
    for (const nn_word *x = pass->x; x != pass->x_end; output += 4u * pass->distance) {
        uint64_t sums[4]; /* (pixels 0, 1; filters 0, 2), (pixels 2, 3; 0, 2), (0, 1; 1, 3), (2, 3; 1, 3) */
        for (uint32_t i = 0; i < 4u; i++) {
            sums[i] = pass->lanes[2u * i] | (uint64_t)pass->lanes[2u * i + 1u] << 32;
        }
        for (const nn_word *w = pass->weights; w != pass->weights_end; w += 2, x += 2) {
            for (uint32_t i = 0; i < 4u; i++) {
                sums[i] += (uint64_t)((int64_t)(int32_t)x[i % 2u] * (int32_t)w[i / 2u]);
            }
        }
        for (uint32_t filter = 0; filter < 4u; filter++) {
            const uint32_t place = filter / 2u + filter % 2u * 2u; /* filters 0, 2, 1, 3 */
            for (uint32_t pixel = 0; pixel < 4u; pixel++) {
                const uint32_t lane = (pixel % 2u + place % 2u * 2u) * kind.lane;
                const int64_t sum = (int32_t)(sums[pixel / 2u + place / 2u * 2u] >> lane & mask) + pass->constants[place];
                const int64_t rounded = (sum * pass->constants[4u + place] + ((int64_t)1 << 31)) >> 32;
                const int32_t zero_point = kind.centred ? (int16_t)pass->zero_points : 0;
                nn_tile_put(output + pixel * pass->distance, filter, kind.bits,
                            nn_clamp(rounded + zero_point, kind.bits));
            }
        }
    }
#endif
}

/* Four pixels of a row from `source` on, `step` bytes apart, into two words per channel. */
NN_INLINE void nn_conv2d_narrow_group(const nn_conv2d_narrow_layer *layer, const uint8_t *source, uint32_t step,
                                      nn_word *target)
{
    const uint32_t bits = nn_element_bits(layer->input), per_word = 32u / bits, mask = (1u << bits) - 1u;
    const nn_word *const pixels = (const nn_word *)(const void *)source;
    for (uint32_t word = 0; word < layer->channels / per_word; word++) {
        const uint32_t a = pixels[word], b = pixels[word + step / 4u];
        const uint32_t c = pixels[word + 2u * step / 4u], d = pixels[word + 3u * step / 4u];
        NN_UNROLL_LONG
        for (uint32_t i = 0; i < per_word; i++, target += 2) {
            const uint32_t shift = i * bits;
            target[0] = (a >> shift & mask) | (b >> shift & mask) << layer->lane;
            target[1] = (c >> shift & mask) | (d >> shift & mask) << layer->lane;
        }
    }
}

/* The weights of four filters into two words per channel. */
NN_INLINE void nn_conv2d_narrow_weights(const nn_conv2d_narrow_layer *layer, const uint32_t *packed, nn_word *target)
{
    const uint32_t bits = layer->weight_bits, per_word = 8u / bits, top = 32u - bits;
    for (uint32_t word = 0; word < layer->channels / per_word; word++) {
        const uint32_t fields = packed[word];
        NN_UNROLL
        for (uint32_t i = 0; i < per_word; i++, target += 2) {
            const uint32_t first = 4u * i * bits;
            const int32_t a = (int32_t)(fields << (top - first)) >> top;
            const int32_t b = (int32_t)(fields << (top - first - bits)) >> top;
            const int32_t c = (int32_t)(fields << (top - first - 2u * bits)) >> top;
            const int32_t d = (int32_t)(fields << (top - first - 3u * bits)) >> top;
            target[0] = (uint32_t)a + ((uint32_t)b << 2u * layer->lane);
            target[1] = (uint32_t)c + ((uint32_t)d << 2u * layer->lane);
        }
    }
}

NN_INLINE void nn_conv2d_narrow(const nn_conv2d_narrow_layer *layer, const void *input, void *output, void *scratch)
{
    const uint32_t step = layer->channels * nn_element_bits(layer->input) / 8u;
    const uint32_t out_step = layer->filters * nn_element_bits(layer->output) / 8u;
    const uint32_t packed_words = layer->channels * layer->weight_bits / 8u;
    nn_word *const weights = scratch, *const block = weights + 2u * layer->channels;
    nn_narrow_pass pass;
    pass.x = block;
    pass.weights = weights;
    pass.weights_end = weights + 2u * layer->channels;
    pass.distance = out_step;
    pass.lanes = layer->lanes;
    pass.zero_points = (uint32_t)layer->zero_point * 0x00010001u;
    for (uint32_t next = 0; next < layer->pixels; next += layer->block) {
        const uint32_t left = layer->pixels - next, wanted = left < layer->block ? (left + 3u) / 4u * 4u : layer->block;
        /* The last pixels may have been computed before. */
        const uint32_t first = next + wanted > layer->pixels ? layer->pixels - wanted : next;
        const uint8_t *const source = (const uint8_t *)input + first * step;
        for (uint32_t group = 0; group < wanted / 4u; group++) {
            nn_conv2d_narrow_group(layer, source + 4u * group * step, step, block + group * 2u * layer->channels);
        }
        pass.x_end = block + wanted / 4u * 2u * layer->channels;
        for (uint32_t filter = 0; filter < layer->filters; filter += 4u) {
            nn_conv2d_narrow_weights(layer, layer->weights + filter / 4u * packed_words, weights);
            pass.constants = layer->constants + 2u * filter;
            pass.output = (uint8_t *)output + first * out_step + filter * nn_element_bits(layer->output) / 8u;
            layer->pass(&pass);
        }
    }
}

#endif
