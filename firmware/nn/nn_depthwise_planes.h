/* Depthwise convolution with 3x3 kernels, stride 1, on planes of 16-bit elements: two multiplications per instruction,
 * four outputs at a time.
 *
 * Optimal for cores with the DSP extension, channels in fours, outputs of 8, 4 or 2 bits. A block of rows of outputs at
 * a time, and of it four channels: what they read becomes four planes in scratch, padded with the input's zero point.
 * Then each channel has its nine weights in six registers, as (w0, w1) and (w1, w2) of each row, and a pass computes two
 * outputs in each of two rows from pairs of elements.
 *
 * Passes go from the right to the left: with an odd number of columns, the last pair's second output is written where
 * the next row begins, before that is. So `channels` bytes behind the output are written, too. Packed outputs are
 * collected as bytes in scratch first. With an odd number of rows, the last pass writes its second row where it writes
 * its first, before that. Scratch: planes, each with whole words per row, then the collected outputs.
 */
#ifndef NN_DEPTHWISE_PLANES_H
#define NN_DEPTHWISE_PLANES_H

#include "nn_packed.h"

/* What one pass computes: one channel's outputs, two rows at a time. Assembly knows this record's layout.
 *
 * x, output: of the last pair of columns in the first row. weights: (w0, w1), (w1, w2) of each row of the kernel.
 * bias: of the channel. row: from an output to the one below. first, end: x of the first pair of columns in the first
 * row, and in the row after the last. x_turn, output_turn: from the last but one x (output) of two rows to those of the
 * next two rows. */
typedef struct {
    const nn_word *x;
    uint8_t *output;
    uint32_t weights[6];
    int32_t bias;
    int32_t unused; /* what follows is read by pairs of words */
    int32_t multiplier;
    uint32_t row;
    const nn_word *first;
    const nn_word *end;
    uint32_t first_turn;
    uint32_t x_turn;
    uint32_t output_turn;
} nn_planes_pass;

/* How a pass is made. pitch: bytes of a row of a plane. distance: bytes between neighbouring outputs, at most 2047.
 * zero_point, bits: of the outputs. */
typedef struct {
    uint32_t pitch, distance;
    int32_t zero_point;
    uint32_t bits;
} nn_planes_kind;

/* weights: (tap, channel), 8 bits each, or every tap a row of words of 4 or 2 bits. constants: each channel's bias and
 * multiplier. block: rows of outputs at a time, even unless it is all of them. pass: nn_planes_run for these constants. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const void *weights;
    uint32_t weight_bits;
    const int32_t *constants;
    uint32_t block;
    void (*pass)(const nn_planes_pass *pass);
} nn_depthwise_planes_layer;

#if NN_DSP
/* The products of a row of four elements in r0 and r3 with a row of the kernel, for two neighbouring outputs `a` and `b`,
 * which begin at `ia` and `ib`. `ib` may be `a`. */
#define NN_PLANES_ROW_FROM(u, v, a, b, ia, ib)               \
    "smlatb " b ", r0, " u ", " ib "\n\t"                    \
    "smlad " a ", r0, " u ", " ia "\n\t"                     \
    "smlabt " a ", r3, " v ", " a "\n\t"                     \
    "smlad " b ", r3, " v ", " b "\n\t"
#define NN_PLANES_ROW(u, v, a, b) NN_PLANES_ROW_FROM(u, v, a, b, a, b)
#define NN_PLANES_LOAD(n) "ldrd r0, r3, [r1, #" #n " * %c[pitch]]\n\t"
#else
/* The sum for the output that begins at elements `x` of a plane. */
NN_INLINE int32_t nn_planes_sum(const nn_planes_pass *pass, const int16_t *x, uint32_t pitch)
{
    uint32_t sum = (uint32_t)pass->bias;
    for (uint32_t ky = 0; ky < 3; ky++, x += pitch / 2u) {
        const uint32_t *const w = pass->weights + 2u * ky;
        sum += (uint32_t)(x[0] * (int16_t)w[0] + x[1] * (int16_t)(w[0] >> 16) + x[2] * (int16_t)(w[1] >> 16));
    }
    return (int32_t)sum;
}
#endif

