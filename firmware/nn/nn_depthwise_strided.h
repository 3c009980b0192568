/* Depthwise convolution with 3x3 kernels and stride 2, on pairs of neighbouring pixels: two multiplications per
 * instruction, and each pair is read once per row of outputs.
 *
 * Optimal for cores with the DSP extension, channels in fours, outputs of 8, 4 or 2 bits. Rows of outputs in blocks,
 * and of each four channels: the rows that they read become, in scratch, words of two pixels of one channel, (2j, 2j
 * + 1) of those that windows begin at. Then, channel by channel with all nine weights in registers, row by row of
 * outputs: a pair p meets the kernel's first two columns for output j (SMLAD) and, with its lower half, the third
 * column for output j - 1 (SMLABx), so that what is carried from step to step is one unfinished sum.
 *
 * Pixels beside the image hold the input's zero point. Rows above and below are left out with their row of the
 * kernel where the zero point is 0 and one block is all; otherwise they lie in scratch, too. Pairs that lie beside
 * the image as a whole are left out where the zero point is 0.
 *
 * A row in scratch: groups of two pairs, of each four channels (eight words); with an odd number of pairs the first
 * place is empty. Rows of one or three pairs are one group. Scratch: the rows, then, where outputs are packed in the
 * end, a byte for each of four channels' outputs.
 */
#ifndef NN_DEPTHWISE_STRIDED_H
#define NN_DEPTHWISE_STRIDED_H

#include "nn_packed.h"

/* What one pass computes: a block of rows of outputs, of some fours of channels. Assembly knows this record's
 * layout.
 *
 * source: the first row of the image that is read. rows, rows_end: where it goes to, and behind the last one. x: in
 * scratch, kernel row 1 of the first row of outputs; x_end: behind those of all rows of outputs that have three
 * kernel rows. output: its first row, or, where outputs are packed, a buffer for the bytes of four channels.
 * weights: as they are stored. x_turn, output_turn: from behind a channel's last output to the next channel's first.
 * packed: the first row of packed outputs; output_end: behind the bytes of four channels. */
typedef struct {
    const uint8_t *source;
    nn_word *rows;
    const nn_word *x;
    uint8_t *output;
    const uint32_t *weights;
    const uint32_t *weights_end;
    nn_word *rows_end;
    const nn_word *x_end;
    int32_t x_turn;
    int32_t output_turn;
    uint8_t *packed;
    const uint8_t *output_end;
} nn_strided_pass;

/* How a pass is made.
 *
 * Reading: step, row: bytes from a pixel, from a piece of the image to the next: a row, or where rows without
 * padding follow each other, some groups. bits, padding: of an element, and the value beside the image. width, left:
 * pixels of a piece, and of padding before them. head, turn, turns, tail: groups of a piece: `turns` times `turn` in
 * a loop.
 * Computing: columns: of outputs. pairs, pitch: of a row in scratch, bytes from one to the next. lines: rows of
 * outputs, 0 where passes differ. top, bottom: rows of the kernel that the first, the last one leaves out. unrolled:
 * without a loop over rows. origin: bytes from the first pair of a row to a pass' x. peeled, steps, loops: steps of
 * two pairs; `loops` times `steps` in a loop. distance: bytes between neighbouring outputs. zero_point, output_bits:
 * of the outputs. spread, gap: of packed outputs, bytes from one pixel to the next, and between rows. weight_bits: as
 * stored, 8 or 4. */
typedef struct {
    uint32_t step, row, bits, padding, width, left, head, turn, turns, tail;
    uint32_t columns, pairs, pitch, lines, top, bottom;
    bool unrolled;
    int32_t origin;
    uint32_t peeled, steps, loops, distance;
    int32_t zero_point;
    uint32_t output_bits, spread, gap, weight_bits;
} nn_strided_kind;

/* weights: of each channel, with w(row, column):
 *     8 bits: bytes w00, w10, w01, w11, w20, w02, w21, w12, then 256 bias + w22 and the multiplier;
 *     4 and 2 bits: the first four of these + 8 in the low nibbles, the other four + 8 in the high nibbles of bytes,
 *     then 16 bias + w22 and the multiplier.
 * block: rows of outputs at a time. origin: as nn_strided_kind. whole: whether rows of
 * padding lie in scratch. pass: nn_strided_run for these constants. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t weight_bits, pairs, block;
    int32_t origin;
    bool whole;
    void (*pass)(const nn_strided_pass *pass);
} nn_depthwise_strided_layer;

/* Places for pairs in a group, and bytes of a row in scratch. */
NN_INLINE uint32_t nn_strided_places(uint32_t pairs)
{
    return pairs == 1u || pairs == 3u ? pairs : 2u;
}

NN_INLINE uint32_t nn_strided_pitch(uint32_t pairs)
{
    return 16u * (pairs == 1u || pairs == 3u ? pairs : (pairs + 1u) / 2u * 2u);
}

