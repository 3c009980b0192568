/* Arm MPS2 FPGA images, as QEMU models them: CMSDK UART0 and the 32-bit CMSDK TIMER0 (Arm DUI 0479, chapter 4).
 * With QEMU's -icount shift=7 an instruction lasts 128 ns, which are 3.2 ticks of the timer's 25 MHz: an interval in ticks,
 * divided by 3.2 and rounded, is its number of instructions. */
#include "port.h"

/* The AN386 and AN500 images' map; a manifest's `defines` move it for others. */
#ifndef MPS2_UART_BASE
#define MPS2_UART_BASE 0x40004000u
#endif
#ifndef MPS2_UART_RX_IRQ
#define MPS2_UART_RX_IRQ 0u
#endif
#ifndef MPS2_TIMER_BASE
#define MPS2_TIMER_BASE 0x40000000u
#endif
#ifndef MPS2_TICK_HZ
#define MPS2_TICK_HZ 25000000u
#endif

#define REGISTER(address) (*(volatile uint32_t *)(address))

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

#define TIMER_CTRL REGISTER(MPS2_TIMER_BASE + 0x00u)
#define TIMER_VALUE REGISTER(MPS2_TIMER_BASE + 0x04u)
#define TIMER_RELOAD REGISTER(MPS2_TIMER_BASE + 0x08u)
#define TIMER_CTRL_ENABLE (1u << 0)

#define NVIC_ISER(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_ICPR(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define IRQ_BIT(irq) (1u << (irq) % 32u)

void port_init(void)
{
    UART_BAUDDIV = 16; /* the least that is allowed: an emulated line has no speed */
    UART_CTRL = UART_CTRL_TX | UART_CTRL_RX | UART_CTRL_RX_INTERRUPT;
    NVIC_ISER(MPS2_UART_RX_IRQ) = IRQ_BIT(MPS2_UART_RX_IRQ);

    TIMER_RELOAD = UINT32_MAX;
    TIMER_VALUE = UINT32_MAX;
    TIMER_CTRL = TIMER_CTRL_ENABLE;
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
    NVIC_ICPR(MPS2_UART_RX_IRQ) = IRQ_BIT(MPS2_UART_RX_IRQ);
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

    uint32_t now = ~TIMER_VALUE; /* it counts down from the largest value */
    ticks += now - previous;
    previous = now;
    return ticks;
}

uint32_t port_tick_hz(void)
{
    return MPS2_TICK_HZ;
}

/* The FPGA's oscillator gives the clock, its RAM is the flash, and nothing of it can be chosen. */
void port_clock(struct port_clock *clock)
{
    *clock = (struct port_clock){.source = "fixed", .core_hz = PORT_CORE_HZ};
}