NN_INLINE void nn_planes_run(const nn_planes_pass *pass, nn_planes_kind kind)
{
#if NN_DSP
    register const nn_planes_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        /* From the bias on, the parameters are kept on the stack. */
        "ldr r1, [r0]\n\t"
        "ldr r2, [r0, #4]\n\t"
        "sub sp, #40\n\t"
        "add r3, r0, #32\n\t"
        "ldm r3!, {r4, r5, r6, r7, r8, r9}\n\t"
        "stm sp, {r4, r5, r6, r7, r8, r9}\n\t"
        "ldm r3, {r4, r5, r6}\n\t"
        "add r3, sp, #24\n\t"
        "stm r3, {r4, r5, r6}\n\t"
        "add r0, r0, #8\n\t"
        "ldm r0, {r4, r5, r6, r7, r8, r9}\n"
        "1:\n\t"
        "ldr r12, [sp]\n\t"
        /* What only the upper, what both, and what only the lower outputs read; the bias is in r12. */
        NN_PLANES_LOAD(0) NN_PLANES_ROW_FROM("r4", "r5", "r10", "r11", "r12", "r12")
        NN_PLANES_LOAD(1) NN_PLANES_ROW("r6", "r7", "r10", "r11")
        NN_PLANES_ROW_FROM("r4", "r5", "r12", "lr", "r12", "r12")
        NN_PLANES_LOAD(2) NN_PLANES_ROW("r8", "r9", "r10", "r11") NN_PLANES_ROW("r6", "r7", "r12", "lr")
        NN_PLANES_LOAD(3) NN_PLANES_ROW("r8", "r9", "r12", "lr")
        "ldrd r0, r3, [sp, #8]\n\t"
        "smmulr r10, r10, r0\n\t"
        "smmulr r11, r11, r0\n\t"
        "smmulr r12, r12, r0\n\t"
        "smmulr lr, lr, r0\n\t"
        "ldr r0, [sp, #16]\n\t"
        "add r3, r3, r2\n\t"
        ".if %c[zero_point]\n\t"
        "add r10, r10, #%c[zero_point]\n\t"
        "add r11, r11, #%c[zero_point]\n\t"
        "add r12, r12, #%c[zero_point]\n\t"
        "add lr, lr, #%c[zero_point]\n\t"
        ".endif\n\t"
        "usat r10, #%c[bits], r10\n\t"
        "usat r11, #%c[bits], r11\n\t"
        "usat r12, #%c[bits], r12\n\t"
        "usat lr, #%c[bits], lr\n\t"
        "strb lr, [r3, #%c[distance]]\n\t"
        "strb r11, [r2, #%c[distance]]\n\t"
        "strb r12, [r3]\n\t"
        "strb r10, [r2]\n\t"
        "cmp r1, r0\n\t"
        "subw r2, r2, #2 * %c[distance]\n\t"
        "sub r1, r1, #4\n\t"
        "bne 1b\n\t"
        /* The next two rows, if there are any. */
        "ldrd r3, r10, [sp, #20]\n\t"
        "ldrd r11, r12, [sp, #28]\n\t"
        "add r0, r0, r10\n\t"
        "add r1, r1, r11\n\t"
        "add r2, r2, r12\n\t"
        "str r0, [sp, #16]\n\t"
        "cmp r0, r3\n\t"
        "bne 1b\n\t"
        "add sp, #40"
        : "+r"(parameters)
        : [pitch] "i"(kind.pitch), [distance] "i"(kind.distance), [zero_point] "i"(kind.zero_point),
          [bits] "i"(kind.bits)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const uint32_t pairs = (uint32_t)(pass->x - pass->first) + 1u;
    const nn_word *first = pass->first;
    uint8_t *output = pass->output;
    for (; first != pass->end; first += pass->first_turn / 4u) {
        for (uint32_t pair = pairs; pair-- > 0; output -= 2u * kind.distance) {
            for (uint32_t right = 2; right-- > 0;) {
                for (uint32_t below = 2; below-- > 0;) {
                    const nn_word *const corner = first + pair + below * kind.pitch / 4u;
                    const int64_t sum = nn_planes_sum(pass, (const int16_t *)corner + right, kind.pitch);
                    const int64_t rounded = (sum * pass->multiplier + ((int64_t)1 << 31)) >> 32;
                    output[below * pass->row + right * kind.distance] =
                        (uint8_t)nn_clamp(rounded + kind.zero_point, kind.bits);
                }
            }
        }
        output += pass->output_turn;
    }
#endif
}

/* ---- planes */

/* Words of a row of a plane. */
NN_INLINE uint32_t nn_depthwise_planes_words(const nn_conv2d_shape *s)
{
    return (s->columns + 1u) / 2u + 1u;
}

/* Rows of a plane for `rows` rows of outputs. */
NN_INLINE uint32_t nn_depthwise_planes_height(uint32_t rows)
{
    return (rows + 1u) / 2u * 2u + 2u;
}