#if NN_DSP
/* Symbols of the assembler, while rows are filled: nn_pixel: the next pixel of the piece; nn_base: the one at r0.
 * While outputs are computed: nn_x: of the next pair, from r0; nn_output: of the next output, from r1; nn_from,
 * nn_to: rows of the kernel, which are taken in the order 0, 2, 1; nn_back: whether r0 moves on with row 1;
 * nn_fresh: whether sums begin with the bias, in r9; nn_line: of the row of outputs, from r0. The weights are (w00,
 * w01) in r4, (w10, w11) in r5, (w20, w21) in r6, (w02, w12) in r7 and w22 in r8, whose upper half counts turns; the
 * multiplier is in r10. */

/* r += n, for any n up to 2^20. */
#define NN_STRIDED_ADD(r, n)                                             \
    ".if (" n ") & 0xFFF\n\taddw " r ", " r ", #(" n ") & 0xFFF\n\t.endif\n\t" \
    ".if (" n ") >> 12\n\tadd " r ", " r ", #(" n ") & 0xFF000\n\t.endif\n\t"
#define NN_STRIDED_SUBTRACT(r, n)                                        \
    ".if (" n ") & 0xFFF\n\tsubw " r ", " r ", #(" n ") & 0xFFF\n\t.endif\n\t" \
    ".if (" n ") >> 12\n\tsub " r ", " r ", #(" n ") & 0xFF000\n\t.endif\n\t"

/* Four channels of the next pixel into r, as they are stored. */
#define NN_STRIDED_PIXEL(r)                                              \
    ".if nn_pixel >= 0 && nn_pixel < %c[width]\n\t"                      \
    ".if %c[bits] == 8\n\tldr.w " r ", [r0, #(nn_pixel - nn_base) * %c[step]]\n\t" \
    ".elseif %c[bits] == 4\n\tldrh " r ", [r0, #(nn_pixel - nn_base) * %c[step]]\n\t" \
    ".else\n\tldrb " r ", [r0, #(nn_pixel - nn_base) * %c[step]]\n\t.endif\n\t" \
    ".elseif %c[bits] == 8\n\tmov " r ", #%c[padding] * 0x01010101\n\t" \
    ".elseif %c[bits] == 4\n\tmovw " r ", #%c[padding] * 0x1111\n\t"    \
    ".else\n\tmovw " r ", #%c[padding] * 0x55\n\t.endif\n\t"            \
    ".set nn_pixel, nn_pixel + 1\n\t"
/* The pixels in a and b become the pairs of four channels. m: of packed elements, the mask of a pair; it may be d. */
#define NN_STRIDED_SPLIT(a, b, c, d, m)                                  \
    ".if %c[bits] == 8\n\t"                                              \
    "pkhtb " d ", " b ", " a ", asr #16\n\t"                             \
    "pkhbt " a ", " a ", " b ", lsl #16\n\t"                             \
    "uxtb16 " c ", " d "\n\t"                                            \
    "uxtb16 " b ", " a ", ror #8\n\t"                                    \
    "uxtb16 " d ", " d ", ror #8\n\t"                                    \
    "uxtb16 " a ", " a "\n\t"                                            \
    ".else\n\t"                                                          \
    "orr " b ", " a ", " b ", lsl #16\n\t"                               \
    "and " a ", " m ", " b "\n\t"                                        \
    "and " c ", " m ", " b ", lsr #2 * %c[bits]\n\t"                     \
    "and " d ", " m ", " b ", lsr #3 * %c[bits]\n\t"                     \
    ".ifc " d "," m "\n\t"                                               \
    "lsr " b ", " b ", #%c[bits]\n\t"                                    \
    "and " b ", " b ", #((1 << %c[bits]) - 1) * 0x00010001\n\t"          \
    ".else\n\t"                                                          \
    "and " b ", " m ", " b ", lsr #%c[bits]\n\t"                         \
    ".endif\n\t"                                                         \
    ".endif\n\t"
