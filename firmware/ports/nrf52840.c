/* nRF52840 (product specification 1.7): 64 MHz from the crystal; the UART (the older one, without DMA) on the pins that the
 * manifest names, at 115,200 8N1; the DWT cycle counter. */
#include "nrf.h"
#include "port.h"

#define GPIO 0x50000000u

/* NVMC, section 4.3.6: the instruction cache of the flash. */
#define NVMC_ICACHECNF REGISTER(0x4001E540u)
#define ICACHECNF_CACHEEN (1u << 0)

/* Section 4.1, electrical specification: flash takes up to 2 wait states, behind the cache up to 3. They can neither be
 * chosen nor read back. */
_Static_assert(PORT_CORE_HZ == 64000000u, "an nRF52840 has one clock");

void port_init(void)
{
    crystal_start();
    NVMC_ICACHECNF = PORT_INSTRUCTION ? ICACHECNF_CACHEEN : 0u;
    uart_start(GPIO);
    cycle_counter_start();
}

uint8_t port_read(void)
{
    while (!UART_EVENTS_RXDRDY) {
        port_ticks(); /* the counter wraps every 67 s */
    }
    return uart_take();
}

void port_write(uint8_t byte)
{
    uart_send(byte);
}

uint64_t port_ticks(void)
{
    return cycle_counter_ticks();
}

uint32_t port_tick_hz(void)
{
    return PORT_CORE_HZ;
}

void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {(uint32_t)&CLOCK_HFCLKSTAT, (uint32_t)&NVMC_ICACHECNF};

    *clock = (struct port_clock){
        .source = CLOCK_HFCLKSTAT & HFCLKSTAT_CRYSTAL ? "hse-crystal" : "hsi",
        .core_hz = PORT_CORE_HZ,
        .wait_states = NVMC_ICACHECNF & ICACHECNF_CACHEEN ? 3u : 2u,
        .caches = NVMC_ICACHECNF & ICACHECNF_CACHEEN ? PORT_CACHE_INSTRUCTION : 0u,
        .registers = registers,
        .count = sizeof registers / sizeof registers[0],
    };
}
