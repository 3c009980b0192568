"""Fault registers in words: every bit, the frames of exception entry, and what cannot be read."""

from __future__ import annotations

import dataclasses

import pytest

from harness.probe.faults import (
    CoreState,
    active_exceptions,
    explain,
    frame_address,
    hanging,
    state_at_qemu_lockup,
)
from harness.toolchain.symbols import Symbol, Symbols

NAMES = Symbols([Symbol("main", 0x1000, 0x40), Symbol("kernel", 0x1040, 0x20), Symbol("HardFault_Handler", 0x1060, 4)])
RAM = (range(0x2000_0000, 0x2000_4000),)
FRAME = (0, 1, 2, 3, 12, 0x1011, 0x1044, 0x0100_0000)  # r0-r3, r12, lr, pc, xpsr
IN_HARDFAULT = CoreState(pc=0x1060, lr=0xFFFF_FFF9, sp=0x2000_3F00, xpsr=0x0100_0003, frame=FRAME)


def test_the_stacked_registers_tell_where_it_happened() -> None:
    report = explain("fault", dataclasses.replace(IN_HARDFAULT, cfsr=0x8200, bfar=0x9000_0000), NAMES, RAM)
    assert (report.pc, report.lr, report.sp) == (0x1044, 0x1011, 0x2000_3F20)
    assert (report.function, report.caller) == ("kernel+0x4", "main+0x10")
    assert report.text == "HardFault in kernel+0x4, called from main+0x10: precise data bus error at 0x90000000"
    assert "bfar=0x90000000" in report.registers
    assert report.error().exit_code == 3


@pytest.mark.parametrize(
    ("exc_return", "stacked_xpsr", "size"),
    [
        (0xFFFF_FFF9, 0x0100_0000, 32),
        (0xFFFF_FFF9, 0x0100_0200, 36),  # aligned on entry
        (0xFFFF_FFE9, 0x0100_0000, 104),  # with floating-point registers
    ],
)
def test_the_stack_pointer_is_the_one_before_the_exception(exc_return: int, stacked_xpsr: int, size: int) -> None:
    state = dataclasses.replace(IN_HARDFAULT, lr=exc_return, frame=(*FRAME[:7], stacked_xpsr))
    assert explain("fault", state, NAMES).sp == IN_HARDFAULT.sp + size


@pytest.mark.parametrize(
    ("lr", "address"), [(0xFFFF_FFF9, 100), (0xFFFF_FFF1, 100), (0xFFFF_FFFD, 200), (0xFFFF_FFED, 200), (0x1011, None)]
)
def test_the_frame_is_on_the_stack_that_was_in_use(lr: int, address: int | None) -> None:
    assert frame_address(lr, msp=100, psp=200) == address


@pytest.mark.parametrize(
    ("bit", "words"),
    [
        (0, "may not be executed"),
        (1, "forbidden by the memory protection"),
        (3, "leaving an exception"),
        (4, "entering an exception"),
        (5, "saving floating-point state"),
        (8, "bus error while fetching"),
        (9, "precise data bus error"),
        (10, "imprecise data bus error"),
        (11, "bus error while leaving"),
        (12, "bus error while entering"),
        (13, "bus error while saving"),
        (16, "undefined instruction"),
        (17, "not Thumb code"),
        (18, "invalid return"),
        (19, "the FPU is used before CPACR enables it"),
        (20, "stack overflow"),
        (24, "unaligned access"),
        (25, "division by zero"),
    ],
)
def test_every_bit_of_cfsr_has_words(bit: int, words: str) -> None:
    (reason,) = explain("fault", dataclasses.replace(IN_HARDFAULT, cfsr=1 << bit), NAMES, RAM).reasons
    assert words in reason
    assert "0x" not in reason  # no address unless its register is valid


def test_a_null_function_pointer_is_called_that() -> None:
    state = dataclasses.replace(IN_HARDFAULT, cfsr=1 << 17, frame=(*FRAME[:6], 0, 0))
    report = explain("fault", state, NAMES, RAM)
    assert report.text == "HardFault at 0x00000000, called from main+0x10: call of a null function pointer"


