/* What the ports of Cortex-M chips share: registers by their address, the cycle counter, the caches of a Cortex-M7.
 * Armv7-M ARM (DDI 0403E) chapters B3 and C1. */
#ifndef CORTEX_M_H
#define CORTEX_M_H

#include <stdbool.h>
#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define SCB_CCR REGISTER(0xE000ED14u)
#define CCR_DC (1u << 16)
#define CCR_IC (1u << 17)

static inline void barrier(void)
{
    __asm volatile("dsb\n\tisb" ::: "memory");
}

/* --- the NVIC, chapter B3.4: no interrupt is ever taken, a pending one ends WFI --- */

#define NVIC_ISER(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_ICPR(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))

static inline void nvic_enable(uint32_t irq)
{
    NVIC_ISER(irq) = 1u << irq % 32u;
}

static inline void nvic_clear(uint32_t irq)
{
    NVIC_ICPR(irq) = 1u << irq % 32u;
}

/* --- the DWT's cycle counter, chapter C1.8; Armv6-M has none --- */

#define DEMCR REGISTER(0xE000EDFCu)
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL REGISTER(0xE0001000u)
#define DWT_CYCCNT REGISTER(0xE0001004u)
#define DWT_LAR REGISTER(0xE0001FB0u)
#define DWT_LAR_KEY 0xC5ACCE55u
#define DWT_CTRL_CYCCNTENA (1u << 0)

static inline void cycle_counter_start(void)
{
    DEMCR |= DEMCR_TRCENA;
#if __ARM_ARCH == 7
    DWT_LAR = DWT_LAR_KEY; /* Cortex-M7 locks the unit against software; on others the write is ignored */
#endif
    DWT_CYCCNT = 0;
    DWT_CTRL |= DWT_CTRL_CYCCNTENA;
}

/* The counter, extended to 64 bits: see port_ticks(). */
static inline uint64_t cycle_counter_ticks(void)
{
    static uint64_t ticks;
    static uint32_t previous;

    uint32_t now = DWT_CYCCNT;
    ticks += now - previous;
    previous = now;
    return ticks;
}

/* --- the level-1 caches of a Cortex-M7 (TRM, DDI 0489, chapter 4.3) --- */

#define SCB_CCSIDR REGISTER(0xE000ED80u)
#define SCB_CSSELR REGISTER(0xE000ED84u)
#define SCB_ICIALLU REGISTER(0xE000EF50u)
#define SCB_DCISW REGISTER(0xE000EF60u)

/* Caches hold garbage after power-up: they are invalidated before they are switched on, the data cache line by line.
 * A data cache that is already on (a reset of the core alone) holds dirty lines, and stays as it is. */
static inline void m7_caches_start(bool instruction, bool data)
{
    barrier();
    SCB_ICIALLU = 0;
    barrier();
    if (data && !(SCB_CCR & CCR_DC)) {
        SCB_CSSELR = 0; /* the level-1 data cache */
        barrier();
        uint32_t ways = SCB_CCSIDR >> 3 & 0x3FFu, sets = SCB_CCSIDR >> 13 & 0x7FFFu; /* both less one */
        uint32_t way_shift = (uint32_t)__builtin_clz(ways | 1u);
        for (uint32_t set = 0; set <= sets; set++) {
            for (uint32_t way = 0; way <= ways; way++) {
                SCB_DCISW = way << way_shift | set << 5; /* lines of 32 bytes */
            }
        }
        barrier();
    }
    SCB_CCR |= (data ? CCR_DC : 0u) | (instruction ? CCR_IC : 0u);
    barrier();
}

#endif
