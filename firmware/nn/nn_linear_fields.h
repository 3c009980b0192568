/* The fully connected layer with weights of 4 or 2 bits, four rows at a time, for cores with the DSP extension.
 *
 * Rows share halfwords of weights, and SMLAD multiplies them together: the sums of several rows are one number until
 * they are taken apart. All rows but the last one of a halfword are stored with an offset, w + 2^(bits - 1), so that
 * their fields are not negative; what that adds is the same for all, 2^(bits - 1) * sum(x). There are three kinds:
 *
 * - lanes: two rows at the ends of a halfword, a + 2^(16 - bits) b, taken out of a word by one AND with what a
 *   rotation brings there. 16 inputs do not fill the space between them, and are then added to both sums. Fits weights
 *   of 2 bits, and of 4 bits with inputs of 4.
 * - four rows, a + 16 b + 256 c + 4096 d, multiplied as they lie in flash, then without d, c and b: each sum less the
 *   next one is that of one row, times 4096, 256 and 16. For weights of 4 bits.
 * - two rows, the same in bytes, a + 16 b: for what is left of such layers.
 *
 * The exporter proves that sums of rows fit in what that factor leaves of 32 bits, or has them taken after every
 * `segment` fours of inputs. Words follow each other as they are read; inputs are in whole fours, with lanes in whole
 * eights. Scratch: nn_linear_pairs.h, in that many inputs.
 */
#ifndef NN_LINEAR_FIELDS_H
#define NN_LINEAR_FIELDS_H

#include "nn_linear_pairs.h"

/* rows: of the input as it is stored, of inputs / rows elements each. segment: 0 where sums fit with their biases.
 * turn: fours of inputs in a turn of the loop over four rows, 4 or 8. narrow: see nn_linear_finish. weights: in front
 * of the words of those that share halfwords are their biases modulo 2^32. Lanes have a + 2^(16 - bits) b and b;
 * others with a segment one of each row, and without what the sums start from: a, a + 16 b, a + 16 b + 256 c and so
 * on. */
typedef struct {
    nn_linear_shape shape;
    uint32_t rows, weight_bits, segment, turn;
    bool lanes, narrow;
    const uint32_t *weights;
    nn_requantization requantize;
} nn_linear_fields_layer;

/* The part of `word` that lies in each half at `mask`, times the halves of `x`. */
NN_INLINE int32_t nn_fields_product(uint32_t word, uint32_t mask, uint32_t x)
{
    return (int16_t)(word & mask) * (int16_t)x + (int16_t)((word & mask << 16) >> 16) * (int16_t)(x >> 16);
}

#if NN_DSP
#define NN_FIELDS_LANE(t, word, turn, x)                        \
    "and " t ", %[mask], " word ", ror #" #turn "\n\t"             \
    "smlad %[s], " t ", " x ", %[s]\n\t"
#define NN_FIELDS_FIRST_LANE                                    \
    "ldm %[x]!, {r10, r11, r12, lr}\n\t"                           \
    "and %[s], %[mask], r8\n\t"                                    \
    "smuad %[s], %[s], r10\n\t"
/* Eight inputs, the first of some that are summed before they are taken apart; then the second eight. */
#define NN_FIELDS_LANES                                         \
    ".if %c[bits] == 2\n\t"                                        \
    NN_FIELDS_FIRST_LANE                                        \
    NN_FIELDS_LANE("r10", "r8", 4, "r11") NN_FIELDS_LANE("r11", "r8", 8, "r12") NN_FIELDS_LANE("r8", "r8", 12, "lr") \
    ".else\n\t"                                                    \
    "ldrd r8, r9, [%[w]], #8\n\t"                                  \
    NN_FIELDS_FIRST_LANE                                        \
    NN_FIELDS_LANE("r10", "r8", 8, "r11") NN_FIELDS_LANE("r11", "r9", 0, "r12") NN_FIELDS_LANE("r9", "r9", 8, "lr")  \
    ".endif\n\t"
