/* STM32F74x/F75x (RM0385) at 216 MHz, on a Nucleo board: 8 MHz from the ST-Link's MCO, USART3 on PD8 and PD9 at 115,200 8N1,
 * the DWT cycle counter. */
#include "port.h"

#include <stdbool.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define CORE_HZ 216000000u
#define APB1_HZ (CORE_HZ / 4u)
#define BAUD 115200u

/* RCC, RM0385 section 5.3 */
#define RCC_CR REGISTER(0x40023800u)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define CR_HSION (1u << 0)
#define CR_HSIRDY (1u << 1)
#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_HSEBYP (1u << 18)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define PLLCFGR_RESERVED 0xF0000000u
#define PLLCFGR_SOURCE_HSE (1u << 22)
/* 2 MHz into the oscillator, which runs at 432 MHz; P = 2 (field 0) gives 216 MHz, Q = 9 gives 48 MHz. */
#define PLLCFGR_216_MHZ(source_mhz) ((source_mhz) / 2u | 216u << 6 | 0u << 16 | 9u << 24)
#define CFGR_SW_PLL 2u
#define CFGR_SWS (3u << 2)
#define CFGR_SWS_HSI (0u << 2)
#define CFGR_SWS_PLL (2u << 2)
#define CFGR_APB1_BY_4 (5u << 10)
#define CFGR_APB2_BY_2 (4u << 13)
#define AHB1ENR_GPIOD (1u << 3)
#define APB1ENR_USART3 (1u << 18)
#define APB1ENR_PWR (1u << 28)
/* The oscillator is ready within 2 ms where it exists; this is over 10 ms of 16 MHz cycles. */
#define HSE_TRIES 20000u

/* PWR, RM0385 section 4.4: over-drive is what allows more than 180 MHz. */
#define PWR_CR1 REGISTER(0x40007000u)
#define PWR_CSR1 REGISTER(0x40007004u)
#define CR1_ODEN (1u << 16)
#define CR1_ODSWEN (1u << 17)
#define CSR1_ODRDY (1u << 16)
#define CSR1_ODSWRDY (1u << 17)

/* FLASH, RM0385 section 3.7.1: 7 wait states from 210 to 216 MHz at 2.7 V and more. */
#define FLASH_ACR REGISTER(0x40023C00u)
#define ACR_LATENCY 0xFu
#define ACR_7_WAIT_STATES 7u
#define ACR_PREFETCH (1u << 8)
#define ACR_ART (1u << 9)

/* GPIOD, RM0385 section 6.4 */
#define GPIOD_MODER REGISTER(0x40020C00u)
#define GPIOD_PUPDR REGISTER(0x40020C0Cu)
#define GPIOD_AFRH REGISTER(0x40020C24u)

/* USART3, RM0385 section 31.8 */
#define USART3_CR1 REGISTER(0x40004800u)
#define USART3_CR3 REGISTER(0x40004808u)
#define USART3_BRR REGISTER(0x4000480Cu)
#define USART3_ISR REGISTER(0x4000481Cu)
#define USART3_RDR REGISTER(0x40004824u)
#define USART3_TDR REGISTER(0x40004828u)
#define CR1_UE (1u << 0)
#define CR1_RE (1u << 2)
#define CR1_TE (1u << 3)
#define CR3_OVRDIS (1u << 12)
#define ISR_RXNE (1u << 5)
#define ISR_TXE (1u << 7)

/* Core, Armv7-M ARM chapters B3 and C1, Cortex-M7 TRM chapter 3 */
#define SCB_CCR REGISTER(0xE000ED14u)
#define SCB_CCSIDR REGISTER(0xE000ED80u)
#define SCB_CSSELR REGISTER(0xE000ED84u)
#define SCB_ICIALLU REGISTER(0xE000EF50u)
#define SCB_DCISW REGISTER(0xE000EF60u)
#define CCR_DC (1u << 16)
#define CCR_IC (1u << 17)
#define DEMCR REGISTER(0xE000EDFCu)
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL REGISTER(0xE0001000u)
#define DWT_CYCCNT REGISTER(0xE0001004u)
#define DWT_LAR REGISTER(0xE0001FB0u)
#define DWT_LAR_KEY 0xC5ACCE55u
#define DWT_CTRL_CYCCNTENA (1u << 0)

