/* nRF51822 (reference manual 3.0): 16 MHz from the crystal; the UART on the pins that the manifest names, at 115,200 8N1;
 * TIMER0, which counts at 16 MHz with 32 bits, as a Cortex-M0 has no cycle counter.
 * With QEMU's -icount shift=8 an instruction lasts 256 ns, which are 4.096 ticks. */
#include "nrf.h"
#include "port.h"

#define TICK_HZ 16000000u
#define GPIO 0x50000000u

/* TIMER0, chapter 18 */
#define TIMER_TASKS_START REGISTER(0x40008000u)
#define TIMER_TASKS_CAPTURE REGISTER(0x40008040u)
#define TIMER_MODE REGISTER(0x40008504u)
#define TIMER_BITMODE REGISTER(0x40008508u)
#define TIMER_PRESCALER REGISTER(0x40008510u)
#define TIMER_CC REGISTER(0x40008540u)
#define TIMER_MODE_TIMER 0u
#define TIMER_BITMODE_32 3u

_Static_assert(PORT_CORE_HZ == TICK_HZ, "an nRF51 has one clock");

void port_init(void)
{
    crystal_start();
    TIMER_MODE = TIMER_MODE_TIMER;
    TIMER_BITMODE = TIMER_BITMODE_32;
    TIMER_PRESCALER = 0;
    TIMER_TASKS_START = 1;
    uart_start(GPIO);
    UART_INTENSET = UART_RXDRDY;
    nvic_enable(UART_IRQ);
}

/* Interrupts are masked (start.c), so the receive interrupt is never taken: pending, it ends WFI. */
uint8_t port_read(void)
{
    while (!UART_EVENTS_RXDRDY) {
        __asm volatile("wfi");
    }
    uint8_t byte = uart_take();
    nvic_clear(UART_IRQ);
    return byte;
}

void port_write(uint8_t byte)
{
    uart_send(byte);
}

uint64_t port_ticks(void)
{
    static uint64_t ticks;
    static uint32_t previous;

    TIMER_TASKS_CAPTURE = 1;
    uint32_t now = TIMER_CC;
    ticks += now - previous;
    previous = now;
    return ticks;
}

uint32_t port_tick_hz(void)
{
    return TICK_HZ;
}

/* Flash answers without wait states at 16 MHz, and there are no caches (section 7.1). */
void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {(uint32_t)&CLOCK_HFCLKSTAT};

    *clock = (struct port_clock){
        .source = CLOCK_HFCLKSTAT & HFCLKSTAT_CRYSTAL ? "hse-crystal" : "hsi",
        .core_hz = TICK_HZ,
        .registers = registers,
        .count = 1,
    };
}
