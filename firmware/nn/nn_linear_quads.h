/* The fully connected layer with weights of 8 bits, four rows at a time, for cores with the DSP extension.
 *
 * Two rows share words of weights: a halfword is a + 256 b, of row a and row b for one input, and is an operand of
 * SMLAD as it lies in flash. A word has those of inputs 0 and 2 of four, the next one those of inputs 1 and 3. With
 * both = sum((a + 256 b) x) and low = sum(a x), whose operand SXTB16 takes out of the same word, row a is `low`, and
 * row b (both - low) / 256: half of the weights need no unpacking. Sums wrap at 32 bits; the exporter proves that
 * those of row b fit in 24 bits, or has them taken after every `segment` fours of inputs. A last row without partner
 * has words of four weights, as they are.
 *
 * Rows come in groups of four (the last group has the rest): for each four inputs two words of the first pair, two of
 * the second. A layer of at most two groups reads its input as bytes, and others a copy in scratch
 * (nn_linear_pairs.h).
 */
#ifndef NN_LINEAR_QUADS_H
#define NN_LINEAR_QUADS_H

#include "nn_linear_pairs.h"

/* rows: of the input as it is stored, of inputs / rows elements each. direct: whether it is read as the bytes that it
 * is, up to three bytes behind its end included. narrow: see nn_linear_finish. segment: 0 where sums fit with their
 * bias; bias then has those of `both` and `low` for each pair of rows, and else those of rows b and a. */
