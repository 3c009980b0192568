/* STM32U575, U585 (RM0456) without TrustZone (TZEN = 0, as delivered), up to 160 MHz; a USART on the pins that the manifest
 * names, at 115,200 8N1; the DWT cycle counter. Sections are RM0456's. */
#include "port.h"
#include "stm32.h"

/* RCC, section 11.8 */
#define RCC_CR REGISTER(0x46020C00u)
#define RCC_CFGR1 REGISTER(0x46020C1Cu)
#define RCC_CFGR2 REGISTER(0x46020C20u)
#define RCC_CFGR3 REGISTER(0x46020C24u)
#define RCC_PLL1CFGR REGISTER(0x46020C28u)
#define RCC_PLL1DIVR REGISTER(0x46020C34u)
#define RCC_AHB2ENR1 REGISTER(0x46020C8Cu)
#define RCC_AHB3ENR REGISTER(0x46020C94u)
#define RCC_APB1ENR1 REGISTER(0x46020C9Cu)
#define RCC_APB2ENR REGISTER(0x46020CA4u)
#define CR_MSISON (1u << 0)
#define CR_MSISRDY (1u << 2)
#define CR_HSION (1u << 8)
#define CR_HSIRDY (1u << 10)
#define CR_PLL1ON (1u << 24)
#define CR_PLL1RDY (1u << 25)
#define CFGR1_SW_PLL1 3u
#define CFGR1_SWS (3u << 2)
#define CFGR1_SWS_MSIS (0u << 2)
#define CFGR1_SWS_HSI (1u << 2)
#define CFGR1_SWS_PLL1 (3u << 2)
#define AHB3ENR_PWR (1u << 2)
#define PLL1CFGR_SOURCE 3u
#define PLL1CFGR_SOURCE_MSIS 1u
#define PLL1CFGR_SOURCE_HSI 2u
#define PLL1CFGR_RANGE_4_TO_8_MHZ (0u << 2)
#define PLL1CFGR_REN (1u << 18)
#define MSIS_HZ 4000000u /* after reset: MSISRANGE of section 11.8.3 is 4 */
#define HSI_HZ 16000000u
/* 4 MHz into the oscillator, which runs at twice the core's clock (R = 2); M, N and R are stored less one. The booster
 * gets the source as it is: PLL1MBOOST = 0, section 10.5.4 wants 4 to 16 MHz. */
#define PLL_INPUT 4000000u
#define PLL1CFGR_FROM(source, code) \
    ((code) | PLL1CFGR_RANGE_4_TO_8_MHZ | ((source) / PLL_INPUT - 1u) << 8 | 0u << 12 | PLL1CFGR_REN)
#define PLL1DIVR_WANTED ((2u * PORT_CORE_HZ / PLL_INPUT - 1u) | 1u << 9 | 1u << 16 | 1u << 24)

/* PWR, section 10.10: range 1 allows 160 MHz; its booster is needed above 55 MHz. */
#define PWR_VOSR REGISTER(0x4602080Cu)
#define VOSR_BOOSTRDY (1u << 14)
#define VOSR_VOSRDY (1u << 15)
#define VOSR_VOS_RANGE_1 (3u << 16)
#define VOSR_BOOSTEN (1u << 18)

/* FLASH, section 7.9.1; wait states in table 55 */
#define FLASH_ACR REGISTER(0x40022000u)
#define ACR_LATENCY 0xFu
#define ACR_PRFTEN (1u << 8)

/* ICACHE, section 8.7 */
#define ICACHE_CR REGISTER(0x40030400u)
#define ICACHE_SR REGISTER(0x40030404u)
#define ICACHE_CR_EN (1u << 0)
#define ICACHE_SR_BUSYF (1u << 0)

#define GPIOA 0x42020000u

/* After reset every UART is fed by its bus, and the buses run as fast as the core. */
#if PORT_UART == UART_USART1
#define UART 0x40013800u
#define UART_ENABLE() (RCC_APB2ENR |= 1u << 14)
#elif PORT_UART == UART_USART2
#define UART 0x40004400u
#define UART_ENABLE() (RCC_APB1ENR1 |= 1u << 17)
#elif PORT_UART == UART_USART3
#define UART 0x40004800u
#define UART_ENABLE() (RCC_APB1ENR1 |= 1u << 18)
#else
#error "the manifest's uart must be USART1, USART2 or USART3"
#endif

#if PORT_SOURCE == SOURCE_MSI
#define PLL1CFGR_WANTED PLL1CFGR_FROM(MSIS_HZ, PLL1CFGR_SOURCE_MSIS)
_Static_assert(PORT_SOURCE_HZ == MSIS_HZ, "the MSIS runs at 4 MHz");
#elif PORT_SOURCE == SOURCE_HSI
#define PLL1CFGR_WANTED PLL1CFGR_FROM(HSI_HZ, PLL1CFGR_SOURCE_HSI)
_Static_assert(PORT_SOURCE_HZ == HSI_HZ, "the HSI runs at 16 MHz");
#else
#error "the manifest's clock source must be msi or hsi"
#endif
_Static_assert(PORT_CORE_HZ % 2000000u == 0 && PORT_CORE_HZ >= 64000000u && PORT_CORE_HZ <= 160000000u,
               "the PLL makes 64 to 160 MHz in steps of 2 MHz");

