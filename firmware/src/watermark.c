#include "watermark.h"

#define PAINT 0xC5C5C5C5u

/* Left unpainted below the caller's frame, for this function's own: main() goes deeper than that at once. */
#define MARGIN_WORDS 16

/* From the linker script: the stack is [stack_start, stack_end) and grows down. */
extern uint32_t stack_start[], stack_end[];

void watermark_paint(uint32_t *stack_pointer)
{
    for (uint32_t *word = stack_start; word < stack_pointer - MARGIN_WORDS; word++) {
        *word = PAINT;
    }
}

uint32_t watermark_used(void)
{
    const uint32_t *word = stack_start;

    while (word < stack_end && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)stack_end - (uintptr_t)word);
}

uint32_t watermark_reserved(void)
{
    return (uint32_t)((uintptr_t)stack_end - (uintptr_t)stack_start);
}