#define NN_STRIDED_MASK(m) ".if %c[bits] < 8\n\tmov " m ", #((1 << %c[bits]) - 1) * 0x00010001\n\t.endif\n\t"
/* r0 moves on to the next pixel. */
#define NN_STRIDED_FORTH NN_STRIDED_ADD("r0", "(nn_pixel - nn_base) * %c[step]") ".set nn_base, nn_pixel\n\t"
/* Of four channels, the pixels of a group into scratch; r0 moves on before where they would be out of reach. */
#define NN_STRIDED_GROUP                                                 \
    ".if (nn_pixel + 5 - nn_base) * %c[step] > 4095 && nn_pixel > nn_base\n\t" NN_STRIDED_FORTH ".endif\n\t" \
    ".if %c[pairs] == 1\n\t"                                             \
    NN_STRIDED_PIXEL("r2") NN_STRIDED_PIXEL("r3") NN_STRIDED_SPLIT("r2", "r3", "r4", "r5", "r10") \
    "stm r1!, {r2, r3, r4, r5}\n\t"                                      \
    ".elseif %c[pairs] == 3\n\t"                                         \
    NN_STRIDED_PIXEL("r2") NN_STRIDED_PIXEL("r5") NN_STRIDED_PIXEL("r3") NN_STRIDED_PIXEL("r6") \
    NN_STRIDED_PIXEL("r4") NN_STRIDED_PIXEL("r7")                        \
    NN_STRIDED_MASK("lr")                                                \
    NN_STRIDED_SPLIT("r2", "r5", "r8", "r11", "lr") NN_STRIDED_SPLIT("r3", "r6", "r9", "r12", "lr") \
    NN_STRIDED_SPLIT("r4", "r7", "r10", "lr", "lr")                      \
    "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}\n\t"   \
    ".else\n\t"                                                          \
    ".if %c[pairs] %% 2 == 0 || nn_pixel > -%c[left]\n\t"                \
    NN_STRIDED_PIXEL("r2") NN_STRIDED_PIXEL("r4") NN_STRIDED_PIXEL("r3") NN_STRIDED_PIXEL("r5") \
    NN_STRIDED_SPLIT("r2", "r4", "r6", "r8", "r10")                      \
    ".else\n\t" NN_STRIDED_PIXEL("r3") NN_STRIDED_PIXEL("r5") ".endif\n\t" \
    NN_STRIDED_SPLIT("r3", "r5", "r7", "r9", "r10")                          \
    "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"                      \
    ".endif\n\t"

/* Two pairs of kernel row n; one of them, `at` bytes further. */
#define NN_STRIDED_LOAD(n, a, b)                                         \
    ".if nn_near || " #n " == 1\n\t"                                    \
    ".if nn_back && " #n " == 1\n\tldrd " a ", " b ", [r0, #nn_x]!\n\t" \
    ".else\n\tldrd " a ", " b ", [r0, #nn_x + (" #n " - 1) * %c[pitch]]\n\t.endif\n\t" \
    ".else\n\t"                                                          \
    ".if " #n "\n\taddw r3, r0, #%c[pitch]\n\t.else\n\tsubw r3, r0, #%c[pitch]\n\t.endif\n\t" \
    "ldrd " a ", " b ", [r3, #nn_x]\n\t.endif\n\t"
#define NN_STRIDED_LOAD_ONE(n, at) "ldr r2, [r0, #nn_x + " #at " + (" #n " - 1) * %c[pitch]]\n\t"
/* target = sum + x * w, or what a sum begins with. */
#define NN_STRIDED_PAIR(target, x, w, sum)                               \
    ".if nn_fresh\n\tsmlad " target ", " x ", " w ", r9\n\t"             \
    ".else\n\tsmlad " target ", " x ", " w ", " sum "\n\t.endif\n\t"
#define NN_STRIDED_PRESENT(n) ".if nn_from <= " #n " && " #n " < nn_to\n\t"
/* Kernel row n, 0 or 2, with its weights w and v, for two pairs in the midst of a row of outputs: r11 is the sum to
 * finish, r12 the one between, lr the one begun. */
#define NN_STRIDED_STEP_ROW(n, w, v)                                     \
    NN_STRIDED_PRESENT(n) NN_STRIDED_LOAD(n, "r2", "r3")                 \
    "smlabb r11, r2, " v ", r11\n\t"                                     \
    NN_STRIDED_PAIR("r12", "r2", w, "r12")                               \
    NN_STRIDED_PAIR("lr", "r3", w, "lr")                                 \
    "smlabb r12, r3, " v ", r12\n\t"                                     \
    ".set nn_fresh, 0\n\t.endif\n\t"
/* What SMMULR left in r becomes an output, which is stored next. */
#define NN_STRIDED_SATURATE(r)                                           \
    ".if %c[zero_point]\n\tadd " r ", " r ", #%c[zero_point]\n\t.endif\n\t" \
    "usat " r ", #%c[output_bits], " r "\n\t"
#define NN_STRIDED_STORE(r)                                              \
    ".if %c[distance] < 256\n\tstrb " r ", [r1], #%c[distance]\n\t"     \
    ".else\n\tstrb " r ", [r1, #nn_output]\n\t.set nn_output, nn_output + %c[distance]\n\t.endif\n\t"
#define NN_STRIDED_STORED ".if nn_output\n\taddw r1, r1, #nn_output\n\t.set nn_output, 0\n\t.endif\n\t"
/* Then kernel row 1, which is always there: two outputs, and the sum begun is in r11. The order is one in which
 * Cortex-M7 finds two instructions to issue, and waits for no product. */
