/* Depthwise convolution with 3x3 kernels, stride 1, on words of two channels: four channels at two positions at a time.
 *
 * Optimal for cores with the DSP extension, channels in fours, small images; outputs of 8, 4 or 2 bits.
 * Positions go along one axis of the image, `lines` along the other: along rows, or, transposed, along columns, where
 * that leaves fewer positions without a partner. A block of lines of outputs at a time, and of it four channels: the
 * lines that they read become, in scratch, two words per position, channels 0 and 2, then 1 and 3, padded at their ends
 * with the input's zero point. Lines outside of the image are left out where that is 0, with their rows of the kernel.
 *
 * With an odd number of positions, the last pair's second output is written where the next line begins, before that is;
 * behind the output this touches one pixel or, transposed, one row. Scratch: the weights of four channels (72 bytes),
 * then the lines.
 */
#ifndef NN_DEPTHWISE_WORDS_H
#define NN_DEPTHWISE_WORDS_H

#include "nn_packed.h"
#include "nn_tile.h"

/* What one pass computes: four channels of `lines` lines of outputs. Assembly knows this record's layout.
 *
 * x: what the first pair of outputs reads; x_end: the same behind the last pair of the line. output: of the first one;
 * `distance` bytes lie between neighbours. x_turn, output_turn: from the end of a line to the beginning of the next;
 * x_line: from a line to the next. */
typedef struct {
    const nn_word *x;
    const nn_word *weights;
    const int32_t *bias;
    const int32_t *multipliers;
    void *output;
    uint32_t distance;
    uint32_t lines;
    const nn_word *x_end;
    uint32_t x_turn;
    uint32_t zero_points;
    int32_t output_turn;
    uint32_t x_line;
} nn_words_pass;

/* How a pass is made. rows: of the kernel. pitch: bytes of a line. centred, bits: as nn_tile_kind. */
typedef struct {
    uint32_t rows, pitch;
    bool centred;
    uint32_t bits;
} nn_words_kind;

/* weights: (tap, channel), 8 bits each, or every tap a row of words of 4 or 2 bits. constants: for each four channels
 * their biases, then their multipliers. block: lines of outputs at a time. passes: nn_words_run for these constants, with
 * one, two and three rows of the kernel. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    int32_t output_zero_point;
    const void *weights;
    uint32_t weight_bits;
    const int32_t *constants;
    bool transposed;
    uint32_t block;
    void (*passes[3])(const nn_words_pass *pass);
} nn_depthwise_words_layer;

enum {
    NN_WORDS_WEIGHTS = 18, /* words of weights of four channels */
    NN_WORDS_NEAR = 988,   /* bytes from the first line to the last that LDRD reaches, with four positions of it */
};

#if NN_DSP
/* The words in r2, r3 times the weights in r4, r5: for the first, and for the second of two outputs. */
#define NN_WORDS_FIRST                             \
    "smlabb r6, r2, r4, r6\n\t"                    \
    "smlatt r8, r2, r4, r8\n\t"                    \
    "smlabb r7, r3, r5, r7\n\t"                    \
    "smlatt r9, r3, r5, r9\n\t"
#define NN_WORDS_SECOND                            \
    "smlabb r10, r2, r4, r10\n\t"                  \
    "smlatt r12, r2, r4, r12\n\t"                  \
    "smlabb r11, r3, r5, r11\n\t"                  \
    "smlatt lr, r3, r5, lr\n\t"
#define NN_WORDS_WEIGHT "ldrd r4, r5, [r1], #8\n\t"
#define NN_WORDS_X(n) "ldrd r2, r3, [r0, #8 * " #n " + nn_line]\n\t"
/* One row of the kernel, nn_line bytes from r0. */
#define NN_WORDS_ROW                               \
    NN_WORDS_WEIGHT NN_WORDS_X(0) NN_WORDS_FIRST   \
    NN_WORDS_X(1) NN_WORDS_SECOND NN_WORDS_WEIGHT NN_WORDS_FIRST \
    NN_WORDS_X(2) NN_WORDS_SECOND NN_WORDS_WEIGHT NN_WORDS_FIRST \
    NN_WORDS_X(3) NN_WORDS_SECOND
#endif