#define NN_FIELDS_MORE_LANES                                    \
    "ldm %[x]!, {r10, r11, r12, lr}\n\t"                           \
    ".if %c[bits] == 2\n\t"                                        \
    NN_FIELDS_LANE("r8", "r9", 0, "r10") NN_FIELDS_LANE("r8", "r9", 4, "r11")                                        \
    NN_FIELDS_LANE("r8", "r9", 8, "r12") NN_FIELDS_LANE("r8", "r9", 12, "lr")                                        \
    ".else\n\t"                                                    \
    "ldr r8, [%[w]], #4\n\t"                                       \
    NN_FIELDS_LANE("r9", "r8", 0, "r10") NN_FIELDS_LANE("r9", "r8", 8, "r11")                                        \
    "ldr r8, [%[w]], #4\n\t"                                       \
    NN_FIELDS_LANE("r9", "r8", 0, "r12") NN_FIELDS_LANE("r9", "r8", 8, "lr")                                         \
    ".endif\n\t"
#define NN_FIELDS_TAKE_APART                                    \
    "add %[both], %[both], %[s]\n\t"                               \
    "add %[high], %[high], %[s], asr %[place]\n\t"
#endif

/* The sums of a pair of rows in lanes, from their biases on, over `eights` eights of inputs: `both`, a + 2^(16 - bits)
 * b, and `high`, b. Returns the end of their weights. */
NN_INLINE const uint32_t *nn_linear_fields_lanes(const uint32_t *weights, const nn_word *x, uint32_t eights,
                                                 uint32_t bits, uint32_t *both, uint32_t *high)
{
    const uint32_t ends = (1u << bits) - 1u, mask = (ends | ends << (16u - bits)) * 0x00010001u;
#if NN_DSP
    const nn_word *const end = x + eights / 2u * 16u / 2u;
    uint32_t s, sum, top;
    __asm__("ldrd %[both], %[high], [%[w]], #8\n\t"
            ".if %c[eights] >= 2\n\t"
            "1:\n\t"
            ".if %c[bits] == 2\n\t"
            "ldrd r8, r9, [%[w]], #8\n\t"
            ".endif\n\t"
            NN_FIELDS_LANES NN_FIELDS_MORE_LANES NN_FIELDS_TAKE_APART
            ".if %c[eights] >= 4\n\t"
            "cmp %[x], %[end]\n\t"
            "bne 1b\n\t"
            ".endif\n\t"
            ".endif\n\t"
            ".if %c[eights] & 1\n\t"
            ".if %c[bits] == 2\n\t"
            "ldr r8, [%[w]], #4\n\t"
            ".endif\n\t"
            NN_FIELDS_LANES NN_FIELDS_TAKE_APART
            ".endif"
            : [w] "+&r"(weights), [x] "+&r"(x), [both] "=&r"(sum), [high] "=&r"(top), [s] "=&r"(s)
            : [end] "r"(end), [mask] "r"(mask), [eights] "i"(eights), [bits] "i"(bits), [place] "i"(16u - bits)
            : "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
    *both = sum;
    *high = top;
#else
    *both = *weights++;
    *high = *weights++;
    for (uint32_t eight = 0; eight < eights; eight++) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < 4u; i++, x++) {
            const uint32_t turn = 2u * bits * i % 16u, word = weights[i * bits / 8u];
            sum += nn_fields_product(turn ? word >> turn | word << (32u - turn) : word, mask & 0xFFFFu, *x);
        }
        weights += bits / 2u;
        *both += (uint32_t)sum;
        *high += (uint32_t)(sum >> (16u - bits));
    }
#endif
    return weights;
}