#define NN_STRIDED_STEP                                                  \
    ".set nn_fresh, 1\n\t"                                               \
    NN_STRIDED_STEP_ROW(0, "r4", "r7") NN_STRIDED_STEP_ROW(2, "r6", "r8") \
    NN_STRIDED_LOAD(1, "r2", "r3")                                       \
    NN_STRIDED_PAIR("r12", "r2", "r5", "r12")                            \
    "smlabt r11, r2, r7, r11\n\t"                                        \
    "smlabt r12, r3, r7, r12\n\t"                                        \
    "smmulr r2, r11, r10\n\t"                                            \
    "smmulr r12, r12, r10\n\t"                                           \
    NN_STRIDED_SATURATE("r2")                                            \
    NN_STRIDED_PAIR("r11", "r3", "r5", "lr")                             \
    NN_STRIDED_SATURATE("r12")                                           \
    NN_STRIDED_STORE("r2") NN_STRIDED_STORE("r12") NN_STRIDED_STORED     \
    ".set nn_x, nn_x + 32\n\t"
/* A row of the kernel at the beginning of a row of outputs: of one pair, of two, of three. */
#define NN_STRIDED_BEGIN_ROW(n, w, half, v)                              \
    NN_STRIDED_PRESENT(n)                                                \
    ".if %c[pairs] == 1\n\t" NN_STRIDED_LOAD_ONE(n, 0) NN_STRIDED_PAIR("r11", "r2", w, "r11") \
    ".elseif %c[pairs] == 3\n\t"                                         \
    NN_STRIDED_LOAD(n, "r2", "r3")                                       \
    NN_STRIDED_PAIR("r12", "r2", w, "r12")                               \
    NN_STRIDED_LOAD_ONE(n, 8)                                            \
    "smlab" half " r12, r3, " v ", r12\n\t"                              \
    NN_STRIDED_PAIR("lr", "r3", w, "lr")                                 \
    "smlab" half " lr, r2, " v ", lr\n\t"                                \
    NN_STRIDED_PAIR("r11", "r2", w, "r11")                               \
    ".elseif %c[pairs] %% 2\n\t" NN_STRIDED_LOAD(n, "r3", "r2") NN_STRIDED_PAIR("r11", "r2", w, "r11") \
    ".else\n\t" NN_STRIDED_LOAD(n, "r2", "r3")                           \
    NN_STRIDED_PAIR("r12", "r2", w, "r12")                               \
    "smlab" half " r12, r3, " v ", r12\n\t"                              \
    NN_STRIDED_PAIR("r11", "r3", w, "r11")                               \
    ".endif\n\t"                                                         \
    ".set nn_fresh, 0\n\t.endif\n\t"
/* A row of outputs. */
#define NN_STRIDED_LINE                                                  \
    ".set nn_back, nn_moving && %c[peeled] == 0\n\t"                     \
    ".set nn_fresh, 1\n\t"                                               \
    NN_STRIDED_BEGIN_ROW(0, "r4", "b", "r7") NN_STRIDED_BEGIN_ROW(2, "r6", "b", "r8") \
    NN_STRIDED_BEGIN_ROW(1, "r5", "t", "r7")                             \
    ".if %c[pairs] == 3\n\t"                                             \
    "smmulr r12, r12, r10\n\tsmmulr lr, lr, r10\n\t"                     \
    NN_STRIDED_SATURATE("r12") NN_STRIDED_SATURATE("lr")                 \
    NN_STRIDED_STORE("r12") NN_STRIDED_STORE("lr") NN_STRIDED_STORED     \
    ".elseif %c[pairs] %% 2 == 0\n\t"                                    \
    "smmulr r12, r12, r10\n\t" NN_STRIDED_SATURATE("r12") NN_STRIDED_STORE("r12") NN_STRIDED_STORED \
    ".endif\n\t"                                                         \
    ".set nn_x, nn_x + 32\n\t"                                           \
    ".rept %c[peeled]\n\t"                                               \
    ".set nn_back, nn_moving && nn_x == 2 * %c[pitch]\n\t" NN_STRIDED_STEP ".endr\n\t" \
    ".if %c[loops]\n\t"                                                  \
    "movt r8, #%c[loops] - 1\n"                                          \
    "6:\n\t"                                                             \
    ".rept %c[steps]\n\t"                                                \
    ".set nn_back, nn_x == 32 * %c[steps]\n\t" NN_STRIDED_STEP ".endr\n\t" \
    "subs r8, r8, #0x10000\n\t"                                          \
    "bhs.w 6b\n\t"                                                       \
    ".endif\n\t"                                                         \
    ".if %c[pairs] == %c[columns]\n\t"                                   \
    "smmulr r11, r11, r10\n\t" NN_STRIDED_SATURATE("r11") NN_STRIDED_STORE("r11") NN_STRIDED_STORED \
    ".endif\n\t"
