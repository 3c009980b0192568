/* STM32L4+ (L4R5 and its family, RM0432), up to 120 MHz; a USART or LPUART1 on the pins that the manifest names, at
 * 115,200 8N1; the DWT cycle counter. Sections are RM0432's. */
#include "port.h"
#include "stm32.h"

/* RCC, section 6.4 */
#define RCC_CR REGISTER(0x40021000u)
#define RCC_CFGR REGISTER(0x40021008u)
#define RCC_PLLCFGR REGISTER(0x4002100Cu)
#define RCC_AHB2ENR REGISTER(0x4002104Cu)
#define RCC_APB1ENR1 REGISTER(0x40021058u)
#define RCC_APB1ENR2 REGISTER(0x4002105Cu)
#define RCC_APB2ENR REGISTER(0x40021060u)
#define CR_MSION (1u << 0)
#define CR_MSIRDY (1u << 1)
#define CR_MSIRGSEL (1u << 3)
#define CR_MSIRANGE (0xFu << 4)
#define CR_MSIRANGE_4_MHZ (6u << 4)
#define CR_HSION (1u << 8)
#define CR_HSIRDY (1u << 10)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define CFGR_SW 3u
#define CFGR_SW_MSI 0u
#define CFGR_SW_PLL 3u
#define CFGR_SWS (3u << 2)
#define CFGR_SWS_MSI (0u << 2)
#define CFGR_SWS_HSI (1u << 2)
#define CFGR_SWS_PLL (3u << 2)
#define CFGR_HPRE (0xFu << 4)
#define CFGR_HPRE_BY_2 (8u << 4)
#define APB1ENR1_PWR (1u << 28)
#define PLLCFGR_SOURCE 3u
#define PLLCFGR_SOURCE_MSI 1u
#define PLLCFGR_SOURCE_HSI 2u
#define PLLCFGR_REN (1u << 24)
#define MSI_HZ 4000000u
#define HSI_HZ 16000000u
/* 4 MHz into the oscillator, which runs at twice the core's clock: R = 2, field 0. M is stored less one. */
#define PLL_INPUT 4000000u
#define PLLCFGR_FROM(source, code) \
    ((code) | ((source) / PLL_INPUT - 1u) << 4 | 2u * PORT_CORE_HZ / PLL_INPUT << 8 | PLLCFGR_REN | 0u << 25)

/* PWR, section 5.4: range 1 with boost is what allows more than 80 MHz (section 5.1.8). */
#define PWR_CR1 REGISTER(0x40007000u)
#define PWR_CR2 REGISTER(0x40007004u)
#define PWR_SR2 REGISTER(0x40007014u)
#define PWR_CR5 REGISTER(0x40007080u)
#define CR1_VOS (3u << 9)
#define CR1_VOS_RANGE_1 (1u << 9)
#define CR2_IOSV (1u << 9)
#define SR2_VOSF (1u << 10)
#define CR5_R1MODE (1u << 8)
#define NEEDS_BOOST (PORT_CORE_HZ > 80000000u)

/* FLASH, section 3.7.1; wait states in table 12 */
#define FLASH_ACR REGISTER(0x40022000u)
#define ACR_LATENCY 0xFu
#define ACR_PRFTEN (1u << 8)
#define ACR_ICEN (1u << 9)
#define ACR_DCEN (1u << 10)
#define ACR_ICRST (1u << 11)
#define ACR_DCRST (1u << 12)

#define GPIOA 0x48000000u

/* After reset every UART is fed by its bus, and the buses run as fast as the core. */
#if PORT_UART == UART_LPUART1
#define UART 0x40008000u
#define UART_ENABLE() (RCC_APB1ENR2 |= 1u << 0)
#define UART_DIVISOR ((256ull * PORT_CORE_HZ + BAUD / 2u) / BAUD) /* section 50.4.3 */
#elif PORT_UART == UART_USART1
#define UART 0x40013800u
#define UART_ENABLE() (RCC_APB2ENR |= 1u << 14)
#elif PORT_UART == UART_USART2
#define UART 0x40004400u
#define UART_ENABLE() (RCC_APB1ENR1 |= 1u << 17)
#elif PORT_UART == UART_USART3
#define UART 0x40004800u
#define UART_ENABLE() (RCC_APB1ENR1 |= 1u << 18)
#else
#error "the manifest's uart must be LPUART1, USART1, USART2 or USART3"
#endif
#ifndef UART_DIVISOR
#define UART_DIVISOR ((PORT_CORE_HZ + BAUD / 2u) / BAUD)
#endif

#if PORT_SOURCE == SOURCE_MSI
#define PLLCFGR_WANTED PLLCFGR_FROM(MSI_HZ, PLLCFGR_SOURCE_MSI)
_Static_assert(PORT_SOURCE_HZ == MSI_HZ, "the MSI runs at 4 MHz");
#elif PORT_SOURCE == SOURCE_HSI
#define PLLCFGR_WANTED PLLCFGR_FROM(HSI_HZ, PLLCFGR_SOURCE_HSI)
_Static_assert(PORT_SOURCE_HZ == HSI_HZ, "the HSI runs at 16 MHz");
#else
#error "the manifest's clock source must be msi or hsi"
#endif
_Static_assert(PORT_CORE_HZ % 2000000u == 0 && PORT_CORE_HZ >= 32000000u && PORT_CORE_HZ <= 120000000u,
               "the PLL makes 32 to 120 MHz in steps of 2 MHz");

