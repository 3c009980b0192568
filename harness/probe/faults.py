"""What went wrong on the core, in words: decodes the fault status registers and the stacked frame of a Cortex-M.

Pure: it is handed register values and memory, and knows no probe. Registers: ARMv7-M Architecture Reference Manual,
B1.5.6 (exception entry), B1.5.8 (EXC_RETURN), B3.2.15 (CFSR) and following.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import DeviceError
from harness.toolchain.symbols import Symbols

FaultKind = Literal["fault", "lockup", "hang", "reset", "stopped"]

EXCEPTION_NAMES = {
    2: "NMI",
    3: "HardFault",
    4: "MemManage fault",
    5: "BusFault",
    6: "UsageFault",
    7: "SecureFault",
    11: "SVCall",
    12: "debug monitor",
    14: "PendSV",
    15: "SysTick",
}
# The debug monitor too: where no debugger halts the core, a breakpoint instruction ends there (Renode takes it so).
_DEBUG_MONITOR = 12
FAULT_EXCEPTIONS = frozenset({3, 4, 5, 6, 7, _DEBUG_MONITOR})
_EXCEPTION_NUMBER = 0x1FF
_THUMB = 1 << 24
_FRAME_ALIGNED = 1 << 9  # of the stacked xPSR: entry inserted a word to align the stack
_EXC_RETURN = 0xFFFF_FF00
_EXC_RETURN_PROCESS_STACK = 1 << 2
_EXC_RETURN_NO_FPU = 1 << 4
FRAME_BYTES = 32  # r0-r3, r12, lr, pc, xpsr
_FPU_FRAME_BYTES = 104  # the same and s0-s15, fpscr, one word reserved

_LOCKUP_PC = 0xFFFF_FFFE  # what a core in lockup pretends to execute

_MMARVALID, _BFARVALID = 1 << 7, 1 << 15
_IMPRECISERR = 1 << 10
_INVSTATE = 1 << 17

# CFSR bit -> words. {mmfar} and {bfar} are " at ADDRESS" where the register is valid; {jump} says where to.
_CFSR_REASONS = {
    1 << 0: "instruction fetched from memory that may not be executed",
    1 << 1: "data access forbidden by the memory protection{mmfar}",
    1 << 3: "memory protection fault while leaving an exception",
    1 << 4: "memory protection fault while entering an exception (the stack may have overflowed)",
    1 << 5: "memory protection fault while saving floating-point state",
    1 << 8: "bus error while fetching an instruction",
    1 << 9: "precise data bus error{bfar}",
    _IMPRECISERR: "imprecise data bus error (the faulting instruction is a store shortly before the address given)",
    1 << 11: "bus error while leaving an exception",
    1 << 12: "bus error while entering an exception (the stack may have overflowed)",
    1 << 13: "bus error while saving floating-point state",
    1 << 16: "undefined instruction",
    _INVSTATE: "{jump}",
    1 << 18: "invalid return from an exception",
    1 << 19: "coprocessor not available (the FPU is used before CPACR enables it)",
    1 << 20: "stack overflow (stack limit reached)",
    1 << 24: "unaligned access",
    1 << 25: "division by zero",
}
# SHCSR's bit of each exception that is active; external interrupts have theirs in NVIC_IABR.
_SHCSR_ACTIVE = {0: 4, 1: 5, 3: 6, 4: 7, 7: 11, 8: _DEBUG_MONITOR, 10: 14, 11: 15}

_HFSR_REASONS = {1 << 1: "vector table cannot be read", 1 << 31: "breakpoint instruction without a debugger"}


@dataclass(frozen=True)
class CoreState:
    """What was read from a stopped core.

    frame: the 8 words that exception entry stacked, None where they cannot be read or there is no exception.
    cfsr, hfsr, mmfar, bfar: 0 where they cannot be read.
    active: numbers of the exceptions that were entered and not left, nested ones too, as far as the core tells.
    """

    pc: int
    lr: int
    sp: int
    xpsr: int
    cfsr: int = 0
    hfsr: int = 0
    mmfar: int = 0
    bfar: int = 0
    frame: tuple[int, ...] | None = None
    active: frozenset[int] = frozenset()

    @property
    def exception(self) -> int:
        """Number of the exception being handled, 0 in thread mode."""
        return self.xpsr & _EXCEPTION_NUMBER


@dataclass(frozen=True)
class FaultReport:
    """Why the firmware does not go on.

    kind: fault (an exception nobody recovers from), lockup (a fault where no fault handler can run), hang (runs, but
        does not answer), reset (started over by itself), stopped (halted for another reason).
    pc, lr, sp, xpsr: of the code that went wrong, as stacked on exception entry; of the handler where that frame cannot
        be read, and where the core hangs or stopped in one.
    cfsr, hfsr, mmfar, bfar: fault status and address registers; 0 where unknown.
    function: "name+0xoffset" of pc; caller: the same for the return address; None where unknown.
    reasons: decoded from the registers, most telling first. text: all of it in one sentence.
    """

    kind: FaultKind
    pc: int
    lr: int
    sp: int
    xpsr: int
    cfsr: int
    hfsr: int
    bfar: int
    mmfar: int
    function: str | None
    caller: str | None
    reasons: tuple[str, ...]
    text: str = field(repr=False)

    @property
    def registers(self) -> str:
        """The raw values in one line."""
        names = ("pc", "lr", "sp", "xpsr", "cfsr", "hfsr", "mmfar", "bfar")
        return " ".join(f"{name}={getattr(self, name):#010x}" for name in names)

    def error(self) -> DeviceError:
        """The report as an error to raise; its hint shows the registers."""
        return DeviceError(self.text, hint=f"registers: {self.registers}")


def frame_address(lr: int, msp: int, psp: int) -> int | None:
    """Where exception entry stacked the frame, told by the EXC_RETURN value in LR; None when LR holds none."""
    if lr & _EXC_RETURN != _EXC_RETURN:
        return None
    return psp if lr & _EXC_RETURN_PROCESS_STACK else msp


def active_exceptions(shcsr: int, iabr: Sequence[int]) -> frozenset[int]:
    """The numbers of the exceptions that are active, from SHCSR and the words of NVIC_IABR. ARMv6-M tells none."""
    system = {number for bit, number in _SHCSR_ACTIVE.items() if shcsr >> bit & 1}
    return frozenset(
        system | {16 + 32 * i + bit for i, word in enumerate(iabr) for bit in range(32) if word >> bit & 1}
    )


def hanging(states: Sequence[CoreState]) -> CoreState:
    """Which of several looks at a core that runs shows where it hangs.

    A look may come while a timer's interrupt is handled, which has nothing to do with it: that exception is left and
    entered again, the one that hangs is active at every look. Where the core does not tell, what was seen most often.
    Of the looks that show it the last counts: at the first, an answer may still have been on its way.
    """
    held = frozenset[int].intersection(*(state.active for state in states)) | {0}
    candidates = [state for state in states if state.exception in held] or states
    ((exception, _),) = Counter(state.exception for state in candidates).most_common(1)
    return [state for state in candidates if state.exception == exception][-1]


def explain(
    kind: FaultKind,
    state: CoreState,
    symbols: Symbols | None,
    ram: tuple[range, ...] = (),
    observed: tuple[str, ...] = (),
) -> FaultReport:
    """Describe a stopped core.

    symbols: names the functions; ram: where a stack may be (checked if given); observed: reasons from elsewhere.
    """
    exception = state.exception
    pc, lr, sp, xpsr = state.pc, state.lr, state.sp, state.xpsr
    # An exception that is no fault came from outside: what it interrupted is not where the core hangs.
    interrupted = state.frame[6] if state.frame is not None and kind in ("hang", "stopped") else None
    if state.frame is not None and interrupted is None:
        lr, pc, xpsr = state.frame[5], state.frame[6], state.frame[7]
        has_fpu_frame = state.lr & _EXC_RETURN == _EXC_RETURN and not state.lr & _EXC_RETURN_NO_FPU
        sp += _FPU_FRAME_BYTES if has_fpu_frame else FRAME_BYTES
        sp += 4 if xpsr & _FRAME_ALIGNED else 0

    null_call = bool(state.cfsr & _INVSTATE) and pc == 0
    reasons = _reasons(state, null_call) if exception in FAULT_EXCEPTIONS or kind == "lockup" else []
    reasons += observed
    if ram and not any(sp - 1 in region for region in ram):
        reasons.append(f"the stack pointer {sp:#010x} is outside RAM")
    # Without the stacked frame only the handler's registers are known, and those tell nothing about the fault.
    lost = kind == "fault" and state.frame is None
    function = None if lost or null_call else _named(symbols, pc)
    caller = None if lost else _caller(symbols, pc, lr)

    where = f"in {function}" if function else f"at {pc:#010x}"
    if lost:
        where = "at an unknown place (the stack cannot be read)"
    elif pc == _LOCKUP_PC:
        where = "at an unknown place"
    elif kind == "lockup" and state.frame is not None:
        where = f"while handling an exception {where}"
    if caller:
        where += f", called from {caller}"
    if interrupted is not None:
        where += f", which interrupted {_named(symbols, interrupted) or f'{interrupted:#010x}'}"
    text = f"{_what(kind, exception)} {where}" + (f": {'; '.join(reasons)}" if reasons else "")
    return FaultReport(
        kind=kind,
        pc=pc,
        lr=lr,
        sp=sp,
        xpsr=xpsr,
        cfsr=state.cfsr,
        hfsr=state.hfsr,
        bfar=state.bfar,
        mmfar=state.mmfar,
        function=function,
        caller=caller,
        reasons=tuple(reasons),
        text=text,
    )


def state_at_qemu_lockup(log: str) -> CoreState | None:
    """The registers that QEMU prints when a lockup makes it abort (R00=00000000 ... XPSR=41000003), else None."""
    if "fatal: Lockup" not in log:
        return None
    found = {name: int(value, 16) for name, value in re.findall(r"\b(R\d\d|XPSR)=([0-9a-fA-F]{8})", log)}
    pc, lr, sp, xpsr = (found.get(name, 0) for name in ("R15", "R14", "R13", "XPSR"))
    return CoreState(pc, lr, sp, xpsr)


def _what(kind: FaultKind, exception: int) -> str:
    """The event, in the first words of the sentence."""
    name = EXCEPTION_NAMES.get(exception, f"interrupt {exception - 16}")
    if kind == "fault":
        return name
    if kind == "lockup":
        return "lockup (a fault where no fault handler can run)"
    if kind == "reset":
        return "the firmware was reset while it ran, by itself or by a watchdog, and starts over"
    what = "the firmware hangs" if kind == "hang" else "the firmware stopped"
    return f"{what} while handling {name}" if exception else what


def _reasons(state: CoreState, null_call: bool) -> list[str]:
    mmfar = f" at {state.mmfar:#010x}" if state.cfsr & _MMARVALID else ""
    bfar = f" at {state.bfar:#010x}" if state.cfsr & _BFARVALID else ""
    jump = "call of a null function pointer" if null_call else "jump to an address that is not Thumb code"
    words = [text.format(mmfar=mmfar, bfar=bfar, jump=jump) for bit, text in _CFSR_REASONS.items() if state.cfsr & bit]
    words += [text for bit, text in _HFSR_REASONS.items() if state.hfsr & bit]
    return words or ([_HFSR_REASONS[1 << 31]] if state.exception == _DEBUG_MONITOR else [])


def _named(symbols: Symbols | None, address: int) -> str | None:
    found = symbols.at(address) if symbols else None
    return f"{found.name}+{(address & ~1) - found.address:#x}" if found else None


def _caller(symbols: Symbols | None, pc: int, lr: int) -> str | None:
    """The caller by its return address; None where LR is left over from a call that pc's function made itself."""
    if symbols is None or lr & _EXC_RETURN == _EXC_RETURN:
        return None
    # The return address may be the first of the next function, when the call was the last instruction of its own.
    caller = symbols.at((lr & ~1) - 2)
    if caller is None or caller == symbols.at(pc):
        return None
    return f"{caller.name}+{(lr & ~1) - caller.address:#x}"
