/* STM32H742, H743, H753 (RM0433), up to 400 MHz in voltage scale 1, which every silicon revision has; a USART on the pins
 * that the manifest names, at 115,200 8N1; the DWT cycle counter. Sections are RM0433's. */
#include "port.h"
#include "stm32.h"

/* RCC, section 8.7 */
#define RCC_CR REGISTER(0x58024400u)
#define RCC_CFGR REGISTER(0x58024410u)
#define RCC_D1CFGR REGISTER(0x58024418u)
#define RCC_D2CFGR REGISTER(0x5802441Cu)
#define RCC_D3CFGR REGISTER(0x58024420u)
#define RCC_PLLCKSELR REGISTER(0x58024428u)
#define RCC_PLLCFGR REGISTER(0x5802442Cu)
#define RCC_PLL1DIVR REGISTER(0x58024430u)
#define RCC_AHB4ENR REGISTER(0x580244E0u)
#define RCC_APB1LENR REGISTER(0x580244E8u)
#define RCC_APB2ENR REGISTER(0x580244F0u)
#define CR_HSION (1u << 0)
#define CR_HSIRDY (1u << 2)
#define CR_HSIDIV (3u << 3)
#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_HSEBYP (1u << 18)
#define CR_PLL1ON (1u << 24)
#define CR_PLL1RDY (1u << 25)
#define CFGR_SW_PLL1 3u
#define CFGR_SWS (7u << 3)
#define CFGR_SWS_HSI (0u << 3)
#define CFGR_SWS_HSE (2u << 3)
#define CFGR_SWS_PLL1 (3u << 3)
/* The core at full speed, the AXI and AHB buses and FLASH at half of it, every APB at a quarter. */
#define D1CFGR_BUSES (8u << 0 | 4u << 4 | 0u << 8)
#define D2CFGR_BUSES (4u << 4 | 4u << 8)
#define D3CFGR_BUSES (4u << 4)
#define APB_HZ (PORT_CORE_HZ / 4u)
#define PLLCKSELR_SOURCE 3u
#define PLLCKSELR_SOURCE_HSE 2u
#define PLLCFGR_RANGE_2_TO_4_MHZ (1u << 2)
#define PLLCFGR_DIVP1EN (1u << 16)
#define HSI_HZ 64000000u
/* 2 MHz into the oscillator, which runs at twice the core's clock (P = 2); all but M are stored less one. */
#define PLL_INPUT 2000000u
#define PLLCKSELR_M1(source) ((source) / PLL_INPUT << 4)
#define PLL1DIVR_WANTED ((2u * PORT_CORE_HZ / PLL_INPUT - 1u) | 1u << 9 | 1u << 16 | 1u << 24)
/* The oscillator is ready within 2 ms where it exists; this is over 5 ms of 64 MHz cycles. */
#define HSE_TRIES 50000u

/* PWR, section 6.8 */
#define PWR_CSR1 REGISTER(0x58024804u)
#define PWR_CR3 REGISTER(0x5802480Cu)
#define PWR_D3CR REGISTER(0x58024818u)
#define CSR1_ACTVOSRDY (1u << 13)
#define CR3_BYPASS (1u << 0)
#define CR3_LDOEN (1u << 1)
#define CR3_SCUEN (1u << 2)
#define D3CR_VOSRDY (1u << 13)
#define D3CR_VOS (3u << 14)
#define D3CR_VOS_SCALE_1 (3u << 14)

/* FLASH, section 4.9.1; wait states in table 17, for the AXI bus's clock: 2 of them, and WRHIGHFREQ 2, up to 210 MHz. */
#define FLASH_ACR REGISTER(0x52002000u)
#define ACR_LATENCY 0xFu
#define ACR_WRHIGHFREQ (3u << 4)
#define ACR_WRHIGHFREQ_FASTEST (2u << 4)

#define GPIOA 0x58020000u

#if PORT_UART == UART_USART1
#define UART 0x40011000u
#define UART_ENABLE() (RCC_APB2ENR |= 1u << 4)
#elif PORT_UART == UART_USART2
#define UART 0x40004400u
#define UART_ENABLE() (RCC_APB1LENR |= 1u << 17)
#elif PORT_UART == UART_USART3
#define UART 0x40004800u
#define UART_ENABLE() (RCC_APB1LENR |= 1u << 18)
#else
#error "the manifest's uart must be USART1, USART2 or USART3"
#endif
#if PORT_SOURCE == SOURCE_MSI
#error "the manifest's clock source must be hse-crystal, hse-bypass or hsi"
#endif
_Static_assert(PORT_SOURCE_HZ % PLL_INPUT == 0, "the PLL wants a multiple of 2 MHz");
_Static_assert(PORT_CORE_HZ >= 96000000u && PORT_CORE_HZ <= 400000000u, "the PLL makes 96 to 400 MHz");

static bool start_external_clock(void)
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

