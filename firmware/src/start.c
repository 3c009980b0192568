/* From reset to main() on Cortex-M: vector table, FPU, .data, .bss, stack paint. No interrupt is ever taken. */
#include <stdint.h>

#include "watermark.h"

/* From the linker script. */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[], stack_end[];
extern const uint32_t data_image[];

int main(void);

/* A fault stops here, with the registers and the stacked frame untouched, for a debugger to find. The `asm` keeps the
 * loop, and keeps the compiler from sharing its code with another one. */
__attribute__((noreturn, used)) void HardFault_Handler(void)
{
    for (;;) {
        __asm volatile("");
    }
}

__attribute__((noreturn, used)) void Reset_Handler(void)
{
    uint32_t *stack_pointer;

    /* Interrupts stay off for good: whatever is timed is never interrupted. Faults become HardFaults. */
    __asm volatile("cpsid i" ::: "memory");
#if defined(__ARM_FP)
    /* CPACR (Armv7-M ARM B3.2.20): full access to coprocessors 10 and 11, the FPU, before any code may use it. */
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
    __asm volatile("mov %0, sp" : "=r"(stack_pointer));
    watermark_paint(stack_pointer);

    const uint32_t *source = data_image;
    for (uint32_t *word = data_start; word < data_end; word++) {
        *word = *source++;
    }
    for (uint32_t *word = bss_start; word < bss_end; word++) {
        *word = 0;
    }
    main();
    HardFault_Handler(); /* main() never returns */
}

/* Only the 16 exceptions of the core: with interrupts off, no device vector is ever read. */
struct vectors {
    uint32_t *stack_pointer;
    void (*handlers[15])(void);
};

__attribute__((section(".isr_vector"), used)) static const struct vectors vectors = {
    .stack_pointer = stack_end,
    .handlers = {Reset_Handler,
                 HardFault_Handler /* NMI */, HardFault_Handler, HardFault_Handler /* MemManage */,
                 HardFault_Handler /* BusFault */, HardFault_Handler /* UsageFault */, 0, 0, 0, 0,
                 HardFault_Handler /* SVCall */, HardFault_Handler /* DebugMonitor */, 0,
                 HardFault_Handler /* PendSV */, HardFault_Handler /* SysTick */},
};
