/* Convolution by the two-parallel fast FIR algorithm down the image: two outputs, one above the other, from three
 * quarters of the products where kernels are tall.
 *
 * Optimal for cores with the DSP extension, for kernels of several rows, and four filters or more. The rows of a kernel
 * that lie a stride apart are a filter h of its own: with x the rows of the input that it meets, all these being inner
 * products over a row of the kernel,
 *     y0 = h0 x0 + h1 x1 + h2 x2 + ..., y1 = h0 x1 + h1 x2 + h2 x3 + ...
 * Of each two rows of h (and one more of zeros, where h has an odd number of them), what both outputs have in common,
 *     (h0 + h1) x1, is summed up once; then y0 takes h0 (x0 - x1), and y1 takes h1 (x2 - x1):
 * three inner products instead of four (Parhi, VLSI Digital Signal Processing Systems, 9.2.1). All factors fit in 16 bits.
 *
 * A unit is two such outputs. A block of rows of units at a time: scratch has the factors of two units as pairs of words:
 * what is common, those for y1, where to put y1, those for y0, where to put y0. Then, for each four filters: factors of
 * weights in the same order, and a pass over all pairs. Where the last row of outputs is alone in its units, y1 goes where
 * y0 goes after it. Scratch: the weights, the pairs, a window of the rows of the padded image.
 */
#ifndef NN_CONV2D_FIR_H
#define NN_CONV2D_FIR_H

#include "nn_conv2d_tile.h"
#include "nn_halves.h"

/* What one pass computes: outputs of four filters of pairs of units. Assembly knows this record's layout.
 *
 * weights: per word of two factors, one of each filter; those in common end at `common`, for y1 at `lower`, for y0 at
 * `upper`. output: of the first filter. zero_points: the output's in both halves. x: the first pair; x_end: behind the
 * last. */
typedef struct {
    const nn_word *weights;
    const int32_t *bias;
    const int32_t *multipliers;
    uint8_t *output;
    const nn_word *x_end;
    uint32_t zero_points;
    const nn_word *common, *lower, *upper;
    const nn_word *x;
} nn_fir_pass;

/* Words per turn of the three loops, each of which has `turns` or not; dual: as NN_HALVES_PRODUCTS has it; centred:
 * whether there is a zero point; bits: of the outputs. */
typedef struct {
    uint32_t common, lower, upper;
    bool common_turns, lower_turns, upper_turns;
    bool dual, centred;
    uint32_t bits;
} nn_fir_kind;