#if NN_DSP
/* Two words of four rows, times the pairs of one four of inputs. */
#define NN_FIELDS_FOUR(even, odd, x02, x13)                     \
    "smlad %[d], " even ", " x02 ", %[d]\n\t"                      \
    "bic " even ", " even ", #0xF000F000\n\t"                      \
    "smlad %[d], " odd ", " x13 ", %[d]\n\t"                       \
    "bic " odd ", " odd ", #0xF000F000\n\t"                        \
    "smlad %[c], " even ", " x02 ", %[c]\n\t"                      \
    "uxtb16 " even ", " even "\n\t"                                \
    "smlad %[c], " odd ", " x13 ", %[c]\n\t"                       \
    "uxtb16 " odd ", " odd "\n\t"                                  \
    "smlad %[b], " even ", " x02 ", %[b]\n\t"                      \
    "and " even ", " even ", #0x000F000F\n\t"                      \
    "smlad %[b], " odd ", " x13 ", %[b]\n\t"                       \
    "and " odd ", " odd ", #0x000F000F\n\t"                        \
    "smlad %[a], " even ", " x02 ", %[a]\n\t"                      \
    "smlad %[a], " odd ", " x13 ", %[a]\n\t"
#define NN_FIELDS_EIGHT                                         \
    "ldm %[w]!, {r8, r9, r10, r11}\n\t"                            \
    "ldm %[x]!, {r4, r5, r12, lr}\n\t"                             \
    NN_FIELDS_FOUR("r8", "r9", "r4", "r5")                      \
    NN_FIELDS_FOUR("r10", "r11", "r12", "lr")
#endif

/* Where assembly without a register to spare finds what it reads of the input: from `first` on, in whole turns to
 * `end`. */
typedef struct {
    const nn_word *volatile first;
    const nn_word *volatile end;
} nn_fields_input;

NN_INLINE nn_fields_input nn_fields_span(const nn_word *first, uint32_t fours, uint32_t turn)
{
    return (nn_fields_input){first, first + fours / turn * turn * 2u};
}

/* The sums of four rows, a, a + 16 b and so on, over `fours` fours of inputs. biased: whether they start from what is
 * in front of the weights, or else from 0. Returns the end of the weights. Takes all fourteen registers, which leaves
 * none for a frame pointer. */
NN_INLINE const uint32_t *nn_linear_fields_four(const uint32_t *weights, const nn_fields_input *input, uint32_t fours,
                                                uint32_t turn, bool biased, uint32_t sums[4])
{
#if NN_DSP
    const nn_word *x;
    register uint32_t a __asm__("r0");
    register uint32_t b __asm__("r1");
    register uint32_t c __asm__("r2");
    register uint32_t d __asm__("r3");
    __asm__("ldr %[x], %[first]\n\t"
            ".if %c[biased]\n\t"
            "ldm %[w]!, {r0, r1, r2, r3}\n\t"
            ".else\n\t"
            "movs r0, #0\n\tmovs r1, #0\n\tmovs r2, #0\n\tmovs r3, #0\n\t"
            ".endif\n\t"
            ".if %c[fours] >= %c[turn]\n\t"
            "1:\n\t"
            ".if %c[turn] == 8\n\t" NN_FIELDS_EIGHT NN_FIELDS_EIGHT ".endif\n\t" NN_FIELDS_EIGHT NN_FIELDS_EIGHT
            ".if %c[fours] >= 2 * %c[turn]\n\t"
            "ldr r12, %[end]\n\t"
            "cmp %[x], r12\n\t"
            "bne 1b\n\t"
            ".endif\n\t"
            ".endif\n\t"
            ".if %c[fours] & 4 & ~%c[turn]\n\t" NN_FIELDS_EIGHT NN_FIELDS_EIGHT ".endif\n\t"
            ".if %c[fours] & 2\n\t" NN_FIELDS_EIGHT ".endif\n\t"
            ".if %c[fours] & 1\n\t"
            "ldrd r8, r9, [%[w]], #8\n\t"
            "ldrd r12, lr, [%[x]], #8\n\t" NN_FIELDS_FOUR("r8", "r9", "r12", "lr")
            ".endif"
            : [w] "+&r"(weights), [x] "=&r"(x), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d)
            : [first] "m"(input->first), [end] "m"(input->end), [fours] "i"(fours), [turn] "i"(turn),
              [biased] "i"(biased)
            : "r4", "r5", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
#else
    const nn_word *x = input->first;
    (void)turn;
    for (uint32_t i = 0; i < 4u; i++) {
        sums[i] = biased ? *weights++ : 0u;
    }
    for (uint32_t word = 0; word < 2u * fours; word++, weights++, x++) {
        for (uint32_t i = 0; i < 4u; i++) {
            sums[i] += (uint32_t)nn_fields_product(*weights, 0xFFFFu >> (12u - 4u * i), *x);
        }
    }
#endif
    return weights;
}