NN_INLINE void nn_words_run(const nn_words_pass *pass, nn_words_kind kind)
{
#if NN_DSP
    register const nn_words_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        "sub sp, #48\n\t"
        "ldm r0!, {r1, r2, r3, r4, r5, r6}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6}\n\t"
        "ldm r0, {r2, r3, r4, r5, r6, r7}\n\t"
        "add r0, sp, #24\n\t"
        "stm r0, {r2, r3, r4, r5, r6, r7}\n\t"
        "mov r0, r1\n"
        "1:\n\t"
        "ldrd r1, r2, [sp, #4]\n\t"
        "ldm r2, {r6, r7, r8, r9}\n\t"
        "ldm r2, {r10, r11, r12, lr}\n\t"
        ".set nn_line, 0\n\t" NN_WORDS_ROW
        ".rept %c[rows] - 1\n\t"
        ".if %c[near]\n\t"
        ".set nn_line, nn_line + %c[pitch]\n\t"
        ".else\n\t"
        "addw r0, r0, #%c[pitch]\n\t"
        ".endif\n\t" NN_WORDS_ROW
        ".endr\n\t"
        "ldr r1, [sp, #12]\n\t" NN_TILE_ROUND
        "ldrd r1, r2, [sp, #16]\n\t" NN_TILE_STORE
        "ldr r3, [sp, #28]\n\t"
        "add r1, r1, r2, lsl #1\n\t"
        "str r1, [sp, #16]\n\t"
        ".if %c[near] || %c[rows] == 1\n\t"
        "add r0, r0, #16\n\t"
        ".else\n\t"
        "subw r0, r0, #(%c[rows] - 1) * %c[pitch] - 16\n\t"
        ".endif\n\t"
        "cmp r0, r3\n\t"
        "bne 1b\n\t"
        "ldr r4, [sp, #24]\n\t"
        "ldr r5, [sp, #32]\n\t"
        "ldrd r6, r7, [sp, #40]\n\t"
        "add r0, r0, r5\n\t"
        "add r1, r1, r6\n\t"
        "add r3, r3, r7\n\t"
        "str r1, [sp, #16]\n\t"
        "str r3, [sp, #28]\n\t"
        "subs r4, r4, #1\n\t"
        "str r4, [sp, #24]\n\t"
        "bne 1b\n\t"
        "add sp, #48"
        : "+r"(parameters)
        : [near] "i"((kind.rows - 1u) * kind.pitch <= NN_WORDS_NEAR), [rows] "i"(kind.rows), [pitch] "i"(kind.pitch),
          [centred] "i"(kind.centred), [bits] "i"(kind.bits)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const nn_word *x = pass->x, *end = pass->x_end;
    uint8_t *output = pass->output;
    for (uint32_t line = 0; line < pass->lines; line++) {
        for (; x != end; x += 4u, output += 2u * pass->distance) {
            for (uint32_t second = 0; second < 2u; second++) {
                for (uint32_t channel = 0; channel < 4u; channel++) {
                    /* Channels 0 and 2 are in the first word, 1 and 3 in the second. */
                    const uint32_t word = channel % 2u, shift = channel / 2u * 16u;
                    uint32_t sum = (uint32_t)pass->bias[channel];
                    for (uint32_t tap = 0; tap < 3u * kind.rows; tap++) {
                        const uint32_t element = x[tap / 3u * kind.pitch / 4u + 2u * (second + tap % 3u) + word];
                        sum += (uint32_t)((int16_t)(element >> shift) *
                                          (int16_t)(pass->weights[2u * tap + word] >> shift));
                    }
                    const int64_t product = (int64_t)(int32_t)sum * pass->multipliers[channel];
                    const int32_t zero_point = kind.centred ? (int16_t)pass->zero_points : 0;
                    nn_tile_put(output + second * pass->distance, channel, kind.bits,
                                nn_clamp(((product + ((int64_t)1 << 31)) >> 32) + zero_point, kind.bits));
                }
            }
        }
        x = (const nn_word *)((uintptr_t)x + pass->x_turn);
        end = (const nn_word *)((uintptr_t)end + pass->x_line);
        output += pass->output_turn;
    }
#endif
}

/* ---- lines and weights */

/* An axis of the image: what it has before and after the convolution, and its padding in front. */
typedef struct {
    uint32_t size, outputs, padding;
    uint32_t input_step, output_step; /* bytes from an element (four channels) to the next */
} nn_words_axis;

