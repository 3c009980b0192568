/* What nRF51 and nRF52 share: the UART (nRF51 reference manual chapter 29, nRF52840 product specification section 6.33),
 * and the high-frequency clock. */
#ifndef NRF_H
#define NRF_H

#include "cortex_m.h"

#define CLOCK_TASKS_HFCLKSTART REGISTER(0x40000000u)
#define CLOCK_EVENTS_HFCLKSTARTED REGISTER(0x40000100u)
#define CLOCK_HFCLKSTAT REGISTER(0x4000040Cu)
#define HFCLKSTAT_CRYSTAL (1u << 0)

#define UART_IRQ 2u
#define UART_TASKS_STARTRX REGISTER(0x40002000u)
#define UART_TASKS_STARTTX REGISTER(0x40002008u)
#define UART_EVENTS_RXDRDY REGISTER(0x40002108u)
#define UART_EVENTS_TXDRDY REGISTER(0x4000211Cu)
#define UART_INTENSET REGISTER(0x40002304u)
#define UART_ENABLE REGISTER(0x40002500u)
#define UART_PSELTXD REGISTER(0x4000250Cu)
#define UART_PSELRXD REGISTER(0x40002514u)
#define UART_RXD REGISTER(0x40002518u)
#define UART_TXD REGISTER(0x4000251Cu)
#define UART_BAUDRATE REGISTER(0x40002524u)
#define UART_RXDRDY (1u << 2)
#define UART_ENABLED 4u
#define UART_BAUDRATE_115200 0x01D7E000u

/* A pin's number where a UART wants it: 32 to a group. */
#define NRF_PIN(group, pin) (32u * (group) + (pin))

/* The UART's baud rate comes from the crystal; without it, the internal oscillator is up to 6 % off. */
static inline void crystal_start(void)
{
    CLOCK_EVENTS_HFCLKSTARTED = 0;
    CLOCK_TASKS_HFCLKSTART = 1;
    while (!CLOCK_EVENTS_HFCLKSTARTED) {
    }
}

/* gpio: port 0's registers; port 1, where there is one, lies 0x300 behind. The pins are set up as section 29.2 says. */
static inline void uart_start(uint32_t gpio)
{
    uint32_t transmit = 1u << PORT_TX_PIN;

    REGISTER(gpio + 0x300u * PORT_TX_GROUP + 0x508u) = transmit; /* OUTSET: the line is idle when it becomes an output */
    REGISTER(gpio + 0x300u * PORT_TX_GROUP + 0x518u) = transmit; /* DIRSET */
    REGISTER(gpio + 0x300u * PORT_RX_GROUP + 0x700u + 4u * PORT_RX_PIN) = 3u << 2; /* PIN_CNF: input, pulled up */
    UART_PSELTXD = NRF_PIN(PORT_TX_GROUP, PORT_TX_PIN);
    UART_PSELRXD = NRF_PIN(PORT_RX_GROUP, PORT_RX_PIN);
    UART_BAUDRATE = UART_BAUDRATE_115200;
    UART_ENABLE = UART_ENABLED;
    UART_TASKS_STARTRX = 1;
    UART_TASKS_STARTTX = 1;
}

/* The byte whose event was seen. The event is cleared first: reading RXD lets the next byte in, whose event must stay. */
static inline uint8_t uart_take(void)
{
    UART_EVENTS_RXDRDY = 0;
    (void)UART_EVENTS_RXDRDY; /* nRF52840 PS section 6.1.8: an event takes up to four cycles to be gone */
    return (uint8_t)UART_RXD;
}

static inline void uart_send(uint8_t byte)
{
    UART_EVENTS_TXDRDY = 0;
    UART_TXD = byte;
    while (!UART_EVENTS_TXDRDY) {
    }
}

#endif