#if NN_DSP
#define NN_FIELDS_TWO(word, x02, x13)                           \
    "sxtb16 %[other], " word ", ror #8\n\t"                        \
    "sxtb16 " word ", " word "\n\t"                                \
    "smlad %[b], %[other], " x13 ", %[b]\n\t"                      \
    "and %[other], %[other], #0x000F000F\n\t"                      \
    "smlad %[b], " word ", " x02 ", %[b]\n\t"                      \
    "and " word ", " word ", #0x000F000F\n\t"                      \
    "smlad %[a], %[other], " x13 ", %[a]\n\t"                      \
    "smlad %[a], " word ", " x02 ", %[a]\n\t"
#endif

/* The same for two rows. */
NN_INLINE const uint32_t *nn_linear_fields_two(const uint32_t *weights, const nn_fields_input *input, uint32_t fours,
                                               bool biased, uint32_t sums[4])
{
    const nn_word *x = input->first;
#if NN_DSP
    const nn_word *const end = x + fours / 2u * 4u;
    uint32_t a, b, other;
    __asm__(".if %c[biased]\n\t"
            "ldrd %[a], %[b], [%[w]], #8\n\t"
            ".else\n\t"
            "movs %[a], #0\n\tmovs %[b], #0\n\t"
            ".endif\n\t"
            ".if %c[fours] >= 2\n\t"
            "1:\n\t"
            "ldrd r8, r9, [%[w]], #8\n\t"
            "ldm %[x]!, {r10, r11, r12, lr}\n\t" NN_FIELDS_TWO("r8", "r10", "r11") NN_FIELDS_TWO("r9", "r12", "lr")
            ".if %c[fours] >= 4\n\t"
            "cmp %[x], %[end]\n\t"
            "bne 1b\n\t"
            ".endif\n\t"
            ".endif\n\t"
            ".if %c[fours] & 1\n\t"
            "ldr r8, [%[w]], #4\n\t"
            "ldrd r12, lr, [%[x]], #8\n\t" NN_FIELDS_TWO("r8", "r12", "lr")
            ".endif"
            : [w] "+&r"(weights), [x] "+&r"(x), [a] "=&r"(a), [b] "=&r"(b), [other] "=&r"(other)
            : [end] "r"(end), [fours] "i"(fours), [biased] "i"(biased)
            : "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
    sums[0] = a;
    sums[1] = b;
#else
    for (uint32_t i = 0; i < 2u; i++) {
        sums[i] = biased ? *weights++ : 0u;
    }
    for (uint32_t four = 0; four < fours; four++, weights++, x += 2) {
        for (uint32_t i = 0; i < 4u; i++) {
            const int8_t both = (int8_t)(*weights >> 8u * i);
            const uint32_t value = x[i & 1u] >> 8u * (i & 2u) & 0xFFFFu;
            sums[0] += (uint32_t)(both & 15) * value;
            sums[1] += (uint32_t)both * value;
        }
    }
#endif
    return weights;
}

/* The sums of two or four rows (`sharing`) over `fours` fours of inputs, each row's onto its total. */
NN_INLINE const uint32_t *nn_linear_fields_shared(const uint32_t *weights, const nn_fields_input *input, uint32_t fours,
                                                  uint32_t turn, bool biased, uint32_t sharing, uint32_t totals[4])
{
    uint32_t sums[4];
    if (sharing == 4u) {
        weights = nn_linear_fields_four(weights, input, fours, turn, biased, sums);
    } else {
        weights = nn_linear_fields_two(weights, input, fours, biased, sums);
    }
    totals[0] += sums[0];
    NN_UNROLL
    for (uint32_t i = 1; i < sharing; i++) {
        totals[i] += (uint32_t)((int32_t)(sums[i] - sums[i - 1u]) >> (4u * i));
    }
    return weights;
}

/* Rows `row` to `row + rows - 1`; returns the end of their weights. correction: 2^(bits - 1) * sum(x). */
NN_INLINE const uint32_t *nn_linear_fields_group(const nn_linear_fields_layer *layer, const uint32_t *weights,
                                                 const nn_fields_input *input, uint32_t fours, uint32_t correction,
                                                 uint32_t row, uint32_t rows, void *output)
{
    const uint32_t sharing = layer->lanes || rows <= 2u ? 2u : 4u, segment = layer->segment;
    uint32_t totals[4];
    NN_UNROLL
    for (uint32_t i = 0; i < 4u; i++) {
        totals[i] = (segment && i < sharing ? *weights++ : 0u) - (i % sharing + 1u < sharing ? correction : 0u);
    }
    if (layer->lanes) {
        NN_UNROLL
        for (uint32_t i = 0; i < rows; i += 2u) {
            uint32_t both, high;
            weights = nn_linear_fields_lanes(weights, input->first, fours / 2u, layer->weight_bits, &both, &high);
            totals[i] += both - (high << (16u - layer->weight_bits));
            totals[i + 1u] = high;
        }
    } else if (segment == 0) {
        weights = nn_linear_fields_shared(weights, input, fours, layer->turn, true, sharing, totals);
    } else {
        for (uint32_t first = 0; first < fours / segment * segment; first += segment) {
            const nn_fields_input part = nn_fields_span(input->first + 2u * first, segment, layer->turn);
            weights = nn_linear_fields_shared(weights, &part, segment, layer->turn, false, sharing, totals);
        }
        if (fours % segment) {
            const uint32_t rest = fours % segment;
            const nn_fields_input part = nn_fields_span(input->first + 2u * (fours - rest), rest, layer->turn);
            weights = nn_linear_fields_shared(weights, &part, rest, layer->turn, false, sharing, totals);
        }
    }
    nn_linear_finish(&layer->shape, &layer->requantize, layer->narrow, output, row, rows, totals);
    return weights;
}

NN_INLINE void nn_linear_fields(const nn_linear_fields_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_linear_shape *s = &layer->shape;
    const uint32_t fours = layer->lanes ? (s->inputs + 7u) / 8u * 2u : nn_linear_fours(s);
    uint8_t *const buffer = (uint8_t *)scratch + 8u * fours;
    const uint32_t sum = nn_linear_prepare(s, layer->rows, input, scratch, fours, true);
    void *const target = nn_packed_row_begin(output, s->output, s->outputs, 0, buffer);
    const nn_fields_input prepared = nn_fields_span(scratch, fours, layer->turn);
    const uint32_t *weights = layer->weights;
    const uint32_t correction = sum << (layer->weight_bits - 1u);
    uint32_t row = 0;
    for (; row < s->outputs / 4u * 4u; row += 4u) {
        weights = nn_linear_fields_group(layer, weights, &prepared, fours, correction, row, 4, target);
    }
    if (s->outputs % 4u) {
        nn_linear_fields_group(layer, weights, &prepared, fours, correction, row, s->outputs % 4u, target);
    }
    nn_packed_row_end(output, s->output, s->outputs, 0, buffer);
}

#endif
