/* A baseline: the compressed kernels of arXiv 2103.15972 (paper A), with the weaknesses that its published code has.
 *
 * The weights of a layer are one stream of nonzero 8-bit values, each with its distance from the one before (8 bits too;
 * fillers of value 0 bridge longer gaps). Whoever wants weight n has to walk there: the fully connected layer asks for
 * every weight in turn, the convolution expands a filter into RAM and then asks every expanded weight whether it is zero.
 * Activations are int8 with a scale and a zero point, planar (channel, row, column); every product is dequantised and
 * summed in float32. Dimensions are known at run time; a max-pool is fused as in nn_unlu.h.
 *
 * Linkage is external on purpose, see nn_unlu.h. Float arithmetic in program order: the same bits on every machine. */
#ifndef NN_PAPER_A_H
#define NN_PAPER_A_H

#include "../nn_base.h"

typedef struct {
    uint32_t channels, rows, columns;
    float scale;
    int8_t zero_point;
    int8_t *data;
} nn_paper_a_tensor;

/* values, steps: the stream. scratch: one filter, expanded. */
typedef struct {
    uint32_t outputs, inputs, rows, columns;
    float scale;
    const int8_t *values;
    const uint8_t *steps;
    const float *bias;
    int8_t *scratch;
} nn_paper_a_weights;

typedef float (*nn_paper_a_activation)(float);

float nn_paper_a_relu(float value)
{
    return value > 0.0f ? value : 0.0f;
}

/* Truncated, not rounded. */
NN_INLINE int8_t nn_paper_a_quantize(float value, const nn_paper_a_tensor *tensor)
{
    const int32_t quantized = (int32_t)(value / tensor->scale + (float)tensor->zero_point);
    return (int8_t)(quantized > 127 ? 127 : quantized < -128 ? -128 : quantized);
}

NN_INLINE void nn_paper_a_walk(const nn_paper_a_tensor *in, const nn_paper_a_weights *w, const nn_paper_a_tensor *out,
                               nn_paper_a_activation activation, uint32_t stride, uint32_t pool_rows,
                               uint32_t pool_columns, uint32_t padding, bool interleaved)
{
    const uint32_t height = in->rows + 2u * padding - w->rows + 1u;
    const uint32_t width = in->columns + 2u * padding - w->columns + 1u;
    const uint32_t size = in->channels * w->rows * w->columns;
    uint32_t entry = 0, reached = w->steps[0];

    for (uint32_t filter = 0; filter < out->channels; filter++) {
        for (uint32_t i = 0; i < size; i++) {
            while (reached < filter * size + i) {
                reached += w->steps[++entry];
            }
            w->scratch[i] = reached == filter * size + i ? w->values[entry] : 0;
        }
        for (uint32_t top = 0; top + pool_rows <= height; top += stride) {
            for (uint32_t left = 0; left + pool_columns <= width; left += stride) {
                float best = 0.0f;
                for (uint32_t py = 0; py < pool_rows; py++) {
                    for (uint32_t px = 0; px < pool_columns; px++) {
                        float sum = 0.0f;
                        for (uint32_t ky = 0; ky < w->rows; ky++) {
                            for (uint32_t kx = 0; kx < w->columns; kx++) {
                                for (uint32_t c = 0; c < in->channels; c++) {
                                    const int8_t weight = w->scratch[(c * w->rows + ky) * w->columns + kx];
                                    const uint32_t y = top + py + ky, x = left + px + kx;
                                    if (weight == 0 || y < padding || x < padding || y >= in->rows + padding ||
                                        x >= in->columns + padding) {
                                        continue;
                                    }
                                    const int8_t pixel =
                                        interleaved
                                            ? in->data[((y - padding) * in->columns + (x - padding)) * in->channels + c]
                                            : in->data[(c * in->rows + (y - padding)) * in->columns + (x - padding)];
                                    sum += (float)(pixel - in->zero_point) * in->scale * (float)weight;
                                }
                            }
                        }
                        sum *= w->scale;
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
                out->data[(filter * out->rows + top / stride) * out->columns + left / stride] =
                    nn_paper_a_quantize(best, out);
            }
        }
    }
}

void nn_paper_a_convolve(const nn_paper_a_tensor *in, const nn_paper_a_weights *w, const nn_paper_a_tensor *out,
                         nn_paper_a_activation activation, uint32_t stride, uint32_t pool_rows, uint32_t pool_columns,
                         uint32_t padding)
{
    nn_paper_a_walk(in, w, out, activation, stride, pool_rows, pool_columns, padding, false);
}

/* For an input of several channels as it is delivered: nothing but the index differs. */
void nn_paper_a_convolve_interleaved(const nn_paper_a_tensor *in, const nn_paper_a_weights *w,
                                     const nn_paper_a_tensor *out, nn_paper_a_activation activation, uint32_t stride,
                                     uint32_t pool_rows, uint32_t pool_columns, uint32_t padding)
{
    nn_paper_a_walk(in, w, out, activation, stride, pool_rows, pool_columns, padding, true);
}

void nn_paper_a_multiply(const nn_paper_a_tensor *in, const nn_paper_a_weights *w, const nn_paper_a_tensor *out,
                         nn_paper_a_activation activation)
{
    uint32_t entry = 0, reached = w->steps[0];

    for (uint32_t row = 0; row < w->outputs; row++) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < w->inputs; i++) {
            const uint32_t index = row * w->inputs + i;
            while (reached < index) {
                reached += w->steps[++entry];
            }
            if (reached == index) {
                sum += (float)(in->data[i] - in->zero_point) * in->scale * (float)w->values[entry];
            }
        }
        sum *= w->scale;
        if (w->bias) {
            sum += w->bias[row];
        }
        if (activation) {
            sum = activation(sum);
        }
        out->data[row] = nn_paper_a_quantize(sum, out);
    }
}

