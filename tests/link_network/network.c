/* Layer 0: every input byte, inverted. Layer 1: output k is the sum over bytes k, k + 4, k + 8..., minus 1,000 k. */
#include "network.h"

static uint8_t input[NETWORK_INPUT_BYTES];
static int16_t inverted[NETWORK_INPUT_BYTES];
static int32_t output[NETWORK_OUTPUT_COUNT];

void *network_input(void)
{
    return input;
}

const void *network_output(void)
{
    return output;
}

void network_infer(nn_observer observer)
{
    for (uint32_t index = 0; index < NETWORK_INPUT_BYTES; index++) {
        inverted[index] = (int16_t)(255 - input[index]);
        input[index] = 0; /* the input is consumed: whoever infers again must fill it again */
    }
    nn_observe(observer, 0, inverted, NETWORK_INPUT_BYTES / 2u, NN_U8_IN_16);
    nn_observe(observer, 0, inverted + NETWORK_INPUT_BYTES / 2u, NETWORK_INPUT_BYTES - NETWORK_INPUT_BYTES / 2u,
               NN_U8_IN_16);
    for (uint32_t k = 0; k < NETWORK_OUTPUT_COUNT; k++) {
        output[k] = -1000 * (int32_t)k;
        for (uint32_t index = k; index < NETWORK_INPUT_BYTES; index += NETWORK_OUTPUT_COUNT) {
            output[k] += inverted[index];
        }
    }
    nn_observe(observer, 1, output, NETWORK_OUTPUT_COUNT, NN_I32);
}

int32_t network_score_milli(uint32_t index)
{
    return output[index];
}

uint32_t network_class(void)
{
    uint32_t best = 0;

    for (uint32_t k = 1; k < NETWORK_OUTPUT_COUNT; k++) {
        if (output[k] > output[best]) {
            best = k;
        }
    }
    return best;
}
