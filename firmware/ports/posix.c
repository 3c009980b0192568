/* The firmware as a host process on stdin and stdout, with raw bytes: for tests of the protocol over a pipe or a pty.
 * A tick is a nanosecond. The process ends at the end of its input. */
#define _POSIX_C_SOURCE 200809L

#include "port.h"

#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "watermark.h"

void port_init(void)
{
    struct termios line;

    /* A terminal must neither echo nor translate line ends; a pipe does not anyway. */
    if (tcgetattr(STDIN_FILENO, &line) == 0) {
        line.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INLCR | IGNCR | ISTRIP | IXON);
        line.c_oflag &= ~(tcflag_t)OPOST;
        line.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
        line.c_cc[VMIN] = 1;
        line.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSANOW, &line);
    }
}

uint8_t port_read(void)
{
    uint8_t byte;

    if (read(STDIN_FILENO, &byte, 1) != 1) {
        exit(EXIT_SUCCESS);
    }
    return byte;
}

void port_write(uint8_t byte)
{
    if (write(STDOUT_FILENO, &byte, 1) != 1) {
        exit(EXIT_FAILURE);
    }
}

uint64_t port_ticks(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint32_t port_tick_hz(void)
{
    return 1000000000u;
}

/* As on an emulated machine, there is nothing to choose; the core's clock is not known. */
void port_clock(struct port_clock *clock)
{
    *clock = (struct port_clock){.source = "fixed"};
}

/* A process has no painted stack: both are 0, in place of src/watermark.c. */
uint32_t watermark_used(void)
{
    return 0;
}

uint32_t watermark_reserved(void)
{
    return 0;
}
