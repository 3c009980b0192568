/* Arm MPS2 and MPS3 FPGA images, as QEMU models them: CMSDK UART0 and the 32-bit CMSDK TIMER0 (Arm DUI 0479, chapter 4),
 * or the counter of an SSE-300 subsystem, which has no such timer. Both run with the core's clock.
 * With QEMU's -icount shift=7 an instruction lasts 128 ns, which are 3.2 ticks of 25 MHz: an interval in ticks, divided by
 * 3.2 and rounded, is its number of instructions. */
#include "cortex_m.h"
#include "port.h"

/* The AN385, AN386 and AN500 images' map; a manifest's `defines` move it for others. Images with TrustZone start in Secure
 * state and stay in it, at the Secure addresses. */
#ifndef MPS2_UART_BASE
#define MPS2_UART_BASE 0x40004000u
#endif
#ifndef MPS2_UART_RX_IRQ
#define MPS2_UART_RX_IRQ 0u
#endif
#ifndef MPS2_TIMER_BASE
#define MPS2_TIMER_BASE 0x40000000u
#endif

#define UART_DATA REGISTER(MPS2_UART_BASE + 0x00u)
#define UART_STATE REGISTER(MPS2_UART_BASE + 0x04u)
#define UART_CTRL REGISTER(MPS2_UART_BASE + 0x08u)
#define UART_INTCLEAR REGISTER(MPS2_UART_BASE + 0x0Cu)
#define UART_BAUDDIV REGISTER(MPS2_UART_BASE + 0x10u)
#define UART_STATE_TX_FULL (1u << 0)
#define UART_STATE_RX_FULL (1u << 1)
#define UART_CTRL_TX (1u << 0)
#define UART_CTRL_RX (1u << 1)
#define UART_CTRL_RX_INTERRUPT (1u << 3)
#define UART_INT_RX (1u << 1)

#ifdef MPS2_SSE_COUNTER
/* The subsystem's own counter (Arm SSE-300 TRM, 101773, chapter on system timestamp): 64 bits, of which the lower ones are
 * read through a timer's frame. */
#define COUNTER_CNTCR REGISTER(MPS2_SSE_COUNTER)
#define CNTCR_EN (1u << 0)
#define TIMER_CNTPCT_LOW REGISTER(MPS2_TIMER_BASE)

static inline void timer_start(void)
{
    COUNTER_CNTCR = CNTCR_EN;
}

static inline uint32_t timer_now(void)
{
    return TIMER_CNTPCT_LOW;
}
#else
#define TIMER_CTRL REGISTER(MPS2_TIMER_BASE + 0x00u)
#define TIMER_VALUE REGISTER(MPS2_TIMER_BASE + 0x04u)
#define TIMER_RELOAD REGISTER(MPS2_TIMER_BASE + 0x08u)
#define TIMER_CTRL_ENABLE (1u << 0)

static inline void timer_start(void)
{
    TIMER_RELOAD = UINT32_MAX;
    TIMER_VALUE = UINT32_MAX;
    TIMER_CTRL = TIMER_CTRL_ENABLE;
}

static inline uint32_t timer_now(void)
{
    return ~TIMER_VALUE; /* it counts down from the largest value */
}
#endif

void port_init(void)
{
    UART_BAUDDIV = 16; /* the least that is allowed: an emulated line has no speed */
    UART_CTRL = UART_CTRL_TX | UART_CTRL_RX | UART_CTRL_RX_INTERRUPT;
    nvic_enable(MPS2_UART_RX_IRQ);
    timer_start();
}

/* Interrupts are masked (start.c), so the receive interrupt is never taken: pending, it ends WFI, and QEMU takes no host
 * CPU while the line is silent. */
uint8_t port_read(void)
{
    while (!(UART_STATE & UART_STATE_RX_FULL)) {
        __asm volatile("wfi");
    }
    /* Before the data: its reading lets the next byte in, whose interrupt must stay. */
    UART_INTCLEAR = UART_INT_RX;
    nvic_clear(MPS2_UART_RX_IRQ);
    return (uint8_t)UART_DATA;
}

void port_write(uint8_t byte)
{
    while (UART_STATE & UART_STATE_TX_FULL) {
    }
    UART_DATA = byte;
}

uint64_t port_ticks(void)
{
    static uint64_t ticks;
    static uint32_t previous;

    uint32_t now = timer_now();
    ticks += now - previous;
    previous = now;
    return ticks;
}

uint32_t port_tick_hz(void)
{
    return PORT_CORE_HZ;
}

/* The FPGA's oscillator gives the clock, its RAM is the flash, and nothing of it can be chosen. */
void port_clock(struct port_clock *clock)
{
    *clock = (struct port_clock){.source = "fixed", .core_hz = PORT_CORE_HZ};
}
