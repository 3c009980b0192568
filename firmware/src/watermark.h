/* How deep the stack ever was: it is painted at boot, and what is still paint was never used. */
#ifndef WATERMARK_H
#define WATERMARK_H

#include <stdint.h>

/* Paints the stack from its lower end up to `stack_pointer`. Called by Reset_Handler only. */
void watermark_paint(uint32_t *stack_pointer);

/* The most bytes of stack in use at any time since boot. Equal to watermark_reserved() when no paint is left: the stack
 * was filled, or overflowed. */
uint32_t watermark_used(void);

/* Bytes that the linker script reserves for the stack. */
uint32_t watermark_reserved(void);

#endif
