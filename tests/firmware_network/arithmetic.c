/* The protocol's own number routines, against the machine's. Prints nothing; the exit status is the verdict. */
#include "protocol.c"

uint8_t port_read(void)
{
    return 0;
}

static char printed[64];
static uint32_t length;

void port_write(uint8_t byte)
{
    printed[length++] = (char)byte;
}

void port_init(void)
{
}

uint64_t port_ticks(void)
{
    return 0;
}

uint32_t port_tick_hz(void)
{
    return 1000000;
}

void port_clock(struct port_clock *clock)
{
    (void)clock;
}

uint32_t watermark_used(void)
{
    return 0;
}

uint32_t watermark_reserved(void)
{
    return 0;
}

#include <stdio.h>
#include <string.h>

int main(void)
{
    uint64_t random = 88172645463325252u;

    for (uint32_t round = 0; round < 200000; round++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t value = random >> round % 64u;
        uint32_t divisor = (uint32_t)(random >> 20) % 65535u + 1u;

        uint64_t quotient = value;
        if (divide(&quotient, divisor) != value % divisor || quotient != value / divisor) {
            return 1;
        }
        char expected[64];
        snprintf(expected, sizeof expected, "%llu %03llu", (unsigned long long)value, (unsigned long long)value % 1000u);
        length = 0;
        put_decimal(value, 1);
        port_write(' ');
        put_decimal(value % 1000u, 3);
        printed[length] = '\0';
        if (strcmp(printed, expected) != 0) {
            return 2;
        }
    }
    for (uint32_t digit = 0; digit < 256; digit++) {
        const char *all = "0123456789abcdef", *upper = "0123456789ABCDEF";
        const char *found = digit ? strchr(all, (int)digit) : NULL, *also = digit ? strchr(upper, (int)digit) : NULL;
        uint32_t expected = found ? (uint32_t)(found - all) : also ? (uint32_t)(also - upper) : 16u;
        uint32_t got = hex_digit((char)digit);
        if (got != expected && !(expected == 16u && got > 15u)) {
            return 3;
        }
    }
    return 0;
}