/* weights: of each four filters and one of the filters, their rows, each in words of four bytes; of 4 and 2 bits, with the
 * offset 2^(bits - 1), two and four filters share these words, the first in the lowest bits of each byte.
 * constants: for each four filters their biases, then their multipliers. block: rows of units at a time. pass: nn_fir_run
 * for these constants. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t weight_bits;
    const int32_t *constants;
    uint32_t block;
    nn_requantization requantize;
    void (*pass)(const nn_fir_pass *pass);
} nn_conv2d_fir_layer;

NN_INLINE void nn_fir_run(const nn_fir_pass *pass, nn_fir_kind kind)
{
#if NN_DSP
    register const nn_fir_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        /* The parameters, and at 36 the sums in common. */
        "sub sp, #68\n\t"
        "ldm r0!, {r1, r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
        "ldr r0, [r0]\n"
        "1:\n\t"
        "ldrd r1, r2, [sp]\n\t"
        "ldm r2, {r6, r7, r8, r9}\n\t"
        "ldm r2, {r10, r11, r12, lr}\n"
        "2:\n\t" NN_HALVES_PRODUCTS("%c[common]")
        ".if %c[common_turns]\n\t"
        "ldr r2, [sp, #24]\n\t"
        "cmp r1, r2\n\t"
        "bne 2b\n\t"
        ".endif\n\t"
        "add r2, sp, #36\n\t"
        "stm r2, {r6, r7, r8, r9, r10, r11, r12, lr}\n"
        "3:\n\t" NN_HALVES_PRODUCTS("%c[lower]")
        ".if %c[lower_turns]\n\t"
        "ldr r2, [sp, #28]\n\t"
        "cmp r1, r2\n\t"
        "bne 3b\n\t"
        ".endif\n\t"
        "ldr r2, [sp, #8]\n\t"
        "ldm r2, {r2, r3, r4, r5}\n\t" NN_TILE_SCALE("[sp, #20]")
        "ldrd r2, r3, [r0], #8\n\t"
        "ldr r4, [sp, #12]\n\t" NN_TILE_PUT("[r4, r2]", "[r4, r3]")
        "add r2, sp, #36\n\t"
        "ldm r2, {r6, r7, r8, r9, r10, r11, r12, lr}\n"
        "4:\n\t" NN_HALVES_PRODUCTS("%c[upper]")
        ".if %c[upper_turns]\n\t"
        "ldr r2, [sp, #32]\n\t"
        "cmp r1, r2\n\t"
        "bne 4b\n\t"
        ".endif\n\t"
        "ldr r2, [sp, #8]\n\t"
        "ldm r2, {r2, r3, r4, r5}\n\t" NN_TILE_SCALE("[sp, #20]")
        "ldrd r2, r3, [r0], #8\n\t"
        "ldrd r4, r5, [sp, #12]\n\t" NN_TILE_PUT("[r4, r2]", "[r4, r3]")
        "cmp r0, r5\n\t"
        "bne 1b\n\t"
        "add sp, #68"
        : "+r"(parameters)
        : [common] "i"(kind.common), [lower] "i"(kind.lower), [upper] "i"(kind.upper),
          [common_turns] "i"(kind.common_turns), [lower_turns] "i"(kind.lower_turns),
          [upper_turns] "i"(kind.upper_turns), [dual] "i"(kind.dual), [centred] "i"(kind.centred), [bits] "i"(kind.bits)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    const nn_word *const ends[3] = {pass->common, pass->lower, pass->upper};
    for (const nn_word *x = pass->x; x != pass->x_end;) {
        const nn_word *weights = pass->weights;
        uint32_t common[8] = {0}, sums[8];
        for (uint32_t i = 0; i < 8u; i++) {
            sums[i] = (uint32_t)pass->bias[i % 4u];
        }
        for (uint32_t part = 0; part < 3u; part++) {
            for (; weights != ends[part]; weights += 4, x += 2) {
                nn_halves_products(x, weights, sums);
            }
            if (part == 0u) {
                for (uint32_t i = 0; i < 8u; i++) {
                    common[i] = sums[i];
                }
                continue;
            }
            for (uint32_t i = 0; i < 8u; i++) {
                const int64_t sum = (int32_t)sums[i];
                const int64_t rounded = (sum * pass->multipliers[i % 4u] + ((int64_t)1 << 31)) >> 32;
                const int16_t zero_point = kind.centred ? (int16_t)pass->zero_points : 0;
                nn_tile_put(pass->output + x[i / 4u], i % 4u, kind.bits, nn_clamp(rounded + zero_point, kind.bits));
                sums[i] = common[i];
            }
            x += 2;
        }
    }
#endif
}

/* Words of four bytes in a row of the kernel. */
NN_INLINE uint32_t nn_fir_fours(const nn_conv2d_shape *s)
{
    return (s->kernel[1] * s->channels + 3u) / 4u;
}

/* Rows of the kernel a stride apart, from `phase` on. */
NN_INLINE uint32_t nn_fir_rows(const nn_conv2d_shape *s, uint32_t phase)
{
    return (s->kernel[0] - phase + s->stride[0] - 1u) / s->stride[0];
}

/* Phases that a kernel has. */
NN_INLINE uint32_t nn_fir_phases(const nn_conv2d_shape *s)
{
    return s->stride[0] < s->kernel[0] ? s->stride[0] : s->kernel[0];
}

/* Words of factors of one kind in front of `phase`: of y1, or (upper) of y0, which are as many as those in common. */
NN_INLINE uint32_t nn_fir_before(const nn_conv2d_shape *s, uint32_t phase, bool upper)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < phase; i++) {
        rows += (nn_fir_rows(s, i) + (upper ? 1u : 0u)) / 2u;
    }
    return 2u * rows * nn_fir_fours(s);
}