/* All rows of outputs: the first and the last one apart where they leave out rows of the kernel. */
#define NN_STRIDED_LINES                                                 \
    ".set nn_near, %c[pitch] * (1 + 2 * %c[lines] * %c[unrolled]) + 32 * (%c[peeled] + %c[steps] + 1) <= 1020\n\t" \
    ".set nn_apart, 0\n\t"                                               \
    ".if %c[top] || (%c[bottom] && %c[lines] == 1)\n\t.set nn_apart, 1\n\t.endif\n\t" \
    ".set nn_count, nn_apart\n\t"                                        \
    ".if %c[bottom] && %c[lines] != 1\n\t.set nn_apart, nn_apart + 1\n\t.endif\n\t" \
    ".set nn_looped, 0\n\t"                                              \
    ".if !%c[unrolled] && (%c[lines] == 0 || %c[lines] > nn_apart + 1)\n\t.set nn_looped, 1\n\t.endif\n\t" \
    ".set nn_moving, !%c[unrolled] && %c[loops] == 0 && %c[pairs] != 1 && %c[pairs] != 3\n\t" \
    ".set nn_counted, nn_looped && %c[loops] == 0 && %c[lines]\n\t"      \
    ".if nn_counted\n\tmovt r8, #%c[lines] - nn_apart - 1\n\t.endif\n\t" \
    ".set nn_output, 0\n\t"                                              \
    ".set nn_line, 0\n\t"                                                \
    ".set nn_part, 0\n\t"                                                \
    ".rept 3\n\t"                                                        \
    ".set nn_from, 0\n\t"                                                \
    ".set nn_to, 3\n\t"                                                  \
    ".if nn_part == 0\n\t"                                               \
    ".set nn_from, %c[top]\n\t"                                          \
    ".elseif nn_part == 1\n\t"                                           \
    ".set nn_count, %c[lines] - nn_apart\n\t"                            \
    ".if nn_looped\n\t.set nn_count, 1\n\t.endif\n\t"                    \
    ".else\n\t"                                                          \
    ".set nn_count, 0\n\t"                                               \
    ".if %c[bottom] && %c[lines] != 1\n\t.set nn_count, 1\n\t.endif\n\t" \
    ".endif\n\t"                                                         \
    ".if nn_part == 2 || %c[lines] == 1\n\t.set nn_to, 3 - %c[bottom]\n\t.endif\n\t" \
    ".if nn_part == 1 && nn_looped\n"                                    \
    "5:\n\t"                                                             \
    ".endif\n\t"                                                         \
    ".rept nn_count\n\t"                                                 \
    ".set nn_x, nn_line\n\t"                                             \
    ".if %c[loops]\n\t.set nn_x, -32 * %c[peeled]\n\t"                   \
    ".elseif nn_moving\n\t.set nn_x, 2 * %c[pitch] - 32 * %c[peeled]\n\t.endif\n\t" \
    NN_STRIDED_LINE                                                      \
    ".if %c[unrolled]\n\t.set nn_line, nn_line + 2 * %c[pitch]\n\t"      \
    ".elseif !nn_moving\n\t" NN_STRIDED_ADD("r0", "2 * %c[pitch] - 32 * %c[steps] * %c[loops]") ".endif\n\t" \
    ".endr\n\t"                                                          \
    ".if nn_part == 1 && nn_looped\n\t"                                  \
    ".if nn_counted\n\t"                                                 \
    "subs r8, r8, #0x10000\n\t"                                          \
    "bhs.w 5b\n\t"                                                       \
    ".else\n\t"                                                          \
    "ldr r2, [sp, #28]\n\t"                                              \
    "cmp r0, r2\n\t"                                                     \
    "blo.w 5b\n\t"                                                       \
    ".endif\n\t"                                                         \
    ".endif\n\t"                                                         \
    ".set nn_part, nn_part + 1\n\t"                                      \
    ".endr\n\t"
/* The bytes of four channels' outputs into their places: some of a row at a time. */
#define NN_STRIDED_PACK                                                  \
    "ldr r0, [sp, #12]\n\t"                                              \
    "ldrd r1, r3, [sp, #40]\n\t"                                         \
    "add r2, r1, #%c[output_bits] / 2\n\t"                               \
    "str r2, [sp, #40]\n\t"                                              \
    ".set nn_count, 1\n\t"                                               \
    ".if %c[columns] %% 4 == 0\n\t.set nn_count, 4\n\t"                  \
    ".elseif %c[columns] %% 3 == 0\n\t.set nn_count, 3\n\t.endif\n"      \
    "7:\n\t"                                                             \
    ".if %c[gap]\n\tmovw r12, #%c[columns]\n\t.endif\n"                  \
    "8:\n\t"                                                             \
    ".rept nn_count\n\t"                                                 \
    "ldr r2, [r0], #4\n\t"                                               \
    "orr r2, r2, r2, lsr #8 - %c[output_bits]\n\t"                       \
    "and r2, r2, #((1 << (2 * %c[output_bits])) - 1) * 0x00010001\n\t"     \
    "orr r2, r2, r2, lsr #16 - 2 * %c[output_bits]\n\t"                  \
    ".if %c[spread] > 255\n\t"                                           \
    ".if %c[output_bits] == 4\n\tstrh r2, [r1]\n\t.else\n\tstrb r2, [r1]\n\t.endif\n\t" \
    "addw r1, r1, #%c[spread]\n\t"                                       \
    ".elseif %c[output_bits] == 4\n\tstrh r2, [r1], #%c[spread]\n\t"     \
    ".else\n\tstrb r2, [r1], #%c[spread]\n\t.endif\n\t"                  \
    ".endr\n\t"                                                          \
    ".if %c[gap]\n\t"                                                    \
    "subs r12, r12, #nn_count\n\t"                                       \
    "bne 8b\n\t"                                                         \
    "add r1, r1, #%c[gap]\n\t"                                           \
    ".endif\n\t"                                                         \
    "cmp r0, r3\n\t"                                                     \
    "bne 7b\n\t"
