#ifndef NETWORK_H
#define NETWORK_H
#include <stdint.h>
#include "nn_observer.h"
#define NETWORK_NAME "tiny"
#define NETWORK_VARIANT "int8"
#define NETWORK_INPUT_BYTES 16u
#define NETWORK_OUTPUT_COUNT 4u
#define NETWORK_OUTPUT_BYTES 16u
#define NETWORK_LAYERS 2u
void *network_input(void);
const void *network_output(void);
void network_infer(nn_observer observer);
int32_t network_score_milli(uint32_t index);
uint32_t network_class(void);
#endif
