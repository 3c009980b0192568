/* Activations and weights of 2 and 4 bits: rows of them, and how they become bytes and come from bytes.
 *
 * Element k of a row is at bits 4k or 2k of the row's little-endian words; rows begin at words. Activations are unsigned,
 * weights two's complement. What is left of a row's last word may hold anything.
 */
#ifndef NN_PACKED_H
#define NN_PACKED_H

#include "nn_base.h"
#include "nn_conv2d.h"

NN_INLINE uint32_t nn_element_bits(nn_element element)
{
    return element == NN_U2 ? 2u : element == NN_U4 ? 4u : element == NN_U8 ? 8u : element == NN_U8_IN_16 ? 16u : 32u;
}

/* Bytes from one row of `elements` elements to the next. */
NN_INLINE uint32_t nn_row_bytes(uint32_t elements, nn_element element)
{
    const uint32_t bits = nn_element_bits(element);
    return bits < 8u ? (elements * bits + 31u) / 32u * 4u : elements * (bits / 8u);
}

/* Element `index` of the row at `row`, of any integer storage. */
NN_INLINE int32_t nn_get(const void *row, uint32_t index, nn_element element)
{
    if (element == NN_U4 || element == NN_U2) {
        const uint32_t bits = nn_element_bits(element), first = index * bits;
        return ((const uint8_t *)row)[first / 8u] >> first % 8u & (int32_t)((1u << bits) - 1u);
    }
    return nn_load(row, index, element);
}

/* Stores element `index`; packed rows are written in ascending order, from element 0. */
NN_INLINE void nn_put(void *row, uint32_t index, nn_element element, int32_t value)
{
    if (element == NN_U4 || element == NN_U2) {
        const uint32_t first = index * nn_element_bits(element);
        uint8_t *const byte = (uint8_t *)row + first / 8u;
        *byte = (uint8_t)(first % 8u ? *byte | value << first % 8u : value);
    } else {
        nn_store(row, index, element, value);
    }
}

/* Four elements of 8, 4 or 2 bits as bytes; the first is aligned to four of them. */
NN_INLINE uint32_t nn_get_four(const uint8_t *source, nn_element element)
{
    if (element == NN_U4) {
        const uint32_t packed = *(const uint16_t *)(const void *)source, halves = (packed | packed << 8) & 0x00FF00FFu;
        return (halves | halves << 4) & 0x0F0F0F0Fu;
    }
    if (element == NN_U2) {
        const uint32_t packed = *source, halves = (packed | packed << 12) & 0x000F000Fu;
        return (halves | halves << 6) & 0x03030303u;
    }
    return *(const nn_word *)(const void *)source;
}

/* The reverse: four bytes, none above the element's range. */
NN_INLINE void nn_put_four(uint32_t bytes, uint8_t *target, nn_element element)
{
    if (element == NN_U4) {
        const uint32_t pairs = (bytes | bytes >> 4) & 0x00FF00FFu;
        *(uint16_t *)(void *)target = (uint16_t)(pairs | pairs >> 8);
    } else if (element == NN_U2) {
        const uint32_t pairs = bytes | bytes >> 6;
        *target = (uint8_t)((pairs & 0xFu) | pairs >> 12);
    } else {
        *(nn_word *)(void *)target = bytes;
    }
}

/* `elements` elements of the row at `row` (NN_U8, NN_U4 or NN_U2), a byte each. */
NN_INLINE void nn_unpack_row(const void *row, nn_element element, uint8_t *target, uint32_t elements)
{
    if (element == NN_U8) {
        for (uint32_t i = 0; i < elements; i++) {
            target[i] = ((const uint8_t *)row)[i];
        }
        return;
    }
    const uint32_t bits = nn_element_bits(element), mask = (1u << bits) - 1u, per_word = 32u / bits;
    const nn_word *words = row;
    for (uint32_t i = 0; i < elements; i += per_word) {
        uint32_t word = *words++;
        const uint32_t count = elements - i < per_word ? elements - i : per_word;
        for (uint32_t k = 0; k < count; k++, word >>= bits) {
            *target++ = (uint8_t)(word & mask);
        }
    }
}

/* The reverse: bytes, none above the element's range, into a row of words. */
NN_INLINE void nn_pack_row(const uint8_t *values, nn_element element, void *row, uint32_t elements)
{
    const uint32_t bits = nn_element_bits(element), per_word = 32u / bits;
    nn_word *words = row;
    for (uint32_t i = 0; i < elements; i += per_word) {
        const uint32_t count = elements - i < per_word ? elements - i : per_word;
        uint32_t word = 0;
        for (uint32_t k = 0; k < count; k++) {
            word |= (uint32_t)*values++ << k * bits;
        }
        *words++ = word;
    }
}

