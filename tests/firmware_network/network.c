/* The smallest network that shows everything the firmware has to cope with: layer 0 halves 16 bytes, keeps them in 16 bits
 * and hands them over in two calls; layer 1 is fully connected, with 4 outputs. The input is consumed. */
#include "network.h"

__attribute__((section(".rodata.weights.fc"))) static const int8_t fc_weights[4][16] = {
    {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 127},
    {-128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
};
__attribute__((section(".rodata.weights.fc"))) static const int32_t fc_bias[4] = {10, -20, 30, -40};

__attribute__((section(".bss.activations"))) static struct {
    uint8_t input[16];
    int16_t half[16];
    int32_t output[4];
} arena;

void *network_input(void)
{
    return arena.input;
}

const void *network_output(void)
{
    return arena.output;
}

void network_infer(nn_observer observer)
{
    for (uint32_t i = 0; i < 16; i++) {
        arena.half[i] = arena.input[i] / 2;
        arena.input[i] = 0; /* the plan may consume its input */
    }
    nn_observe(observer, 0, arena.half, 8, NN_U8_IN_16);
    nn_observe(observer, 0, arena.half + 8, 8, NN_U8_IN_16);
    for (uint32_t o = 0; o < 4; o++) {
        int32_t sum = fc_bias[o];
        for (uint32_t i = 0; i < 16; i++) {
            sum += fc_weights[o][i] * arena.half[i];
        }
        arena.output[o] = sum;
    }
    nn_observe(observer, 1, arena.output, 4, NN_I32);
}

int32_t network_score_milli(uint32_t index)
{
    return arena.output[index] * 500;
}

uint32_t network_class(void)
{
    uint32_t best = 0;
    for (uint32_t o = 1; o < 4; o++) {
        if (arena.output[o] > arena.output[best]) {
            best = o;
        }
    }
    return best;
}
