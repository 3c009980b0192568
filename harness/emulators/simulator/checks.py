"""Faults that Unicorn does not raise: FPU use, division by zero, misaligned accesses. Hooks where they may happen.

Instructions that let interrupts pass are watched here too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from harness.emulators.simulator import decode
from harness.emulators.simulator.address_space import AddressSpace
from harness.emulators.simulator.core_registers import FLOAT, GENERAL, XPSR_IT, CoreRegisters
from harness.emulators.simulator.decode import Kind
from harness.emulators.simulator.engine import Hook, hook_accesses, hook_instruction, unhook
from harness.emulators.simulator.exceptions import Cfsr, Fault
from harness.emulators.simulator.stops import Late
from harness.emulators.simulator.system import CCR_DIV_0_TRP, CCR_UNALIGN_TRP, SystemControl

# What instructions can change, beside xPSR, PC and memory.
_UNDONE = (*GENERAL, *FLOAT, "control")


class Checks:
    """The checks of one machine.

    stale: whether renew() has to be called before code runs. current_block: its address. on_unmasking: called in front
    of an instruction that may let interrupts pass. on_fault: called once a fault is found. on_failure: called with what
    must not be raised inside a hook. all_alignment: whether every access is checked that silicon never allows.
    """

    def __init__(
        self,
        uc: Any,
        registers: CoreRegisters,
        space: AddressSpace,
        system: SystemControl,
        *,
        has_float_v5: bool,
        all_alignment: bool,
        current_block: Callable[[], int],
        on_unmasking: Callable[[], None],
        on_fault: Callable[[Late], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.stale = True
        self._uc = uc
        self._registers = registers
        self._space = space
        self._system = system
        self._has_float_v5 = has_float_v5
        self._all_alignment = all_alignment
        self._current_block = current_block
        self._on_unmasking = on_unmasking
        self._on_fault = on_fault
        self._on_failure = on_failure
        # Where instructions are that may fault as the core is set up now.
        self._guards: set[int] = set()
        self._guards_stale = True
        # Where instructions are that may let an interrupt pass.
        self._unmasking: set[int] = set()
        self._hooks: list[Hook] = []

    def changed(self) -> None:
        """Which instructions may fault has changed."""
        self._guards_stale = self.stale = True

    def renew(self) -> None:
        """Hook what needs a check now: guarded instructions, and every access where alignment matters. Translations do
        not hold any more."""
        if self._guards_stale:
            self._guards.clear()
        self._guards_stale = self.stale = False
        for hook in self._hooks:
            unhook(self._uc, hook)
        self._hooks = [hook_instruction(self._uc, address, self._on_guarded) for address in self._guards]
        if self._all_alignment or self._system.ccr & CCR_UNALIGN_TRP:
            self._hooks.append(hook_accesses(self._uc, self._on_access))

    def note(self, address: int, found: Iterable[tuple[int, Kind]], *, guard: bool) -> None:
        """Instructions of a new block at `address`, by their offsets. guard: whether to guard them, too."""
        self._unmasking |= {address + offset for offset, kind in found if kind is Kind.MASK}
        if guard:
            self._guard({address + offset for offset, kind in found if self._may_fault(kind)})

    def note_ahead(self, pc: int, length: int) -> None:
        """Guard the next `length` instructions, since a step cannot be started over as a block can."""
        _, found = decode.scan(self._space.code(pc, 4 * length))
        self._guard({pc + offset for offset, kind in found if self._may_fault(kind)})

    def accessed(self, pc: int) -> decode.Access | None:
        """The memory that the instruction at `pc` touches, by the registers as they are."""
        first, second = struct.unpack("<HH", self._space.code(pc, 4).ljust(4, b"\0"))
        return decode.memory_access(first, second, pc, self._registers.numbered)

    def _guard(self, addresses: set[int]) -> None:
        if addresses - self._guards:
            self._guards |= addresses
            self.stale = True

    def _may_fault(self, kind: Kind) -> bool:
        """Whether an instruction of this kind may fault, as the core is set up now."""
        if kind is Kind.DIVIDE:
            return bool(self._system.ccr & CCR_DIV_0_TRP)
        if kind is Kind.MASK:
            return True  # it does not, but what comes behind it may have to wait for an interrupt
        return self._system.fpu_access != 3 or (kind is Kind.FLOAT_V5 and not self._has_float_v5)

    def _fpu_usable(self) -> bool:
        access = self._system.fpu_access
        return access == 3 or (access == 1 and self._registers.privileged())

    # ---- hooks

    def _on_guarded(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        if address in self._unmasking:
            self._on_unmasking()
            return
        fault = self._fault_at(address)
        if fault is not None:
            block = self._current_block()
            offset = address - block
            it_state = decode.it_state(self._space.code(block, offset), offset)
            self._note_late(fault, address, (it_state & 3) << 25 | (it_state & 0xFC) << 8)

    def _fault_at(self, address: int) -> Fault | None:
        """The fault of the guarded instruction at `address`, which is about to run."""
        code = self._space.code(address, 4)
        _, found = decode.scan(code)
        if not found or found[0][0]:
            return None  # code in RAM that has changed since
        kind = found[0][1]
        if kind is Kind.MASK:
            return None
        if kind is Kind.DIVIDE:
            zero = self._registers.numbered(decode.divisor(code)) == 0
            return Fault(Cfsr.DIVBYZERO) if zero and self._system.ccr & CCR_DIV_0_TRP else None
        if not self._fpu_usable():
            return Fault(Cfsr.NOCP)
        return Fault(Cfsr.UNDEFINSTR) if kind is Kind.FLOAT_V5 and not self._has_float_v5 else None

    def _on_access(self, _uc: Any, _access: int, address: int, size: int, _value: int, _data: Any) -> None:
        try:
            if address & 3 and address & (size - 1):
                self._on_misaligned()
            self._registers.forget_it_state()
        except BaseException as error:
            self._on_failure(error)

    def _on_misaligned(self) -> None:
        """An access is misaligned, which is allowed for some instructions."""
        pc = self._registers.read("pc")
        touched = self.accessed(pc)
        if touched is None or not touched.address % touched.alignment:
            return
        if touched.always or self._system.ccr & CCR_UNALIGN_TRP:
            self._note_late(Fault(Cfsr.UNALIGNED), pc, self._registers.read("xpsr") & XPSR_IT)

    def _note_late(self, fault: Fault, pc: int, it_bits: int) -> None:
        """`fault` happens at `pc`. In an IT block, Unicorn runs on to its end: that is undone later, except stores."""
        xpsr = self._registers.read("xpsr") & ~XPSR_IT | it_bits
        self._on_fault(Late(fault, pc, xpsr, {name: self._registers.read(name) for name in _UNDONE}))