#else
/* One channel's weights, row by row of the kernel, its bias and its multiplier; returns what is behind them. */
NN_INLINE const uint32_t *nn_strided_unpack(const uint32_t *stored, uint32_t bits, int32_t weights[9], int32_t *bias,
                                            int32_t *multiplier)
{
    static const uint8_t taps[8] = {0, 3, 1, 4, 6, 2, 7, 5}; /* of bytes, or of low, then high nibbles */
    for (uint32_t i = 0; i < 8u; i++) {
        const uint32_t byte = stored[bits == 8u ? i / 4u : 0u] >> (8u * (i % 4u));
        weights[taps[i]] = bits == 8u ? (int8_t)byte : (int32_t)(byte >> (i / 4u * 4u) & 15u) - 8;
    }
    stored += bits == 8u ? 2 : 1;
    weights[8] = (int32_t)(stored[0] << (32u - bits)) >> (32u - bits);
    *bias = (int32_t)stored[0] >> bits;
    *multiplier = (int32_t)stored[1];
    return stored + 2;
}

/* What a pass reads, of the four channels at `source`, into scratch. */
NN_INLINE void nn_strided_fill(const nn_strided_pass *pass, const nn_strided_kind *kind, const uint8_t *source)
{
    const nn_element element = kind->bits == 8u ? NN_U8 : kind->bits == 4u ? NN_U4 : NN_U2;
    const uint32_t places = nn_strided_places(kind->pairs), groups = kind->head + kind->turns * kind->turn + kind->tail;
    nn_word *target = pass->rows;
    for (; target != pass->rows_end; source += kind->row) {
        int32_t pixel = -(int32_t)kind->left;
        for (uint32_t group = 0; group < groups; group++, target += 4u * places) {
            const bool halved = group == 0 && places == 2u && kind->pairs % 2u == 1u;
            for (uint32_t place = halved ? 1u : 0u; place < places; place++, pixel += 2) {
                uint32_t pixels[2];
                for (uint32_t half = 0; half < 2u; half++) {
                    const int32_t at = pixel + (int32_t)half;
                    const bool inside = at >= 0 && at < (int32_t)kind->width;
                    pixels[half] = inside ? nn_get_four(source + (uint32_t)at * kind->step, element)
                                          : kind->padding * 0x01010101u;
                }
                for (uint32_t channel = 0; channel < 4u; channel++) {
                    target[channel * places + place] = (pixels[0] >> (8u * channel) & 0xFFu) |
                                                       (pixels[1] >> (8u * channel) & 0xFFu) << 16;
                }
            }
        }
    }
}

/* Rows of outputs of one of four channels; returns what is behind its weights. */
NN_INLINE const uint32_t *nn_strided_channel(const nn_strided_pass *pass, const nn_strided_kind *kind, uint32_t channel,
                                             const uint32_t *stored, uint8_t *output)
{
    const uint32_t places = nn_strided_places(kind->pairs), pitch = kind->pitch / 4u;
    const uint32_t lines = kind->lines ? kind->lines : (uint32_t)(pass->x_end - pass->x) / (2u * pitch);
    const nn_word *centre = (const nn_word *)((uintptr_t)pass->x - (uintptr_t)kind->origin) + channel * places;
    int32_t w[9], bias, multiplier;
    stored = nn_strided_unpack(stored, kind->weight_bits, w, &bias, &multiplier);
    for (uint32_t line = 0; line < lines; line++, centre += 2u * pitch) {
        const uint32_t from = line == 0 ? kind->top : 0u, to = line + 1u == lines ? 3u - kind->bottom : 3u;
        for (uint32_t column = 0; column < kind->columns; column++, output += kind->distance) {
            uint32_t sum = (uint32_t)bias;
            for (uint32_t row = from; row < to; row++) {
                const nn_word *const words = row == 0 ? centre - pitch : row == 1u ? centre : centre + pitch;
                for (uint32_t pair = column; pair < column + 2u && pair < kind->pairs; pair++) {
                    const uint32_t place = places == 2u ? pair + kind->pairs % 2u : pair;
                    const uint32_t word = words[place / places * 4u * places + place % places];
                    const int32_t *const v = w + 3u * row + 2u * (pair - column);
                    sum += (uint32_t)((int16_t)word * v[0]);
                    sum += pair == column ? (uint32_t)((int16_t)(word >> 16) * v[1]) : 0u;
                }
            }
            const int64_t rounded = ((int64_t)(int32_t)sum * multiplier + ((int64_t)1 << 31)) >> 32;
            *output = (uint8_t)nn_clamp(rounded + kind->zero_point, kind->output_bits);
        }
    }
    return stored;
}
#endif