static void barrier(void)
{
    __asm volatile("dsb\n\tisb" ::: "memory");
}

static bool start_external_clock(void)
{
    RCC_CR |= CR_HSEBYP;
    RCC_CR |= CR_HSEON;
    for (uint32_t tries = HSE_TRIES; tries; tries--) {
        if (RCC_CR & CR_HSERDY) {
            return true;
        }
    }
    RCC_CR &= ~CR_HSEON;
    return false;
}

static void start_clocks(void)
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

    /* A Nucleo whose ST-Link gives no clock runs from the internal one: as fast, within 1 %, which a UART bears. */
    uint32_t source = start_external_clock() ? PLLCFGR_SOURCE_HSE | PLLCFGR_216_MHZ(8u) : PLLCFGR_216_MHZ(16u);
    RCC_PLLCFGR = (RCC_PLLCFGR & PLLCFGR_RESERVED) | source;
    RCC_CR |= CR_PLLON;

    /* Section 4.1.4: over-drive is entered while the PLL is on and not yet in use. */
    RCC_APB1ENR |= APB1ENR_PWR;
    (void)RCC_APB1ENR; /* section 5.2.12: a peripheral answers two cycles after its clock is enabled */
    PWR_CR1 |= CR1_ODEN;
    while (!(PWR_CSR1 & CSR1_ODRDY)) {
    }
    PWR_CR1 |= CR1_ODSWEN;
    while (!(PWR_CSR1 & CSR1_ODSWRDY)) {
    }

    FLASH_ACR = ACR_7_WAIT_STATES | ACR_PREFETCH | ACR_ART;
    while ((FLASH_ACR & ACR_LATENCY) != ACR_7_WAIT_STATES) {
    }

    RCC_CFGR = CFGR_APB1_BY_4 | CFGR_APB2_BY_2;
    while (!(RCC_CR & CR_PLLRDY)) {
    }
    RCC_CFGR |= CFGR_SW_PLL;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_PLL) {
    }
}

/* Caches hold garbage after power-up: they are invalidated before they are switched on, the data cache line by line.
 * A data cache that is already on (a reset of the core alone) holds dirty lines, and stays as it is. */
static void start_caches(void)
{
    barrier();
    SCB_ICIALLU = 0;
    barrier();
    if (!(SCB_CCR & CCR_DC)) {
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
    SCB_CCR |= CCR_DC | CCR_IC;
    barrier();
}

static void start_uart(void)
{
    RCC_AHB1ENR |= AHB1ENR_GPIOD;
    RCC_APB1ENR |= APB1ENR_USART3;
    (void)RCC_APB1ENR;
    /* PD8 (transmit) and PD9 (receive, pulled up): alternate function 7 */
    GPIOD_AFRH = (GPIOD_AFRH & ~0xFFu) | 0x77u;
    GPIOD_PUPDR = (GPIOD_PUPDR & ~(3u << 18)) | 1u << 18;
    GPIOD_MODER = (GPIOD_MODER & ~(0xFu << 16)) | 0xAu << 16;

    USART3_CR1 = 0;
    USART3_CR3 = CR3_OVRDIS; /* an overrun loses a byte, which the host notices; it must not block the line */
    USART3_BRR = (APB1_HZ + BAUD / 2u) / BAUD;
    USART3_CR1 = CR1_UE | CR1_RE | CR1_TE;
}

void port_init(void)
{
    start_clocks();
    start_caches();
    start_uart();

    DEMCR |= DEMCR_TRCENA;
    DWT_LAR = DWT_LAR_KEY; /* Cortex-M7 locks the unit against software */
    DWT_CYCCNT = 0;
    DWT_CTRL |= DWT_CTRL_CYCCNTENA;
}

uint8_t port_read(void)
{
    while (!(USART3_ISR & ISR_RXNE)) {
        port_ticks(); /* the counter wraps every 19.9 s */
    }
    return (uint8_t)USART3_RDR;
}

void port_write(uint8_t byte)
{
    while (!(USART3_ISR & ISR_TXE)) {
    }
    USART3_TDR = byte;
}

uint64_t port_ticks(void)
{
    static uint64_t ticks;
    static uint32_t previous;

    uint32_t now = DWT_CYCCNT;
    ticks += now - previous;
    previous = now;
    return ticks;
}

uint32_t port_tick_hz(void)
{
    return CORE_HZ;
}
