/* What a board family must offer. One C file per family implements it; nothing else knows registers. */
#ifndef PORT_H
#define PORT_H

#include <stdint.h>

/* Clocks, flash wait states, caches, UART and tick counter. Called once, after .data and .bss are set up. */
void port_init(void);

/* One byte from the serial line; waits for it. */
uint8_t port_read(void);

/* One byte to the serial line; waits until there is room. */
void port_write(uint8_t byte);

/* A 64-bit tick count that never goes back. The unit is port_tick_hz per second; how ticks relate to instructions or
 * cycles is the engine's business. Must be called at least once per wrap of the hardware counter behind it. On a board
 * it has no branches: reading it always costs the same. */
uint64_t port_ticks(void);

/* What runs the core, read back from the chip's registers. */
struct port_clock {
    const char *source;        /* as manifests name it: hse-bypass, hsi...; "fixed" where nothing can be chosen */
    uint32_t core_hz;          /* follows from the registers and from the source's frequency */
    uint32_t wait_states;      /* of the flash, in cycles */
    uint32_t caches;           /* PORT_CACHE_* */
    const uint32_t *registers; /* addresses of the registers that say so, or NULL */
    uint32_t count;            /* of them */
};

enum {
    PORT_CACHE_PREFETCH = 1 << 0,
    PORT_CACHE_ART = 1 << 1,
    PORT_CACHE_INSTRUCTION = 1 << 2,
    PORT_CACHE_DATA = 1 << 3,
};

void port_clock(struct port_clock *clock);

/* Ticks per second: a whole number of MHz, at most 4,294 of them. */
uint32_t port_tick_hz(void);

#endif