static void start_clocks(void)
{
    /* From the MSI, which is what reset selects: after a reset of the core alone the PLL may still be in use. */
    RCC_CR |= CR_MSION;
    while (!(RCC_CR & CR_MSIRDY)) {
    }
    RCC_CFGR = CFGR_SW_MSI;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_MSI) {
    }
    RCC_CR &= ~CR_PLLON;
    while (RCC_CR & CR_PLLRDY) {
    }
    RCC_CR = (RCC_CR & ~CR_MSIRANGE) | CR_MSIRANGE_4_MHZ | CR_MSIRGSEL; /* section 6.4.1: written while it is ready */
    if (PORT_SOURCE == SOURCE_HSI) {
        RCC_CR |= CR_HSION;
        while (!(RCC_CR & CR_HSIRDY)) {
        }
    }

    RCC_APB1ENR1 |= APB1ENR1_PWR;
    (void)RCC_APB1ENR1; /* section 6.2.19: a peripheral answers two cycles after its clock is enabled */
    PWR_CR1 = (PWR_CR1 & ~CR1_VOS) | CR1_VOS_RANGE_1;
    if (NEEDS_BOOST) {
        PWR_CR5 &= ~CR5_R1MODE;
    }
    while (PWR_SR2 & SR2_VOSF) {
    }
    PWR_CR2 |= CR2_IOSV; /* section 5.1.3: port G, where a Nucleo-144 has its serial line, is fed by VDDIO2 */

    /* Section 3.3.4: the caches are emptied while they are off. They are on after reset. */
    FLASH_ACR &= ~(ACR_ICEN | ACR_DCEN);
    FLASH_ACR |= ACR_ICRST | ACR_DCRST;
    FLASH_ACR &= ~(ACR_ICRST | ACR_DCRST);
    FLASH_ACR = PORT_WAIT_STATES | (PORT_PREFETCH ? ACR_PRFTEN : 0u) | (PORT_INSTRUCTION ? ACR_ICEN : 0u) |
                (PORT_DATA ? ACR_DCEN : 0u);
    while ((FLASH_ACR & ACR_LATENCY) != PORT_WAIT_STATES) {
    }

    RCC_PLLCFGR = PLLCFGR_WANTED;
    RCC_CR |= CR_PLLON;
    while (!(RCC_CR & CR_PLLRDY)) {
    }
    /* Section 5.1.8: beyond 80 MHz by way of half the clock, for a microsecond at least. */
    RCC_CFGR = CFGR_HPRE_BY_2;
    RCC_CFGR |= CFGR_SW_PLL;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_PLL) {
    }
    for (uint32_t tries = PORT_CORE_HZ / 2000000u; tries; tries--) {
        __asm volatile("");
    }
    RCC_CFGR &= ~CFGR_HPRE;
}

void port_init(void)
{
    start_clocks();
    RCC_AHB2ENR |= UART_PORTS;
    UART_ENABLE();
    (void)RCC_AHB2ENR;
    uart_pins(GPIOA);
    usart_start(UART, UART_DIVISOR);
    cycle_counter_start();
}

void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {(uint32_t)&RCC_CR, (uint32_t)&RCC_CFGR, (uint32_t)&RCC_PLLCFGR,
                                         (uint32_t)&PWR_CR1, (uint32_t)&PWR_CR5, (uint32_t)&FLASH_ACR};
    uint32_t configuration = RCC_PLLCFGR, buses = RCC_CFGR, selected = buses & CFGR_SWS;
    bool internal = selected == CFGR_SWS_HSI ||
                    (selected == CFGR_SWS_PLL && (configuration & PLLCFGR_SOURCE) == PLLCFGR_SOURCE_HSI);

    clock->source = internal ? "hsi" : "msi";
    clock->core_hz = internal ? HSI_HZ : MSI_HZ;
    if (selected == CFGR_SWS_PLL) { /* section 6.4.4: source / M * N / R */
        clock->core_hz = clock->core_hz / ((configuration >> 4 & 0xFu) + 1u) * (configuration >> 8 & 0x7Fu) /
                         (2u * (configuration >> 25 & 3u) + 2u);
    }
    clock->core_hz = behind_ahb_prescaler(clock->core_hz, buses >> 4 & 0xFu);
    clock->wait_states = FLASH_ACR & ACR_LATENCY;
    clock->caches = (FLASH_ACR & ACR_PRFTEN ? PORT_CACHE_PREFETCH : 0u) |
                    (FLASH_ACR & ACR_ICEN ? PORT_CACHE_INSTRUCTION : 0u) |
                    (FLASH_ACR & ACR_DCEN ? PORT_CACHE_DATA : 0u);
    clock->registers = registers;
    clock->count = sizeof registers / sizeof registers[0];
}

#include "stm32_usart_port.h"