/* Four channels of a pixel, of 8, 4 or 2 bits, as bytes. channel: the first, a multiple of four. */
NN_INLINE uint32_t nn_planes_pixel(const uint8_t *row, uint32_t pixel, uint32_t channels, uint32_t channel,
                                   nn_element element)
{
    return nn_get_four(row + (pixel * channels + channel) * nn_element_bits(element) / 8u, element);
}

/* Four channels of two pixels into a word of each of four planes, `plane` words after each other. */
NN_INLINE void nn_planes_split(uint32_t first, uint32_t second, nn_word *target, uint32_t plane)
{
#if NN_DSP
    uint32_t lower, third;
    __asm__("pkhbt %[lower], %[first], %[second], lsl #16\n\t"
            "pkhtb %[second], %[second], %[first], asr #16\n\t"
            "uxtb16 %[first], %[lower]\n\t"
            "uxtb16 %[lower], %[lower], ror #8\n\t"
            "uxtb16 %[third], %[second]\n\t"
            "uxtb16 %[second], %[second], ror #8"
            : [first] "+r"(first), [second] "+r"(second), [lower] "=&r"(lower), [third] "=&r"(third));
    target[0] = first;
    target[plane] = lower;
    target[2u * plane] = third;
    target[3u * plane] = second;
#else
    for (uint32_t channel = 0; channel < 4; channel++) {
        target[channel * plane] = (first >> (8u * channel) & 0xFFu) | (second >> (8u * channel) & 0xFFu) << 16;
    }
#endif
}

/* The same for `words` words of neighbouring pixels from `source` on, `step` bytes apart. */
NN_INLINE void nn_planes_split_row(const uint8_t *source, uint32_t step, uint32_t words, nn_element element,
                                   nn_word *target, uint32_t plane)
{
#if NN_DSP
    if (element == NN_U8) {
        nn_word *upper = target + 2u * plane;
        for (const nn_word *const end = target + words; target != end;) {
            __asm__("ldr r2, [%[source]]\n\t"
                    "ldr r3, [%[source], %[step]]\n\t"
                    "add %[source], %[source], %[step], lsl #1\n\t"
                    "pkhbt r4, r2, r3, lsl #16\n\t"
                    "pkhtb r5, r3, r2, asr #16\n\t"
                    "uxtb16 r2, r4\n\t"
                    "uxtb16 r4, r4, ror #8\n\t"
                    "uxtb16 r3, r5\n\t"
                    "uxtb16 r5, r5, ror #8\n\t"
                    "str r4, [%[target], %[plane]]\n\t"
                    "str r2, [%[target]], #4\n\t"
                    "str r5, [%[upper], %[plane]]\n\t"
                    "str r3, [%[upper]], #4"
                    : [source] "+r"(source), [target] "+r"(target), [upper] "+r"(upper)
                    : [step] "r"(step), [plane] "r"(4u * plane)
                    : "r2", "r3", "r4", "r5", "memory");
        }
        return;
    }
#endif
    for (uint32_t word = 0; word < words; word++, source += 2u * step) {
        nn_planes_split(nn_get_four(source, element), nn_get_four(source + step, element), target + word, plane);
    }
}

/* Rows from `y` on of four channels into planes of `height` rows. */
NN_INLINE void nn_depthwise_planes_fill(const nn_depthwise_planes_layer *layer, const uint8_t *input, int32_t y,
                                        uint32_t height, uint32_t channel, nn_word *planes)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t words = nn_depthwise_planes_words(s), plane = height * words;
    const uint32_t padding = (uint32_t)layer->input_zero_point * 0x01010101u;
    /* Words with two pixels of the image: from `begin` to `end`. */
    const uint32_t left = s->padding[1], begin = (left + 1u) / 2u, reach = (s->width + left) / 2u;
    const uint32_t most = reach < words ? reach : words, end = most < begin ? begin : most;
    for (uint32_t i = 0; i < height; i++, y++, planes += words) {
        if (y < 0 || y >= (int32_t)s->height) {
            for (uint32_t word = 0; word < words; word++) {
                nn_planes_split(padding, padding, planes + word, plane);
            }
            continue;
        }
        const uint8_t *const row = input + (uint32_t)y * nn_row_bytes(s->width * s->channels, s->input);
        nn_planes_split_row(row + (2u * begin - left) * s->channels * nn_element_bits(s->input) / 8u +
                                channel * nn_element_bits(s->input) / 8u,
                            s->channels * nn_element_bits(s->input) / 8u, end - begin, s->input, planes + begin, plane);
        for (uint32_t word = begin ? 0u : end; word < words; word = word + 1u == begin ? end : word + 1u) {
            uint32_t pixels[2] = {padding, padding};
            for (uint32_t half = 0; half < 2; half++) {
                const uint32_t x = 2u * word + half - left; /* wraps in front of the image */
                if (x < s->width) {
                    pixels[half] = nn_planes_pixel(row, x, s->channels, channel, s->input);
                }
            }
            nn_planes_split(pixels[0], pixels[1], planes + word, plane);
        }
    }
}

