/* Depthwise convolution with 3x3 kernels, stride 1 and one pixel of padding on every side, on strips: up to eight
 * neighbouring outputs of one channel at a time, two multiplications per instruction.
 *
 * Optimal for cores with the DSP extension, channels in fours, outputs of 8, 4 or 2 bits. Strips of `tile` pixels make
 * up a row of the image. A block of rows of outputs at a time, and of it four channels: their pixels become, in
 * scratch, pairs of 16-bit elements, (p0, p1), (p2, p3) and so on of a strip; an odd strip ends with the pair of its
 * last two. A pass then keeps the outputs of a strip in registers: a pair of pixels (p, q) adds to four of them, with
 * weights (w0, w1) and (w1, w2) of a row of the kernel: w2 p to the one before, w1 p + w2 q and w0 p + w1 q to its own,
 * w0 q to the next.
 *
 * A strip that is a whole row, in an image padded with zeros, has no neighbours: nothing is multiplied by padding on
 * its sides. Otherwise every line of scratch begins with a strip of padding, which also lies behind the line before.
 * Lines above and below the image are padding, too; an image of 3x3 has none: it is one pass, nine outputs at a time.
 *
 * The last strip of a row may be longer than what is left of the row. Its pixels behind the row are those of the next
 * one; the first of them, which the last output meets, is made padding. Its outputs behind the row are written where
 * the next row begins, before that is. As much is read behind the input and written behind the output.
 *
 * Packed outputs are collected as bytes first, of channels 0, 2, 1, 3. Scratch: the weights and constants of four
 * channels (128 bytes), the lines, what is collected of a block.
 */
#ifndef NN_DEPTHWISE_STRIPS_H
#define NN_DEPTHWISE_STRIPS_H

#include "nn_packed.h"

/* weights: of four channels at a time, see nn_strips_tap. constants: each channel's bias and multiplier. run:
 * nn_strips_run for the layer's shape, which layers of one shape share. */
typedef struct nn_depthwise_strips_layer {
    const uint32_t *weights;
    const int32_t *constants;
    void (*run)(const struct nn_depthwise_strips_layer *layer, const void *input, void *output, void *scratch);
} nn_depthwise_strips_layer;

/* The shape of a layer. height, width, channels: of the input and of the output. tile: pixels of a strip, 2 to 8.
 * edges: whether lines have padding on their sides. block: rows of outputs at a time. weight_bits:
 * 8, 4 or 2. input, input_zero_point; output, zero_point: how these are stored, and what stands for 0. */
typedef struct {
    uint32_t height, width, channels;
    uint32_t tile;
    bool edges;
    uint32_t block;
    uint32_t weight_bits;
    nn_element input;
    int32_t input_zero_point;
    nn_element output;
    int32_t zero_point;
} nn_strips_kind;

enum { NN_STRIPS_WEIGHTS = 32 }; /* words of weights, biases and multipliers of four channels */

/* Words of a channel's strip. */
NN_INLINE uint32_t nn_strips_words(nn_strips_kind kind)
{
    return (kind.tile + 1u) / 2u;
}

/* Bytes of four channels' strips, channel after channel. */
NN_INLINE uint32_t nn_strips_slot(nn_strips_kind kind)
{
    return 16u * nn_strips_words(kind);
}

/* Strips of a row. */
NN_INLINE uint32_t nn_strips_count(nn_strips_kind kind)
{
    return (kind.width + kind.tile - 1u) / kind.tile;
}

/* Pixels of these that lie behind the row. */
NN_INLINE uint32_t nn_strips_over(nn_strips_kind kind)
{
    return nn_strips_count(kind) * kind.tile - kind.width;
}

/* Bytes from line to line. */
NN_INLINE uint32_t nn_strips_pitch(nn_strips_kind kind)
{
    return (nn_strips_count(kind) + kind.edges) * nn_strips_slot(kind);
}

/* Bytes between neighbouring outputs of a pass. */
NN_INLINE uint32_t nn_strips_distance(nn_strips_kind kind)
{
    return kind.output == NN_U8 ? kind.channels : 4u;
}

/* Whether the image is one pass. */
NN_INLINE bool nn_strips_whole(nn_strips_kind kind)
{
    return kind.height == 3u && kind.width == 3u && !kind.edges;
}

/* ---- weights */

#if !NN_DSP
/* Weight `tap` of channel `channel` of the four at `weights`. 8 bits: by tap, a byte per channel. Otherwise fields of
 * four channels each, the lowest first, which hold weights + 2^(bits - 1); 4 bits: halfwords of taps 0, 1; 4, 5; 6, 7;
 * 3, 2; 8, 8. 2 bits: for each row of the kernel, bytes of taps 0, 1, 1, 2. */
NN_INLINE int32_t nn_strips_tap(const uint32_t *weights, uint32_t bits, uint32_t tap, uint32_t channel)
{
    static const uint8_t halves[9] = {0, 1, 7, 6, 2, 3, 4, 5, 9}, bytes[3] = {0, 1, 3};
    const uint8_t *const from = (const uint8_t *)weights;
    if (bits == 8u) {
        return (int8_t)from[4u * tap + channel];
    }
    const uint32_t first = bits == 4u ? 2u * halves[tap] : 4u * (tap / 3u) + bytes[tap % 3u];
    const uint32_t byte = from[first + channel * bits / 8u];
    return (int32_t)(byte >> channel * bits % 8u & ((1u << bits) - 1u)) - (1 << (bits - 1u));
}
#endif