/* The factors of the unit whose upper output reads the window from `corner` on, to every second word from `target` on. */
NN_INLINE void nn_fir_unit(const nn_conv2d_shape *s, const uint8_t *corner, nn_word *target)
{
    const uint32_t pitch = nn_conv2d_tile_window_pitch(s), fours = nn_fir_fours(s), phases = nn_fir_phases(s);
    const uint32_t common = nn_fir_before(s, phases, true), lower = common + nn_fir_before(s, phases, false);
    NN_UNROLL
    for (uint32_t phase = 0; phase < phases; phase++) {
        const uint32_t rows = nn_fir_rows(s, phase), turns = (rows + 1u) / 2u, below = rows / 2u;
        nn_word *const upper_words = target + 2u * nn_fir_before(s, phase, true);
        nn_word *const lower_words = target + 2u * (common + nn_fir_before(s, phase, false));
        const uint8_t *const line = corner + phase * pitch;
        for (uint32_t four = 0; four < fours; four++) {
            uint32_t first = *(const nn_unaligned_word *)(const void *)(line + 4u * four);
            uint32_t even = nn_halves_of(first, false, false), odd = nn_halves_of(first, true, false);
            NN_UNROLL_LONG
            for (uint32_t i = 0; i < turns; i++) {
                const uint8_t *const next = line + (2u * i + 1u) * s->stride[0] * pitch + 4u * four;
                const uint32_t second = *(const nn_unaligned_word *)(const void *)next;
                const uint32_t second_even = nn_halves_of(second, false, false);
                const uint32_t second_odd = nn_halves_of(second, true, false);
                nn_word *const place = upper_words + 4u * (i * fours + four);
                place[0] = second_even;
                place[2] = second_odd;
                place[2u * lower + 2u] = nn_halves_subtract(even, second_even);
                place[2u * lower + 4u] = nn_halves_subtract(odd, second_odd);
                if (i < below) {
                    first = *(const nn_unaligned_word *)(const void *)(next + s->stride[0] * pitch);
                    even = nn_halves_of(first, false, false), odd = nn_halves_of(first, true, false);
                    nn_word *const below_place = lower_words + 4u * (i * fours + four);
                    below_place[0] = nn_halves_subtract(even, second_even);
                    below_place[2] = nn_halves_subtract(odd, second_odd);
                }
            }
        }
    }
}

/* Four bytes of one filter, of `bits` bits, from where `shared` filters share them. */
NN_INLINE uint32_t nn_fir_weights_of(const uint32_t *packed, uint32_t shift, uint32_t bits)
{
    if (bits == 8u) {
        return *packed;
    }
    const uint32_t fields = *packed >> shift & ((1u << bits) - 1u) * 0x01010101u;
    const uint32_t offsets = (1u << (bits - 1u)) * 0x01010101u;
#if NN_DSP
    return (uint32_t)__ssub8((int8x4_t)fields, (int8x4_t)offsets);
#else
    return (fields + 0x80808080u - offsets) ^ 0x80808080u;
#endif
}

/* The factors of four filters' weights. */
NN_INLINE void nn_fir_weights(const nn_conv2d_shape *s, uint32_t bits, const uint32_t *packed, nn_word *target)
{
    const uint32_t fours = nn_fir_fours(s), phases = nn_fir_phases(s), shared = 8u / bits;
    const uint32_t common = nn_fir_before(s, phases, true), lower = common + nn_fir_before(s, phases, false);
    for (uint32_t filter = 0; filter < 4u; filter++, target++) {
        const uint32_t shift = filter % shared * bits;
        NN_UNROLL
        for (uint32_t phase = 0; phase < phases; phase++) {
            const uint32_t rows = nn_fir_rows(s, phase), turns = (rows + 1u) / 2u, below = rows / 2u;
            nn_word *const upper_words = target + 4u * nn_fir_before(s, phase, true);
            nn_word *const lower_words = target + 4u * (common + nn_fir_before(s, phase, false));
            for (uint32_t four = 0; four < fours; four++) {
                NN_UNROLL_LONG
                for (uint32_t i = 0; i < turns; i++) {
                    const uint32_t *const above = packed + (phase + 2u * i * s->stride[0]) * fours + four;
                    const uint32_t first = nn_fir_weights_of(above, shift, bits);
                    const uint32_t even = nn_halves_of(first, false, true), odd = nn_halves_of(first, true, true);
                    nn_word *const place = upper_words + 8u * (i * fours + four);
                    place[4u * lower] = even;
                    place[4u * lower + 4u] = odd;
                    if (i < below) {
                        const uint32_t second = nn_fir_weights_of(above + s->stride[0] * fours, shift, bits);
                        const uint32_t second_even = nn_halves_of(second, false, true);
                        const uint32_t second_odd = nn_halves_of(second, true, true);
                        nn_word *const below_place = lower_words + 8u * (i * fours + four);
                        below_place[0] = second_even;
                        below_place[4] = second_odd;
                        place[0] = nn_halves_add(even, second_even);
                        place[4] = nn_halves_add(odd, second_odd);
                    } else {
                        place[0] = even;
                        place[4] = odd;
                    }
                }
            }
        }
        if (filter % shared + 1u == shared) {
            packed += s->kernel[0] * fours;
        }
    }
}

