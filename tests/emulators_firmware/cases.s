@ One image with everything that the machine's tests run: they set PC to a label, or let reset run the serial echo.
.syntax unified
.thumb
.fpu fpv5-d16

.set UART, 0x40004800           @ USART3
.set RCC, 0x40023800
.set DWT, 0xE0001000
.set SCB, 0xE000ED00
.set DEMCR, 0xE000EDFC

.section .vectors, "a"
.global vectors
vectors:
    .word 0x20010000, reset + 1, nmi + 1, hard_fault + 1, mem_manage + 1, bus_fault + 1, usage_fault + 1
    .word 0, 0, 0, 0, sv_call + 1, 0, 0, 0, 0

.text
.macro label name
.global \name
.thumb_func
\name:
.endm

.macro handler name
label \name
    b \name
.endm

handler nmi
handler hard_fault
handler mem_manage
handler bus_fault
handler usage_fault

@ Adds 1 to r4 and returns.
label sv_call
    adds r4, #1
    bx lr

@ ---- serial echo: the way the real firmware's port polls

label reset
    bl uart_setup
label echo
    bl uart_read
    bl uart_write
    b echo

@ Reads a byte, computes for a while without looking at the line, and answers with the next letter.
label respond
    bl uart_setup
1:  bl uart_read
    adds r0, #1
    ldr r3, =100000
2:  subs r3, #1
    bne 2b
    bl uart_write
    b 1b

@ Looks at the line now and then while it computes, as for a request to stop.
label poll_now_and_then
    bl uart_setup
    movs r4, #20
