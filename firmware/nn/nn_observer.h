/* How a network shows its layers' outputs to whoever runs it: to check them, or to time them. */
#ifndef NN_OBSERVER_H
#define NN_OBSERVER_H

#include <stdint.h>

/* How one element of a layer's output lies in memory. The logical tensor is what is checked: an 8-bit activation that a
 * kernel keeps in 16 bits is still one byte of it. */
typedef enum {
    NN_U8,        /* uint8_t */
    NN_U8_IN_16,  /* int16_t holding 0..255 */
    NN_I32,       /* int32_t */
    NN_F32,       /* float */
    NN_S8,        /* int8_t, 128 below the activation: how baselines with signed activations keep it */
    NN_U4,        /* 4 bits, element k of a row at bits 4k of its little-endian words; rows begin at words */
    NN_U2         /* 2 bits, element k of a row at bits 2k */
} nn_element;

/* Called with `elements` finished elements of layer `layer`, in the order of the layer's layout; a layer may come in
 * several calls, and calls of interleaved layers may alternate. Packed elements come row by row. */
typedef void (*nn_observer)(uint32_t layer, const void *data, uint32_t elements, nn_element element);

/* Kernels and generated networks call this. A NULL observer costs a compare and a branch: figures are taken with NULL. */
static inline void nn_observe(nn_observer observer, uint32_t layer, const void *data, uint32_t elements, nn_element element)
{
#if defined(__GNUC__)
    /* Otherwise GCC writes down the whole network twice, with and without an observer. */
    __asm__("" : "+r"(observer));
#endif
    if (observer) {
        observer(layer, data, elements, element);
    }
}

/* A tensor of `rows` packed rows of `elements` elements. */
static inline void nn_observe_rows(nn_observer observer, uint32_t layer, const void *data, uint32_t rows, uint32_t elements,
                                   nn_element element)
{
    const uint32_t pitch = (elements * (element == NN_U4 ? 4u : 2u) + 31u) / 32u * 4u;
    const uint8_t *row = (const uint8_t *)data;
    for (; rows; rows--, row += pitch) {
        nn_observe(observer, layer, row, elements, element);
    }
}

#endif