#if NN_DSP
/* The fields of four channels in r2, (w0, w1), and r3, (w1, w2), into pairs of weights in r2 to r9, by channel. */
#define NN_STRIPS_FIELDS                           \
    "and r4, r10, r2, lsr #%c[bits]\n\t"             \
    "and r5, r10, r3, lsr #%c[bits]\n\t"             \
    "and r6, r10, r2, lsr #2 * %c[bits]\n\t"         \
    "and r7, r10, r3, lsr #2 * %c[bits]\n\t"         \
    "and r8, r10, r2, lsr #3 * %c[bits]\n\t"         \
    "and r9, r10, r3, lsr #3 * %c[bits]\n\t"         \
    "and r2, r10, r2\n\t"                          \
    "and r3, r10, r3\n\t"                          \
    "ssub16 r2, r2, r11\n\t"                       \
    "ssub16 r3, r3, r11\n\t"                       \
    "ssub16 r4, r4, r11\n\t"                       \
    "ssub16 r5, r5, r11\n\t"                       \
    "ssub16 r6, r6, r11\n\t"                       \
    "ssub16 r7, r7, r11\n\t"                       \
    "ssub16 r8, r8, r11\n\t"                       \
    "ssub16 r9, r9, r11\n\t"                       \
    "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
#endif

/* Four channels' weights into `target`: for each row of the kernel and channel (w0, w1), (w1, w2); then, by channel,
 * their biases and multipliers. Returns the next four's weights. */
NN_INLINE const uint32_t *nn_strips_unpack(const uint32_t *weights, uint32_t bits, const int32_t *constants,
                                           nn_word *target)
{
#if NN_DSP
    register const uint32_t *from __asm__("r0") = weights;
    register nn_word *to __asm__("r1") = target;
    if (bits == 8u) {
        __asm__ volatile(".rept 3\n\t"
                         "ldm r0!, {r10, r11, r12}\n\t"
                         "pkhbt r2, r10, r11, lsl #16\n\t"
                         "pkhtb r6, r11, r10, asr #16\n\t"
                         "pkhbt r3, r11, r12, lsl #16\n\t"
                         "pkhtb r7, r12, r11, asr #16\n\t"
                         "sxtb16 r4, r2, ror #8\n\t"
                         "sxtb16 r2, r2\n\t"
                         "sxtb16 r5, r3, ror #8\n\t"
                         "sxtb16 r3, r3\n\t"
                         "sxtb16 r8, r6, ror #8\n\t"
                         "sxtb16 r6, r6\n\t"
                         "sxtb16 r9, r7, ror #8\n\t"
                         "sxtb16 r7, r7\n\t"
                         "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
                         ".endr"
                         : "+r"(from), "+r"(to)
                         :
                         : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "memory");
    } else if (bits == 4u) {
        __asm__ volatile("mov r10, #0x000F000F\n\t"
                         "mov r11, #0x00080008\n\t"
                         "ldr r2, [r0]\n\t"
                         "ldr r12, [r0, #12]\n\t"
                         "pkhtb r3, r12, r2, asr #16\n\t" NN_STRIPS_FIELDS
                         "ldr r3, [r0, #4]\n\t"
                         "pkhbt r2, r12, r3, lsl #16\n\t" NN_STRIPS_FIELDS
                         "ldr r2, [r0, #8]\n\t"
                         "ldr r12, [r0, #16]\n\t"
                         "pkhtb r3, r12, r2, asr #16\n\t" NN_STRIPS_FIELDS
                         "add r0, r0, #20"
                         : "+r"(from), "+r"(to)
                         : [bits] "i"(4)
                         : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "memory");
    } else {
        __asm__ volatile("mov r10, #0x00030003\n\t"
                         "mov r11, #0x00020002\n\t"
                         ".rept 3\n\t"
                         "ldr r2, [r0], #4\n\t"
                         "lsr r3, r2, #8\n\t" NN_STRIPS_FIELDS
                         ".endr"
                         : "+r"(from), "+r"(to)
                         : [bits] "i"(2)
                         : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "memory");
    }
    __asm__ volatile("ldm %[constants], {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
                     "stm %[to], {r2, r3, r4, r5, r6, r7, r8, r9}"
                     :
                     : [constants] "r"(constants), [to] "r"(to)
                     : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "memory");
    return from;
#else
    for (uint32_t row = 0; row < 3u; row++) {
        for (uint32_t channel = 0; channel < 4u; channel++) {
            uint32_t w[3];
            for (uint32_t i = 0; i < 3u; i++) {
                w[i] = (uint32_t)nn_strips_tap(weights, bits, 3u * row + i, channel) & 0xFFFFu;
            }
            *target++ = w[0] | w[1] << 16;
            *target++ = w[1] | w[2] << 16;
        }
    }
    for (uint32_t i = 0; i < 8u; i++) {
        *target++ = (uint32_t)constants[i];
    }
    return weights + (bits == 8u ? 9u : bits == 4u ? 5u : 3u);
#endif
}

/* ---- lines */

#if NN_DSP
/* Pixels `p` and `q` of a strip at r0 into the registers a and c, or of packed ones a and b. */
#define NN_STRIPS_PIXEL_PAIR(p, q, a, b, c)                    \
    ".if %c[bits] == 8\n\t"                                    \
    "ldr.w " a ", [r0, #(" p ") * %c[step]]\n\t"               \
    "ldr.w " c ", [r0, #(" q ") * %c[step]]\n\t"               \
    ".elseif %c[bits] == 4\n\t"                                \
    "ldrh " a ", [r0, #(" p ") * %c[step]]\n\t"                \
    "ldrh " b ", [r0, #(" q ") * %c[step]]\n\t"                \
    ".else\n\t"                                                \
    "ldrb " a ", [r0, #(" p ") * %c[step]]\n\t"                \
    "ldrb " b ", [r0, #(" q ") * %c[step]]\n\t"                \
    ".endif\n\t"