static void start_clocks(void)
{
    /* From the MSIS, which is what reset selects: after a reset of the core alone the PLL may still be in use. */
    RCC_CR |= CR_MSISON;
    while (!(RCC_CR & CR_MSISRDY)) {
    }
    RCC_CFGR1 = 0;
    while ((RCC_CFGR1 & CFGR1_SWS) != CFGR1_SWS_MSIS) {
    }
    RCC_CR &= ~CR_PLL1ON;
    while (RCC_CR & CR_PLL1RDY) {
    }
    if (PORT_SOURCE == SOURCE_HSI) {
        RCC_CR |= CR_HSION;
        while (!(RCC_CR & CR_HSIRDY)) {
        }
    }

    RCC_AHB3ENR |= AHB3ENR_PWR;
    (void)RCC_AHB3ENR; /* a peripheral answers two cycles after its clock is enabled */
    PWR_VOSR = VOSR_VOS_RANGE_1;
    while (!(PWR_VOSR & VOSR_VOSRDY)) {
    }
    /* Section 10.5.4: the booster's clock is the PLL's source, which is chosen before. */
    RCC_PLL1CFGR = PLL1CFGR_WANTED;
    RCC_PLL1DIVR = PLL1DIVR_WANTED;
    PWR_VOSR |= VOSR_BOOSTEN;
    while (!(PWR_VOSR & VOSR_BOOSTRDY)) {
    }
    RCC_CR |= CR_PLL1ON;

    FLASH_ACR = PORT_WAIT_STATES | (PORT_PREFETCH ? ACR_PRFTEN : 0u);
    while ((FLASH_ACR & ACR_LATENCY) != PORT_WAIT_STATES) {
    }
    RCC_CFGR2 = 0; /* all buses as fast as the core */
    RCC_CFGR3 = 0;
    while (!(RCC_CR & CR_PLL1RDY)) {
    }
    RCC_CFGR1 = CFGR1_SW_PLL1;
    while ((RCC_CFGR1 & CFGR1_SWS) != CFGR1_SWS_PLL1) {
    }
}

/* Section 8.4.4: it empties itself after reset and whenever it is switched off. */
static void start_cache(void)
{
    while (ICACHE_SR & ICACHE_SR_BUSYF) {
    }
    if (PORT_INSTRUCTION) {
        ICACHE_CR |= ICACHE_CR_EN;
    }
}

void port_init(void)
{
    start_clocks();
    start_cache();
    RCC_AHB2ENR1 |= UART_PORTS;
    UART_ENABLE();
    (void)RCC_AHB2ENR1;
    uart_pins(GPIOA);
    usart_start(UART, (PORT_CORE_HZ + BAUD / 2u) / BAUD);
    cycle_counter_start();
}

void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {(uint32_t)&RCC_CR,       (uint32_t)&RCC_CFGR1,    (uint32_t)&RCC_CFGR2,
                                         (uint32_t)&RCC_PLL1CFGR, (uint32_t)&RCC_PLL1DIVR, (uint32_t)&PWR_VOSR,
                                         (uint32_t)&FLASH_ACR,    (uint32_t)&ICACHE_CR};
    uint32_t configuration = RCC_PLL1CFGR, dividers = RCC_PLL1DIVR, selected = RCC_CFGR1 & CFGR1_SWS;
    bool internal = selected == CFGR1_SWS_HSI ||
                    (selected == CFGR1_SWS_PLL1 && (configuration & PLL1CFGR_SOURCE) == PLL1CFGR_SOURCE_HSI);

    clock->source = internal ? "hsi" : "msi";
    clock->core_hz = internal ? HSI_HZ : MSIS_HZ;
    if (selected == CFGR1_SWS_PLL1) { /* section 11.8.10: source / M * N / R */
        clock->core_hz = clock->core_hz / ((configuration >> 8 & 0xFu) + 1u) * ((dividers & 0x1FFu) + 1u) /
                         ((dividers >> 24 & 0x7Fu) + 1u);
    }
    clock->core_hz = behind_ahb_prescaler(clock->core_hz, RCC_CFGR2 & 0xFu);
    clock->wait_states = FLASH_ACR & ACR_LATENCY;
    clock->caches = (FLASH_ACR & ACR_PRFTEN ? PORT_CACHE_PREFETCH : 0u) |
                    (ICACHE_CR & ICACHE_CR_EN ? PORT_CACHE_INSTRUCTION : 0u);
    clock->registers = registers;
    clock->count = sizeof registers / sizeof registers[0];
}

#include "stm32_usart_port.h"
