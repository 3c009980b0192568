/* STM32F405 as QEMU models it (netduinoplus2): USART1 and TIM2, RM0090 sections 30.6 and 18.4. There is no clock
 * controller, no flash interface and no DWT, so that TIM2 counts.
 * With QEMU's -icount shift=7 an instruction lasts 128 ns, which are 3.2 ticks of 25 MHz. */
#include "cortex_m.h"
#include "port.h"

/* QEMU feeds its timers with 1 GHz; a prescaler of 40 gives 25 MHz, and an interval that ends within 171 s. */
#define TICK_HZ 25000000u
#define TIM2_CR1 REGISTER(0x40000000u)
#define TIM2_CNT REGISTER(0x40000024u)
#define TIM2_PSC REGISTER(0x40000028u)
#define TIM2_CR1_CEN (1u << 0)

#define USART1_IRQ 37u
#define USART1_SR REGISTER(0x40011000u)
#define USART1_DR REGISTER(0x40011004u)
#define USART1_CR1 REGISTER(0x4001100Cu)
#define SR_RXNE (1u << 5)
#define SR_TXE (1u << 7)
#define CR1_RE (1u << 2)
#define CR1_TE (1u << 3)
#define CR1_RXNEIE (1u << 5)
#define CR1_UE (1u << 13)

void port_init(void)
{
    TIM2_PSC = 1000000000u / TICK_HZ - 1u;
    TIM2_CR1 = TIM2_CR1_CEN;
    USART1_CR1 = CR1_UE | CR1_RE | CR1_TE | CR1_RXNEIE;
    nvic_enable(USART1_IRQ);
}

/* Interrupts are masked (start.c), so the receive interrupt is never taken: pending, it ends WFI, and QEMU takes no host
 * CPU while the line is silent. */
uint8_t port_read(void)
{
    while (!(USART1_SR & SR_RXNE)) {
        __asm volatile("wfi");
    }
    /* The request lasts until the byte is read, and would be pending again if it were cleared before. */
    uint8_t byte = (uint8_t)USART1_DR;
    nvic_clear(USART1_IRQ);
    return byte;
}

void port_write(uint8_t byte)
{
    while (!(USART1_SR & SR_TXE)) {
    }
    USART1_DR = byte;
}

uint64_t port_ticks(void)
{
    static uint64_t ticks;
    static uint32_t previous;

    uint32_t now = TIM2_CNT;
    ticks += now - previous;
    previous = now;
    return ticks;
}

uint32_t port_tick_hz(void)
{
    return TICK_HZ;
}

void port_clock(struct port_clock *clock)
{
    *clock = (struct port_clock){.source = "fixed", .core_hz = PORT_CORE_HZ};
}
