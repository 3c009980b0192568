/* A baseline: float32 kernels as arXiv 2007.01348 (Unlu 2020) describes them and its generator calls them.
 *
 * Tensors and weights are described to general functions at run time; activations are planar (channel, row, column). The
 * max-pool is fused: a convolution keeps the maximum of its window while it walks and never stores the unpooled map. The
 * maximum starts from zero, which is right behind a ReLU. Borders are tested for every element, whatever the padding.
 *
 * What the compiler may do is part of the baseline: the functions have external linkage and take their sizes by pointer,
 * so that -O2 leaves them general and -O3 may specialise them, as with the paper's own code. */
#ifndef NN_UNLU_H
#define NN_UNLU_H

#include "../nn_base.h"

typedef struct {
    uint32_t channels, rows, columns;
    float *data;
} nn_unlu_tensor;

/* Weights are stored as (filter, channel, row, column). */
typedef struct {
    uint32_t filters, channels, rows, columns;
    const float *data;
    const float *bias;
} nn_unlu_weights;

typedef float (*nn_unlu_activation)(float);

/* channels, rows, columns: of input and output. pool: rows, columns and stride of the window, 1: none. interleaved: the
 * input has its channel fastest, as the network's input is delivered. */
typedef struct {
    nn_unlu_weights weights;
    uint32_t input[3], output[3];
    uint32_t pool, padding;
    bool relu, interleaved;
} nn_unlu_layer;

float nn_unlu_relu(float value)
{
    return value > 0.0f ? value : 0.0f;
}

NN_INLINE void nn_unlu_walk(const nn_unlu_tensor *in, const nn_unlu_weights *w, const nn_unlu_tensor *out,
                            nn_unlu_activation activation, uint32_t stride, uint32_t pool_rows, uint32_t pool_columns,
                            uint32_t padding, bool interleaved)
{
    const uint32_t height = in->rows + 2u * padding - w->rows + 1u;
    const uint32_t width = in->columns + 2u * padding - w->columns + 1u;

    for (uint32_t filter = 0; filter < out->channels; filter++) {
        for (uint32_t top = 0; top + pool_rows <= height; top += stride) {
            for (uint32_t left = 0; left + pool_columns <= width; left += stride) {
                float best = 0.0f;
                for (uint32_t py = 0; py < pool_rows; py++) {
                    for (uint32_t px = 0; px < pool_columns; px++) {
                        float sum = 0.0f;
                        for (uint32_t ky = 0; ky < w->rows; ky++) {
                            for (uint32_t kx = 0; kx < w->columns; kx++) {
                                for (uint32_t c = 0; c < in->channels; c++) {
                                    const uint32_t y = top + py + ky, x = left + px + kx;
                                    float pixel = 0.0f;
                                    if (y >= padding && x >= padding && y < in->rows + padding && x < in->columns + padding) {
                                        pixel = interleaved ? in->data[((y - padding) * in->columns + (x - padding)) *
                                                                           in->channels + c]
                                                            : in->data[(c * in->rows + (y - padding)) * in->columns +
                                                                       (x - padding)];
                                    }
                                    sum += pixel *
                                           w->data[((filter * w->channels + c) * w->rows + ky) * w->columns + kx];
                                }
                            }
                        }
                        if (w->bias) {
                            sum += w->bias[filter];
                        }
                        if (activation) {
                            sum = activation(sum);
                        }
                        if (sum > best) {
                            best = sum;
                        }
                    }
                }
                out->data[(filter * out->rows + top / stride) * out->columns + left / stride] = best;
            }
        }
    }
}

void nn_unlu_convolve(const nn_unlu_tensor *in, const nn_unlu_weights *w, const nn_unlu_tensor *out,
                      nn_unlu_activation activation, uint32_t stride, uint32_t pool_rows, uint32_t pool_columns,
                      uint32_t padding)
{
    nn_unlu_walk(in, w, out, activation, stride, pool_rows, pool_columns, padding, false);
}

/* For an input of several channels as it is delivered: nothing but the index differs. */
void nn_unlu_convolve_interleaved(const nn_unlu_tensor *in, const nn_unlu_weights *w, const nn_unlu_tensor *out,
                                  nn_unlu_activation activation, uint32_t stride, uint32_t pool_rows,
                                  uint32_t pool_columns, uint32_t padding)
{
    nn_unlu_walk(in, w, out, activation, stride, pool_rows, pool_columns, padding, true);
}

void nn_unlu_multiply(const nn_unlu_tensor *in, const nn_unlu_weights *w, const nn_unlu_tensor *out,
                      nn_unlu_activation activation)
{
    for (uint32_t row = 0; row < w->filters; row++) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < w->channels; i++) {
            sum += in->data[i] * w->data[row * w->channels + i];
        }
        if (w->bias) {
            sum += w->bias[row];
        }
        if (activation) {
            sum = activation(sum);
        }
        out->data[row] = sum;
    }
}

/* What the paper's generator prints per layer: the descriptors and the call. The input is not written to. */
NN_INLINE void nn_unlu_conv2d(const nn_unlu_layer *layer, const void *input, void *output)
{
    const nn_unlu_tensor in = {layer->input[0], layer->input[1], layer->input[2], (float *)input};
    const nn_unlu_tensor out = {layer->output[0], layer->output[1], layer->output[2], output};
    if (layer->interleaved) {
        nn_unlu_convolve_interleaved(&in, &layer->weights, &out, nn_unlu_relu, layer->pool, layer->pool, layer->pool,
                                     layer->padding);
    } else {
        nn_unlu_convolve(&in, &layer->weights, &out, nn_unlu_relu, layer->pool, layer->pool, layer->pool, layer->padding);
    }
}

NN_INLINE void nn_unlu_linear(const nn_unlu_layer *layer, const void *input, void *output)
{
    const nn_unlu_tensor in = {layer->input[0], layer->input[1], layer->input[2], (float *)input};
    const nn_unlu_tensor out = {layer->output[0], layer->output[1], layer->output[2], output};
    nn_unlu_multiply(&in, &layer->weights, &out, layer->relu ? nn_unlu_relu : NULL);
}

#endif
