/* Inner products of two pixels with four filters at a time, two multiplications per instruction, on activations that
 * are multiplied as the bytes they are.
 *
 * The trick: in a word of activations x0..x3 the odd ones are stored ^ 0x80. Its halfwords are then, as signed numbers,
 * x0 + 256 (x1 - 128) and x2 + 256 (x3 - 128), so that the word itself is an operand of SMLAD, and one SXTB16 gives the
 * other one, (x1 - 128, x3 - 128). With weights e = (w0, w2) and o = (w1 - 256 w0, w3 - 256 w2),
 *     word * e + sxtb16(word ror 8) * o = w0 x0 + w1 x1 + w2 x2 + w3 x3 - 128 (w1 + w3):
 * the last term is part of the bias. All of e and o fit in 16 bits where even weights are at least -127.
 *
 * A tile is the weights of four filters: per word of activations e of each filter, then o of each filter (eight words).
 * Activations are pairs of words, one of each pixel. 23 instructions make 32 products; fourteen registers are all there
 * are, so that the parameters of the loop lie on the stack. Cores that issue two instructions at once issue LDRD alone:
 * for these ("dual"), 28 instructions, each load beside a multiplication, take 16 cycles instead of 21. On a Cortex-M4
 * 23 instructions take 33 cycles; 25, with the first four loads apart, 32.
 *
 * In flash, weights of four filters are packed so that unpacking is little work:
 *     8 bits: per filter a word, bytes 127 - w1, w0, 127 - w3, w2: e is its odd bytes, o is 127 - its halfwords.
 *     4 bits: two words; byte j of a filter's nibbles is 7 - w1, w0 + 8, 7 - w3, w2 + 8; two filters per word.
 *     2 bits: one word; likewise 1 - w1, w0 + 2, 1 - w3, w2 + 2; four filters per word.
 */
#ifndef NN_TILE_H
#define NN_TILE_H

#include "nn_base.h"

/* What one pass computes: outputs of fours of filters at pairs of pixels. Assembly knows this record's layout.
 *
 * tile: memory for four biases, a tile, and four multipliers; tile_end: where the tile ends. output: of the first pixel;
 * the second one's is `distance` bytes further; the next pair's output_step bytes. x: the first pair's words; x_end:
 * where x is after the last pair. zero_points: the output's zero point in both halves. weights, constants: of the first
 * four filters; constants_end: behind the last ones.
 * Where a pair's words lie in runs, one run takes run_bytes of the tile, from the end of a run to the next are `skip`
 * bytes, and from a pair to the next x_step bytes. */
typedef struct {
    nn_word *tile;
    void *output;
    uint32_t distance;
    uint32_t output_step;
    const nn_word *x_end;
    uint32_t zero_points;
    nn_word *tile_end;
    const uint32_t *weights;
    const int32_t *constants;
    const int32_t *constants_end;
    const nn_word *x;
    uint32_t run_bytes;
    uint32_t skip;
    uint32_t x_step;
} nn_tile_pass;

/* How a pass is made. unroll: words per turn of the loop, of which a run has a multiple. turns: whether there is more
 * than one turn. runs: whether a pair's words lie in runs; if not, all pairs follow each other. centred: whether there
 * is a zero point. bits: of the outputs, one byte each for 8, packed for 4 and 2; 0: the eight sums as they are, of one
 * pair only, filter by filter of the first pixel, then of the second. weight_bits: as stored. lift: weights of 4 and 2 bits
 * are unpacked times 2^lift, at most 8 - weight_bits. dual: for cores that issue two instructions at once. apart: for
 * cores where LDR behind LDR takes one cycle, but LDRD three.
 * Passes over runs, and those that leave sums, are of four filters, whose tile is there already where weights is NULL. */
typedef struct {
    uint32_t unroll;
    bool turns, runs, centred, dual, apart;
    uint32_t bits, weight_bits, lift;
} nn_tile_kind;

enum { NN_TILE_CONSTANTS = 8 }; /* words around a tile */

/* Whether a pass is of four filters. */
NN_INLINE bool nn_tile_single(nn_tile_kind kind)
{
    return kind.runs || kind.bits == 0;
}

#if NN_DSP
/* Biases from r12 on to r1, multipliers to lr. */
#define NN_TILE_CONSTANTS_COPY                         \
    "ldm r12!, {r4, r5, r6, r7, r8, r9, r10, r11}\n\t" \
    "stm r1!, {r4, r5, r6, r7}\n\t"                     \
    "stm lr, {r8, r9, r10, r11}\n\t"