/* Weight `tap` of `channel`. */
NN_INLINE int32_t nn_planes_weight(const nn_depthwise_planes_layer *layer, uint32_t tap, uint32_t channel)
{
    const uint32_t channels = layer->shape.channels, bits = layer->weight_bits;
    if (bits == 8u) {
        return ((const int8_t *)layer->weights)[tap * channels + channel];
    }
    const uint32_t *const row = (const uint32_t *)layer->weights + tap * ((channels * bits + 31u) / 32u);
    const uint32_t shift = channel * bits % 32u;
    return (int32_t)(row[channel * bits / 32u] << (32u - bits - shift)) >> (32u - bits);
}

NN_INLINE void nn_depthwise_planes(const nn_depthwise_planes_layer *layer, const void *input, void *output,
                                   void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pairs = (s->columns + 1u) / 2u, words = nn_depthwise_planes_words(s);
    const bool packed = s->output != NN_U8;
    const uint32_t distance = packed ? 4u : s->channels, row_bytes = s->columns * distance;
    nn_word *const planes = scratch;
    uint8_t *const collected = (uint8_t *)(planes + 4u * nn_depthwise_planes_height(layer->block) * words);
    for (uint32_t row = 0; row < s->rows; row += layer->block) {
        const bool whole = s->rows % layer->block == 0 || row + layer->block <= s->rows;
        const uint32_t rows = whole ? layer->block : s->rows - row;
        const uint32_t height = nn_depthwise_planes_height(rows);
        const int32_t top = (int32_t)row - (int32_t)s->padding[0];
        for (uint32_t four = 0; four < s->channels; four += 4u) {
            nn_depthwise_planes_fill(layer, input, top, height, four, planes);
            for (uint32_t channel = four; channel < four + 4u; channel++) {
                const nn_word *const plane = planes + (channel - four) * height * words;
                uint8_t *const first =
                    packed ? collected + (channel - four) : (uint8_t *)output + row * row_bytes + channel;
                nn_planes_pass pass;
                for (uint32_t ky = 0; ky < 3; ky++) {
                    const uint32_t w0 = (uint32_t)nn_planes_weight(layer, 3u * ky, channel);
                    const uint32_t w1 = (uint32_t)nn_planes_weight(layer, 3u * ky + 1u, channel);
                    const uint32_t w2 = (uint32_t)nn_planes_weight(layer, 3u * ky + 2u, channel);
                    pass.weights[2u * ky] = (w0 & 0xFFFFu) | w1 << 16;
                    pass.weights[2u * ky + 1u] = (w1 & 0xFFFFu) | w2 << 16;
                }
                pass.bias = layer->constants[2u * channel];
                pass.unused = 0;
                pass.multiplier = layer->constants[2u * channel + 1u];
                pass.first_turn = 8u * words;
                pass.x_turn = pass.first_turn + 4u * pairs;
                pass.output_turn = 2u * row_bytes + 2u * distance * pairs;
                pass.row = row_bytes;
                pass.first = plane;
                pass.x = plane + (pairs - 1u);
                pass.output = first + (pairs - 1u) * 2u * distance;
                pass.end = plane + rows / 2u * 2u * words;
                if (rows >= 2u) {
                    layer->pass(&pass);
                }
                if (rows % 2u) {
                    /* The last row alone: what a second one would be is written over by it. */
                    pass.first = pass.end;
                    pass.x = pass.first + (pairs - 1u);
                    pass.end = pass.first + 2u * words;
                    pass.output = first + (rows - 1u) * row_bytes + (pairs - 1u) * 2u * distance;
                    pass.row = 0;
                    layer->pass(&pass);
                }
            }
            for (uint32_t i = 0; packed && i < rows; i++) {
                const nn_word *const bytes = (const nn_word *)(const void *)(collected + i * row_bytes);
                const uint32_t pitch = nn_row_bytes(s->columns * s->channels, s->output);
                for (uint32_t column = 0; column < s->columns; column++) {
                    const uint32_t at = (column * s->channels + four) * nn_element_bits(s->output) / 8u;
                    nn_put_four(bytes[column], (uint8_t *)output + (row + i) * pitch + at, s->output);
                }
            }
        }
    }
}

#endif
