/* Firmware for the probe's tests: greets, echoes what it receives, and fails in one way per command ('!' and a letter).
 * The board's UART comes from -DUART_MPS2 (CMSDK UART0) or -DUART_STM32F7 (USART3); memory from link.ld.
 * -DPAYLOAD_WORDS=<n> links that many words of constants, to make a large image. */
#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(address))

#if defined(UART_MPS2)
static void uart_init(void) { REG(0x40004010) = 16; REG(0x40004008) = 3; }
static void put(char c) { while (REG(0x40004004) & 1u) {} REG(0x40004000) = (uint8_t)c; }
static char get(void) { while (!(REG(0x40004004) & 2u)) {} return (char)REG(0x40004000); }
#elif defined(UART_STM32F7)
static void uart_init(void) {
    REG(0x40023830) |= 1u << 3;                     /* RCC_AHB1ENR: GPIOD */
    REG(0x40023840) |= 1u << 18;                    /* RCC_APB1ENR: USART3 */
    REG(0x4000480C) = 16000000u / 115200u;          /* BRR, 16 MHz HSI */
    REG(0x40004800) = 1u << 0 | 1u << 2 | 1u << 3;  /* CR1: UE, RE, TE */
}
static void put(char c) { while (!(REG(0x4000481C) & 1u << 7)) {} REG(0x40004828) = (uint8_t)c; }
static char get(void) { while (!(REG(0x4000481C) & 1u << 5)) {} return (char)REG(0x40004824); }
#else
#error "which UART?"
#endif

volatile uint32_t counter, magic = 0x12345678;

#ifdef PAYLOAD_WORDS
const uint32_t payload[PAYLOAD_WORDS] = {[0] = 0x600DDA7A, [PAYLOAD_WORDS / 2] = 0xFFFFFFFF, [PAYLOAD_WORDS - 1] = 0xE0F};
#define PAYLOAD_SIZE sizeof payload
#else
static const uint32_t payload[1] = {0};
#define PAYLOAD_SIZE 4u
#endif

#define FUNCTION __attribute__((noinline, noclone)) void
FUNCTION undefined(void) { __asm volatile("udf #0"); }
FUNCTION load_from_nothing(void) { counter = REG(0x90000000u); }
FUNCTION null_call(void) { __asm volatile("movs r3, #0\n blx r3" ::: "r3", "lr", "memory"); }
FUNCTION lock_up(void) { __asm volatile("cpsid f\n udf #0"); }
FUNCTION smash_stack(void) { __asm volatile("msr msp, %0\n push {r0}" ::"r"(0x90000000u) : "memory"); }
FUNCTION hang(void) { for (;;) counter++; }
FUNCTION work(void) { for (uint32_t i = 0; i < 100; i++) counter++; }

static void print_hex(uint32_t value) {
    for (int shift = 28; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15u]);
    put('\n');
}

static void command(char letter) {
    switch (letter) {
    case 'U': undefined(); break;
    case 'L': load_from_nothing(); break;
    case 'Z': null_call(); break;
    case 'K': lock_up(); break;
    case 'S': smash_stack(); break;
    case 'H': hang(); break;
    case 'E': REG(0xE000ED24) |= 7u << 16; undefined(); break; /* enables UsageFault: no escalation to HardFault */
    case 'W': work(); break;
    case 'M': print_hex(magic); return;
    case 'P': { uint32_t sum = 0; for (uint32_t i = 0; i < PAYLOAD_SIZE / 4; i++) sum += payload[i]; print_hex(sum); return; }
    default: break;
    }
    put('.');
}

int main(void) {
    uart_init();
    for (const char *c = "ready\n"; *c; c++) put(*c);
    for (;;) {
        char c = get();
        if (c == '!') command(get()); else put(c);
    }
}

extern uint32_t _estack[], _sidata[], _sdata[], _edata[], _sbss[], _ebss[];
void Reset_Handler(void) {
    const uint32_t *from = _sidata;
    for (uint32_t *to = _sdata; to < _edata;) *to++ = *from++;
    for (uint32_t *to = _sbss; to < _ebss;) *to++ = 0;
    main();
}
void HardFault_Handler(void) { for (;;) counter++; }
void Default_Handler(void) { for (;;) counter++; }

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) const vector vectors[16] = {
    (vector)_estack, Reset_Handler, Default_Handler, HardFault_Handler, Default_Handler, Default_Handler, Default_Handler,
    [11] = Default_Handler, Default_Handler, [14] = Default_Handler, Default_Handler,
};
