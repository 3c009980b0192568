"""How the core takes faults, supervisor calls, interrupts and exception returns: Armv7-M ARM (DDI 0403E) B1.5.

Unicorn does none of it. Every bus error is precise here; on a Cortex-M7 those of stores often are not. Floating-point
registers are saved as soon as their frame is made, where silicon waits until a handler uses the FPU: no firmware that
leaves the frame alone can tell.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Literal

from harness.emulators.simulator.address_space import AddressSpace
from harness.emulators.simulator.core_registers import (
    CONTROL_FPCA,
    CONTROL_SPSEL,
    XPSR_IPSR,
    XPSR_IT,
    XPSR_T,
    CoreRegisters,
)
from harness.emulators.simulator.nvic import IDLE_PRIORITY
from harness.emulators.simulator.system import SystemControl

Architecture = Literal["armv6-m", "armv7-m", "armv8-m"]

LOCKUP_PC = 0xFFFF_FFFE

_XPSR_ALIGN = 1 << 9
_BASIC_FRAME, _EXTENDED_FRAME = 0x20, 0x68


class CoreException(IntEnum):
    """Exception numbers of the core."""

    NMI = 2
    HARD_FAULT = 3
    MEM_MANAGE = 4
    BUS_FAULT = 5
    USAGE_FAULT = 6
    SV_CALL = 11


class Cfsr(IntFlag):
    """Configurable fault status register."""

    IACCVIOL = 1 << 0
    DACCVIOL = 1 << 1
    MMARVALID = 1 << 7
    IBUSERR = 1 << 8
    PRECISERR = 1 << 9
    UNSTKERR = 1 << 11
    STKERR = 1 << 12
    BFARVALID = 1 << 15
    UNDEFINSTR = 1 << 16
    INVSTATE = 1 << 17
    INVPC = 1 << 18
    NOCP = 1 << 19
    STKOF = 1 << 20
    UNALIGNED = 1 << 24
    DIVBYZERO = 1 << 25


class Hfsr(IntFlag):
    """HardFault status register."""

    VECTTBL = 1 << 1
    FORCED = 1 << 30
    DEBUGEVT = 1 << 31


@dataclass(frozen=True)
class Fault:
    """Something that an instruction did wrong. address: what it accessed, for the fault address register."""

    status: Cfsr
    address: int | None = None

    @property
    def exception(self) -> CoreException:
        """The exception that the status bit belongs to."""
        if self.status >= Cfsr.UNDEFINSTR:
            return CoreException.USAGE_FAULT
        return CoreException.BUS_FAULT if self.status >= Cfsr.IBUSERR else CoreException.MEM_MANAGE


class ExceptionModel:
    """Takes exceptions and returns from them, by changing the core's registers and its stack.

    lockup: why the core has locked up, in words, or None. Only reset() ends it.
    """

    def __init__(
        self,
        core: CoreRegisters,
        memory: AddressSpace,
        system: SystemControl,
        architecture: Architecture,
        *,
        has_fpu: bool,
    ) -> None:
        self._core = core
        self._memory = memory
        self._system = system
        self._nvic = system.nvic
        self._architecture = architecture
        self._has_fpu = has_fpu
        self.lockup: str | None = None

    def reset(self) -> None:
        """Forget a lockup."""
        self.lockup = None

    def fault(self, fault: Fault) -> None:
        """The instruction at PC faults: its handler is entered, or HardFault's, or the core locks up."""
        system = self._system
        if self._architecture == "armv6-m":  # it has neither fault status nor handlers but HardFault's
            self._hard_fault(Hfsr(0), f"{_name(fault.exception)} ({fault.status.name})")
            return
        system.cfsr |= fault.status
        if fault.address is not None:
            if fault.exception is CoreException.BUS_FAULT:
                system.bfar = fault.address
                system.cfsr |= Cfsr.BFARVALID
            else:
                system.mmfar = fault.address
                system.cfsr |= Cfsr.MMARVALID
        exception = fault.exception
        enabled = system.shcsr_enables >> (exception + 12) & 1
        if enabled and self._group_priority(exception) < self.execution_priority():
            self._enter(exception)
        else:
            self._hard_fault(Hfsr.FORCED, f"{_name(exception)} ({fault.status.name})")

    def supervisor_call(self) -> None:
        """SVC: PC is behind it already."""
        if self._group_priority(CoreException.SV_CALL) < self.execution_priority():
            self._enter(CoreException.SV_CALL)
        else:
            self._hard_fault(Hfsr.FORCED, "SVC at a priority that does not allow it")

    def breakpoint(self) -> None:
        """BKPT at PC, and no debugger to halt for."""
        self._hard_fault(Hfsr.DEBUGEVT, "BKPT without a debugger")

    def interrupt(self) -> bool:
        """Take the most urgent pending exception, if what runs may be interrupted by it. Whether it was taken."""
        exception = self._takable()
        if exception is None:
            return False
        self._enter(exception)
        return True

    def interruptible(self) -> bool:
        """Whether interrupt() would take one."""
        return self._takable() is not None

    def wakes(self) -> bool:
        """Whether something is pending that ends WFI: what would be taken if PRIMASK were clear."""
        first = self._nvic.next()
        return first is not None and first[1] < min(self._nvic.active_priority(), self._base_priority())

    def leave(self, value: int) -> None:
        """A branch to `value`, one of the EXC_RETURN values, in handler mode."""
        core, controller = self._core, self._nvic
        exception = core.read("xpsr") & XPSR_IPSR
        to_thread = bool(value & 8)
        others = controller.active - {exception}
        known = value & 0xF in (0x1, 0x9, 0xD) or self._architecture == "armv8-m"
        if exception not in controller.active or not known or to_thread == bool(others):
            self.fault(Fault(Cfsr.INVPC))
            return
        controller.end(exception)
        if exception != CoreException.NMI:
            core.write("faultmask", 0)
        following = self._takable()
        if following is not None:  # tail chaining: the frame stays where it is
            self._begin(following, value)
            return
        self._unstack(value, to_thread)

    def _unstack(self, value: int, to_thread: bool) -> None:
        core = self._core
        extended = self._has_fpu and not value & 0x10
        on_process_stack = value & 0xC == 0xC
        stack_pointer = core.read("psp" if on_process_stack else "msp")
        frame = self._memory.load(stack_pointer, _EXTENDED_FRAME if extended else _BASIC_FRAME)
        if frame is None:
            self.fault(Fault(Cfsr.UNSTKERR))
            return
        words = struct.unpack(f"<{len(frame) // 4}I", frame)
        r0, r1, r2, r3, r12, lr, pc, xpsr = words[:8]
        core.write("xpsr", xpsr & ~_XPSR_ALIGN & ~XPSR_IPSR | (0 if to_thread else xpsr & XPSR_IPSR))
        control = core.read("control") & ~(CONTROL_FPCA | (CONTROL_SPSEL if to_thread else 0))
        control |= (CONTROL_FPCA if extended else 0) | (CONTROL_SPSEL if on_process_stack else 0)
        core.write("control", control)
        core.write("sp", stack_pointer + len(frame) + (4 if xpsr & _XPSR_ALIGN else 0))
        for name, word in zip(("r0", "r1", "r2", "r3", "r12", "lr"), (r0, r1, r2, r3, r12, lr), strict=True):
            core.write(name, word)
        if extended:
            for number, word in enumerate(words[8:24]):
                core.write(f"s{number}", word)
            core.write("fpscr", words[24])
            self._system.note_float_frame(None)
        core.write("pc", pc & ~1)

    def execution_priority(self) -> int:
        """The priority that code has now: what may interrupt it must have a lower number."""
        core = self._core
        priority = min(self._nvic.active_priority(), self._base_priority())
        if core.read("primask"):
            priority = min(priority, 0)
        if core.read("faultmask"):
            priority = min(priority, -1)
        return priority

    def _base_priority(self) -> int:
        base = self._core.read("basepri")
        return self._nvic.group_priority(base) if base else IDLE_PRIORITY

    def _group_priority(self, exception: int) -> int:
        return self._nvic.group_priority(self._nvic.priority(exception))

    def _takable(self) -> int | None:
        first = self._nvic.next()
        return first[0] if first is not None and first[1] < self.execution_priority() else None

    def _hard_fault(self, why: Hfsr, cause: str) -> None:
        if self.execution_priority() <= self._nvic.priority(CoreException.HARD_FAULT):
            self._lock_up(f"{cause} at {self._core.read('pc'):#010x}, at HardFault's priority or above")
            return
        self._system.hfsr |= why
        self._enter(CoreException.HARD_FAULT)

    def _enter(self, exception: int) -> None:
        core, system = self._core, self._system
        xpsr, control = core.read("xpsr"), core.read("control")
        extended = self._has_fpu and bool(control & CONTROL_FPCA) and system.stacks_float
        in_handler = bool(xpsr & XPSR_IPSR)
        if not self._push(xpsr, extended=extended):
            system.cfsr |= Cfsr.STKERR
            # The handler runs even though its frame is lost; where it cannot be BusFault's, it is HardFault's.
            if exception not in (CoreException.HARD_FAULT, CoreException.BUS_FAULT):
                system.hfsr |= Hfsr.FORCED
                exception = CoreException.HARD_FAULT
        self._begin(exception, self._link(in_handler, bool(control & CONTROL_SPSEL), extended))

    def _link(self, in_handler: bool, on_process_stack: bool, extended: bool) -> int:
        """EXC_RETURN: Armv7-M ARM table B1-8; Armv8-M ARM (DDI 0553) D1.2.95, for a core without secure state."""
        mode = 0x1 if in_handler else 0xD if on_process_stack else 0x9
        link = 0xFFFF_FFB0 | mode & ~1 if self._architecture == "armv8-m" else 0xFFFF_FFF0 | mode
        return link & ~0x10 if extended else link

    def _begin(self, exception: int, link: int) -> None:
        """Go to the handler of `exception`, or to HardFault's; the frame is made."""
        core, system = self._core, self._system
        vector = self._vector(exception)
        if vector is None:
            system.hfsr |= Hfsr.VECTTBL
            exception = CoreException.HARD_FAULT
            vector = self._vector(exception)
        if vector is None:
            self._lock_up(f"the vector table at {system.vtor:#010x} cannot be read")
            return
        xpsr = core.read("xpsr")
        core.write("lr", link)
        # Thread mode's stack selection can only be changed before handler mode begins.
        core.write("control", core.read("control") & ~(CONTROL_FPCA | (0 if xpsr & XPSR_IPSR else CONTROL_SPSEL)))
        core.write("xpsr", xpsr & ~(XPSR_IT | XPSR_T | XPSR_IPSR) | (XPSR_T if vector & 1 else 0) | exception)
        core.write("pc", vector & ~1)
        self._nvic.begin(exception)

    def _push(self, xpsr: int, *, extended: bool) -> bool:
        """Stack the frame and move the stack pointer; False when memory refused it."""
        core = self._core
        stack_pointer = core.read("sp")
        size = _EXTENDED_FRAME if extended else _BASIC_FRAME
        frame = (stack_pointer - size) & 0xFFFF_FFF8
        words = [core.read(name) for name in ("r0", "r1", "r2", "r3", "r12", "lr", "pc")]
        words.append(xpsr & ~_XPSR_ALIGN | (_XPSR_ALIGN if stack_pointer & 4 else 0))
        if extended:
            words += [core.read(f"s{number}") for number in range(16)]
            words += [core.read("fpscr"), 0]
        stored = self._memory.store(frame, struct.pack(f"<{len(words)}I", *words))
        core.write("sp", frame)
        if extended:
            self._system.note_float_frame(frame + _BASIC_FRAME)
        return stored

    def _vector(self, exception: int) -> int | None:
        data = self._memory.load(self._system.vtor + 4 * exception, 4)
        return None if data is None else int.from_bytes(data, "little")

    def _lock_up(self, why: str) -> None:
        self.lockup = why
        self._core.write("pc", LOCKUP_PC)


def _name(exception: CoreException) -> str:
    return {4: "MemManage", 5: "BusFault", 6: "UsageFault"}[exception]
