/* STM32F405, F407 (RM0090) and F446 (RM0390), up to 168 and 180 MHz; a USART on the pins that the manifest names, at
 * 115,200 8N1; the DWT cycle counter. */
#define OVER_DRIVE_ABOVE 168000000u /* RM0390 section 5.1.4; STM32F405 and F407 end there */
#include "stm32f4_f7.h"

/* FLASH_ACR, RM0090 section 3.9.1: the ART accelerator is an instruction and a data cache. */
#define ACR_ICEN (1u << 9)
#define ACR_DCEN (1u << 10)
#define ACR_ICRST (1u << 11)
#define ACR_DCRST (1u << 12)

/* USART, RM0090 section 30.6: the older kind. Reading SR, then DR, also clears an overrun. */
#define USART_SR REGISTER(UART + 0x00u)
#define USART_DR REGISTER(UART + 0x04u)
#define USART_BRR REGISTER(UART + 0x08u)
#define USART_CR1 REGISTER(UART + 0x0Cu)
#define SR_RXNE (1u << 5)
#define SR_TXE (1u << 7)
#define CR1_RE (1u << 2)
#define CR1_TE (1u << 3)
#define CR1_UE (1u << 13)

void port_init(void)
{
    /* Section 3.9.1: the caches are emptied while they are off. They may be on after a reset of the core alone. */
    FLASH_ACR &= ~(ACR_ICEN | ACR_DCEN);
    FLASH_ACR |= ACR_ICRST | ACR_DCRST;
    FLASH_ACR &= ~(ACR_ICRST | ACR_DCRST);
    start_clocks((PORT_PREFETCH ? ACR_PREFETCH : 0u) | (PORT_INSTRUCTION ? ACR_ICEN : 0u) |
                 (PORT_DATA ? ACR_DCEN : 0u));
    start_uart_pins();
    USART_CR1 = 0;
    USART_BRR = (UART_HZ + BAUD / 2u) / BAUD;
    USART_CR1 = CR1_UE | CR1_RE | CR1_TE;
    cycle_counter_start();
}

uint8_t port_read(void)
{
    while (!(USART_SR & SR_RXNE)) {
        port_ticks(); /* the counter wraps every 23.8 s at 180 MHz */
    }
    return (uint8_t)USART_DR;
}

void port_write(uint8_t byte)
{
    while (!(USART_SR & SR_TXE)) {
    }
    USART_DR = byte;
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
    static const uint32_t registers[] = {(uint32_t)&RCC_CR, (uint32_t)&RCC_PLLCFGR, (uint32_t)&RCC_CFGR,
                                         (uint32_t)&PWR_CSR, (uint32_t)&FLASH_ACR};

    read_clocks(clock);
    clock->caches = (FLASH_ACR & ACR_PREFETCH ? PORT_CACHE_PREFETCH : 0u) |
                    (FLASH_ACR & ACR_ICEN ? PORT_CACHE_INSTRUCTION : 0u) |
                    (FLASH_ACR & ACR_DCEN ? PORT_CACHE_DATA : 0u);
    clock->registers = registers;
    clock->count = sizeof registers / sizeof registers[0];
}