/* The units of `rows` rows of them from `row` on, and `columns` apart; returns the end of their pairs. */
NN_INLINE nn_word *nn_fir_units(const nn_conv2d_fir_layer *layer, const uint8_t *input, uint32_t row, uint32_t rows,
                                nn_word *pairs, uint8_t *window)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t phases = nn_fir_phases(s), pitch = nn_conv2d_tile_window_pitch(s);
    const uint32_t common = nn_fir_before(s, phases, true), below = nn_fir_before(s, phases, false);
    const uint32_t pair = 2u * (2u * common + below) + 4u, lower = 2u * (common + below);
    const uint32_t across = nn_row_bytes(s->columns * s->filters, s->output);
    const uint32_t pixel = s->filters * nn_element_bits(s->output) / 8u;
    const int32_t top = (int32_t)(2u * row * s->stride[0]) - (int32_t)s->padding[0];
    nn_conv2d_tile_window(s, layer->input_zero_point, input, top, nn_conv2d_tile_height(s, 2u * rows), window);
    const uint8_t *line = window + nn_conv2d_tile_margin(s);
    uint32_t second = 0;
    for (uint32_t i = 0; i < rows; i++, line += 2u * s->stride[0] * pitch) {
        const uint32_t first = 2u * (row + i);
        const uint8_t *corner = line;
        uint32_t place = first * across;
        for (uint32_t column = 0; column < s->columns; column++, corner += s->stride[1] * s->channels, place += pixel) {
            nn_fir_unit(s, corner, pairs + second);
            pairs[second + lower] = first + 1u < s->rows ? place + across : place;
            pairs[second + pair - 2u] = place;
            pairs += second ? pair : 0u;
            second ^= 1u;
        }
    }
    if (second) {
        /* A unit that is left over is the other one of its pair, too. */
        for (uint32_t i = 0; i < pair; i += 2u) {
            pairs[i + 1u] = pairs[i];
        }
        pairs += pair;
    }
    return pairs;
}

NN_INLINE void nn_conv2d_fir(const nn_conv2d_fir_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t phases = nn_fir_phases(s), total = (s->rows + 1u) / 2u;
    const uint32_t common = nn_fir_before(s, phases, true), below = nn_fir_before(s, phases, false);
    const uint32_t words = 2u * common + below, four = s->kernel[0] * nn_fir_fours(s) * layer->weight_bits / 2u;
    nn_word *const tile = scratch, *const pairs = tile + 4u * words;
    uint8_t *const window = (uint8_t *)(pairs + (layer->block * s->columns + 1u) / 2u * (2u * words + 4u));
    for (uint32_t row = 0; row < total; row += layer->block) {
        const uint32_t rows = nn_tile_least(layer->block, total - row);
        nn_fir_pass pass = {
            .weights = tile,
            .output = output,
            .x_end = nn_fir_units(layer, input, row, rows, pairs, window),
            .zero_points = (uint32_t)layer->requantize.zero_point * 0x00010001u,
            .common = tile + 4u * common,
            .lower = tile + 4u * (common + below),
            .upper = tile + 4u * words,
            .x = pairs,
        };
        const uint32_t *weights = layer->weights;
        pass.bias = layer->constants;
        for (uint32_t filter = 0; filter < s->filters; filter += 4u) {
            nn_fir_weights(s, layer->weight_bits, weights, tile);
            weights += four;
            pass.multipliers = pass.bias + 4;
            layer->pass(&pass);
            pass.bias += 8;
            pass.output += nn_element_bits(s->output) / 2u;
        }
    }
}

#endif
