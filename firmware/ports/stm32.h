/* What STM32 families share: pins, the newer USART, and how a manifest names clock sources and UARTs. Polled; no
 * interrupt and no DMA. */
#ifndef STM32_H
#define STM32_H

#include "cortex_m.h"

/* A manifest's clock.source and uart.name, as PORT_SOURCE and PORT_UART. */
#define SOURCE_HSE_CRYSTAL 1
#define SOURCE_HSE_BYPASS 2
#define SOURCE_HSI 3
#define SOURCE_MSI 4
#define UART_LPUART1 0
#define UART_USART1 1
#define UART_USART2 2
#define UART_USART3 3
#define UART_UART4 4
#define UART_UART5 5
#define UART_USART6 6
#define UART_UART7 7
#define UART_UART8 8

#define BAUD 115200u

/* The core's clock behind the AHB prescaler, from the 4 bits of HPRE: 0xxx 1, 1000 2, ... 1011 16, 1100 64, ... 1111 512. */
static inline uint32_t behind_ahb_prescaler(uint32_t hz, uint32_t hpre)
{
    return hpre & 8u ? hz >> ((hpre & 7u) + (hpre & 4u ? 2u : 1u)) : hz;
}

/* GPIO: RM0385 section 6.4, and alike in every family since F2. `gpio` is port A; group 3 is port D. */
static inline void pin_alternate(uint32_t gpio, uint32_t group, uint32_t pin, uint32_t function)
{
    uint32_t port = gpio + 0x400u * group;
    volatile uint32_t *afr = &REGISTER(port + 0x20u + 4u * (pin / 8u));

    *afr = (*afr & ~(0xFu << 4u * (pin % 8u))) | function << 4u * (pin % 8u);
    REGISTER(port + 0x0Cu) = (REGISTER(port + 0x0Cu) & ~(3u << 2u * pin)) | 1u << 2u * pin; /* PUPDR: pulled up */
    REGISTER(port) = (REGISTER(port) & ~(3u << 2u * pin)) | 2u << 2u * pin;                 /* MODER: alternate */
}

static inline void uart_pins(uint32_t gpio)
{
    pin_alternate(gpio, PORT_TX_GROUP, PORT_TX_PIN, PORT_UART_FUNCTION);
    pin_alternate(gpio, PORT_RX_GROUP, PORT_RX_PIN, PORT_UART_FUNCTION);
}

/* The GPIO ports of the UART's two pins, as bits of the register that switches ports on. */
#define UART_PORTS (1u << PORT_TX_GROUP | 1u << PORT_RX_GROUP)

/* --- USART and LPUART of F3, F7, L4, H7, U5: RM0385 section 31.8; 8N1 --- */

#define USART_CR1_UE (1u << 0)
#define USART_CR1_RE (1u << 2)
#define USART_CR1_TE (1u << 3)
#define USART_CR3_OVRDIS (1u << 12)
#define USART_ISR_RXNE (1u << 5)
#define USART_ISR_TXE (1u << 7)

/* divisor: of the baud rate, as BRR takes it. */
static inline void usart_start(uint32_t base, uint32_t divisor)
{
    REGISTER(base + 0x00u) = 0;                /* CR1: off, so that the others can be written */
    REGISTER(base + 0x08u) = USART_CR3_OVRDIS; /* an overrun loses a byte, which the host notices; the line goes on */
    REGISTER(base + 0x0Cu) = divisor;
    REGISTER(base + 0x00u) = USART_CR1_UE | USART_CR1_RE | USART_CR1_TE;
}

static inline bool usart_received(uint32_t base)
{
    return REGISTER(base + 0x1Cu) & USART_ISR_RXNE;
}

static inline uint8_t usart_read(uint32_t base)
{
    return (uint8_t)REGISTER(base + 0x24u);
}

static inline void usart_write(uint32_t base, uint8_t byte)
{
    while (!(REGISTER(base + 0x1Cu) & USART_ISR_TXE)) {
    }
    REGISTER(base + 0x28u) = byte;
}

#endif