NN_INLINE nn_words_axis nn_depthwise_words_axis(const nn_conv2d_shape *s, bool vertical)
{
    const uint32_t channels = s->channels;
    const nn_words_axis down = {s->height, s->rows, s->padding[0], nn_row_bytes(s->width * channels, s->input),
                                nn_row_bytes(s->columns * channels, s->output)};
    const nn_words_axis across = {s->width, s->columns, s->padding[1], channels * nn_element_bits(s->input) / 8u,
                                  channels * nn_element_bits(s->output) / 8u};
    return vertical ? down : across;
}

/* Positions of a line in scratch. */
NN_INLINE uint32_t nn_depthwise_words_positions(uint32_t outputs)
{
    return (outputs + 1u) / 2u * 2u + 2u;
}

/* `count` positions of four channels from `source` on, `step` bytes apart, into two words of two halves each; returns
 * what is behind them. */
NN_INLINE nn_word *nn_words_split(const uint8_t *source, uint32_t step, uint32_t count, nn_element element,
                                  nn_word *target)
{
#if NN_DSP
    if (element == NN_U8) {
        for (const nn_word *const end = target + count / 4u * 8u; target != end;) {
            __asm__("ldr r3, [%[source]]\n\t"
                    "ldr r5, [%[source], %[step]]\n\t"
                    "add %[source], %[source], %[step], lsl #1\n\t"
                    "ldr r8, [%[source]]\n\t"
                    "ldr r10, [%[source], %[step]]\n\t"
                    "add %[source], %[source], %[step], lsl #1\n\t"
                    "uxtb16 r2, r3\n\t"
                    "uxtb16 r3, r3, ror #8\n\t"
                    "uxtb16 r4, r5\n\t"
                    "uxtb16 r5, r5, ror #8\n\t"
                    "uxtb16 r6, r8\n\t"
                    "uxtb16 r8, r8, ror #8\n\t"
                    "uxtb16 r9, r10\n\t"
                    "uxtb16 r10, r10, ror #8\n\t"
                    "stm %[target]!, {r2, r3, r4, r5, r6, r8, r9, r10}"
                    : [source] "+r"(source), [target] "+r"(target)
                    : [step] "r"(step)
                    : "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "memory");
        }
        count %= 4u;
    }
#endif
    for (uint32_t i = 0; i < count; i++, source += step, target += 2) {
        const uint32_t bytes = nn_get_four(source, element);
        target[0] = bytes & 0x00FF00FFu;
        target[1] = bytes >> 8 & 0x00FF00FFu;
    }
    return target;
}

/* The line at `source` with its padding into scratch; NULL: a line of padding. */
NN_INLINE void nn_depthwise_words_line(const nn_depthwise_words_layer *layer, const nn_words_axis *axis,
                                       const uint8_t *source, nn_word *target)
{
    const uint32_t positions = nn_depthwise_words_positions(axis->outputs);
    const uint32_t wanted = positions - axis->padding, most = wanted < axis->size ? wanted : axis->size;
    const uint32_t inside = source ? most : 0u;
    const nn_word padding = (uint32_t)layer->input_zero_point * 0x00010001u;
    for (uint32_t i = 0; i < axis->padding; i++, target += 2) {
        target[0] = target[1] = padding;
    }
    target = nn_words_split(source, axis->input_step, inside, layer->shape.input, target);
    for (uint32_t i = axis->padding + inside; i < positions; i++, target += 2) {
        target[0] = target[1] = padding;
    }
}

/* Weights of channels `four` to `four + 3`, row by row of the kernel (transposed: column by column). */
NN_INLINE void nn_depthwise_words_weights(const nn_depthwise_words_layer *layer, uint32_t four, nn_word *target)
{
    const uint32_t channels = layer->shape.channels, bits = layer->weight_bits;
    NN_UNROLL
    for (uint32_t row = 0; row < 3u; row++) {
        NN_UNROLL
        for (uint32_t column = 0; column < 3u; column++) {
            const uint32_t tap = layer->transposed ? 3u * column + row : 3u * row + column;
            uint32_t even = 0, odd = 0;
            if (bits == 8u) {
                const uint32_t bytes = *(const nn_word *)(const void *)((const int8_t *)layer->weights +
                                                                        tap * channels + four);
#if NN_DSP
                __asm__("sxtb16 %[even], %[bytes]\n\t"
                        "sxtb16 %[odd], %[bytes], ror #8"
                        : [even] "=&r"(even), [odd] "=r"(odd)
                        : [bytes] "r"(bytes));
#else
                even = ((uint32_t)(int8_t)bytes & 0xFFFFu) | (uint32_t)(int8_t)(bytes >> 16) << 16;
                odd = ((uint32_t)(int8_t)(bytes >> 8) & 0xFFFFu) | (uint32_t)(int8_t)(bytes >> 24) << 16;
#endif
            } else {
                const uint32_t *const words = (const uint32_t *)layer->weights + tap * nn_weight_words(channels, bits);
                const uint32_t four_weights = words[four * bits / 32u] >> four * bits % 32u;
                int32_t w[4];
                for (uint32_t channel = 0; channel < 4u; channel++) {
                    w[channel] = (int32_t)(four_weights << (32u - bits * (channel + 1u))) >> (32u - bits);
                }
                even = ((uint32_t)w[0] & 0xFFFFu) | (uint32_t)w[2] << 16;
                odd = ((uint32_t)w[1] & 0xFFFFu) | (uint32_t)w[3] << 16;
            }
            *target++ = even;
            *target++ = odd;
        }
    }
}

NN_INLINE void nn_depthwise_words(const nn_depthwise_words_layer *layer, const void *input, void *output,
                                  void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const nn_words_axis across = nn_depthwise_words_axis(s, layer->transposed);
    const nn_words_axis down = nn_depthwise_words_axis(s, !layer->transposed);
    const uint32_t pairs = (across.outputs + 1u) / 2u, words = 2u * nn_depthwise_words_positions(across.outputs);
    nn_word *const weights = scratch, *const lines = weights + NN_WORDS_WEIGHTS;
    const int32_t size = (int32_t)down.size, padding = (int32_t)down.padding;
    const bool leaving_out = layer->input_zero_point == 0;
    nn_words_pass pass;
    pass.distance = across.output_step;
    pass.x_line = 4u * words;
    pass.x_turn = pass.x_line - 16u * pairs;
    pass.output_turn = (int32_t)down.output_step - (int32_t)(2u * pairs * across.output_step);
    pass.zero_points = (uint32_t)layer->output_zero_point * 0x00010001u;
    for (uint32_t block = 0; block < down.outputs; block += layer->block) {
        const uint32_t last = block + layer->block < down.outputs ? block + layer->block : down.outputs;
        const int32_t first = (int32_t)block - padding, reach = (int32_t)(last + 2u) - padding;
        const int32_t lowest = leaving_out ? nn_max(first, 0) : first;
        const int32_t highest = leaving_out && reach > size ? size : reach;
        for (uint32_t four = 0; four < s->channels; four += 4u) {
            const uint8_t *const source = (const uint8_t *)input + four * nn_element_bits(s->input) / 8u;
            nn_word *target = lines;
            for (int32_t line = lowest; line < highest; line++, target += words) {
                const bool inside = leaving_out || (line >= 0 && line < size);
                nn_depthwise_words_line(layer, &across, inside ? source + (uint32_t)line * down.input_step : NULL,
                                        target);
            }
            nn_depthwise_words_weights(layer, four, weights);
            pass.bias = layer->constants + 2u * four;
            pass.multipliers = pass.bias + 4;
            for (uint32_t line = block; line < last; line += pass.lines) {
                const int32_t top = (int32_t)line - padding;
                const uint32_t skipped = leaving_out && top < 0 ? (uint32_t)-top : 0u;
                const uint32_t rows = leaving_out ? (uint32_t)(size - top < 3 ? size - top : 3) - skipped : 3u;
                pass.lines = 1;
                if (rows == 3u) {
                    /* All lines that have three rows: this one and those behind it. */
                    const uint32_t whole = leaving_out ? (uint32_t)(size - 2 - top) : last - line;
                    pass.lines = whole < last - line ? whole : last - line;
                }
                pass.x = lines + (uint32_t)(top + (int32_t)skipped - lowest) * words;
                pass.x_end = pass.x + 4u * pairs;
                pass.weights = weights + 6u * skipped;
                pass.output = (uint8_t *)output + line * down.output_step + four * nn_element_bits(s->output) / 8u;
                layer->passes[rows - 1u](&pass);
            }
        }
    }
}

#endif
