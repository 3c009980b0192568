"""The few facts about Thumb instructions that the simulator needs beside executing them. Not a disassembler.

Which instructions a block holds and which of them need a check that Unicorn does not make, and which memory an
instruction touches. Encodings: Armv7-M Architecture Reference Manual (DDI 0403E), chapter A5 and appendix A7.7.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

PC = 15
SP = 13

# Reads a core register, r0 to r14, by its number.
ReadRegister = Callable[[int], int]


class Kind(enum.Enum):
    """Instructions that need a look, most of them before they run."""

    FLOAT = enum.auto()
    """Of coprocessor 10 or 11: faults while CPACR keeps the FPU off, or where there is none."""
    FLOAT_V5 = enum.auto()
    """A floating-point instruction that FPv5 added (VSEL, VMAXNM, VRINTx, VCVTA): undefined on a Cortex-M4."""
    DIVIDE = enum.auto()
    """UDIV or SDIV: faults on a zero divisor when CCR.DIV_0_TRP says so."""
    MASK = enum.auto()
    """CPS or MSR: may let pass an interrupt that waits. Ends its block."""


@dataclass(frozen=True)
class Access:
    """The memory that an instruction touches. size: bytes in all. alignment: what a misaligned address faults below.

    always: the alignment is demanded whatever CCR.UNALIGN_TRP says (Armv7-M ARM A3.2.1).
    """

    address: int
    size: int
    alignment: int
    always: bool


def is_wide(halfword: int) -> bool:
    """Whether an instruction that begins with `halfword` has 32 bits."""
    return halfword >= 0xE800


def instruction_size(halfword: int) -> int:
    """Bytes of the instruction that begins with `halfword`."""
    return 4 if halfword >= 0xE800 else 2


def scan(code: bytes) -> tuple[int, list[tuple[int, Kind]]]:
    """How many instructions the block `code` holds, and those that need a look: (byte offset, kind)."""
    halfwords = memoryview(code).cast("H")
    count = at = 0
    end = len(halfwords)
    found: list[tuple[int, Kind]] = []
    while at < end:
        count += 1
        first = halfwords[at]
        if first < 0xE800:
            if first & 0xFFE0 == 0xB660:
                found.append((2 * at, Kind.MASK))
            at += 1
            continue
        if at + 1 < end:
            kind = _kind(first, halfwords[at + 1])
            if kind is not None:
                found.append((2 * at, kind))
        at += 2
    return count, found


def it_length(halfword: int) -> int:
    """How many instructions the IT instruction `halfword` makes conditional; 0 when it is none."""
    if halfword & 0xFF00 != 0xBF00 or not halfword & 0xF:
        return 0
    mask = halfword & 0xF
    return 4 - ((mask & -mask).bit_length() - 1)


def it_remaining(xpsr: int) -> int:
    """How many instructions are still conditional, by the ITSTATE in xPSR; 0 outside an IT block."""
    mask = (xpsr >> 25 & 3) | (xpsr >> 8 & 0xC)
    return 4 - ((mask & -mask).bit_length() - 1) if mask else 0


def divisor(code: bytes) -> int:
    """The register that holds the divisor of the UDIV or SDIV that `code` begins with."""
    return code[2] & 0xF


def _kind(first: int, second: int) -> Kind | None:
    if first & 0xEC00 == 0xEC00 and second & 0x0E00 == 0x0A00 and first & 0x0300 != 0x0300:
        return Kind.FLOAT_V5 if _is_float_v5(first, second) else Kind.FLOAT
    if first & 0xFFD0 == 0xFB90 and second & 0x00F0 == 0x00F0:
        return Kind.DIVIDE
    if first & 0xFFE0 == 0xF380 and second & 0xD000 == 0x8000:
        return Kind.MASK
    return None


def _is_float_v5(first: int, second: int) -> bool:
    if first & 0xFF00 == 0xFE00:  # VSEL, VMAXNM, VMINNM, VRINTA/N/P/M, VCVTA/N/P/M
        return True
    # VRINTR and VRINTZ, VRINTX: their neighbours in the same group are older.
    return (first & 0xFFBF == 0xEEB6 and second & 0x50 == 0x40) or (first & 0xFFBF == 0xEEB7 and second & 0xD0 == 0x40)


def memory_access(first: int, second: int, pc: int, register: ReadRegister) -> Access | None:
    """What the instruction at `pc` reads or writes; None when it is no load or store.

    first, second: its halfwords (second is ignored for a 16-bit instruction). register: the core registers before it.
    """
    if is_wide(first):
        return _wide_access(first, second, pc, register)
    return _narrow_access(first, pc, register)


def _literal(pc: int) -> int:
    return (pc + 4) & ~3


def _at(address: int, size: int, alignment: int | None = None, *, always: bool = False) -> Access:
    return Access(address & 0xFFFFFFFF, size, alignment or size, always)


def _words(address: int, count: int) -> Access:
    return _at(address, 4 * count, 4, always=True)


def _narrow_access(first: int, pc: int, register: ReadRegister) -> Access | None:
    base = first >> 3 & 7
    match first >> 12:
        case 0x4 if first & 0x0800:
            return _at(_literal(pc) + 4 * (first & 0xFF), 4)
        case 0x5:
            size = (4, 2, 1, 1, 4, 2, 1, 2)[first >> 9 & 7]
            return _at(register(base) + register(first >> 6 & 7), size)
        case 0x6:
            return _at(register(base) + 4 * (first >> 6 & 31), 4)
        case 0x7:
            return _at(register(base) + (first >> 6 & 31), 1)
        case 0x8:
            return _at(register(base) + 2 * (first >> 6 & 31), 2)
        case 0x9:
            return _at(register(SP) + 4 * (first & 0xFF), 4)
        case 0xB if first & 0x0600 == 0x0400:
            count = (first & 0x1FF).bit_count()
            return _words(register(SP) - (0 if first & 0x0800 else 4 * count), count)
        case 0xC:
            return _words(register(first >> 8 & 7), (first & 0xFF).bit_count())
    return None


def _wide_access(first: int, second: int, pc: int, register: ReadRegister) -> Access | None:
    def base() -> int:
        return _literal(pc) if first & 0xF == PC else register(first & 0xF)

    if first & 0xFE40 == 0xE800 and first & 0x0180 in (0x0080, 0x0100):  # LDM, STM
        count = second.bit_count()
        return _words(base() - (4 * count if first & 0x0100 else 0), count)
    if first & 0xFE40 == 0xE840:
        return _dual_or_exclusive(first, second, pc, base, register)
    if first & 0xFE00 == 0xF800:
        return _single(first, second, base, register)
    if first & 0xFE00 == 0xEC00 and second & 0x0E00 == 0x0A00 and first & 0x01A0:  # not VMOV of two registers
        offset = 4 * (second & 0xFF)
        if first & 0x0120 == 0x0100:  # VLDR, VSTR
            return _at(base() + (offset if first & 0x0080 else -offset), 8 if second & 0x0100 else 4, 4, always=True)
        return _at(base() - (offset if first & 0x0100 else 0), offset, 4, always=True)
    return None


def _dual_or_exclusive(first: int, second: int, pc: int, base: Callable[[], int], register: ReadRegister) -> Access:
    offset = 4 * (second & 0xFF)
    if first & 0x0120:  # LDRD, STRD
        signed = offset if first & 0x0080 else -offset
        return _at(base() + (signed if first & 0x0100 else 0), 8, 4, always=True)
    if not first & 0x0080:  # LDREX, STREX
        return _at(base() + offset, 4, always=True)
    operation = second >> 4 & 0xF
    if first & 0x0010 and operation < 2:  # TBB, TBH
        index = register(second & 0xF)
        table = pc + 4 if first & 0xF == PC else base()
        return _at(table + (2 * index if operation else index), 2 if operation else 1)
    return _at(base(), 2 if operation & 1 else 1, always=True)  # LDREXB/H, STREXB/H


def _single(first: int, second: int, base: Callable[[], int], register: ReadRegister) -> Access:
    size = 1 << (first >> 5 & 3)
    if first & 0xF == PC or first & 0x0080:
        offset = second & 0xFFF
        return _at(base() + (offset if first & 0x0080 else -offset), size)
    if not second & 0x0800:
        return _at(base() + (register(second & 0xF) << (second >> 4 & 3)), size)
    offset = second & 0xFF
    signed = offset if second & 0x0200 else -offset
    return _at(base() + (signed if second & 0x0400 else 0), size)


def it_state(code: bytes, offset: int) -> int:
    """ITSTATE at byte `offset` of the block `code`, which begins outside any IT block (Armv7-M ARM A7.3.3)."""
    halfwords = memoryview(code).cast("H")
    state = at = 0
    while 2 * at < offset:
        first = halfwords[at]
        if it_length(first):
            state = first & 0xFF
        elif state:
            state = state & 0xE0 | state << 1 & 0x1F if state & 7 else 0
        at += instruction_size(first) // 2
    return state
