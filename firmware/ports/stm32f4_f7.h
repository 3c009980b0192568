/* What STM32F4 and STM32F7 share: clock tree, power scale, and where their UARTs are. Sections are RM0385's (STM32F74x);
 * RM0090 (STM32F405 and F407) and RM0390 (STM32F446) have the same registers in their chapters on PWR and RCC. */
#ifndef STM32F4_F7_H
#define STM32F4_F7_H

#include "port.h"
#include "stm32.h"

#define APB1_HZ (PORT_CORE_HZ / 4u)
#define APB2_HZ (PORT_CORE_HZ / 2u)
#define HSI_HZ 16000000u

/* RCC, section 5.3 */
#define RCC_CR REGISTER(0x40023800u)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define RCC_APB2ENR REGISTER(0x40023844u)
#define CR_HSION (1u << 0)
#define CR_HSIRDY (1u << 1)
#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_HSEBYP (1u << 18)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define PLLCFGR_RESERVED 0xF0000000u
#define PLLCFGR_SOURCE_HSE (1u << 22)
/* 2 MHz into the oscillator, or 1 MHz where that is no divisor of the source; the oscillator runs at twice the core's
 * clock (P = 2, field 0). Q is for peripherals that nobody uses here; 9 gives USB its 48 MHz at 216 MHz. */
#define PLL_INPUT(source) ((source) % 2000000u ? 1000000u : 2000000u)
#define PLLCFGR_FROM(source) \
    ((source) / PLL_INPUT(source) | 2u * PORT_CORE_HZ / PLL_INPUT(source) << 6 | 0u << 16 | 9u << 24)
#define CFGR_SW_PLL 2u
#define CFGR_SWS (3u << 2)
#define CFGR_SWS_HSI (0u << 2)
#define CFGR_SWS_HSE (1u << 2)
#define CFGR_SWS_PLL (2u << 2)
#define CFGR_APB1_BY_4 (5u << 10)
#define CFGR_APB2_BY_2 (4u << 13)
#define APB1ENR_PWR (1u << 28)
/* The oscillator is ready within 2 ms where it exists; this is over 10 ms of 16 MHz cycles. */
#define HSE_TRIES 20000u

/* PWR, section 4.4: over-drive is what allows more than OVER_DRIVE_ABOVE Hz, which the port defines. */
#define PWR_CR REGISTER(0x40007000u)
#define PWR_CSR REGISTER(0x40007004u)
#define CR_ODEN (1u << 16)
#define CR_ODSWEN (1u << 17)
#define CSR_ODRDY (1u << 16)
#define CSR_ODSWRDY (1u << 17)
#define NEEDS_OVER_DRIVE (PORT_CORE_HZ > OVER_DRIVE_ABOVE)

/* FLASH, section 3.7.1: wait states in table 5 (RM0090 table 10, RM0390 table 5), for 2.7 V and more. */
#define FLASH_ACR REGISTER(0x40023C00u)
#define ACR_LATENCY 0xFu
#define ACR_PREFETCH (1u << 8)

#define GPIOA 0x40020000u

#if PORT_UART == UART_USART1
#define UART 0x40011000u
#define UART_HZ APB2_HZ
#define UART_ENABLE() (RCC_APB2ENR |= 1u << 4)
#elif PORT_UART == UART_USART2
#define UART 0x40004400u
#define UART_HZ APB1_HZ
#define UART_ENABLE() (RCC_APB1ENR |= 1u << 17)
#elif PORT_UART == UART_USART3
#define UART 0x40004800u
#define UART_HZ APB1_HZ
#define UART_ENABLE() (RCC_APB1ENR |= 1u << 18)
#elif PORT_UART == UART_USART6
#define UART 0x40011400u
#define UART_HZ APB2_HZ
#define UART_ENABLE() (RCC_APB2ENR |= 1u << 5)
#else
#error "the manifest's uart must be USART1, USART2, USART3 or USART6"
#endif
#if PORT_SOURCE == SOURCE_MSI
#error "the manifest's clock source must be hse-crystal, hse-bypass or hsi"
#endif
_Static_assert(PORT_CORE_HZ >= 50000000u && PORT_CORE_HZ <= 216000000u, "the PLL makes 50 to 216 MHz");