1:  ldr r2, [r1, #0x1C]
    ldr r3, =5000
2:  subs r3, #1
    bne 2b
    subs r4, #1
    bne 1b
    wfi
    b .

@ Without any set-up: nothing is sent.
label send_unclocked
    movs r0, #'x'
    ldr r1, =UART
    str r0, [r1, #0x28]
    wfi
    b .

label uart_setup
    ldr r1, =RCC
    ldr r2, [r1, #0x40]
    orr r2, #1 << 18            @ USART3's clock
    str r2, [r1, #0x40]
    ldr r1, =UART
    movs r2, #0x0D              @ UE, RE, TE
    str r2, [r1]
    bx lr

label uart_read
    ldr r1, =UART
1:  ldr r2, [r1, #0x1C]
    tst r2, #1 << 5             @ RXNE
    beq 1b
    ldr r0, [r1, #0x24]
    bx lr

label uart_write
    ldr r1, =UART
1:  ldr r2, [r1, #0x1C]
    tst r2, #1 << 7             @ TXE
    beq 1b
    str r0, [r1, #0x28]
    bx lr

@ ---- counting

label enable_cycle_counter
    ldr r1, =DEMCR
    mov r2, #1 << 24
    str r2, [r1]
    ldr r1, =DWT
    ldr r2, =0xC5ACCE55
    str r2, [r1, #0xFB0]
    movs r2, #1
    str r2, [r1]
    bx lr

@ r0: 1 load, 1 move, 10 rounds of 4, between the reads.
label count_loop
    bl enable_cycle_counter
    ldr r5, [r1, #4]
    movs r6, #10
1:  nop
    add.w r7, r7, #1
    subs r6, #1
    bne 1b
    ldr r0, [r1, #4]
    subs r0, r5
    wfi
    b .

@ Two reads in one block: PC has to be known in the middle of it.
label count_straight            @ r0: 3
    bl enable_cycle_counter
    ldr r5, [r1, #4]
    nop
    nop.w
    ldr r0, [r1, #4]
    subs r0, r5
    wfi
    b .

@ Mixes blocks of all kinds: calls, IT blocks, a table branch, loads that miss the page table, a long straight line.
label count_mixed
    ldr r8, =0x20000000
    movs r6, #7
1:  tst r6, #1
    ittte eq
    addeq r7, #1
    ldreq r0, [r8]
    addeq r8, r8, #1024
    subne r7, #1
    bl leaf
    and r0, r6, #3
    tbb [pc, r0]
2:  .byte (3f - 2b) / 2, (4f - 2b) / 2, (5f - 2b) / 2, (5f - 2b) / 2
3:  nop
4:  nop
5:  .rept 700
    add.w r3, r3, r2
    .endr
    push {r0-r3}
    pop {r0-r3}
    cbz r6, 6f
    subs r6, #1
    bne 1b
6:  wfi
    b .

@ Loads in the middle of an IT block; then blocks that are not conditional. r0: how often those ran.
label count_conditional
    ldr r8, =0x20000000
    movs r6, #20
    movs r0, #0
1:  tst r6, #1
    itte eq
    ldreq r1, [r8]
    addeq r8, r8, #1024
    ldrne r2, [r8]
    bl 2f
    subs r6, #1
    bne 1b
    wfi
    b .
2:  add r0, r0, #1
    bx lr

@ Accesses of every width that begin at every byte of some lines, around the end of tightly coupled memory and in flash.
label count_misaligned
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
    ldr r7, =misaligned_ends
1:  ldr r8, [r7], #4
    cmp r8, #0
    beq 3f
    movs r6, #96
2:  ldr r1, [r8]
    ldrh r2, [r8]
    ldrsb r3, [r8]
    tst r8, #0x20000000         @ not in flash
    itttt ne
    strne r1, [r8]
    ldrne r1, [r8, #5]
    strhne r2, [r8, #31]
    strne r1, [r8, #33]
    bic r0, r8, #3
    ldrd r1, r2, [r0, #4]
    vldr d1, [r0, #36]
    ldm r0, {r1, r2, r3, r4, r5}
    ldrex r1, [r0]
    tst r0, #0x20000000
    beq 4f
    strex r2, r1, [r0]
    strd r1, r2, [r0, #12]
    vstr d1, [r0, #28]
    stm r0, {r1, r2, r3, r4, r5}
4:  add r8, r8, #1
    subs r6, #1
    bne 2b
    b 1b
3:  wfi
    b .
.align 2
misaligned_ends:
    .word 0x2000FFD0, 0x200103D0, 0x20020001, 0x08000040, 0

@ Misaligned accesses that begin in one line and end in the next, which nothing else touches.
label count_split
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
    ldr r7, =split_begins
1:  ldr r8, [r7], #4
    cmp r8, #0
    beq 3f
    movs r6, #24
2:  ldr r1, [r8]
    ldrh r2, [r8, #129]
    bic r0, r8, #3
    vldr d1, [r0, #256]
    tst r8, #0x20000000         @ not in flash
    beq 4f
    str r1, [r8, #384]
    strh r2, [r8, #513]
    vstr d1, [r0, #640]
4:  add r8, r8, #64
    subs r6, #1
    bne 2b
    b 1b
3:  wfi
    b .
.align 2
split_begins:                   @ the first comes to the end of tightly coupled memory
    .word 0x2000FCFE, 0x2002001E, 0x0800001E, 0x0801005E, 0

label leaf
    it ne
    bxne lr
    bx lr

.ltorg

@ 6 million instructions in blocks of six.
label speed
    ldr r6, =1000000
    ldr r8, =0x20000000
1:  ldr r1, [r8]
    adds r1, #1
    str r1, [r8]
    mla r2, r1, r1, r2
    subs r6, #1
    bne 1b
    wfi
    b .

@ ---- faults: each label's first instructions set up, `bad_<label>` is the one that faults

label undefined
    nop
label bad_undefined
    udf #0

label arm_state
    adr r0, 1f
    bx r0
.align 2
1:
label bad_arm_state
    nop

label load_nothing
    mov r0, #0x90000000
    movs r2, #1
label bad_load_nothing
    ldr r1, [r0, #8]
    movs r2, #2

label store_nothing
    mov r0, #0x90000000
    movs r2, #1
label bad_store_nothing
    str r1, [r0, #4]
    movs r2, #2
    str r2, [sp, #-4]!

label store_flash
    mov r0, #0x08000000
    movs r2, #1
label bad_store_flash
    strb r1, [r0, #5]
    movs r2, #2

@ Begins in RAM and goes on behind its end.
label load_over_edge
    ldr r0, =0x2004FFFE
label bad_load_over_edge
    ldr r1, [r0]

label load_in_it_block
    mov r0, #0x90000000
    movs r2, #1
    cmp r2, #1
    ittt eq
    moveq r2, #3
label bad_load_in_it_block
    ldreq r1, [r0]
    moveq r2, #5

label unmodelled_peripheral       @ the window watchdog and the random number generator
    ldr r0, =0x40002C00
    mov r1, #1
    str r1, [r0, #4]
    ldr r1, [r0, #4]
    ldr r2, =0x50060800
    ldrh r3, [r2]
    ldrb r3, [r0, #0x10]
    wfi
    b .

label jump_nothing
    ldr r0, =0x90000001
    bx r0

label jump_peripheral
    ldr r0, =UART + 1
    bx r0

label call_null
    movs r0, #0
    blx r0

label push_nothing
    mov r0, #0x90000000
    mov sp, r0
label bad_push_nothing
    push {r1, r2}

label exclusive_misaligned
    ldr r0, =0x20000002
label bad_exclusive_misaligned
    ldrex r1, [r0]

label coprocessor
    nop
label bad_coprocessor
    cdp p1, 0, c0, c0, c0

label fpu_off
    movs r2, #1
label bad_fpu_off
    vmov s0, r2
    movs r2, #2

label fpu_off_in_it_block
    movs r2, #1
    cmp r2, #1
    itte eq
    moveq r2, #3
label bad_fpu_off_in_it_block
    vmoveq s0, r2
    movne r2, #5

@ The condition fails: no fault.
label fpu_off_skipped
    movs r2, #1
    cmp r2, #2
    it eq
    vmoveq s0, r2
    wfi
    b .

label fpu_on
    ldr r0, =SCB
    ldr r1, [r0, #0x88]
    orr r1, #0xF << 20
    str r1, [r0, #0x88]
    dsb
    isb
label bad_fpu_on
    vmov.f32 s1, #1.5
    vadd.f32 s0, s1, s1
    vmov r3, s0
    wfi
    b .

label fpu_on_then_off
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
    bl use_fpu
    movs r1, #0
    str r1, [r0, #0x88]
    isb
    bl use_fpu
    wfi
    b .
label use_fpu
    vmov s0, r1
    bx lr

label double_precision
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
label bad_double_precision
    vadd.f64 d0, d1, d2
    wfi
    b .

@ FPv5 has it, FPv4 does not.
label float_v5
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
label bad_float_v5
    vmaxnm.f32 s0, s1, s2
    wfi
    b .

label divide_by_zero
    ldr r0, =SCB
    movs r3, #5
    movs r2, #0
    udiv r1, r3, r2             @ gives 0 as long as it is not trapped
    ldr r4, [r0, #0x14]
    orr r4, #1 << 4             @ DIV_0_TRP
    str r4, [r0, #0x14]
    isb
    movs r2, #1
    sdiv r1, r3, r2
    movs r2, #0
label bad_divide_by_zero
    sdiv r1, r3, r2

label unaligned_trap
    ldr r0, =SCB
    ldr r3, =0x20000001
    ldr r1, [r3]                @ allowed as long as it is not trapped
    ldr r4, [r0, #0x14]
    orr r4, #1 << 3             @ UNALIGN_TRP
    str r4, [r0, #0x14]
    isb
    ldrb r1, [r3]
    movs r2, #1
label bad_unaligned_trap
    ldr r1, [r3, #4]
    movs r2, #2

label unaligned_pair
    ldr r3, =0x20000001
    movs r2, #1
label bad_unaligned_pair
    ldrd r0, r1, [r3, #4]
    movs r2, #2
    wfi
    b .

label breakpoint
    nop
label bad_breakpoint
    bkpt #1
    b .

label fault_in_handler
    ldr r0, =SCB
    ldr r1, =bad_vectors
    str r1, [r0, #8]
    udf #1
.align 7
bad_vectors:
    .word 0x20010000, 0, 0, udf_handler + 1, 0, 0, 0
    .word 0, 0, 0, 0, 0, 0, 0, 0, 0
label udf_handler
    udf #2

label no_vectors
    ldr r0, =SCB
    mov r1, #0x90000000
    str r1, [r0, #8]
    udf #1

@ ---- supervisor calls, stacks, resets

label call_supervisor
    movs r4, #0
    movs r0, #11
    svc #3
    svc #4
    adds r0, #1
    wfi
    b .

label call_supervisor_misaligned
    movs r4, #0
    sub sp, #4
    mov r5, sp
    svc #3
    mov r6, sp
    wfi
    b .

label call_supervisor_masked
    cpsid i
    svc #3
label bad_call_supervisor_masked   @ what is stacked is behind it
    b .

@ Unprivileged, on the process stack; back through SVC.
label process_stack
    movs r4, #0
    ldr r0, =0x20008000
    msr psp, r0
    movs r0, #3
    msr control, r0
    isb
    push {r4}
    svc #1
    mrs r5, control
    mov r6, sp
    wfi
    b .

@ Only privileged code may mask interrupts: the handler does, and sees CONTROL.
label mask_in_handler
    ldr r0, =SCB
    ldr r1, =mask_vectors
    str r1, [r0, #8]
    ldr r0, =0x20008000
    msr psp, r0
    movs r0, #3
    msr control, r0
    isb
    cpsid i                     @ ignored
    mrs r4, primask
    svc #1
    wfi
    b .
label mask_handler
    mrs r5, primask
    mrs r6, control
    cpsid i
    mrs r7, primask
    bx lr
.align 7
mask_vectors:
    .word 0x20010000, 0, 0, hard_fault + 1, 0, 0, 0, 0, 0, 0, 0, mask_handler + 1, 0, 0, 0, 0

@ The handler sees an extended frame; s0 survives its use of the FPU.
label call_supervisor_float
    ldr r0, =SCB
    mov r1, #0xF << 20
    str r1, [r0, #0x88]
    isb
    ldr r1, =float_vectors
    str r1, [r0, #8]
    vmov.f32 s0, #2.0
    mov r7, sp
    svc #1
    vmov r3, s0
    mov r6, sp
    wfi
    b .
label float_handler
    mov r5, lr
    mov r8, sp
    mrs r4, control
    vmov.f32 s0, #3.0
    bx lr
.align 7
float_vectors:
    .word 0x20010000, 0, 0, hard_fault + 1, 0, 0, 0, 0, 0, 0, 0, float_handler + 1, 0, 0, 0, 0

@ A UsageFault handler that skips the faulting instruction.
label skip_fault
    ldr r0, =SCB
    ldr r1, [r0, #0x24]
    orr r1, #1 << 18            @ USGFAULTENA
    str r1, [r0, #0x24]
    ldr r1, =skip_vectors
    str r1, [r0, #8]
    movs r4, #0
    udf #1
    adds r4, #1
    wfi
    b .
label skip_handler
    ldr r0, [sp, #0x18]
    adds r0, #2
    str r0, [sp, #0x18]
    bx lr
.align 7
skip_vectors:
    .word 0x20010000, 0, 0, hard_fault + 1, 0, 0, skip_handler + 1, 0, 0, 0, 0, 0, 0, 0, 0, 0

label software_reset
    ldr r0, =SCB
    ldr r1, =0x05FA0004
    str r1, [r0, #0x0C]
    b .

label hang
    adds r0, #1
    b hang

label sleep
    wfi
    b sleep

@ Copies a function to RAM, calls it, changes it there, calls it again: r4 counts 1, then 2.
label code_in_ram
    movs r4, #0
    ldr r0, =0x20000400
    ldr r1, =0x47703401         @ adds r4, #1; bx lr
    str r1, [r0]
    orr r5, r0, #1
    blx r5
    ldr r1, =0x34013401         @ adds r4, #1 twice
    ldr r2, =0xBF004770         @ bx lr; nop
    strd r1, r2, [r0]
    dsb
    isb
    blx r5
    wfi
    b .

label yield_and_wait
    yield
    wfe
    sev
    movs r0, #7
    wfi
    b .
.ltorg

@ ---- one instruction of each form that accesses memory; r0 points to the middle of RAM, r1 = 8, r2 = 12

.align 2
literal:
    .word 0, 0
label accesses
    ldr r3, literal
    ldr r3, [r0, r1]
    str r3, [r0, r1]
    ldrb r3, [r0, r1]
    ldrsb r3, [r0, r1]
    ldrh r3, [r0, r1]
    ldrsh r3, [r0, r1]
    strb r3, [r0, r1]
    strh r3, [r0, r1]
    ldr r3, [r0, #124]
    str r3, [r0, #4]
    ldrb r3, [r0, #31]
    strh r3, [r0, #62]
    ldr r3, [sp, #40]
    str r3, [sp, #8]
    push {r3, r4, lr}
    pop {r3, r4}
    stmdb sp!, {r3, r4, r8}
    ldmia sp!, {r3, r4, r8}
    mov r5, r0
    stmia r5!, {r3, r4}
    mov r5, r0
    ldmia r5, {r3, r4}
    ldmdb r5, {r3, r4, r6, r9}
    ldr.w r3, literal
    ldr.w r3, [r0, #1000]
    ldr.w r3, [r0, #-8]
    ldr r3, [r5], #4
    str r3, [r5, #-16]!
    ldrh.w r3, [r0, r2, lsl #2]
    ldrsb.w r3, [r0, #-255]
    strb.w r3, [r0, #3000]
    ldrd r3, r4, [r0, #-24]
    strd r3, r4, [r5], #8
    ldrd r3, r4, [r5, #16]!
    ldrex r3, [r0, #20]
    strex r4, r3, [r0, #20]
    ldrexb r3, [r0]
    ldrexh r3, [r0]
    clrex
    vldr s0, [r0, #12]
    vldr d1, [r0, #-16]
    vstr s0, [r5]
    vldr s1, literal
    vpush {d0-d1}
    vpop {d0-d1}
    vldmia r5!, {s2-s5}
    vstmdb r5!, {s2-s4}
    wfi