/* These become pairs of each channel, in the registers a to d. */
#define NN_STRIPS_SPLIT(a, b, c, d)                            \
    ".if %c[bits] == 8\n\t"                                    \
    "pkhbt " b ", " a ", " c ", lsl #16\n\t"                   \
    "pkhtb " d ", " c ", " a ", asr #16\n\t"                   \
    "uxtb16 " a ", " b "\n\t"                                  \
    "uxtb16 " b ", " b ", ror #8\n\t"                          \
    "uxtb16 " c ", " d "\n\t"                                  \
    "uxtb16 " d ", " d ", ror #8\n\t"                          \
    ".else\n\t"                                                \
    "orr " a ", " a ", " b ", lsl #16\n\t"                     \
    "lsr " b ", " a ", #%c[bits]\n\t"                          \
    "lsr " c ", " a ", #2 * %c[bits]\n\t"                      \
    "lsr " d ", " a ", #3 * %c[bits]\n\t"                      \
    "and " a ", " a ", #%c[mask]\n\t"                          \
    "and " b ", " b ", #%c[mask]\n\t"                          \
    "and " c ", " c ", #%c[mask]\n\t"                          \
    "and " d ", " d ", #%c[mask]\n\t"                          \
    ".endif\n\t"
/* Of two pixels; of four. Cortex-M4 saves a cycle where loads follow each other. */
#define NN_STRIPS_PAIR(p, q, a, b, c, d) NN_STRIPS_PIXEL_PAIR(p, q, a, b, c) NN_STRIPS_SPLIT(a, b, c, d)
#define NN_STRIPS_PAIRS(p, q, a, b, c, d, r, s, e, f, g, h)    \
    NN_STRIPS_PIXEL_PAIR(p, q, a, b, c) NN_STRIPS_PIXEL_PAIR(r, s, e, f, g) \
    NN_STRIPS_SPLIT(a, b, c, d) NN_STRIPS_SPLIT(e, f, g, h)
/* Two pairs of each channel into strips of four. */
#define NN_STRIPS_HALF(at)                                     \
    "strd r2, r3, [r1, #" #at "]\n\t"                          \
    "strd r4, r5, [r1, #16 + " #at "]\n\t"                     \
    "strd r6, r7, [r1, #32 + " #at "]\n\t"                     \
    "strd r8, r9, [r1, #48 + " #at "]\n\t"
#endif