static inline bool start_external_clock(void)
{
    if (PORT_SOURCE == SOURCE_HSI) {
        return false;
    }
    if (PORT_SOURCE == SOURCE_HSE_BYPASS) {
        RCC_CR |= CR_HSEBYP;
    }
    RCC_CR |= CR_HSEON;
    for (uint32_t tries = HSE_TRIES; tries; tries--) {
        if (RCC_CR & CR_HSERDY) {
            return true;
        }
    }
    RCC_CR &= ~CR_HSEON;
    return false;
}

/* accelerators: bits of FLASH_ACR beside the wait states. */
static inline void start_clocks(uint32_t accelerators)
{
    /* From the internal 16 MHz, which is what reset selects: after a reset of the core alone the PLL may still be in use. */
    RCC_CR |= CR_HSION;
    while (!(RCC_CR & CR_HSIRDY)) {
    }
    RCC_CFGR = 0;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_HSI) {
    }
    RCC_CR &= ~CR_PLLON;
    while (RCC_CR & CR_PLLRDY) {
    }

    /* A board without its external clock (a Nucleo whose ST-Link gives none) runs from the internal one: as fast, within
     * 1 %, which a UART bears. clock% tells which it is. */
    uint32_t source =
        start_external_clock() ? PLLCFGR_SOURCE_HSE | PLLCFGR_FROM(PORT_SOURCE_HZ) : PLLCFGR_FROM(HSI_HZ);
    RCC_PLLCFGR = (RCC_PLLCFGR & PLLCFGR_RESERVED) | source;
    RCC_CR |= CR_PLLON;

    RCC_APB1ENR |= APB1ENR_PWR;
    (void)RCC_APB1ENR; /* section 5.2.12: a peripheral answers two cycles after its clock is enabled */
    if (NEEDS_OVER_DRIVE) {
        /* Section 4.1.4: over-drive is entered while the PLL is on and not yet in use. */
        PWR_CR |= CR_ODEN;
        while (!(PWR_CSR & CSR_ODRDY)) {
        }
        PWR_CR |= CR_ODSWEN;
        while (!(PWR_CSR & CSR_ODSWRDY)) {
        }
    }

    FLASH_ACR = PORT_WAIT_STATES | accelerators;
    while ((FLASH_ACR & ACR_LATENCY) != PORT_WAIT_STATES) {
    }

    RCC_CFGR = CFGR_APB1_BY_4 | CFGR_APB2_BY_2;
    while (!(RCC_CR & CR_PLLRDY)) {
    }
    RCC_CFGR |= CFGR_SW_PLL;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_PLL) {
    }
}

/* What the registers say; the flash interface's caches are the port's business. */
static inline void read_clocks(struct port_clock *clock)
{
    uint32_t configuration = RCC_PLLCFGR, buses = RCC_CFGR, selected = buses & CFGR_SWS;
    bool external = selected == CFGR_SWS_HSE || (selected == CFGR_SWS_PLL && configuration & PLLCFGR_SOURCE_HSE);

    clock->source = !external ? "hsi" : RCC_CR & CR_HSEBYP ? "hse-bypass" : "hse-crystal";
    clock->core_hz = external ? PORT_SOURCE_HZ : HSI_HZ;
    if (selected == CFGR_SWS_PLL) { /* section 5.3.2: source / M * N / P */
        clock->core_hz = clock->core_hz / (configuration & 0x3Fu) * (configuration >> 6 & 0x1FFu) /
                         (2u * (configuration >> 16 & 3u) + 2u);
    }
    clock->core_hz = behind_ahb_prescaler(clock->core_hz, buses >> 4 & 0xFu);
    clock->wait_states = FLASH_ACR & ACR_LATENCY;
}

static inline void start_uart_pins(void)
{
    RCC_AHB1ENR |= UART_PORTS;
    UART_ENABLE();
    (void)RCC_APB1ENR;
    uart_pins(GPIOA);
}

#endif