/* Packed weights of one word of activations, from r0, into the tile at r1. Constants: r12, or r2, r3 and r7. */
#define NN_TILE_UNPACK_CONSTANTS                       \
    ".if %c[weight_bits] == 8\n\t"                     \
    "mov r12, #0x007F007F\n\t"                         \
    ".else\n\t"                                        \
    "mov r2, #%c[mask]\n\t"                            \
    "mvn r3, #%c[evens]\n\t"                           \
    "movw r7, #%c[odds]\n\t"                           \
    "movt r7, #%c[odds]\n\t"                           \
    ".endif\n\t"
/* The fields at bit `place` of a word's bytes, lifted. */
#define NN_TILE_FIELDS(target, word, place)            \
    "and " target ", r2, " word ", ror #(32 + " #place " - %c[lift]) %% 32\n\t"
#define NN_TILE_UNPACK_WORD                            \
    ".if %c[weight_bits] == 8\n\t"                     \
    "ldm r0!, {r6, r7, r8, r9}\n\t"                    \
    "sxtb16 r2, r6, ror #8\n\t"                        \
    "sxtb16 r3, r7, ror #8\n\t"                        \
    "sxtb16 r4, r8, ror #8\n\t"                        \
    "sxtb16 r5, r9, ror #8\n\t"                        \
    "ssub16 r6, r12, r6\n\t"                           \
    "ssub16 r7, r12, r7\n\t"                           \
    "ssub16 r8, r12, r8\n\t"                           \
    "ssub16 r9, r12, r9\n\t"                           \
    "stm r1!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"    \
    ".else\n\t"                                        \
    ".if %c[weight_bits] == 4\n\t"                     \
    "ldrd r4, r6, [r0], #8\n\t"                        \
    NN_TILE_FIELDS("r5", "r4", 4)                      \
    NN_TILE_FIELDS("r8", "r6", 4)                      \
    NN_TILE_FIELDS("r4", "r4", 0)                      \
    NN_TILE_FIELDS("r6", "r6", 0)                      \
    ".else\n\t"                                        \
    "ldr r4, [r0], #4\n\t"                             \
    NN_TILE_FIELDS("r5", "r4", 2)                      \
    NN_TILE_FIELDS("r6", "r4", 4)                      \
    NN_TILE_FIELDS("r8", "r4", 6)                      \
    NN_TILE_FIELDS("r4", "r4", 0)                      \
    ".endif\n\t"                                       \
    "uxtab16 r9, r3, r4, ror #8\n\t"                   \
    "uxtab16 r10, r3, r5, ror #8\n\t"                  \
    "uxtab16 r11, r3, r6, ror #8\n\t"                  \
    "uxtab16 r12, r3, r8, ror #8\n\t"                  \
    "ssub16 r4, r7, r4\n\t"                            \
    "ssub16 r5, r7, r5\n\t"                            \
    "ssub16 r6, r7, r6\n\t"                            \
    "ssub16 r8, r7, r8\n\t"                            \
    "stm r1!, {r9, r10, r11, r12}\n\t"                 \
    "stm r1!, {r4, r5, r6, r8}\n\t"                    \
    ".endif\n\t"
/* Two filters' weights in r4 and r5 with both pixels; the second pixel's sums c and d begin as the first one's where
 * that is all there is, the bias. */
#define NN_TILE_FIRST(c, a, w)                         \
    ".if nn_tile_fresh\n\t"                            \
    "smlad " c ", r3, " w ", " a "\n\t"                \
    ".else\n\t"                                        \
    "smlad " c ", r3, " w ", " c "\n\t"                \
    ".endif\n\t"
#define NN_TILE_FOUR(a, b, c, d)                       \
    NN_TILE_FIRST(c, a, "r4")                          \
    "smlad " a ", r2, r4, " a "\n\t"                   \
    NN_TILE_FIRST(d, b, "r5")                          \
    "smlad " b ", r2, r5, " b "\n\t"