typedef struct {
    nn_linear_shape shape;
    uint32_t rows, segment;
    bool direct, narrow;
    const uint32_t *weights;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_quads_layer;

#if NN_DSP
/* A pair of rows (even, odd: its words) or a row alone (`word`), times one four of inputs. */
#define NN_LINEAR_QUADS_PAIR(even, odd, x02, x13, both, low)                                      \
    "smlad " both ", " even ", " x02 ", " both "\n\t"                                             \
    "sxtb16 " even ", " even "\n\t"                                                               \
    "smlad " both ", " odd ", " x13 ", " both "\n\t"                                              \
    "sxtb16 " odd ", " odd "\n\t"                                                                 \
    "smlad " low ", " even ", " x02 ", " low "\n\t"                                               \
    "smlad " low ", " odd ", " x13 ", " low "\n\t"
#define NN_LINEAR_QUADS_ALONE(word, other, sum)                                                   \
    "sxtb16 " other ", " word ", ror #8\n\t"                                                      \
    "sxtb16 " word ", " word "\n\t"                                                               \
    "smlad " sum ", " word ", r12, " sum "\n\t"                                                   \
    "smlad " sum ", " other ", lr, " sum "\n\t"
#define NN_LINEAR_QUADS_INPUT                                                                     \
    ".if %c[direct]\n\t"                                                                          \
    "ldr r12, [%[x]], #4\n\t"                                                                     \
    "uxtb16 lr, r12, ror #8\n\t"                                                                  \
    "uxtb16 r12, r12\n\t"                                                                         \
    ".else\n\t"                                                                                   \
    "ldrd r12, lr, [%[x]], #8\n\t"                                                                \
    ".endif\n\t"
/* One four of inputs. */
#define NN_LINEAR_QUADS_FOUR                                                                      \
    ".if %c[rows] == 4\n\t"                                                                       \
    "ldm %[weights]!, {r8, r9, r10, r11}\n\t"                                                     \
    ".elseif %c[rows] == 3\n\t"                                                                   \
    "ldm %[weights]!, {r8, r9, r10}\n\t"                                                          \
    ".elseif %c[rows] == 2\n\t"                                                                   \
    "ldrd r8, r9, [%[weights]], #8\n\t"                                                           \
    ".else\n\t"                                                                                   \
    "ldr r10, [%[weights]], #4\n\t"                                                               \
    ".endif\n\t"                                                                                  \
    NN_LINEAR_QUADS_INPUT                                                                         \
    ".if %c[rows] >= 2\n\t"                                                                       \
    NN_LINEAR_QUADS_PAIR("r8", "r9", "r12", "lr", "%[a]", "%[b]")                                 \
    ".endif\n\t"                                                                                  \
    ".if %c[rows] == 4\n\t"                                                                       \
    NN_LINEAR_QUADS_PAIR("r10", "r11", "r12", "lr", "%[c]", "%[d]")                               \
    ".elseif %c[rows] & 1\n\t"                                                                    \
    NN_LINEAR_QUADS_ALONE("r10", "r11", "%[c]")                                                   \
    ".endif\n\t"
/* Two fours; a pair of rows alone leaves registers for words of both. */
#define NN_LINEAR_QUADS_EIGHT                                                                     \
    ".if %c[rows] == 2\n\t"                                                                       \
    "ldm %[weights]!, {r8, r9, r10, r11}\n\t"                                                     \
    "ldrd r12, lr, [%[x]], #8\n\t"                                                                \
    ".if %c[direct]\n\t"                                                                          \
    "uxtb16 %[c], r12, ror #8\n\t"                                                                \
    "uxtb16 r12, r12\n\t"                                                                         \
    NN_LINEAR_QUADS_PAIR("r8", "r9", "r12", "%[c]", "%[a]", "%[b]")                               \
    "uxtb16 %[c], lr, ror #8\n\t"                                                                 \
    "uxtb16 lr, lr\n\t"                                                                           \
    NN_LINEAR_QUADS_PAIR("r10", "r11", "lr", "%[c]", "%[a]", "%[b]")                              \
    ".else\n\t"                                                                                   \
    NN_LINEAR_QUADS_PAIR("r8", "r9", "r12", "lr", "%[a]", "%[b]")                                 \
    "ldrd r12, lr, [%[x]], #8\n\t"                                                                \
    NN_LINEAR_QUADS_PAIR("r10", "r11", "r12", "lr", "%[a]", "%[b]")                               \
    ".endif\n\t"                                                                                  \
    ".else\n\t"                                                                                   \
    NN_LINEAR_QUADS_FOUR NN_LINEAR_QUADS_FOUR                                                     \
    ".endif\n\t"
#endif

/* Adds `fours` fours of inputs of `rows` (1 to 4) rows. sums: of pairs `both` and `low`, of a row alone its own, third.
 * Moves *weights and *x behind what it has read. */
NN_INLINE void nn_linear_quads_rows(const uint32_t **weights, const nn_word **x, uint32_t fours, uint32_t rows,
                                    bool direct, uint32_t sums[4])
{
#if NN_DSP
    const uint32_t *w = *weights;
    const nn_word *next = *x;
    const nn_word *const end = next + fours / 2u * (direct ? 2u : 4u);
    uint32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    __asm__(".if %c[fours] >= 2\n\t"
            "1:\n\t" NN_LINEAR_QUADS_EIGHT
            ".if %c[fours] >= 4\n\t"
            "cmp %[x], %[end]\n\t"
            "bne 1b\n\t"
            ".endif\n\t"
            ".endif\n\t"
            ".if %c[fours] & 1\n\t" NN_LINEAR_QUADS_FOUR ".endif"
            : [weights] "+&r"(w), [x] "+&r"(next), [a] "+&r"(a), [b] "+&r"(b), [c] "+&r"(c), [d] "+&r"(d)
            : [end] "r"(end), [rows] "i"(rows), [fours] "i"(fours), [direct] "i"(direct)
            : "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
    *weights = w;
    *x = next;
#else
    for (uint32_t four = 0; four < fours; four++) {
        const nn_word bytes = direct ? *(*x)++ : (*x)[0] | (*x)[1] << 8;
        *x += direct ? 0 : 2;
        for (uint32_t i = 0; i < rows; i++) {
            const uint32_t word = *(*weights)++;
            for (uint32_t half = 0; half < 32u; half += 16u) {
                if (i == 2u * (rows / 2u)) {
                    sums[2] += (uint32_t)((int8_t)(word >> half) * (int32_t)(bytes >> half & 255u));
                    sums[2] += (uint32_t)((int8_t)(word >> (half + 8u)) * (int32_t)(bytes >> (half + 8u) & 255u));
                } else {
                    const int32_t input = (int32_t)(bytes >> (half + 8u * (i & 1u)) & 255u);
                    sums[i & 2u] += (uint32_t)((int16_t)(word >> half) * input);
                    sums[(i & 2u) + 1u] += (uint32_t)((int8_t)(word >> half) * input);
                }
            }
        }
    }
#endif
}

/* Rows `row` to `row + rows - 1`; returns the end of their weights. */
NN_INLINE const uint32_t *nn_linear_quads_group(const nn_linear_quads_layer *layer, const uint32_t *weights,
                                                const nn_word *x, uint32_t row, uint32_t rows, void *output)
{
    const uint32_t fours = nn_linear_fours(&layer->shape), segment = layer->segment ? layer->segment : fours;
    const int32_t *const bias = layer->bias + row;
    const uint32_t alone = rows % 2u ? rows - 1u : rows;
    uint32_t sums[4] = {0, 0, 0, 0}, totals[4] = {0, 0, 0, 0};
    NN_UNROLL
    for (uint32_t i = 0; i < alone; i += 2u) {
        sums[i] = (uint32_t)bias[layer->segment ? i + 1u : i];
        sums[i + 1u] = (uint32_t)bias[i + 1u];
        totals[i + 1u] = layer->segment ? (uint32_t)bias[i] : 0u;
    }
    if (alone < rows) {
        sums[2] = (uint32_t)bias[alone];
    }
    for (uint32_t first = 0; first < fours; first += segment) {
        if (fours % segment && first + segment > fours) {
            nn_linear_quads_rows(&weights, &x, fours % segment, rows, layer->direct, sums);
        } else {
            nn_linear_quads_rows(&weights, &x, segment, rows, layer->direct, sums);
        }
        NN_UNROLL
        for (uint32_t i = 0; i < alone; i += 2u) {
            totals[i] = sums[i + 1u];
            totals[i + 1u] += (uint32_t)((int32_t)(sums[i] - sums[i + 1u]) >> 8);
            sums[i] = sums[i + 1u];
        }
    }
    if (alone < rows) {
        totals[alone] = sums[2];
    }
    nn_linear_finish(&layer->shape, &layer->requantize, layer->narrow, output, row, rows, totals);
    return weights;
}

NN_INLINE void nn_linear_quads(const nn_linear_quads_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t fours = nn_linear_fours(s);
    const nn_word *const x = layer->direct ? input : scratch;
    uint8_t *const buffer = (uint8_t *)scratch + (layer->direct ? 0u : 8u * fours);
    if (!layer->direct) {
        nn_linear_prepare(s, layer->rows, input, scratch, fours, false);
    }
    void *const target = nn_packed_row_begin(output, s->output, s->outputs, 0, buffer);
    const uint32_t *weights = layer->weights;
    uint32_t row = 0;
    for (; row < s->outputs / 4u * 4u; row += 4u) {
        weights = nn_linear_quads_group(layer, weights, x, row, 4, target);
    }
    if (s->outputs % 4u) {
        nn_linear_quads_group(layer, weights, x, row, s->outputs % 4u, target);
    }
    nn_packed_row_end(output, s->output, s->outputs, 0, buffer);
}

/* The same for layers that are direct, without scratch. */
NN_INLINE void nn_linear_quads_direct(const nn_linear_quads_layer *layer, const void *input, void *output)
{
    nn_linear_quads(layer, input, output, NULL);
}

#endif
