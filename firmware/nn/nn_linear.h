/* The fully connected layer: the plain form, which every core runs. Weights are stored row by row as (output, input).
 * No scratch. */
#ifndef NN_LINEAR_H
#define NN_LINEAR_H

#include "nn_base.h"

/* outputs x inputs; `input`, `output`: how elements are stored. */
typedef struct {
    uint32_t inputs, outputs;
    bool relu;
    nn_element input, output;
} nn_linear_shape;

typedef struct {
    nn_linear_shape shape;
    const int8_t *weights;
    const int32_t *bias;
    nn_requantization requantize;
} nn_linear_layer;

typedef struct {
    nn_linear_shape shape;
    const float *weights;
    const float *bias;
    float clip; /* what an output is at most; 0: no limit */
} nn_linear_f32_layer;

NN_INLINE void nn_linear(const nn_linear_layer *layer, const void *input, void *output)
{
    const nn_linear_shape *s = &layer->shape;
    const int8_t *weights = layer->weights;
    for (uint32_t row = 0; row < s->outputs; row++) {
        int32_t sum = layer->bias[row];
        for (uint32_t i = 0; i < s->inputs; i++) {
            sum += nn_load(input, i, s->input) * *weights++;
        }
        nn_finish(output, row, s->output, &layer->requantize, s->relu, sum, row);
    }
}

NN_INLINE void nn_linear_f32(const nn_linear_f32_layer *layer, const void *input, void *output)
{
    const nn_linear_shape *s = &layer->shape;
    const float *in = input, *weights = layer->weights;
    float *out = output;
    for (uint32_t row = 0; row < s->outputs; row++) {
        float sum = layer->bias[row];
        for (uint32_t i = 0; i < s->inputs; i++) {
            sum += in[i] * *weights++;
        }
        out[row] = nn_rectify_f32(sum, s->relu, layer->clip);
    }
}

#endif
