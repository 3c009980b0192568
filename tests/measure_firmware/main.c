/* A firmware for an STM32F7 that speaks the MLPerf Tiny protocol and shares nothing with ours: bytes come by interrupt into
 * a ring, the core sleeps in between, time is TIM2 with its overflows counted to 64 bits, SysTick ticks every millisecond,
 * and lines are run in PendSV. It greets when it boots, as many do.
 *
 * -DMODEL="..." and -DINPUT_BYTES=n: what it says it is, and takes. -DOUTPUTS=n. -DFLOAT: its results come from the FPU.
 * -DFAULT_<name>: one way to fail. */
#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(address))

#ifndef MODEL
#define MODEL "kws01"
#endif
#ifndef INPUT_BYTES
#define INPUT_BYTES 490u
#endif
#ifndef OUTPUTS
#define OUTPUTS 12u
#endif

#define RCC 0x40023800u
#define TIM2 0x40000000u
#define UART 0x40011000u /* USART1 */
#define SCB 0xE000ED00u
enum { TIM2_IRQ = 28, UART_IRQ = 37, TIMER_HZ = 1000000 };

extern uint32_t _sidata[], _sdata[], _edata[], _sbss[], _ebss[], _estack[];

/* --- time --- */

static volatile uint32_t overflows, milliseconds;

void TIM2_IRQHandler(void)
{
    REG(TIM2 + 0x10) = 0;
    overflows++;
}

void SysTick_Handler(void) { milliseconds++; }

/* Microseconds. An overflow that is pending but not counted yet shows in the update flag. */
static uint64_t now(void)
{
    __asm volatile("cpsid i" ::: "memory");
    uint32_t low = REG(TIM2 + 0x24), high = overflows;
    if (REG(TIM2 + 0x10) & 1u) {
        low = REG(TIM2 + 0x24);
        high++;
    }
    __asm volatile("cpsie i" ::: "memory");
    return (uint64_t)high << 32 | low;
}

/* --- the line --- */

static volatile uint8_t ring[64];
static volatile uint32_t head, tail;
static char line[128];
static uint32_t length;

void USART1_IRQHandler(void)
{
    if (REG(UART + 0x1C) & 1u << 5) {
        ring[head++ % sizeof ring] = (uint8_t)REG(UART + 0x24);
    }
}

static void put(char c)
{
    while (!(REG(UART + 0x1C) & 1u << 7)) {
    }
    REG(UART + 0x28) = (uint8_t)c;
}

static void text(const char *s)
{
    while (*s) {
        put(*s++);
    }
}

static void number(uint32_t value)
{
    char digits[11];
    uint32_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10u);
    } while (value /= 10u);
    while (count) {
        put(digits[--count]);
    }
}

/* --- the network: sums over the input, one for each output --- */

static uint8_t input[INPUT_BYTES];
static uint32_t expected, have;
static uint32_t sums[OUTPUTS], total;

static void infer(void)
{
#ifdef FAULT_HANG
    for (volatile uint32_t forever = 1; forever; forever++) {
    }
#endif
#ifdef FAULT_BUS
    (void)REG(0x90000000u);
#endif
#ifdef FAULT_STACK
    volatile uint32_t deep[64];
    deep[0] = have;
    if (have) {
        infer();
    }
    sums[0] = deep[0];
#endif
#ifdef FAULT_LOCKUP
    __asm volatile("cpsid f\n udf #0");
#endif
#ifdef FAULT_RESETS
    REG(SCB + 0x0C) = 0x05FA0004u;
    for (;;) {
    }
#endif
    total = 1;
    for (uint32_t output = 0; output < OUTPUTS; output++) {
        sums[output] = 1;
        for (uint32_t i = output; i < INPUT_BYTES; i += OUTPUTS) {
            sums[output] += input[i];
        }
        total += sums[output];
    }
}

static void result(uint32_t thousandths)
{
    number(thousandths / 1000u);
    put('.');
    put((char)('0' + thousandths / 100u % 10u));
    put((char)('0' + thousandths / 10u % 10u));
    put((char)('0' + thousandths % 10u));
}

static void results(void)
{
#ifdef FAULT_RESULTS
    text("m-results-[0.1x,");
#else
    text("m-results-[");
#endif
    for (uint32_t output = 0; output < OUTPUTS; output++) {
#ifdef FLOAT
        float share = (float)sums[output] / (float)total;
        result((uint32_t)(share * 1000.0f));
#else
        result(sums[output] * 1000u / total);
#endif
        if (output + 1 < OUTPUTS) {
            put(',');
        }
    }
    text("]\r\n");
}

static void lap(void)
{
    text("m-lap-us-");
    number((uint32_t)now());
    text("\r\n");
}

/* --- commands --- */

static int begins(const char *s, const char *with)
{
    while (*with) {
        if (*s++ != *with++) {
            return 0;
        }
    }
    return 1;
}

static uint32_t decimal(const char **s)
{
    uint32_t value = 0;
    while (**s == ' ') {
        (*s)++;
    }
    while (**s >= '0' && **s <= '9') {
        value = value * 10u + (uint32_t)(*(*s)++ - '0');
    }
    return value;
}

static uint8_t nibble(char c) { return (uint8_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10); }