/* ---- what is printed per layer: the descriptors and the call */

/* is_unsigned: the network's input and output, which others write and read as uint8_t. */
typedef struct {
    uint32_t channels, rows, columns;
    float scale;
    int8_t zero_point;
    bool is_unsigned;
} nn_paper_a_shape;

typedef struct {
    uint32_t outputs, inputs, rows, columns;
    float scale;
    const int8_t *values;
    const uint8_t *steps;
    const float *bias;
} nn_paper_a_stream;

/* pool: rows, columns and stride of the window, 1: none. interleaved: the input has its channel fastest. */
typedef struct {
    nn_paper_a_stream weights;
    nn_paper_a_shape input, output;
    bool relu, interleaved;
    uint32_t pool, padding;
} nn_paper_a_conv2d_layer;

typedef struct {
    nn_paper_a_stream weights;
    nn_paper_a_shape input, output;
    bool relu;
} nn_paper_a_linear_layer;

/* uint8_t to the int8_t that is 128 lower, or back, in place and by words as far as they go. The arena starts at a word,
 * and so does every tensor in it. */
NN_INLINE void nn_paper_a_flip(const nn_paper_a_shape *shape, const void *data)
{
    const uint32_t size = shape->channels * shape->rows * shape->columns;
    nn_word *words = (nn_word *)data;
    uint32_t done = 0;
    for (; done + 4u <= size; done += 4u) {
        *words++ ^= 0x80808080u;
    }
    for (uint8_t *byte = (uint8_t *)words; done < size; done++) {
        *byte++ ^= 0x80u;
    }
}

NN_INLINE nn_paper_a_tensor nn_paper_a_describe(const nn_paper_a_shape *shape, const void *data)
{
    const nn_paper_a_tensor tensor = {shape->channels,   shape->rows,    shape->columns, shape->scale,
                                      shape->zero_point, (int8_t *)data};
    return tensor;
}

NN_INLINE nn_paper_a_weights nn_paper_a_unpack(const nn_paper_a_stream *s, void *scratch)
{
    const nn_paper_a_weights weights = {s->outputs, s->inputs, s->rows, s->columns, s->scale,
                                        s->values,  s->steps,  s->bias, scratch};
    return weights;
}

/* The network's input is consumed. */
NN_INLINE void nn_paper_a_conv2d(const nn_paper_a_conv2d_layer *layer, const void *input, void *output, void *scratch)
{
    if (layer->input.is_unsigned) {
        nn_paper_a_flip(&layer->input, input);
    }
    const nn_paper_a_tensor in = nn_paper_a_describe(&layer->input, input);
    const nn_paper_a_tensor out = nn_paper_a_describe(&layer->output, output);
    const nn_paper_a_weights weights = nn_paper_a_unpack(&layer->weights, scratch);
    if (layer->interleaved) {
        nn_paper_a_convolve_interleaved(&in, &weights, &out, nn_paper_a_relu, layer->pool, layer->pool, layer->pool,
                                        layer->padding);
    } else {
        nn_paper_a_convolve(&in, &weights, &out, nn_paper_a_relu, layer->pool, layer->pool, layer->pool, layer->padding);
    }
    if (layer->output.is_unsigned) {
        nn_paper_a_flip(&layer->output, output);
    }
}

NN_INLINE void nn_paper_a_linear(const nn_paper_a_linear_layer *layer, const void *input, void *output)
{
    if (layer->input.is_unsigned) {
        nn_paper_a_flip(&layer->input, input);
    }
    const nn_paper_a_tensor in = nn_paper_a_describe(&layer->input, input);
    const nn_paper_a_tensor out = nn_paper_a_describe(&layer->output, output);
    const nn_paper_a_weights weights = nn_paper_a_unpack(&layer->weights, NULL);
    nn_paper_a_multiply(&in, &weights, &out, layer->relu ? nn_paper_a_relu : NULL);
    if (layer->output.is_unsigned) {
        nn_paper_a_flip(&layer->output, output);
    }
}

#endif
