/* Convolution with 3x3 kernels and stride 1 by Winograd's F(2x2, 3x3), exact in integers: 16 products for 4 outputs.
 *
 * Optimal for cores with the DSP extension, channels in fours, and where memory affords the scratch. With inputs d (4x4),
 * weights g (3x3) and outputs y (2x2), Y = A' [(G g G') * (B' d B)] A (Lavin and Gray, arXiv 1509.09308). 2G is of
 * integers, so that 4 y comes out, exactly; all of (2G) g (2G)' and B' d B fit in 16 bits.
 *
 * A chunk of tiles (2x2 outputs) at a time: their transformed inputs go to scratch, for each of the 16 products as pairs of
 * two tiles' words of two channels. Then, for each four filters: their transformed weights, the sums over all channels
 * (11 instructions for 16 products; on cores that issue two at once 14, in 8 cycles), the outputs. Tiles over the image's edge read the input's zero point; of their
 * outputs only those inside are stored. Scratch: inputs, weights, sums.
 */
#ifndef NN_CONV2D_WINOGRAD_H
#define NN_CONV2D_WINOGRAD_H

#include "nn_halves.h"
#include "nn_packed.h"

/* What one pass computes: 16 times the sums of pairs of tiles with four filters. Assembly knows this record's layout.
 *
 * x: [product][pair][word of two channels][tile], the end of the first product's at x_end, each x_bytes long. weights:
 * [product][word][filter], weight_bytes each. sums: [product][pair][tile][filter]. zeros: eight. */
typedef struct {
    const nn_word *x;
    const nn_word *weights;
    int32_t *sums;
    const nn_word *x_end;
    uint32_t x_bytes;
    uint32_t weight_bytes;
    const nn_word *x_last;
    const uint32_t *zeros;
} nn_winograd_pass;

/* weights: of each four filters, four channels and one of the filters, nine words of four bytes, tap by tap; of 4 and 2
 * bits, two and four filters share these words, the first in the highest bits of each byte. chunk: rows of tiles at a
 * time. pass: nn_winograd_run for as many channels. zeros: eight. direct: whether all shifts are 32, and rounded results
 * fit in 16 bits with their zero point, and are stored in 8, 4 or 2 bits. lift: biases are 2^lift times as large as the
 * weights want them, and sums are requantised so. */
typedef struct {
    nn_conv2d_shape shape;
    int32_t input_zero_point;
    const uint32_t *weights;
    uint32_t weight_bits;
    const int32_t *bias;
    nn_requantization requantize;
    uint32_t chunk;
    const uint32_t *zeros;
    void (*pass)(const nn_winograd_pass *pass);
    bool direct;
    uint32_t lift;
} nn_conv2d_winograd_layer;

/* unroll: words of two channels per turn of the loop, which must divide their number. dual: for cores that issue two
 * instructions at once, but LDRD alone. */