/* `lines` rows of the image from `source` on, of four channels, into lines from `target` on. */
NN_INLINE void nn_strips_fill(const uint8_t *source, uint32_t lines, nn_word *target, nn_strips_kind kind)
{
    const uint32_t words = nn_strips_words(kind), slot = nn_strips_slot(kind), pitch = nn_strips_pitch(kind);
    const uint32_t bits = nn_element_bits(kind.input), step = kind.channels * bits / 8u;
    const uint32_t row = nn_row_bytes(kind.width * kind.channels, kind.input);
#if NN_DSP
    register const uint8_t *from __asm__("r0") = source;
    register nn_word *to __asm__("r1") = target + (kind.edges ? slot / 4u : 0u);
    /* Where the first line's strips end, and where the last line's do. */
    register uintptr_t line_end __asm__("r2") = (uintptr_t)target + pitch;
    register uintptr_t end __asm__("r3") = (uintptr_t)target + lines * pitch;
    __asm__ volatile("push {r2, r3}\n\t"
                     ".balign 4\n"
                     "1:\n\t"
                     ".if %c[words] == 1\n\t"
                     NN_STRIPS_PAIR("0", "1", "r2", "r3", "r4", "r5")
                     "stm r1!, {r2, r3, r4, r5}\n\t"
                     ".elseif %c[words] == 2\n\t"
                     NN_STRIPS_PAIRS("0", "1", "r2", "r4", "r6", "r8",
                                     "%c[tile] - 2", "%c[tile] - 1", "r3", "r5", "r7", "r9")
                     "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
                     ".elseif %c[words] == 3\n\t"
                     NN_STRIPS_PAIRS("0", "1", "r2", "r5", "r8", "r11", "2", "3", "r3", "r6", "r9", "r12")
                     NN_STRIPS_PAIR("%c[tile] - 2", "%c[tile] - 1", "r4", "r7", "r10", "lr")
                     "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}\n\t"
                     ".else\n\t"
                     NN_STRIPS_PAIRS("0", "1", "r2", "r4", "r6", "r8", "2", "3", "r3", "r5", "r7", "r9")
                     NN_STRIPS_HALF(0)
                     NN_STRIPS_PAIRS("4", "5", "r2", "r4", "r6", "r8",
                                     "%c[tile] - 2", "%c[tile] - 1", "r3", "r5", "r7", "r9")
                     NN_STRIPS_HALF(8)
                     "add r1, r1, #64\n\t"
                     ".endif\n\t"
                     "addw r0, r0, #%c[tile] * %c[step]\n\t"
                     ".if %c[edges]\n\t"
                     "ldrd r2, r3, [sp]\n\t"
                     "cmp r1, r2\n\t"
                     "bne 1b\n\t"
                     "addw r2, r2, #%c[pitch]\n\t"
                     "str r2, [sp]\n\t"
                     "cmp r1, r3\n\t"
                     "add r1, r1, #16 * %c[words]\n\t"
                     ".else\n\t"
                     "ldr r3, [sp, #4]\n\t"
                     "cmp r1, r3\n\t"
                     ".endif\n\t"
                     ".if %c[behind]\n\t"
                     "add r0, r0, #%c[behind]\n\t"
                     ".endif\n\t"
                     "bne 1b\n\t"
                     "add sp, #8"
                     : "+r"(from), "+r"(to), "+r"(line_end), "+r"(end)
                     : [bits] "i"(bits), [mask] "i"(((1u << bits) - 1u) * 0x00010001u), [words] "i"(words),
                       [tile] "i"(kind.tile), [step] "i"(step), [edges] "i"(kind.edges), [pitch] "i"(pitch),
                       [behind] "i"((int32_t)row - (int32_t)((kind.width + nn_strips_over(kind)) * step))
                     : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    for (uint32_t line = 0; line < lines; line++, source += row) {
        nn_word *to = target + (line * pitch + (kind.edges ? slot : 0u)) / 4u;
        for (uint32_t first = 0; first < kind.width; first += kind.tile) {
            for (uint32_t channel = 0; channel < 4u; channel++) {
                for (uint32_t word = 0; word < words; word++) {
                    const uint32_t x = first + (2u * word + 1u < kind.tile ? 2u * word : kind.tile - 2u);
                    /* Nothing is computed from pixels behind the row. */
                    const uint32_t p = x < kind.width ? nn_get_four(source + x * step, kind.input) : 0u;
                    const uint32_t q = x + 1u < kind.width ? nn_get_four(source + (x + 1u) * step, kind.input) : 0u;
                    *to++ = (p >> 8u * channel & 0xFFu) | (q >> 8u * channel & 0xFFu) << 16;
                }
            }
        }
    }
#endif
    if (nn_strips_over(kind)) {
        /* The first pixel behind the row. */
        const uint32_t pixel = kind.tile - nn_strips_over(kind);
        const uint32_t half = pixel + 1u < kind.tile ? pixel : 2u * words - 1u;
        uint16_t *first = (uint16_t *)(void *)((uint8_t *)target + pitch - slot) + half;
        for (uint32_t line = 0; line < lines; line++, first += pitch / 2u) {
            NN_UNROLL
            for (uint32_t channel = 0; channel < 4u; channel++) {
                first[2u * words * channel] = (uint16_t)kind.input_zero_point;
            }
        }
    }
}

/* `bytes` bytes of padding, a multiple of 16. */
NN_INLINE void nn_strips_pad(nn_word *target, uint32_t bytes, nn_strips_kind kind)
{
    const nn_word padding = (uint32_t)kind.input_zero_point * 0x00010001u;
    for (const nn_word *const end = target + bytes / 4u; target != end; target += 4) {
        target[0] = target[1] = target[2] = target[3] = padding;
    }
}

/* ---- passes */

#if NN_DSP
/* Sums are in r4 to r11, as many as there are. The bias is in r11 until that becomes a sum; the multiplier in r9 where
 * that is no sum, else in r2 or r3; where the first output goes in r10 or, for strips of seven and eight, in r12. x: a
 * pair of pixels; weights are in r12, (w0, w1), and lr, (w1, w2). What is first added to a sum is added to the bias.
 * Cortex-M4 saves a cycle where LDR follows LDR, and fetches whole words: instructions of 16 bits would put the others
 * across two. What Cortex-M7 issues together stands together. */
#define NN_STRIPS_ADD(op, sum, x, w) op " " sum ", " x ", " w ", " sum "\n\t"
#define NN_STRIPS_BEGIN(op, sum, x, w)                         \
    ".if nn_line\n\t" NN_STRIPS_ADD(op, sum, x, w)             \
    ".else\n\t" op " " sum ", " x ", " w ", r11\n\t"           \
    ".endif\n\t"
/* A pair that adds to the output before it and to its own two. */
#define NN_STRIPS_WORD(before, own, other, x)                  \
    NN_STRIPS_ADD("smlabt", before, x, "lr")                   \
    NN_STRIPS_ADD("smlad", own, x, "lr")                       \
    NN_STRIPS_BEGIN("smlad", other, x, "r12")
/* The pair at the end of an odd strip, whose first pixel is in the pair before, too. */
#define NN_STRIPS_ODD(before, own, x)                          \
    NN_STRIPS_ADD("smlatt", before, x, "lr")                   \
    NN_STRIPS_BEGIN("smlad", own, x, "r12")
#define NN_STRIPS_BEHIND "ldr.w r3, [r0, #nn_line * %c[pitch] + 16 * %c[words]]\n\t"
/* A row of the kernel, nn_line lines from r0. */
#define NN_STRIPS_LINE                                         \
    "ldrd r12, lr, [r1, #32 * nn_line]\n\t"                    \
    ".if %c[edges]\n\t"                                        \
    "ldr.w r2, [r0, #nn_line * %c[pitch] - 12 * %c[words] - 4]\n\t" \
    NN_STRIPS_BEGIN("smlatb", "r4", "r2", "r12")               \
    ".endif\n\t"                                               \
    ".if %c[words] == 1\n\t"                                   \
    "ldr.w r2, [r0, #nn_line * %c[pitch]]\n\t"                   \
    ".else\n\t"                                                \
    "ldrd r2, r3, [r0, #nn_line * %c[pitch]]\n\t"              \
    ".endif\n\t"                                               \
    ".if %c[edges]\n\t" NN_STRIPS_ADD("smlad", "r4", "r2", "lr") \
    ".else\n\t" NN_STRIPS_BEGIN("smlad", "r4", "r2", "lr")     \
    ".endif\n\t" NN_STRIPS_BEGIN("smlad", "r5", "r2", "r12")   \
    ".if %c[tile] > 3\n\t" NN_STRIPS_BEGIN("smlatb", "r6", "r2", "r12") \
    ".if %c[words] == 3 && !%c[edges]\n\t"                     \
    "ldr.w r2, [r0, #nn_line * %c[pitch] + 8]\n\t"               \
    ".endif\n\t" NN_STRIPS_WORD("r5", "r6", "r7", "r3")        \
    ".elseif %c[tile] == 3\n\t" NN_STRIPS_ODD("r5", "r6", "r3") \
    ".endif\n\t"                                               \
    ".if %c[tile] > 5\n\t" NN_STRIPS_BEGIN("smlatb", "r8", "r3", "r12") \
    ".endif\n\t"                                               \
    ".if %c[words] == 4\n\t"                                   \
    "ldrd r2, r3, [r0, #nn_line * %c[pitch] + 8]\n\t"          \
    NN_STRIPS_WORD("r7", "r8", "r9", "r2")                     \
    ".if %c[tile] == 8\n\t" NN_STRIPS_BEGIN("smlatb", "r10", "r2", "r12") \
    ".endif\n\t"                                               \
    ".if nn_line == 2\n\t"                                     \
    "ldr.w r2, [r1, #100]\n\t"                                   \
    ".endif\n\t"                                               \
    ".if %c[tile] == 7\n\t" NN_STRIPS_ODD("r9", "r10", "r3")   \
    ".else\n\t" NN_STRIPS_WORD("r9", "r10", "r11", "r3")       \
    ".endif\n\t"                                               \
    ".endif\n\t"                                               \
    ".if %c[words] == 3 && %c[edges]\n\t"                      \
    "ldr.w r2, [r0, #nn_line * %c[pitch] + 8]\n\t"               \
    ".endif\n\t"                                               \
    ".if %c[edges]\n\t" NN_STRIPS_BEHIND                       \
    ".elseif %c[tile] == 6 && nn_line == 2\n\t"                \
    "ldr.w r3, [r1, #100]\n\t"                                   \
    ".endif\n\t"                                               \
    ".if %c[tile] == 5\n\t" NN_STRIPS_ODD("r7", "r8", "r2")    \
    ".elseif %c[tile] == 6\n\t" NN_STRIPS_WORD("r7", "r8", "r9", "r2") \
    ".endif\n\t"                                               \
    ".if %c[tile] == 6 && nn_line == 2 && %c[edges]\n\t"       \
    "ldr.w r2, [r1, #100]\n\t"                                   \
    ".endif\n\t"                                               \
    ".if %c[edges]\n\t"                                        \
    ".if %c[tile] == 2\n\t" NN_STRIPS_ADD("smlabt", "r5", "r3", "lr") \
    ".elseif %c[tile] == 3\n\t" NN_STRIPS_ADD("smlabt", "r6", "r3", "lr") \
    ".elseif %c[tile] == 4\n\t" NN_STRIPS_ADD("smlabt", "r7", "r3", "lr") \
    ".elseif %c[tile] == 5\n\t" NN_STRIPS_ADD("smlabt", "r8", "r3", "lr") \
    ".elseif %c[tile] == 6\n\t" NN_STRIPS_ADD("smlabt", "r9", "r3", "lr") \
    ".elseif %c[tile] == 7\n\t" NN_STRIPS_ADD("smlabt", "r10", "r3", "lr") \
    ".else\n\t" NN_STRIPS_ADD("smlabt", "r11", "r3", "lr")     \
    ".endif\n\t"                                               \
    ".endif\n\t"
#define NN_STRIPS_ROUND(sum)                                   \
    ".if %c[tile] < 6\n\t"                                     \
    "smmulr " sum ", " sum ", r9\n\t"                          \
    ".elseif %c[tile] == 6 && !%c[edges]\n\t"                  \
    "smmulr " sum ", " sum ", r3\n\t"                          \
    ".else\n\t"                                                \
    "smmulr " sum ", " sum ", r2\n\t"                          \
    ".endif\n\t"
#define NN_STRIPS_CLAMP(sum)                                   \
    ".if %c[zero_point]\n\t"                                   \
    "add " sum ", " sum ", #%c[zero_point]\n\t"                \
    ".endif\n\t"                                               \
    "usat " sum ", #%c[bits], " sum "\n\t"
#define NN_STRIPS_STORE(sum, index)                            \
    ".if %c[tile] < 7\n\t"                                     \
    "strb " sum ", [r10, #" #index " * %c[distance]]\n\t"      \
    ".else\n\t"                                                \
    "strb " sum ", [r12, #" #index " * %c[distance]]\n\t"      \
    ".endif\n\t"
#define NN_STRIPS_LONGER(than, what) ".if %c[tile] > " #than "\n\t" what ".endif\n\t"
/* All sums, each rounded three multiplications before it is clamped. */
#define NN_STRIPS_FINISH                                       \
    NN_STRIPS_LONGER(6, "ldr r12, [sp, #20]\n\t")              \
    NN_STRIPS_ROUND("r4") NN_STRIPS_ROUND("r5")                \
    NN_STRIPS_LONGER(2, NN_STRIPS_ROUND("r6")) NN_STRIPS_CLAMP("r4") \
    NN_STRIPS_LONGER(3, NN_STRIPS_ROUND("r7")) NN_STRIPS_CLAMP("r5") \
    NN_STRIPS_LONGER(4, NN_STRIPS_ROUND("r8"))                 \
    NN_STRIPS_LONGER(2, NN_STRIPS_CLAMP("r6"))                 \
    NN_STRIPS_LONGER(5, NN_STRIPS_ROUND("r9")) NN_STRIPS_STORE("r4", 0) \
    NN_STRIPS_LONGER(6, NN_STRIPS_ROUND("r10"))                \
    NN_STRIPS_LONGER(3, NN_STRIPS_CLAMP("r7")) NN_STRIPS_STORE("r5", 1) \
    NN_STRIPS_LONGER(7, NN_STRIPS_ROUND("r11"))                \
    NN_STRIPS_LONGER(4, NN_STRIPS_CLAMP("r8"))                 \
    NN_STRIPS_LONGER(2, NN_STRIPS_STORE("r6", 2))              \
    NN_STRIPS_LONGER(5, NN_STRIPS_CLAMP("r9"))                 \
    NN_STRIPS_LONGER(3, NN_STRIPS_STORE("r7", 3))              \
    NN_STRIPS_LONGER(6, NN_STRIPS_CLAMP("r10"))                \
    "add r0, r0, #16 * %c[words]\n\t"                          \
    NN_STRIPS_LONGER(4, NN_STRIPS_STORE("r8", 4))              \
    NN_STRIPS_LONGER(7, NN_STRIPS_CLAMP("r11"))                \
    NN_STRIPS_LONGER(5, NN_STRIPS_STORE("r9", 5))              \
    NN_STRIPS_LONGER(6, NN_STRIPS_STORE("r10", 6))             \
    NN_STRIPS_LONGER(7, NN_STRIPS_STORE("r11", 7))             \
    ".if %c[tile] < 7\n\t"                                     \
    "addw r10, r10, #%c[tile] * %c[distance]\n\t"              \
    ".else\n\t"                                                \
    "addw r12, r12, #%c[tile] * %c[distance]\n\t"              \
    "str r12, [sp, #20]\n\t"                                   \
    ".endif\n\t"
#endif

/* Where a channel's outputs begin, from where those of the one before did: at the next byte or, of packed ones, at byte
 * 0, 2, 1 or 3 of four. */
#if NN_DSP
#define NN_STRIPS_TURN(to, from)                               \
    ".if %c[bits] == 8\n\t"                                    \
    "add " to ", " from ", #1\n\t"                             \
    ".else\n\t"                                                \
    "tst " from ", #2\n\t"                                     \
    "ite eq\n\t"                                               \
    "addeq " to ", " from ", #2\n\t"                           \
    "subne " to ", " from ", #1\n\t"                           \
    ".endif\n\t"
#else
NN_INLINE uint8_t *nn_strips_turn(uint8_t *output, uint32_t channel, nn_strips_kind kind)
{
    return kind.output == NN_U8 ? output + 1 : channel % 2u ? output - 1 : output + 2;
}
#endif

/* `rows` rows of outputs of four channels. x: the first strip in the line above the first row. */
NN_INLINE void nn_strips_pass(const nn_word *x, const nn_word *weights, uint32_t rows, uint8_t *output,
                              nn_strips_kind kind)
{
    const uint32_t words = nn_strips_words(kind), pitch = nn_strips_pitch(kind);
#if NN_DSP
    register const nn_word *from __asm__("r0") = x;
    register const nn_word *w __asm__("r1") = weights;
    /* Where the strips of a row end; where those of all rows do; from there to the next channel; likewise from the
     * output; where the weights end. */
    register uintptr_t row_end __asm__("r2") = (uintptr_t)x + pitch - nn_strips_slot(kind);
    register uintptr_t end __asm__("r3") = (uintptr_t)x + rows * pitch;
    register uintptr_t x_turn __asm__("r4") = rows * pitch - 4u * words;
    register uintptr_t output_turn __asm__("r5") = rows * kind.width * nn_strips_distance(kind);
    register uintptr_t weights_end __asm__("r6") = (uintptr_t)weights + 32u;
    register uint8_t *to __asm__("r10") = output;
    __asm__ volatile(
        "push {r2, r3, r4, r5, r6, r10}\n\t"
        ".balign 4\n"
        "0:\n\t"
        ".if %c[tile] < 6\n\t"
        "ldrd r11, r9, [r1, #96]\n\t"
        ".else\n\t"
        "ldr r11, [r1, #96]\n\t"
        ".endif\n"
        "1:\n\t" NN_STRIPS_LONGER(7, "ldr r11, [r1, #96]\n\t")
        ".set nn_line, 0\n\t"
        ".rept 3\n\t" NN_STRIPS_LINE
        ".set nn_line, nn_line + 1\n\t"
        ".endr\n\t" NN_STRIPS_FINISH
        ".if %c[edges]\n\t"
        "ldr r2, [sp]\n\t"
        "cmp r0, r2\n\t"
        "bne 1b\n\t"
        "addw r2, r2, #%c[pitch]\n\t"
        "str r2, [sp]\n\t"
        "add r0, r0, #16 * %c[words]\n\t"
        ".endif\n\t"
        ".if %c[over]\n\t"
        ".if %c[tile] < 7\n\t"
        "subw r10, r10, #%c[over] * %c[distance]\n\t"
        ".else\n\t"
        "subw r12, r12, #%c[over] * %c[distance]\n\t"
        "str r12, [sp, #20]\n\t"
        ".endif\n\t"
        ".endif\n\t"
        "ldr r3, [sp, #4]\n\t"
        "cmp r0, r3\n\t"
        "bne 1b\n\t"
        /* The next channel. */
        "ldrd r4, r5, [sp, #8]\n\t"
        "ldr r6, [sp, #16]\n\t"
        "add r3, r3, #4 * %c[words]\n\t"
        "str r3, [sp, #4]\n\t"
        "sub r0, r0, r4\n\t"
        ".if %c[edges]\n\t"
        "addw r2, r0, #%c[pitch] - 16 * %c[words]\n\t"
        "str r2, [sp]\n\t"
        ".endif\n\t"
        ".if %c[tile] < 7\n\t"
        "sub r10, r10, r5\n\t" NN_STRIPS_TURN("r10", "r10")
        ".else\n\t"
        "sub r12, r12, r5\n\t" NN_STRIPS_TURN("r12", "r12")
        "str r12, [sp, #20]\n\t"
        ".endif\n\t"
        "add r1, r1, #8\n\t"
        "cmp r1, r6\n\t"
        "bne 0b\n\t"
        "add sp, #24"
        : "+r"(from), "+r"(w), "+r"(row_end), "+r"(end), "+r"(x_turn), "+r"(output_turn), "+r"(weights_end), "+r"(to)
        : [words] "i"(words), [tile] "i"(kind.tile), [distance] "i"(nn_strips_distance(kind)), [edges] "i"(kind.edges),
          [pitch] "i"(pitch), [over] "i"(nn_strips_over(kind)), [zero_point] "i"(kind.zero_point),
          [bits] "i"(nn_element_bits(kind.output))
        : "r7", "r8", "r9", "r11", "r12", "lr", "cc", "memory");
#else
    const uint32_t slot = nn_strips_slot(kind) / 4u;
    for (uint32_t channel = 0; channel < 4u; channel++, x += words, weights += 2) {
        for (uint32_t i = 0; i < rows * kind.width; i++) {
            const uint32_t strip = i % kind.width / kind.tile, first = i % kind.width % kind.tile;
            uint32_t sum = weights[24];
            for (uint32_t tap = 0; tap < 9u; tap++) {
                /* The pixel's place among the strip's, of which -1 and kind.tile are its neighbours'. */
                const int32_t at = (int32_t)(first + tap % 3u) - 1;
                const uint32_t below = i / kind.width + tap / 3u;
                if ((!kind.edges && (at < 0 || at >= (int32_t)kind.tile)) ||
                    (nn_strips_whole(kind) && (below == 0 || below > kind.height))) {
                    continue;
                }
                const uint32_t pixel = (uint32_t)(at + (int32_t)kind.tile) % kind.tile;
                const uint32_t word = pixel + 1u < kind.tile ? pixel / 2u : words - 1u;
                const uint32_t shift = pixel + 1u < kind.tile ? pixel % 2u * 16u : 16u;
                const nn_word *const line = x + below * pitch / 4u + strip * slot;
                const nn_word pair = at < 0 ? *(line - slot + word) : at < (int32_t)kind.tile ? line[word] : line[slot];
                const uint32_t w = weights[tap / 3u * 8u + tap % 3u / 2u] >> (tap % 3u ? 16u : 0u);
                sum += (uint32_t)((int16_t)(pair >> (at < (int32_t)kind.tile ? shift : 0u)) * (int16_t)w);
            }
            const int64_t product = (int64_t)(int32_t)sum * (int32_t)weights[25];
            const int64_t rounded = ((product + ((int64_t)1 << 31)) >> 32) + kind.zero_point;
            output[i * nn_strips_distance(kind)] = (uint8_t)nn_clamp(rounded, nn_element_bits(kind.output));
        }
        output = nn_strips_turn(output, channel, kind);
    }
#endif
}

#if NN_DSP
/* A row of the kernel for a row of three outputs, whose sums begin as `begin`, or where they are. Pixels are in r10 and
 * r11. */
#define NN_STRIPS_ROW(a, b, c, begin)                          \
    "smlad " a ", r10, lr, " begin "\n\t"                      \
    "smlad " b ", r10, r12, " begin "\n\t"                     \
    "smlad " c ", r11, r12, " begin "\n\t"                     \
    "smlatt " b ", r11, lr, " b "\n\t"
#define NN_STRIPS_ROW_ON(a, b, c)                              \
    NN_STRIPS_ADD("smlad", a, "r10", "lr")                     \
    NN_STRIPS_ADD("smlad", b, "r10", "r12")                    \
    NN_STRIPS_ADD("smlad", c, "r11", "r12")                    \
    NN_STRIPS_ADD("smlatt", b, "r11", "lr")
#define NN_STRIPS_PIXELS(line) "ldrd r10, r11, [r0, #128 + 32 * " #line "]\n\t"
#define NN_STRIPS_KERNEL(row) "ldrd r12, lr, [r0, #32 * " #row "]\n\t"
#define NN_STRIPS_ROUND_IMAGE(sum) "smmulr " sum ", " sum ", r10\n\t"
#define NN_STRIPS_STORE_IMAGE(sum, index) "strb " sum ", [r12, #" #index " * %c[distance]]\n\t"
#define NN_STRIPS_NEXT_ROW "addw r12, r12, #3 * %c[distance]\n\t"
#endif

/* The same for an image of 3x3: all of four channels' outputs. The lines lie behind the weights. */
NN_INLINE void nn_strips_image(const nn_word *weights, uint8_t *output, nn_strips_kind kind)
{
#if NN_DSP
    register const nn_word *w __asm__("r0") = weights;
    register const nn_word *end __asm__("r1") = weights + 8;
    register uint8_t *to __asm__("r2") = output;
    __asm__ volatile(
        "push {r1, r2}\n"
        "1:\n\t"
        "ldr r3, [r0, #96]\n\t"
        NN_STRIPS_PIXELS(1) NN_STRIPS_KERNEL(0) NN_STRIPS_ROW("r7", "r8", "r9", "r3")
        NN_STRIPS_PIXELS(0) NN_STRIPS_ROW("r4", "r5", "r6", "r3")
        NN_STRIPS_KERNEL(1) NN_STRIPS_ROW("r1", "r2", "r3", "r3")
        NN_STRIPS_PIXELS(1) NN_STRIPS_ROW_ON("r4", "r5", "r6")
        NN_STRIPS_PIXELS(2) NN_STRIPS_ROW_ON("r7", "r8", "r9")
        NN_STRIPS_KERNEL(2) NN_STRIPS_ROW_ON("r4", "r5", "r6")
        NN_STRIPS_PIXELS(1) NN_STRIPS_ROW_ON("r1", "r2", "r3")
        "ldr r10, [r0, #100]\n\t"
        NN_STRIPS_ROUND_IMAGE("r1") NN_STRIPS_ROUND_IMAGE("r2") NN_STRIPS_ROUND_IMAGE("r3")
        "ldrd r11, r12, [sp]\n\t"
        NN_STRIPS_CLAMP("r1") NN_STRIPS_ROUND_IMAGE("r4")
        NN_STRIPS_CLAMP("r2") NN_STRIPS_ROUND_IMAGE("r5")
        NN_STRIPS_CLAMP("r3") NN_STRIPS_ROUND_IMAGE("r6")
        NN_STRIPS_STORE_IMAGE("r1", 0) NN_STRIPS_ROUND_IMAGE("r7")
        NN_STRIPS_STORE_IMAGE("r2", 1) NN_STRIPS_ROUND_IMAGE("r8")
        NN_STRIPS_STORE_IMAGE("r3", 2) NN_STRIPS_ROUND_IMAGE("r9")
        NN_STRIPS_TURN("r10", "r12") NN_STRIPS_NEXT_ROW
        NN_STRIPS_CLAMP("r4") "add r0, r0, #8\n\t"
        NN_STRIPS_CLAMP("r5") NN_STRIPS_STORE_IMAGE("r4", 0)
        NN_STRIPS_CLAMP("r6") NN_STRIPS_STORE_IMAGE("r5", 1)
        NN_STRIPS_CLAMP("r7") NN_STRIPS_STORE_IMAGE("r6", 2)
        NN_STRIPS_NEXT_ROW
        NN_STRIPS_CLAMP("r8") NN_STRIPS_STORE_IMAGE("r7", 0)
        NN_STRIPS_CLAMP("r9") NN_STRIPS_STORE_IMAGE("r8", 1)
        "str r10, [sp, #4]\n\t"
        "cmp r0, r11\n\t" NN_STRIPS_STORE_IMAGE("r9", 2)
        "bne 1b\n\t"
        "add sp, #8"
        : "+r"(w), "+r"(end), "+r"(to)
        : [distance] "i"(nn_strips_distance(kind)), [zero_point] "i"(kind.zero_point),
          [bits] "i"(nn_element_bits(kind.output))
        : "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    /* The line above the first one is none: nothing is read there. */
    nn_strips_pass(weights + NN_STRIPS_WEIGHTS - nn_strips_pitch(kind) / 4u, weights, 3u, output, kind);
#endif
}

/* ---- layers */

/* Rows of collected outputs of four channels into their places. */
NN_INLINE void nn_strips_pack(const nn_word *collected, uint32_t rows, uint8_t *output, nn_strips_kind kind)
{
    const uint32_t bits = nn_element_bits(kind.output), step = kind.channels * bits / 8u;
    const uint32_t behind = nn_row_bytes(kind.width * kind.channels, kind.output) - kind.width * step;
    const uint32_t run = nn_strips_over(kind) ? 1u : kind.tile;
    for (uint32_t row = 0; row < rows; row++, output += behind) {
        for (uint32_t strip = 0; strip < kind.width / run; strip++, output += run * step) {
            NN_UNROLL_LONG
            for (uint32_t i = 0; i < run; i++) {
                const uint32_t bytes = *collected++, pairs = bytes | bytes >> (16u - bits);
                if (bits == 4u) {
                    *(uint16_t *)(void *)(output + i * step) = (uint16_t)pairs;
                } else {
                    output[i * step] = (uint8_t)(pairs | pairs >> 4);
                }
            }
        }
    }
}

NN_INLINE void nn_strips_run(const nn_depthwise_strips_layer *layer, const uint8_t *input, uint8_t *output,
                             nn_word *scratch, nn_strips_kind kind)
{
    const bool whole = nn_strips_whole(kind);
    const uint32_t pitch = nn_strips_pitch(kind), slot = kind.edges ? nn_strips_slot(kind) : 0u;
    const uint32_t input_row = nn_row_bytes(kind.width * kind.channels, kind.input);
    const uint32_t bits = nn_element_bits(kind.output);
    const bool packed = kind.output != NN_U8;
    nn_word *const lines = scratch + NN_STRIPS_WEIGHTS;
    uint8_t *const collected = (uint8_t *)lines + (whole ? 3u : kind.block + 2u) * pitch + slot;
    for (uint32_t row = 0; row < kind.height; row += kind.block) {
        const uint32_t rows = row + kind.block < kind.height ? kind.block : kind.height - row;
        /* Rows of the image that the block reads; the first is in line `above`. */
        const uint32_t first = row > 0 ? row - 1u : 0u, last = row + rows < kind.height ? row + rows + 1u : kind.height;
        const uint32_t above = row > 0 || whole ? 0u : 1u;
        if (above) {
            nn_strips_pad(lines, pitch, kind);
        }
        if (last == kind.height && !whole) {
            nn_strips_pad(lines + (rows + 1u) * pitch / 4u, pitch, kind);
        }
        for (uint32_t line = 0; kind.edges && line <= rows + 2u; line++) {
            nn_strips_pad(lines + line * pitch / 4u, slot, kind);
        }
        const uint32_t *weights = layer->weights;
        for (uint32_t four = 0; four < kind.channels; four += 4u) {
            weights = nn_strips_unpack(weights, kind.weight_bits, layer->constants + 2u * four, scratch);
            nn_strips_fill(input + first * input_row + four * nn_element_bits(kind.input) / 8u, last - first,
                           lines + above * pitch / 4u, kind);
            uint8_t *const target = packed ? collected : output + row * kind.width * kind.channels + four;
            if (whole) {
                nn_strips_image(scratch, target, kind);
            } else {
                nn_strips_pass(lines + slot / 4u, scratch, rows, target, kind);
            }
            if (packed) {
                nn_strips_pack((const nn_word *)(const void *)collected, rows,
                               output + row * nn_row_bytes(kind.width * kind.channels, kind.output) + four * bits / 8u,
                               kind);
            }
        }
    }
}

NN_INLINE void nn_depthwise_strips(const nn_depthwise_strips_layer *layer, const void *input, void *output,
                                   void *scratch)
{
    layer->run(layer, input, output, scratch);
}

#endif