def test_a_jump_to_nowhere_names_where_it_came_from() -> None:
    state = dataclasses.replace(IN_HARDFAULT, cfsr=1 << 8, frame=(*FRAME[:5], 0x1041, 0x9000_0000, 0x0100_0000))
    # The call was the last instruction of main: the return address is the first of the next function.
    assert explain("fault", state, NAMES, RAM).caller == "main+0x40"


def test_a_stale_link_register_is_not_taken_for_the_caller() -> None:
    state = dataclasses.replace(IN_HARDFAULT, frame=(*FRAME[:5], 0x1049, 0x104C, 0x0100_0000))
    assert explain("fault", state, NAMES, RAM).caller is None


def test_a_lost_stack_is_said() -> None:
    state = dataclasses.replace(IN_HARDFAULT, sp=0x1FFF_FF00, cfsr=1 << 12, frame=None)
    report = explain("fault", state, NAMES, RAM)
    assert (report.function, report.caller) == (None, None)
    assert report.text.startswith("HardFault at an unknown place (the stack cannot be read): bus error while entering")
    assert "the stack pointer 0x1fffff00 is outside RAM" in report.reasons


def test_a_hang_says_where_and_in_which_exception() -> None:
    running = CoreState(pc=0x1044, lr=0x1011, sp=0x2000_4000, xpsr=0x0100_0000)
    assert explain("hang", running, NAMES, RAM).text == "the firmware hangs in kernel+0x4, called from main+0x10"
    in_interrupt = dataclasses.replace(running, xpsr=0x0100_0000 | 16 + 39)
    assert explain("hang", in_interrupt, NAMES).text.startswith("the firmware hangs while handling interrupt 39 in")


def test_a_hang_in_a_handler_is_not_put_on_what_it_interrupted() -> None:
    in_handler = CoreState(pc=0x1062, lr=0xFFFF_FFF9, sp=0x2000_3F00, xpsr=0x0100_0000 | 16 + 39, frame=FRAME)
    report = explain("hang", in_handler, NAMES, RAM)
    assert (report.pc, report.sp, report.caller) == (0x1062, 0x2000_3F00, None)
    assert report.text == (
        "the firmware hangs while handling interrupt 39 in HardFault_Handler+0x2, which interrupted kernel+0x4"
    )


def seen(exception: int, *active: int) -> CoreState:
    return CoreState(pc=0x1000 + exception, lr=0x1011, sp=0x2000_4000, xpsr=exception, active=frozenset(active))


@pytest.mark.parametrize(
    ("looks", "exception"),
    [
        ([seen(0)] * 3, 0),
        ([seen(15, 15), seen(15, 15), seen(0)], 0),  # the timer is left, the main program is where it hangs
        ([seen(15, 14, 15), seen(15, 14, 15), seen(14, 14)], 14),
        ([seen(15, 37, 14, 15), seen(37, 37, 14)], 37),  # nested: 14 is active all the time, but is never run
        ([seen(15, 15), seen(15, 15)], 15),
        ([seen(15), seen(14), seen(14)], 14),  # ARMv6-M does not tell what is active
    ],
)
def test_a_timer_is_not_blamed_for_a_hang(looks: list[CoreState], exception: int) -> None:
    assert hanging(looks).exception == exception


def test_active_exceptions_are_read_from_their_bits() -> None:
    assert active_exceptions(0x7_0000, (0,) * 8) == frozenset()  # enables only
    assert active_exceptions(1 << 10 | 1 << 11 | 1 << 7, (1, 1 << 31)) == {11, 14, 15, 16, 16 + 63}


def test_without_an_image_addresses_stay_numbers() -> None:
    assert explain("hang", CoreState(0x1044, 0x1011, 0x2000_0100, 1 << 24), None).text == (
        "the firmware hangs at 0x00001044"
    )


def test_registers_from_an_abort_of_qemu() -> None:
    dump = """qemu: fatal: Lockup: can't escalate 3 to HardFault (current priority -1)

R00=00000021 R01=00000000 R02=00000194 R03=00000006
R12=00000000 R13=203fffe8 R14=00001011 R15=00001044
XPSR=81000000 N--- T priv-thread
"""
    assert state_at_qemu_lockup(dump) == CoreState(pc=0x1044, lr=0x1011, sp=0x203F_FFE8, xpsr=0x8100_0000)
    assert state_at_qemu_lockup("Segmentation fault") is None
