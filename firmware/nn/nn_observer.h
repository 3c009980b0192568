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
    NN_S8         /* int8_t, 128 below the activation: how baselines with signed activations keep it */
} nn_element;

/* Called with `elements` finished elements of layer `layer`, in the order of the layer's layout; a layer may come in
 * several calls, and calls of interleaved layers may alternate. */
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

#endif