/* SXTB16 goes first where it may: the multiplication behind it then issues beside it. */
#define NN_TILE_WORD                                   \
    ".if %c[apart]\n\t"                                \
    "ldr r3, [r0, #4]\n\t"                             \
    "ldr r2, [r0], #8\n\t"                             \
    "ldr r5, [r1, #4]\n\t"                             \
    "ldr r4, [r1], #8\n\t"                             \
    ".else\n\t"                                        \
    "ldrd r2, r3, [r0], #8\n\t"                        \
    "ldrd r4, r5, [r1], #8\n\t"                        \
    ".endif\n\t"                                       \
    NN_TILE_FOUR("r6", "r7", "r10", "r11")             \
    "ldrd r4, r5, [r1], #8\n\t"                        \
    NN_TILE_FIRST("r12", "r8", "r4")                   \
    "smlad r8, r2, r4, r8\n\t"                         \
    NN_TILE_FIRST("lr", "r9", "r5")                    \
    "sxtb16 r3, r3, ror #8\n\t"                        \
    "smlad r9, r2, r5, r9\n\t"                         \
    "ldrd r4, r5, [r1], #8\n\t"                        \
    "sxtb16 r2, r2, ror #8\n\t"                        \
    ".set nn_tile_fresh, 0\n\t"                        \
    "smlad r10, r3, r4, r10\n\t"                       \
    "smlad r6, r2, r4, r6\n\t"                         \
    "smlad r11, r3, r5, r11\n\t"                       \
    "smlad r7, r2, r5, r7\n\t"                         \
    "ldrd r4, r5, [r1], #8\n\t"                        \
    NN_TILE_FOUR("r8", "r9", "r12", "lr")
/* One turn's words, with a load or an SXTB16 beside most multiplications. The next word's first operands are loaded
 * beside the last ones of this; nothing is read behind the turn's words. */
#define NN_TILE_DUAL_TURN                              \
    "ldr r2, [r0]\n\t"                                 \
    "ldr r4, [r1]\n\t"                                 \
    ".set nn_tile_word, 0\n\t"                         \
    ".rept %c[unroll]\n\t"                             \
    "ldr r3, [r0, #(8 * nn_tile_word + 4)]\n\t"        \
    "smlad r6, r2, r4, r6\n\t"                         \
    "ldr r5, [r1, #(32 * nn_tile_word + 4)]\n\t"       \
    "smlad r10, r3, r4, r10\n\t"                       \
    "ldr r4, [r1, #(32 * nn_tile_word + 8)]\n\t"       \
    "smlad r7, r2, r5, r7\n\t"                         \
    "smlad r11, r3, r5, r11\n\t"                       \
    "ldr r5, [r1, #(32 * nn_tile_word + 12)]\n\t"      \
    "smlad r8, r2, r4, r8\n\t"                         \
    "smlad r12, r3, r4, r12\n\t"                       \
    "ldr r4, [r1, #(32 * nn_tile_word + 16)]\n\t"      \
    "smlad r9, r2, r5, r9\n\t"                         \
    "sxtb16 r2, r2, ror #8\n\t"                        \
    "smlad lr, r3, r5, lr\n\t"                         \
    "sxtb16 r3, r3, ror #8\n\t"                        \
    "smlad r6, r2, r4, r6\n\t"                         \
    "ldr r5, [r1, #(32 * nn_tile_word + 20)]\n\t"      \
    "smlad r10, r3, r4, r10\n\t"                       \
    "ldr r4, [r1, #(32 * nn_tile_word + 24)]\n\t"      \
    "smlad r7, r2, r5, r7\n\t"                         \
    "smlad r11, r3, r5, r11\n\t"                       \
    "ldr r5, [r1, #(32 * nn_tile_word + 28)]\n\t"      \
    "smlad r8, r2, r4, r8\n\t"                         \
    "smlad r9, r2, r5, r9\n\t"                         \
    ".set nn_tile_word, nn_tile_word + 1\n\t"          \
    ".if nn_tile_word < %c[unroll]\n\t"                \
    "ldr r2, [r0, #(8 * nn_tile_word)]\n\t"            \
    ".endif\n\t"                                       \
    "smlad r12, r3, r4, r12\n\t"                       \
    ".if nn_tile_word < %c[unroll]\n\t"                \
    "ldr r4, [r1, #(32 * nn_tile_word)]\n\t"           \
    ".endif\n\t"                                       \
    "smlad lr, r3, r5, lr\n\t"                         \
    ".endr\n\t"                                        \
    "add r1, r1, #(32 * %c[unroll])\n\t"               \
    "add r0, r0, #(8 * %c[unroll])\n\t"
/* Two pixels' requantised sums of four filters, as words of four elements in r6 and r10, from multipliers in r2 to r5 and
 * zero points at `zero_points`. Rounded results lie in [-32768, 32767]: the exporter proves it. */
