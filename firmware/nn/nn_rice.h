/* Sparse weights as a stream of bits: Golomb-Rice codes of the gaps between nonzero weights, Huffman codes of their
 * values.
 *
 * A symbol, from its lowest bit: the gap's quotient by 2^k in zeros and a one, its remainder in k bits, the weight's
 * code in up to four bits. Bits fill bytes from the lowest; a symbol has at most 25 of them, so that one word read at
 * any byte holds it. Gaps run on over the ends of rows: no row has a length. Long gaps are split by weights of 0.
 */
#ifndef NN_RICE_H
#define NN_RICE_H

#include "nn_sparse.h"

enum { NN_RICE_CODES = 16 };

/* bits: with three bytes more than it needs. codes: for the next four bits, weight << 4 | bits of the whole symbol but
 * its quotient. */
typedef struct {
    const uint8_t *bits;
    const int8_t *codes;
    uint32_t k;
} nn_rice;

/* The symbol at bit *position: returns its gap, moves on. */
NN_INLINE uint32_t nn_rice_read(const nn_rice *rice, uint32_t *position, int32_t *weight)
{
    uint32_t word = *(const nn_word_at *)(rice->bits + *position / 8u) >> *position % 8u;
    const uint32_t quotient = (uint32_t)__builtin_ctz(word);
    word >>= quotient + 1u;
    const uint32_t remainder = word & ((1u << rice->k) - 1u);
    const int32_t code = rice->codes[(word >> rice->k) % NN_RICE_CODES];
    *position += quotient + ((uint32_t)code & 15u);
    *weight = code >> 4;
    return (quotient << rice->k) + remainder;
}

#endif