static void run(const char *s)
{
    if (begins(s, "name")) {
        text("m-name-dut-[somebody else's board]\r\n");
    } else if (begins(s, "profile")) {
        text("m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[" MODEL "]\r\n");
    } else if (begins(s, "timestamp")) {
        lap();
    } else if (begins(s, "db load ")) {
        s += 8;
        expected = decimal(&s);
        have = 0;
        if (expected != INPUT_BYTES) {
            text("e-[wrong size]\r\n");
        } else {
            text("m-[Expecting ");
            number(expected);
            text(" bytes]\r\n");
        }
    } else if (begins(s, "db ")) {
        for (s += 3; s[0] && s[1] && have < INPUT_BYTES; s += 2) {
            input[have++] = (uint8_t)(nibble(s[0]) << 4 | nibble(s[1]));
        }
        if (have == expected) {
            text("m-load-done\r\n");
        }
    } else if (begins(s, "infer ")) {
        s += 6;
        uint32_t runs = decimal(&s), warmups = decimal(&s);
        text("m-warmup-start-");
        number(warmups);
        text("\r\n");
        while (warmups--) {
            infer();
        }
        text("m-warmup-done\r\nm-infer-start-");
        number(runs);
        text("\r\n");
        lap();
        while (runs--) {
            infer();
        }
        lap();
        text("m-infer-done\r\n");
        results();
    } else if (begins(s, "results")) {
        results();
    } else {
        text("e-[Unknown command]\r\n");
    }
    text("m-ready\r\n");
}

/* Lowest priority: runs whole lines while bytes and time go on. */
void PendSV_Handler(void)
{
    run(line);
    length = 0;
}

void HardFault_Handler(void)
{
    for (;;) {
    }
}

/* --- start --- */

int main(void)
{
    REG(RCC + 0x40) |= 1u << 0;  /* TIM2 */
    REG(RCC + 0x44) |= 1u << 4;  /* USART1 */
    REG(SCB + 0x20) = 0xFFu << 16; /* PendSV least urgent; SysTick stays most urgent */
    REG(0xE000E400u + UART_IRQ - UART_IRQ % 4) |= 0x40u << 8 * (UART_IRQ % 4);
    REG(0xE000E400u + TIM2_IRQ - TIM2_IRQ % 4) |= 0x20u << 8 * (TIM2_IRQ % 4);
    REG(0xE000E100u) = 1u << TIM2_IRQ;
    REG(0xE000E104u) = 1u << (UART_IRQ - 32);

    REG(TIM2 + 0x28) = 16000000u / TIMER_HZ - 1u; /* PSC: HSI is 16 MHz */
    REG(TIM2 + 0x2C) = 0xFFFFFFFFu;
    REG(TIM2 + 0x14) = 1; /* EGR: load the prescaler */
    REG(TIM2 + 0x10) = 0;
    REG(TIM2 + 0x0C) = 1; /* DIER: update */
    REG(TIM2 + 0x00) = 1;
    REG(0xE000E014u) = 16000u - 1u;
    REG(0xE000E018u) = 0;
    REG(0xE000E010u) = 7;

    REG(UART + 0x0C) = 16000000u / 115200u;
    REG(UART + 0x00) = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 5; /* UE, RE, TE, RXNEIE */
#if defined(FAULT_BOOT_RESETS)
    REG(SCB + 0x0C) = 0x05FA0004u;
#elif !defined(FAULT_SILENT)
    text("m-init-done\r\nm-ready\r\n");
#endif
    for (;;) {
        __asm volatile("cpsid i" ::: "memory");
        if (head == tail) {
            __asm volatile("wfi"); /* wakes although interrupts are masked: none is lost between the look and the sleep */
        }
        __asm volatile("cpsie i\n isb" ::: "memory");
        while (tail != head) {
            char c = (char)ring[tail++ % sizeof ring];
#ifdef FAULT_SILENT
            continue;
#endif
            if (c != '%') {
                if (length < sizeof line - 1) {
                    line[length++] = c;
                }
                continue;
            }
            line[length] = 0;
            REG(SCB + 0x04) = 1u << 28; /* PendSV */
            __asm volatile("dsb\n isb");
        }
    }
}

void Reset_Handler(void)
{
    for (uint32_t *to = _sdata, *from = _sidata; to < _edata;) {
        *to++ = *from++;
    }
    for (uint32_t *to = _sbss; to < _ebss;) {
        *to++ = 0;
    }
#ifdef FLOAT
    REG(SCB + 0x88) |= 0xFu << 20;
    __asm volatile("dsb\n isb");
#endif
    main();
}

__attribute__((section(".vectors"), used)) const struct {
    void *stack;
    void (*core[15])(void);
    void (*lines[64])(void);
} vectors = {
    .stack = _estack,
    .core = {Reset_Handler, HardFault_Handler, HardFault_Handler, HardFault_Handler, HardFault_Handler, HardFault_Handler,
             0, 0, 0, 0, HardFault_Handler, 0, 0, PendSV_Handler, SysTick_Handler},
    .lines = {[TIM2_IRQ] = TIM2_IRQHandler, [UART_IRQ] = USART1_IRQHandler},
};
