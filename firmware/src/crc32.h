/* CRC-32 as zlib computes it (polynomial 0x04C11DB7, reflected). */
#ifndef CRC32_H
#define CRC32_H

#include <stdint.h>

/* The CRC of the bytes that `crc` already covers followed by `bytes` more; start with 0. */
uint32_t crc32_update(uint32_t crc, const void *data, uint32_t bytes);

#endif
