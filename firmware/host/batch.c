/* Runs the generated network on this machine: inputs on stdin one after the other, and for each on stdout the output
 * tensor, every layer's CRC-32 (uint32_t) and how long the inference took (uint64_t, ns), all in this machine's
 * order. The time leaves out what the observer takes. Ends with 0 at the end of the inputs, 1 when half an input is
 * left over. */
#define _POSIX_C_SOURCE 199309L

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "crc32.h"
#include "network.h"

static uint32_t crcs[NETWORK_LAYERS];
static uint64_t observing;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Element `index` as the byte that it is in the logical tensor, of those that are stored as something else. */
static uint8_t logical(const void *data, uint32_t index, nn_element element)
{
    const uint8_t *const bytes = data;
    switch (element) {
    case NN_S8:
        return (uint8_t)(((const int8_t *)data)[index] + 128);
    case NN_U4:
        return bytes[index / 2u] >> index % 2u * 4u & 15u;
    case NN_U2:
        return bytes[index / 4u] >> index % 4u * 2u & 3u;
    default:
        return (uint8_t)((const int16_t *)data)[index];
    }
}

/* Adds finished elements to their layer's CRC: every activation counts as one byte. */
static void observe(uint32_t layer, const void *data, uint32_t elements, nn_element element)
{
    const uint64_t start = now();
    if (element != NN_U8 && element != NN_I32 && element != NN_F32) {
        for (uint32_t index = 0; index < elements;) {
            uint8_t bytes[256];
            uint32_t count = 0;
            for (; count < sizeof bytes && index < elements; count++, index++) {
                bytes[count] = logical(data, index, element);
            }
            crcs[layer] = crc32_update(crcs[layer], bytes, count);
        }
    } else {
        crcs[layer] = crc32_update(crcs[layer], data, element == NN_U8 ? elements : elements * 4u);
    }
    observing += now() - start;
}

int main(void)
{
    for (;;) {
        const size_t got = fread(network_input(), 1, NETWORK_INPUT_BYTES, stdin);
        if (got == 0) {
            return fflush(stdout) == 0 ? 0 : 1;
        }
        if (got != NETWORK_INPUT_BYTES) {
            return 1;
        }
        for (uint32_t layer = 0; layer < NETWORK_LAYERS; layer++) {
            crcs[layer] = 0;
        }
        observing = 0;
        const uint64_t start = now();
        network_infer(observe);
        const uint64_t elapsed = now() - start - observing;
        const bool written = fwrite(network_output(), NETWORK_OUTPUT_BYTES, 1, stdout) == 1 &&
                             fwrite(crcs, sizeof crcs, 1, stdout) == 1 &&
                             fwrite(&elapsed, sizeof elapsed, 1, stdout) == 1;
        if (!written) {
            return 1;
        }
    }
}