NN_INLINE void nn_strided_run(const nn_strided_pass *pass, nn_strided_kind kind)
{
#if NN_DSP
    register const nn_strided_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        "sub sp, #48\n\t"
        "ldm r0, {r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12}\n"
        "1:\n\t"
        "ldrd r0, r1, [sp]\n\t"
        "add r2, r0, #%c[bits] / 2\n\t"
        "str r2, [sp]\n\t"
        ".if %c[pairs] != 3\n\tldr lr, [sp, #24]\n\t" NN_STRIDED_MASK("r10") ".endif\n\t"
        ".balign 4\n"
        "2:\n\t"
        ".set nn_pixel, -%c[left]\n\t"
        ".set nn_base, 0\n\t"
        ".rept %c[head]\n\t" NN_STRIDED_GROUP ".endr\n\t"
        ".if %c[turns]\n\t"
        ".if nn_pixel > 0\n\t" NN_STRIDED_FORTH ".endif\n\t"
        "mov r12, #%c[turns]\n"
        "3:\n\t"
        ".rept %c[turn]\n\t" NN_STRIDED_GROUP ".endr\n\t" NN_STRIDED_FORTH
        "subs r12, r12, #1\n\t"
        "bne.w 3b\n\t"
        ".set nn_pixel, nn_pixel + 4 * %c[turn] * (%c[turns] - 1)\n\t"
        ".set nn_base, nn_pixel\n\t"
        ".endif\n\t"
        ".rept %c[tail]\n\t" NN_STRIDED_GROUP ".endr\n\t"
        NN_STRIDED_ADD("r0", "%c[row] - nn_base * %c[step]")
        ".if %c[pairs] == 3\n\tldr lr, [sp, #24]\n\t.endif\n\t"
        "cmp r1, lr\n\t"
        "bne 2b\n\t"
        "ldrd r0, r1, [sp, #8]\n\t"
        ".balign 4\n"
        /* A channel. */
        "4:\n\t"
        "ldr r3, [sp, #16]\n\t"
        ".if %c[weight_bits] == 8\n\t"
        "ldm r3!, {r4, r6, r9, r10}\n\t"
        "str r3, [sp, #16]\n\t"
        "sxtb16 r5, r4, ror #8\n\t"
        "sxtb16 r4, r4\n\t"
        "sxtb16 r7, r6, ror #8\n\t"
        "sxtb16 r6, r6\n\t"
        "sxtb r8, r9\n\t"
        "asr r9, r9, #8\n\t"
        ".else\n\t"
        "ldm r3!, {r4, r9, r10}\n\t"
        "str r3, [sp, #16]\n\t"
        "mvn r3, #0x00070007\n\t"
        "lsr r6, r4, #4\n\t"
        "and r4, r4, #0x0F0F0F0F\n\t"
        "and r6, r6, #0x0F0F0F0F\n\t"
        "uxtab16 r5, r3, r4, ror #8\n\t"
        "uxtab16 r4, r3, r4\n\t"
        "uxtab16 r7, r3, r6, ror #8\n\t"
        "uxtab16 r6, r3, r6\n\t"
        "sbfx r8, r9, #0, #4\n\t"
        "asr r9, r9, #4\n\t"
        ".endif\n\t"
        NN_STRIDED_LINES
        ".if %c[unrolled]\n\t"
        ".if %c[pairs] == 1 || %c[pairs] == 3\n\tadd r0, r0, #4 * %c[pairs]\n\t.else\n\tadd r0, r0, #8\n\t.endif\n\t"
        NN_STRIDED_SUBTRACT("r1", "%c[lines] * %c[columns] * %c[distance] - 1")
        ".else\n\t"
        "ldrd r2, r3, [sp, #32]\n\t"
        "add r0, r0, r2\n\t"
        "add r1, r1, r3\n\t"
        ".endif\n\t"
        "tst r1, #3\n\t"
        "bne 4b\n\t"
        ".if %c[output_bits] == 8\n\t"
        "str r1, [sp, #12]\n\t"
        ".else\n\t" NN_STRIDED_PACK
        ".endif\n\t"
        "ldrd r2, r3, [sp, #16]\n\t"
        "cmp r2, r3\n\t"
        "bne 1b\n\t"
        "add sp, #48"
        : "+r"(parameters)
        : [step] "i"(kind.step), [row] "i"(kind.row), [bits] "i"(kind.bits), [padding] "i"(kind.padding),
          [width] "i"(kind.width), [left] "i"(kind.left), [head] "i"(kind.head), [turn] "i"(kind.turn),
          [turns] "i"(kind.turns), [tail] "i"(kind.tail), [columns] "i"(kind.columns), [pairs] "i"(kind.pairs),
          [pitch] "i"(kind.pitch), [lines] "i"(kind.lines), [top] "i"(kind.top),
          [bottom] "i"(kind.bottom), [unrolled] "i"(kind.unrolled), [peeled] "i"(kind.peeled),
          [steps] "i"(kind.steps), [loops] "i"(kind.loops),
          [distance] "i"(kind.distance), [zero_point] "i"(kind.zero_point), [output_bits] "i"(kind.output_bits),
          [spread] "i"(kind.spread), [gap] "i"(kind.gap), [weight_bits] "i"(kind.weight_bits)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const uint8_t *source = pass->source;
    uint8_t *output = pass->output, *packed = pass->packed;
    for (const uint32_t *weights = pass->weights; weights != pass->weights_end; source += kind.bits / 2u) {
        nn_strided_fill(pass, &kind, source);
        for (uint32_t channel = 0; channel < 4u; channel++) {
            weights = nn_strided_channel(pass, &kind, channel, weights, output + channel);
        }
        if (kind.output_bits == 8u) {
            output += 4;
            continue;
        }
        uint8_t *target = packed;
        for (const uint8_t *bytes = output; bytes != pass->output_end; target += kind.gap) {
            for (uint32_t column = 0; column < kind.columns; column++, bytes += 4, target += kind.spread) {
                nn_put_four(*(const nn_word *)(const void *)bytes, target, kind.output_bits == 4u ? NN_U4 : NN_U2);
            }
        }
        packed += kind.output_bits / 2u;
    }
#endif
}

