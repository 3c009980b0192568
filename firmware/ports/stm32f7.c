/* STM32F74x to F77x (RM0385, RM0410), up to 216 MHz from an external or the internal clock; a USART on the pins that the
 * manifest names, at 115,200 8N1; the DWT cycle counter. */
#define OVER_DRIVE_ABOVE 180000000u
#include "stm32f4_f7.h"

/* FLASH_ACR, RM0385 section 3.7.1: the accelerator is on the ITCM bus only; code at 0x08000000 comes through the caches. */
#define ACR_ART (1u << 9)

void port_init(void)
{
    start_clocks((PORT_PREFETCH ? ACR_PREFETCH : 0u) | (PORT_ART ? ACR_ART : 0u));
    m7_caches_start(PORT_INSTRUCTION, PORT_DATA);
    start_uart_pins();
    usart_start(UART, (UART_HZ + BAUD / 2u) / BAUD);
    cycle_counter_start();
}

void port_clock(struct port_clock *clock)
{
    static const uint32_t registers[] = {(uint32_t)&RCC_CR, (uint32_t)&RCC_PLLCFGR, (uint32_t)&RCC_CFGR,
                                         (uint32_t)&PWR_CSR, (uint32_t)&FLASH_ACR, (uint32_t)&SCB_CCR};

    read_clocks(clock);
    clock->caches = (FLASH_ACR & ACR_PREFETCH ? PORT_CACHE_PREFETCH : 0u) |
                    (FLASH_ACR & ACR_ART ? PORT_CACHE_ART : 0u) |
                    (SCB_CCR & CCR_IC ? PORT_CACHE_INSTRUCTION : 0u) | (SCB_CCR & CCR_DC ? PORT_CACHE_DATA : 0u);
    clock->registers = registers;
    clock->count = sizeof registers / sizeof registers[0];
}

#include "stm32_usart_port.h"