/* `elements` weights of `bits` 2 or 4 bits, a byte each. */
NN_INLINE void nn_unpack_weights(const uint32_t *packed, uint32_t bits, int8_t *tile, uint32_t elements)
{
    const uint32_t per_word = 32u / bits;
    for (uint32_t i = 0; i < elements; i += per_word) {
        uint32_t word = *packed++;
        const uint32_t count = elements - i < per_word ? elements - i : per_word;
        for (uint32_t k = 0; k < count; k++, word >>= bits) {
            *tile++ = (int8_t)((int32_t)(word << (32u - bits)) >> (32u - bits));
        }
    }
}

/* Words of a row of `elements` weights of `bits` bits. */
NN_INLINE uint32_t nn_weight_words(uint32_t elements, uint32_t bits)
{
    return (elements * bits + 31u) / 32u;
}

/* ---- windows: rows of a convolution's input as bytes, with their padding, sliding down the image ---- */

/* Where a convolution's rows come from. right: columns of padding behind a row; those before it are the shape's. */
typedef struct {
    uint32_t right;
    int32_t zero_point;
} nn_packed_border;

/* Bytes from one row of the window to the next: whole words. */
NN_INLINE uint32_t nn_packed_pitch(const nn_conv2d_shape *s, const nn_packed_border *border)
{
    return ((s->padding[1] + s->width + border->right) * s->channels + 3u) & ~3u;
}

/* Rows that one row of outputs needs, and rows from one row of outputs to the next. */
NN_INLINE uint32_t nn_packed_height(const nn_conv2d_shape *s)
{
    return s->kernel[0] + (s->pool[0] - 1u) * s->stride[0];
}

NN_INLINE uint32_t nn_packed_step(const nn_conv2d_shape *s)
{
    return s->stride[0] * s->pool_stride[0];
}

NN_INLINE void nn_set_bytes(uint8_t *target, uint32_t bytes, int32_t value)
{
    for (uint32_t i = 0; i < bytes; i++) {
        target[i] = (uint8_t)value;
    }
}

/* The rows for output row `row` into `window`, which holds those for the row before unless this is the first. */
NN_INLINE void nn_packed_slide(const nn_conv2d_shape *s, const nn_packed_border *border, const void *input, uint32_t row,
                               uint8_t *window)
{
    const uint32_t pitch = nn_packed_pitch(s, border), height = nn_packed_height(s), step = nn_packed_step(s);
    const uint32_t elements = s->width * s->channels, left = s->padding[1] * s->channels;
    const uint32_t kept = row > 0 && height > step ? height - step : 0u;
    const nn_word *const source = (const nn_word *)(const void *)(window + step * pitch);
    for (uint32_t i = 0; i < kept * pitch / 4u; i++) {
        ((nn_word *)(void *)window)[i] = source[i];
    }
    for (uint32_t i = kept; i < height; i++) {
        const int32_t y = (int32_t)(row * step + i) - (int32_t)s->padding[0];
        uint8_t *const target = window + i * pitch;
        if (y < 0 || y >= (int32_t)s->height) {
            nn_set_bytes(target, left + elements + border->right * s->channels, border->zero_point);
            continue;
        }
        nn_set_bytes(target, left, border->zero_point);
        nn_unpack_row((const uint8_t *)input + (uint32_t)y * nn_row_bytes(elements, s->input), s->input, target + left,
                      elements);
        nn_set_bytes(target + left + elements, border->right * s->channels, border->zero_point);
    }
}

/* ---- rows of outputs: as they are finished, then packed ---- */

/* Where the bytes or words of a row of outputs are collected: in the output itself, or in `buffer` until it is packed. */
NN_INLINE void *nn_packed_row_begin(void *output, nn_element element, uint32_t elements, uint32_t row, uint8_t *buffer)
{
    const bool packed = element == NN_U4 || element == NN_U2;
    return packed ? buffer : (uint8_t *)output + row * nn_row_bytes(elements, element);
}

NN_INLINE void nn_packed_row_end(void *output, nn_element element, uint32_t elements, uint32_t row, const uint8_t *buffer)
{
    if (element == NN_U4 || element == NN_U2) {
        nn_pack_row(buffer, element, (uint8_t *)output + row * nn_row_bytes(elements, element), elements);
    }
}

/* How elements of a row are collected: packed ones as bytes. */
NN_INLINE nn_element nn_packed_collected(nn_element element)
{
    return element == NN_U4 || element == NN_U2 ? NN_U8 : element;
}

#endif