/* ---- blocks */

NN_INLINE void nn_depthwise_strided(const nn_depthwise_strided_layer *layer, const void *input, void *output,
                                    void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pitch = nn_strided_pitch(layer->pairs) / 4u, channel = nn_strided_places(layer->pairs);
    const uint32_t stored = 4u * (layer->weight_bits == 8u ? 4u : 3u); /* words of weights of four channels */
    const uint32_t in_row = nn_row_bytes(s->width * s->channels, s->input);
    const uint32_t out_row = nn_row_bytes(s->columns * s->channels, s->output);
    const bool packed = s->output != NN_U8;
    const int32_t padding = (int32_t)s->padding[0];
    for (uint32_t block = 0; block < s->rows; block += layer->block) {
        const uint32_t lines = block + layer->block < s->rows ? layer->block : s->rows - block;
        /* Rows of the image: those that windows cover, and those of them that there are. */
        const int32_t top = 2 * (int32_t)block - padding, bottom = top + 2 * (int32_t)lines + 1;
        const int32_t first = nn_max(top, 0), behind = bottom < (int32_t)s->height ? bottom : (int32_t)s->height;
        const int32_t begin = layer->whole ? top : first, end = layer->whole ? bottom : behind;
        nn_word *const rows = scratch, *const ends = rows + (uint32_t)(end - begin) * pitch;
        nn_strided_pass pass;
        pass.rows = rows + (uint32_t)(first - begin) * pitch;
        pass.rows_end = rows + (uint32_t)(behind - begin) * pitch;
        for (nn_word *word = rows; word != ends; word++) {
            if (word == pass.rows) {
                word = pass.rows_end;
                if (word == ends) {
                    break;
                }
            }
            *word = (uint32_t)layer->input_zero_point * 0x00010001u;
        }
        const uint32_t apart = !layer->whole && lines > 1u && behind < bottom ? 1u : 0u;
        const uint32_t bytes = lines * s->columns * (packed ? 4u : s->channels);
        pass.source = (const uint8_t *)input + (uint32_t)first * in_row;
        pass.x = (const nn_word *)((uintptr_t)(rows + (uint32_t)(top + 1 - begin) * pitch) + (uintptr_t)layer->origin);
        pass.x_end = pass.x + 2u * pitch * (lines - apart);
        pass.x_turn = 4 * ((int32_t)channel - (int32_t)(2u * lines * pitch));
        pass.output_turn = 1 - (int32_t)bytes;
        pass.packed = (uint8_t *)output + block * out_row;
        pass.output = packed ? (uint8_t *)(rows + pitch * (2u * layer->block + 1u)) : pass.packed;
        pass.output_end = pass.output + bytes;
        pass.weights = layer->weights;
        pass.weights_end = layer->weights + s->channels / 4u * stored;
        layer->pass(&pass);
    }
}
#endif