NN_INLINE void nn_winograd_run(const nn_winograd_pass *pass, uint32_t unroll, bool dual)
{
#if NN_DSP
    register const nn_winograd_pass *parameters __asm__("r0") = pass;
    __asm__ volatile(
        /* The parameters, and at 32 the end of the current product's weights. */
        "sub sp, #36\n\t"
        "ldm r0, {r1, r2, r3, r4, r5, r6, r7, r8}\n\t"
        "stm sp, {r1, r2, r3, r4, r5, r6, r7, r8}\n\t"
        "mov r0, r1\n\t"
        "add r2, r2, r6\n\t"
        "str r2, [sp, #32]\n"
        "1:\n\t"
        "ldr r2, [sp, #28]\n\t"
        "ldr r1, [sp, #4]\n\t"
        "ldm r2, {r6, r7, r8, r9, r10, r11, r12, lr}\n"
        "2:\n\t" NN_HALVES_PRODUCTS("%c[unroll]")
        "ldr r2, [sp, #32]\n\t"
        "cmp r1, r2\n\t"
        "bne 2b\n\t"
        "ldrd r4, r5, [sp, #8]\n\t"
        "stm r4!, {r6, r7, r8, r9, r10, r11, r12, lr}\n\t"
        "str r4, [sp, #8]\n\t"
        "cmp r0, r5\n\t"
        "bne 1b\n\t"
        /* The next product. */
        "ldrd r2, r3, [sp, #16]\n\t"
        "ldr r4, [sp, #24]\n\t"
        "str r1, [sp, #4]\n\t"
        "add r1, r1, r3\n\t"
        "str r1, [sp, #32]\n\t"
        "add r5, r5, r2\n\t"
        "str r5, [sp, #12]\n\t"
        "cmp r0, r4\n\t"
        "bne 1b\n\t"
        "add sp, #36"
        : "+r"(parameters)
        : [unroll] "i"(unroll), [dual] "i"(dual)
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
#else
    (void)unroll;
    (void)dual;
    const nn_word *x = pass->x, *end = pass->x_end, *weights = pass->weights;
    int32_t *sums = pass->sums;
    while (x != pass->x_last) {
        for (; x != end; sums += 8) {
            uint32_t wrapping[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            for (uint32_t word = 0; word < pass->weight_bytes / 16u; word++, x += 2) {
                nn_halves_products(x, weights + 4u * word, wrapping);
            }
            for (uint32_t i = 0; i < 8u; i++) {
                sums[i] = (int32_t)wrapping[i];
            }
        }
        end = (const nn_word *)((uintptr_t)end + pass->x_bytes);
        weights = (const nn_word *)((uintptr_t)weights + pass->weight_bytes);
    }
#endif
}

/* ---- transforms */

/* The 16 pixels of the tile that begins at (top, left), of all channels, to `target`: `product` words from a product's to
 * the next's. padding: one pixel of the input's zero point. */
NN_INLINE void nn_winograd_input(const nn_conv2d_winograd_layer *layer, const uint8_t *input, const uint8_t *padding,
                                 int32_t top, int32_t left, nn_word *target, uint32_t product)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t pixel = s->channels * nn_element_bits(s->input) / 8u;
    const uint32_t pitch = nn_row_bytes(s->width * s->channels, s->input);
    const uint8_t *pixels[16];
    if (top >= 0 && top + 4 <= (int32_t)s->height && left >= 0 && left + 4 <= (int32_t)s->width) {
        const uint8_t *const corner = input + (uint32_t)top * pitch + (uint32_t)left * pixel;
        NN_UNROLL_LONG
        for (uint32_t i = 0; i < 16u; i++) {
            pixels[i] = corner + i / 4u * pitch + i % 4u * pixel;
        }
    } else {
        for (uint32_t i = 0; i < 16u; i++) {
            const int32_t y = top + (int32_t)(i / 4u), x = left + (int32_t)(i % 4u);
            const bool inside = y >= 0 && y < (int32_t)s->height && x >= 0 && x < (int32_t)s->width;
            pixels[i] = inside ? input + (uint32_t)y * pitch + (uint32_t)x * pixel : padding;
        }
    }
    for (uint32_t four = 0; four < s->channels / 4u; four++, target += 4) {
        uint32_t bytes[16];
        NN_UNROLL_LONG
        for (uint32_t i = 0; i < 16u; i++) {
            bytes[i] = nn_get_four(pixels[i] + four * nn_element_bits(s->input) / 2u, s->input);
        }
        NN_UNROLL
        for (uint32_t half = 0; half < 2u; half++) {
            uint32_t t[4][4];
            NN_UNROLL
            for (uint32_t r = 0; r < 4u; r++) {
                const uint32_t a = nn_halves_of(bytes[4u * r], half, false);
                const uint32_t b = nn_halves_of(bytes[4u * r + 1u], half, false);
                const uint32_t c = nn_halves_of(bytes[4u * r + 2u], half, false);
                const uint32_t d = nn_halves_of(bytes[4u * r + 3u], half, false);
                t[r][0] = nn_halves_subtract(a, c);
                t[r][1] = nn_halves_add(b, c);
                t[r][2] = nn_halves_subtract(c, b);
                t[r][3] = nn_halves_subtract(b, d);
            }
            nn_word *const halves = target + 2u * half;
            NN_UNROLL
            for (uint32_t j = 0; j < 4u; j++) {
                halves[j * product] = nn_halves_subtract(t[0][j], t[2][j]);
                halves[(4u + j) * product] = nn_halves_add(t[1][j], t[2][j]);
                halves[(8u + j) * product] = nn_halves_subtract(t[2][j], t[1][j]);
                halves[(12u + j) * product] = nn_halves_subtract(t[1][j], t[3][j]);
            }
        }
    }
}

/* The weights of four filters, of `bits` bits, to `target`, times 2^(8 - bits): each is at the top of its byte, where
 * extending its sign costs nothing. */
NN_INLINE void nn_winograd_weights(uint32_t channels, uint32_t bits, const uint32_t *packed, nn_word *target)
{
    const uint32_t product = 2u * channels, per_word = 8u / bits;
    const uint32_t mask = (0xFFu << (8u - bits) & 0xFFu) * 0x01010101u;
    for (uint32_t four = 0; four < channels / 4u; four++, target += 8) {
        for (uint32_t filter = 0; filter < 4u; filter++) {
            uint32_t taps[9];
            const uint32_t *weights = packed;
            if (bits < 8u) {
                NN_UNROLL_LONG
                for (uint32_t tap = 0; tap < 9u; tap++) {
                    taps[tap] = packed[tap] << (filter % per_word * bits) & mask;
                }
                weights = taps;
            }
            if (filter % per_word + 1u == per_word) {
                packed += 9;
            }
            NN_UNROLL
            for (uint32_t half = 0; half < 2u; half++) {
                uint32_t t[4][3];
                NN_UNROLL
                for (uint32_t j = 0; j < 3u; j++) {
                    const uint32_t a = nn_halves_of(weights[j], half, true);
                    const uint32_t b = nn_halves_of(weights[3u + j], half, true);
                    const uint32_t c = nn_halves_of(weights[6u + j], half, true);
                    const uint32_t ends = nn_halves_add(a, c);
                    t[0][j] = nn_halves_add(a, a);
                    t[1][j] = nn_halves_add(ends, b);
                    t[2][j] = nn_halves_subtract(ends, b);
                    t[3][j] = nn_halves_add(c, c);
                }
                nn_word *const halves = target + 4u * half + filter;
                NN_UNROLL
                for (uint32_t i = 0; i < 4u; i++) {
                    const uint32_t ends = nn_halves_add(t[i][0], t[i][2]);
                    halves[4u * i * product] = nn_halves_add(t[i][0], t[i][0]);
                    halves[(4u * i + 1u) * product] = nn_halves_add(ends, t[i][1]);
                    halves[(4u * i + 2u) * product] = nn_halves_subtract(ends, t[i][1]);
                    halves[(4u * i + 3u) * product] = nn_halves_add(t[i][2], t[i][2]);
                }
            }
        }
    }
}

/* Sums of one tile and filter, `product` apart, as those of its 2x2 outputs: without bias, 2^(10 - bits) times as large
 * with weights of so many bits. */
NN_INLINE void nn_winograd_transform(const int32_t *sums, uint32_t product, int32_t outputs[4])
{
    uint32_t t[2][4];
    NN_UNROLL
    for (uint32_t j = 0; j < 4u; j++) {
        const uint32_t a = (uint32_t)sums[j * product], b = (uint32_t)sums[(4u + j) * product];
        const uint32_t c = (uint32_t)sums[(8u + j) * product], d = (uint32_t)sums[(12u + j) * product];
        t[0][j] = a + b + c;
        t[1][j] = b - c - d;
    }
    NN_UNROLL
    for (uint32_t y = 0; y < 2u; y++) {
        outputs[2u * y] = (int32_t)(t[y][0] + t[y][1] + t[y][2]);
        outputs[2u * y + 1u] = (int32_t)(t[y][1] - t[y][2] - t[y][3]);
    }
}

/* Whether output `i` of the tile at (row, column) is in the image. */
NN_INLINE bool nn_winograd_inside(const nn_conv2d_shape *s, uint32_t row, uint32_t column, uint32_t i)
{
    return (i < 2u || s->rows % 2u == 0 || row + 1u < s->rows) &&
           (i % 2u == 0 || s->columns % 2u == 0 || column + 1u < s->columns);
}

/* Where `filter` and the three behind it go of output `i` of the tile at (row, column), in 8, 4 or 2 bits. */
NN_INLINE uint8_t *nn_winograd_place(const nn_conv2d_shape *s, void *output, uint32_t row, uint32_t column,
                                     uint32_t filter, uint32_t i)
{
    const uint32_t index = (column + i % 2u) * s->filters + filter;
    return (uint8_t *)output + (row + i / 2u) * nn_row_bytes(s->columns * s->filters, s->output) +
           index * nn_element_bits(s->output) / 8u;
}

/* The outputs of one tile and filters `filter` to `filter + 3` at (row, column); `sums` are the first filter's. */
NN_INLINE void nn_winograd_output(const nn_conv2d_winograd_layer *layer, const int32_t *sums, uint32_t product,
                                  void *output, uint32_t row, uint32_t column, uint32_t filter)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t shift = 10u - layer->weight_bits - layer->lift;
    const bool packed = s->output == NN_U4 || s->output == NN_U2;
    uint32_t words[4] = {0, 0, 0, 0};
#if NN_DSP
    if (layer->direct) {
        /* Rounded results fit in 16 bits: those of two filters are clamped, those of four are stored at a time. */
        const nn_requantization *r = &layer->requantize;
        NN_UNROLL
        for (uint32_t odd = 0; odd < 2u; odd++) {
            int32_t rounded[2][4];
            NN_UNROLL
            for (uint32_t half = 0; half < 2u; half++) {
                const uint32_t i = odd + 2u * half;
                const int32_t bias = layer->bias[filter + i];
                const int32_t multiplier = r->multipliers ? r->multipliers[filter + i] : r->multiplier;
                nn_winograd_transform(sums + i, product, rounded[half]);
                NN_UNROLL
                for (uint32_t k = 0; k < 4u; k++) {
                    rounded[half][k] = nn_scaled((rounded[half][k] >> shift) + bias, multiplier);
                }
            }
            NN_UNROLL
            for (uint32_t k = 0; k < 4u; k++) {
                uint32_t pair = ((uint32_t)rounded[0][k] & 0xFFFFu) | (uint32_t)rounded[1][k] << 16;
                if (r->zero_point) {
                    pair = nn_halves_add(pair, (uint32_t)r->zero_point * 0x00010001u);
                }
                const uint32_t clamped = nn_halves_saturate(pair, r->bits);
                words[k] = odd ? words[k] | clamped << 8 : clamped;
            }
        }
        NN_UNROLL
        for (uint32_t i = 0; i < 4u; i++) {
            if (nn_winograd_inside(s, row, column, i)) {
                nn_put_four(words[i], nn_winograd_place(s, output, row, column, filter, i), s->output);
            }
        }
        return;
    }
#endif
    const uint32_t index = (row * s->columns + column) * s->filters + filter;
    for (uint32_t i = 0; i < 4u; i++) {
        int32_t results[4];
        nn_winograd_transform(sums + i, product, results);
        NN_UNROLL
        for (uint32_t k = 0; k < 4u; k++) {
            const int32_t sum = (results[k] >> shift) + layer->bias[filter + i];
            if (packed) {
                words[k] |= (uint32_t)nn_requantize(&layer->requantize, sum, filter + i) << 8u * i;
            } else if (nn_winograd_inside(s, row, column, k)) {
                const uint32_t at = index + i + (k / 2u * s->columns + k % 2u) * s->filters;
                nn_finish(output, at, s->output, &layer->requantize, s->relu, sum, filter + i);
            }
        }
    }
    for (uint32_t k = 0; packed && k < 4u; k++) {
        if (nn_winograd_inside(s, row, column, k)) {
            nn_put_four(words[k], nn_winograd_place(s, output, row, column, filter, k), s->output);
        }
    }
}