static void start_clocks(void)
{
    /* From the internal 64 MHz, which is what reset selects: after a reset of the core alone the PLL may still be in use. */
    RCC_CR = (RCC_CR & ~CR_HSIDIV) | CR_HSION;
    while (!(RCC_CR & CR_HSIRDY)) {
    }
    RCC_CFGR = 0;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_HSI) {
    }
    RCC_CR &= ~CR_PLL1ON;
    while (RCC_CR & CR_PLL1RDY) {
    }

    /* Section 6.4.1: the supply is chosen by the first write after power-up, and the voltage cannot be scaled before. */
    PWR_CR3 = (PWR_CR3 & ~(CR3_SCUEN | CR3_BYPASS)) | CR3_LDOEN;
    while (!(PWR_CSR1 & CSR1_ACTVOSRDY)) {
    }
    PWR_D3CR = (PWR_D3CR & ~D3CR_VOS) | D3CR_VOS_SCALE_1;
    while (!(PWR_D3CR & D3CR_VOSRDY)) {
    }

    /* A board without its external clock runs from the internal one: as fast, within 1 %, which a UART bears. clock%
     * tells which it is. */
    RCC_PLLCKSELR = start_external_clock() ? PLLCKSELR_SOURCE_HSE | PLLCKSELR_M1(PORT_SOURCE_HZ) : PLLCKSELR_M1(HSI_HZ);
    RCC_PLLCFGR = PLLCFGR_RANGE_2_TO_4_MHZ | PLLCFGR_DIVP1EN;
    RCC_PLL1DIVR = PLL1DIVR_WANTED;
    RCC_CR |= CR_PLL1ON;

    FLASH_ACR = PORT_WAIT_STATES | ACR_WRHIGHFREQ_FASTEST;
    while ((FLASH_ACR & (ACR_LATENCY | ACR_WRHIGHFREQ)) != (PORT_WAIT_STATES | ACR_WRHIGHFREQ_FASTEST)) {
    }
    RCC_D1CFGR = D1CFGR_BUSES;
    RCC_D2CFGR = D2CFGR_BUSES;
    RCC_D3CFGR = D3CFGR_BUSES;
    while (!(RCC_CR & CR_PLL1RDY)) {
    }
    RCC_CFGR = CFGR_SW_PLL1;
    while ((RCC_CFGR & CFGR_SWS) != CFGR_SWS_PLL1) {
    }
}

void port_init(void)
{
    start_clocks();
    m7_caches_start(PORT_INSTRUCTION, PORT_DATA);

    RCC_AHB4ENR |= UART_PORTS;
    UART_ENABLE();
    (void)RCC_AHB4ENR; /* section 8.5.11: a peripheral answers two cycles after its clock is enabled */
    uart_pins(GPIOA);
    usart_start(UART, (APB_HZ + BAUD / 2u) / BAUD);
    cycle_counter_start();
}

void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {
        (uint32_t)&RCC_CR,      (uint32_t)&RCC_CFGR,     (uint32_t)&RCC_D1CFGR, (uint32_t)&RCC_PLLCKSELR,
        (uint32_t)&RCC_PLLCFGR, (uint32_t)&RCC_PLL1DIVR, (uint32_t)&PWR_CSR1,   (uint32_t)&PWR_D3CR,
        (uint32_t)&FLASH_ACR,   (uint32_t)&SCB_CCR,
    };
    uint32_t inputs = RCC_PLLCKSELR, dividers = RCC_PLL1DIVR, selected = RCC_CFGR & CFGR_SWS;
    bool external = selected == CFGR_SWS_HSE ||
                    (selected == CFGR_SWS_PLL1 && (inputs & PLLCKSELR_SOURCE) == PLLCKSELR_SOURCE_HSE);

    clock->source = !external ? "hsi" : RCC_CR & CR_HSEBYP ? "hse-bypass" : "hse-crystal";
    clock->core_hz = external ? PORT_SOURCE_HZ : HSI_HZ >> (RCC_CR >> 3 & 3u);
    if (selected == CFGR_SWS_PLL1) { /* section 8.7.9: source / M * N / P */
        clock->core_hz = clock->core_hz / (inputs >> 4 & 0x3Fu) * ((dividers & 0x1FFu) + 1u) /
                         ((dividers >> 9 & 0x7Fu) + 1u);
    }
    clock->core_hz = behind_ahb_prescaler(clock->core_hz, RCC_D1CFGR >> 8 & 0xFu); /* D1CPRE, coded as HPRE */
    clock->wait_states = FLASH_ACR & ACR_LATENCY;
    clock->caches = (SCB_CCR & CCR_IC ? PORT_CACHE_INSTRUCTION : 0u) | (SCB_CCR & CCR_DC ? PORT_CACHE_DATA : 0u);
    clock->registers = registers;
    clock->count = sizeof registers / sizeof registers[0];
}

#include "stm32_usart_port.h"