#define NN_TILE_SCALE(zero_points)                 \
    "smmulr r6, r6, r2\n\t"                        \
    "smmulr r10, r10, r2\n\t"                      \
    "smmulr r7, r7, r3\n\t"                        \
    "smmulr r11, r11, r3\n\t"                      \
    "smmulr r8, r8, r4\n\t"                        \
    "smmulr r12, r12, r4\n\t"                      \
    "smmulr r9, r9, r5\n\t"                        \
    "smmulr lr, lr, r5\n\t"                        \
    "pkhbt r6, r6, r8, lsl #16\n\t"                \
    "pkhbt r7, r7, r9, lsl #16\n\t"                \
    "pkhbt r10, r10, r12, lsl #16\n\t"             \
    "pkhbt r11, r11, lr, lsl #16\n\t"              \
    ".if %c[centred]\n\t"                          \
    "ldr r2, " zero_points "\n\t"                  \
    "sadd16 r6, r6, r2\n\t"                        \
    "sadd16 r7, r7, r2\n\t"                        \
    "sadd16 r10, r10, r2\n\t"                      \
    "sadd16 r11, r11, r2\n\t"                      \
    ".endif\n\t"                                   \
    "usat16 r6, #%c[bits], r6\n\t"                  \
    "usat16 r7, #%c[bits], r7\n\t"                  \
    "usat16 r10, #%c[bits], r10\n\t"                \
    "usat16 r11, #%c[bits], r11\n\t"                \
    "orr r6, r6, r7, lsl #%c[bits]\n\t"             \
    "orr r10, r10, r11, lsl #%c[bits]\n\t"
#define NN_TILE_PUT(first, second)                 \
    ".if %c[bits] == 8\n\t"                        \
    "str r6, " first "\n\t"                        \
    "str r10, " second "\n\t"                      \
    ".elseif %c[bits] == 4\n\t"                    \
    "orr r6, r6, r6, lsr #8\n\t"                   \
    "orr r10, r10, r10, lsr #8\n\t"                \
    "strh r6, " first "\n\t"                       \
    "strh r10, " second "\n\t"                     \
    ".else\n\t"                                    \
    "orr r6, r6, r6, lsr #12\n\t"                  \
    "orr r10, r10, r10, lsr #12\n\t"               \
    "strb r6, " first "\n\t"                       \
    "strb r10, " second "\n\t"                     \
    ".endif\n\t"
#else
/* The products of one word of activations with one filter's weights at `tile`. */
NN_INLINE uint32_t nn_tile_products(uint32_t word, const nn_word *tile)
{
    uint32_t sum = 0;
    for (uint32_t half = 0; half < 32; half += 16) {
        sum += (uint32_t)((int16_t)(word >> half) * (int16_t)(tile[0] >> half));
        sum += (uint32_t)((int8_t)(word >> (half + 8u)) * (int16_t)(tile[4] >> half));
    }
    return sum;
}

/* One output into its place: `filter` of four at `output`, with 8, 4 or 2 bits. */
NN_INLINE void nn_tile_put(void *output, uint32_t filter, uint32_t bits, int32_t value)
{
    uint8_t *const byte = (uint8_t *)output + filter * bits / 8u;
    const uint32_t shift = filter * bits % 8u;
    const uint32_t kept = shift ? *byte & ((1u << shift) - 1u) : 0u;
    *byte = (uint8_t)(kept | (uint32_t)value << shift);
}
/* The weights of four filters and one word of activations, as they are packed, into eight words, times 2^lift. */
NN_INLINE void nn_tile_unpack(const uint32_t *packed, nn_word *tile, uint32_t bits, uint32_t lift)
{
    const uint32_t highest = (1u << (bits - 1u)) - 1u, mask = ((1u << bits) - 1u) * 0x01010101u;
    for (uint32_t filter = 0; filter < 4; filter++, tile++) {
        const uint32_t pair = bits == 8u ? packed[filter]
                                         : (packed[filter * bits / 8u] >> (filter * bits % 8u)) & mask;
        tile[0] = tile[4] = 0;
        for (uint32_t half = 0; half < 32; half += 16) {
            const int32_t low = (int32_t)(pair >> half & 0xFFu), high = (int32_t)(pair >> (half + 8u) & 0xFFu);
            const int32_t even = bits == 8u ? (int8_t)high : high - (int32_t)highest - 1;
            const int32_t odd = (int32_t)highest - low;
            tile[0] |= ((uint32_t)even << lift & 0xFFFFu) << half;
            tile[4] |= ((uint32_t)(odd - 256 * even) << lift & 0xFFFFu) << half;
        }
    }
}
#endif