NN_INLINE void nn_conv2d_winograd(const nn_conv2d_winograd_layer *layer, const void *input, void *output, void *scratch)
{
    const nn_conv2d_shape *s = &layer->shape;
    const uint32_t across = (s->columns + 1u) / 2u, down = (s->rows + 1u) / 2u;
    for (uint32_t first = 0; first < down; first += layer->chunk) {
        const bool all = down % layer->chunk == 0 || first + layer->chunk <= down;
        const uint32_t rows = all ? layer->chunk : down - first;
        const uint32_t tiles = rows * across, pairs = (tiles + 1u) / 2u;
        /* Words from a product to the next: of inputs, and of sums. */
        const uint32_t product = pairs * s->channels, sum = pairs * 8u;
        nn_word *const x = scratch, *const weights = x + 16u * product;
        int32_t *const sums = (int32_t *)(weights + 32u * s->channels);
        /* Weights come later: their place holds the padding until then. */
        uint8_t *const padding = (uint8_t *)weights;
        const uint32_t element = nn_element_bits(s->input);
        nn_set_bytes(padding, s->channels * element / 8u,
                     layer->input_zero_point * (element == 4u ? 0x11 : element == 2u ? 0x55 : 1));
        for (uint32_t tile = 0; tile < 2u * pairs; tile++) {
            const uint32_t real = tile < tiles ? tile : tiles - 1u;
            const int32_t top = (int32_t)(2u * (first + real / across)) - (int32_t)s->padding[0];
            const int32_t left = (int32_t)(2u * (real % across)) - (int32_t)s->padding[1];
            nn_winograd_input(layer, input, padding, top, left, x + tile / 2u * s->channels + tile % 2u, product);
        }
        const nn_winograd_pass pass = {
            .x = x,
            .weights = weights,
            .sums = sums,
            .x_end = x + product,
            .x_bytes = 4u * product,
            .weight_bytes = 8u * s->channels,
            .x_last = x + 16u * product,
            .zeros = layer->zeros,
        };
        for (uint32_t filter = 0; filter < s->filters; filter += 4u) {
            nn_winograd_weights(s->channels, layer->weight_bits,
                                layer->weights + filter / 4u * 9u * s->channels * layer->weight_bits / 8u, weights);
            layer->pass(&pass);
            for (uint32_t tile = 0; tile < tiles; tile++) {
                nn_winograd_output(layer, sums + 4u * tile, sum, output, 2u * (first + tile / across),
                                   2u * (tile % across), filter);
            }
        }
    }
}

#endif
