/* The serial line and the clock of port.h, on the newer USART or LPUART at UART and the core's cycle counter: included
 * once, by a port that has defined UART. */
#ifndef STM32_USART_PORT_H
#define STM32_USART_PORT_H

#include "port.h"
#include "stm32.h"

uint8_t port_read(void)
{
    while (!usart_received(UART)) {
        port_ticks(); /* the counter wraps every 2^32 cycles: 10.7 s at 400 MHz */
    }
    return usart_read(UART);
}

void port_write(uint8_t byte)
{
    usart_write(UART, byte);
}

uint64_t port_ticks(void)
{
    return cycle_counter_ticks();
}

uint32_t port_tick_hz(void)
{
    return PORT_CORE_HZ;
}

#endif