NN_INLINE void nn_tile_run(const nn_tile_pass *pass, nn_tile_kind kind)
{
#if NN_DSP
    /* Bytes of fewer bits hold highest - w1 and w0 + highest + 1: what e and o are with these. */
    const uint32_t highest = (1u << (kind.weight_bits - 1u)) - 1u;
    register const nn_tile_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        /* The parameters, and at 56 the end of the current run in the tile, or where the next outputs begin. */
        "sub sp, #60\n\t"
        "ldm r0!, {r1, r2, r3, r4, r5, r6, r7}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6, r7}\n\t"
        "ldm r0, {r3, r4, r5, r6, r7, r8, r9}\n\t"
        "add r0, sp, #28\n\t"
        "stm r0, {r3, r4, r5, r6, r7, r8, r9}\n\t"
        ".if %c[single]\n\t"
        "cmp r3, #0\n\t"
        "beq 5f\n\t"
        ".elseif %c[apart]\n\t"
        ".balign 32\n\t"
        ".endif\n"
        /* Four filters: biases, tile and multipliers. With loads apart, what follows just fits a cache of 1 kB. */
        "4:\n\t"
        ".if !%c[single]\n\t"
        "add r3, r2, #%c[bits] / 2\n\t"
        "str r3, [sp, #56]\n\t"
        ".endif\n\t"
        "ldrd r0, r12, [sp, #28]\n\t"
        "ldr r1, [sp]\n\t"
        "ldr lr, [sp, #24]\n\t" NN_TILE_CONSTANTS_COPY
        ".if !%c[single]\n\t"
        "str r12, [sp, #32]\n\t"
        ".endif\n\t" NN_TILE_UNPACK_CONSTANTS
        ".balign 4\n"
        "6:\n\t"
        ".rept 2 - %c[unroll] %% 2\n\t" NN_TILE_UNPACK_WORD ".endr\n\t"
        "cmp r1, lr\n\t"
        "bne 6b\n\t"
        ".if !%c[single]\n\t"
        "str r0, [sp, #28]\n\t"
        ".endif\n"
        "5:\n\t"
        "ldr r0, [sp, #40]\n\t"
        "ldr r1, [sp]\n\t"
        ".balign 4\n"
        /* A pair of pixels. From here on, Cortex-M4 likes instructions of 32 bits at whole words. */
        "1:\n\t"
        ".if %c[runs]\n\t"
        "ldr.w r3, [sp, #44]\n\t"
        ".endif\n\t"
        ".set nn_tile_fresh, !(%c[dual] || %c[turns])\n\t"
        ".if !nn_tile_fresh\n\t"
        "ldm r1, {r10, r11, r12, lr}\n\t"
        ".endif\n\t"
        "ldm r1!, {r6, r7, r8, r9}\n\t"
        ".if %c[runs]\n\t"
        "add r3, r3, r1\n\t"
        "str r3, [sp, #56]\n\t"
        ".endif\n"
        "2:\n\t"
        ".if %c[dual]\n\t" NN_TILE_DUAL_TURN ".else\n\t"
        ".rept %c[unroll]\n\t" NN_TILE_WORD ".endr\n\t"
        ".endif\n\t"
        ".if %c[runs]\n\t"
        "ldr r2, [sp, #56]\n\t"
        ".elseif %c[turns]\n\t"
        "ldr r2, [sp, #24]\n\t"
        ".endif\n\t"
        ".if %c[turns]\n\t"
        "cmp r1, r2\n\t"
        "bne.w 2b\n\t"
        ".endif\n\t"
        ".if %c[runs]\n\t"
        "ldrd r3, r4, [sp, #44]\n\t"
        "ldr.w r5, [sp, #24]\n\t"
        "add r2, r2, r3\n\t"
        "add r0, r0, r4\n\t"
        "str r2, [sp, #56]\n\t"
        "cmp r1, r5\n\t"
        "bne.w 2b\n\t"
        ".endif\n\t"
        ".if %c[bits] == 0\n\t"
        "ldr r0, [sp, #4]\n\t"
        "stm r0, {r6, r7, r8, r9, r10, r11, r12, lr}\n\t"
        ".else\n\t"
        "ldm r1, {r2, r3, r4, r5}\n\t" NN_TILE_SCALE("[sp, #20]")
        "ldm sp, {r1, r2, r3, r4, r5}\n\t" NN_TILE_PUT("[r2]", "[r2, r3]")
        "add r2, r2, r4\n\t"
        ".if %c[runs]\n\t"
        "ldr r0, [sp, #40]\n\t"
        "ldr r3, [sp, #52]\n\t"
        "str r2, [sp, #4]\n\t"
        "add r0, r0, r3\n\t"
        "str r0, [sp, #40]\n\t"
        ".else\n\t"
        "str r2, [sp, #4]\n\t"
        ".endif\n\t"
        "cmp r0, r5\n\t"
        "bne 1b\n\t"
        ".if !%c[single]\n\t"
        "ldrd r4, r5, [sp, #32]\n\t"
        "ldr r2, [sp, #56]\n\t"
        "str r2, [sp, #4]\n\t"
        "cmp r4, r5\n\t"
        "bne 4b\n\t"
        ".endif\n\t"
        ".endif\n\t"
        "add sp, #60"
        : "+r"(parameters)
        : [unroll] "i"(kind.unroll), [turns] "i"(kind.turns), [runs] "i"(kind.runs), [single] "i"(nn_tile_single(kind)),
          [centred] "i"(kind.centred), [bits] "i"(kind.bits), [dual] "i"(kind.dual), [apart] "i"(kind.apart),
          [weight_bits] "i"(kind.weight_bits), [mask] "i"((((1u << kind.weight_bits) - 1u) << kind.lift) * 0x01010101u),
          [evens] "i"((((highest + 1u) << kind.lift) - 1u) * 0x00010001u),
          [odds] "i"((257u * highest + 256u) << kind.lift), [lift] "i"(kind.lift)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const uint32_t words = (uint32_t)(pass->tile_end - pass->tile - 4) / 8u;
    const uintptr_t tile_bytes = 32u * words, run_bytes = kind.runs ? pass->run_bytes : tile_bytes;
    const uintptr_t x_step = kind.runs ? pass->x_step : tile_bytes / 4u;
    const uintptr_t pairs = ((uintptr_t)pass->x_end - (uintptr_t)pass->x) / x_step;
    const uint32_t *weights = pass->weights;
    const int32_t *constants = pass->constants;
    uint8_t *output = pass->output;
    do {
        if (weights) {
            for (uint32_t filter = 0; filter < 4; filter++) {
                pass->tile[filter] = (nn_word)constants[filter];
                pass->tile_end[filter] = (nn_word)constants[4u + filter];
            }
            for (uint32_t word = 0; word < words; word++, weights += kind.weight_bits / 2u) {
                nn_tile_unpack(weights, pass->tile + 4u + 8u * word, kind.weight_bits, kind.lift);
            }
        }
        for (uint32_t pair = 0; pair < pairs; pair++) {
            const nn_word *x = (const nn_word *)((uintptr_t)pass->x + pair * x_step);
            uint32_t sums[2][4];
            for (uint32_t filter = 0; filter < 4; filter++) {
                sums[0][filter] = sums[1][filter] = pass->tile[filter];
            }
            for (const nn_word *tile = pass->tile + 4; tile != pass->tile_end;) {
                const nn_word *const end = (const nn_word *)((uintptr_t)tile + run_bytes);
                for (; tile != end; tile += 8, x += 2) {
                    for (uint32_t filter = 0; filter < 4; filter++) {
                        sums[0][filter] += nn_tile_products(x[0], tile + filter);
                        sums[1][filter] += nn_tile_products(x[1], tile + filter);
                    }
                }
                x = (const nn_word *)((uintptr_t)x + (kind.runs ? pass->skip : 0u));
            }
            for (uint32_t pixel = 0; pixel < 2; pixel++) {
                for (uint32_t filter = 0; filter < 4; filter++) {
                    const int64_t sum = (int32_t)sums[pixel][filter];
                    if (kind.bits == 0) {
                        ((int32_t *)pass->output)[4u * pixel + filter] = (int32_t)sum;
                        continue;
                    }
                    const int64_t rounded = (sum * (int32_t)pass->tile_end[filter] + ((int64_t)1 << 31)) >> 32;
                    const int16_t zero_point = kind.centred ? (int16_t)pass->zero_points : 0;
                    nn_tile_put(output + pair * pass->output_step + pixel * pass->distance, filter, kind.bits,
                                nn_clamp(rounded + zero_point, kind.bits));
                }
            }
        }
        constants += 8;
        output += kind.bits / 2u;
    } while (!nn_tile_single(kind) && constants != pass->constants_end);
#endif
}

#endif
