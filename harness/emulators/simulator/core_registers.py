"""The core's registers by their names, as a debugger sees them: whatever mode the firmware is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from unicorn import arm_const as reg

from harness.emulators.simulator.engine import register_access, register_setter

T = TypeVar("T")

XPSR_T = 1 << 24
XPSR_IPSR = 0x1FF
XPSR_IT = 0x0600_FC00
_XPSR_NZCV = 0xF000_0000
CONTROL_NPRIV = 1 << 0
CONTROL_SPSEL = 1 << 1
CONTROL_FPCA = 1 << 2

# A write of the second to the first clears ITSTATE (CoreRegisters.forget_it_state).
IT_STATE_REGISTER, IT_STATE_CLEARED = reg.UC_ARM_REG_EPSR, XPSR_T

GENERAL = (*(f"r{number}" for number in range(13)), "sp", "lr")
FLOAT = (*(f"d{number}" for number in range(16)), "fpscr")

_NUMBERS: dict[str, int] = {
    **{f"r{number}": reg.UC_ARM_REG_R0 + number for number in range(13)},
    "sp": reg.UC_ARM_REG_SP,
    "lr": reg.UC_ARM_REG_LR,
    "pc": reg.UC_ARM_REG_PC,
    "xpsr": reg.UC_ARM_REG_XPSR,
    "msp": reg.UC_ARM_REG_MSP,
    "psp": reg.UC_ARM_REG_PSP,
    "primask": reg.UC_ARM_REG_PRIMASK,
    "basepri": reg.UC_ARM_REG_BASEPRI,
    "faultmask": reg.UC_ARM_REG_FAULTMASK,
    "control": reg.UC_ARM_REG_CONTROL,
    **{f"s{number}": reg.UC_ARM_REG_S0 + number for number in range(32)},
    **{f"d{number}": reg.UC_ARM_REG_D0 + number for number in range(16)},
    "fpscr": reg.UC_ARM_REG_FPSCR,
}
# Read as zero by unprivileged code.
_PRIVILEGED = frozenset(("msp", "psp", "primask", "basepri", "faultmask"))


class CoreRegisters:
    """r0 to r12, sp, lr, pc, xpsr, msp, psp, primask, basepri, faultmask, control, s0 to s31, d0 to d15, fpscr."""

    def __init__(self, uc: Any) -> None:
        self._read, self._write = register_access(uc)
        self._clear_it_state = register_setter(uc, IT_STATE_REGISTER, IT_STATE_CLEARED)

    def read(self, name: str) -> int:
        """The register's value."""
        if name in _PRIVILEGED:
            return self._as_privileged(lambda: self._read(_NUMBERS[name]) & 0xFFFF_FFFF)
        value = self._read(_NUMBERS[name])
        if name == "control":
            return value & (CONTROL_NPRIV | CONTROL_SPSEL | CONTROL_FPCA)
        return value if name[0] == "d" else value & 0xFFFF_FFFF

    def write(self, name: str, value: int) -> None:
        """Set the register. pc: the Thumb state stays what xPSR says."""
        if name == "control":
            self._write_control(value)
        elif name == "pc":
            self._write(reg.UC_ARM_REG_PC, value & ~1 | self.thumb())
        elif name == "xpsr":
            self._write(reg.UC_ARM_REG_XPSR_NZCVQG, value)
        elif name in _PRIVILEGED:
            self._as_privileged(lambda: self._write(_NUMBERS[name], value))
        else:
            self._write(_NUMBERS[name], value)

    def numbered(self, number: int) -> int:
        """The value of r0 to r12, sp (13) or lr (14), as instructions name them."""
        return self.read(GENERAL[number])

    def thumb(self) -> bool:
        """Whether xPSR.T is set; without it, the next instruction faults."""
        return bool(self.read("xpsr") & XPSR_T)

    def exception(self) -> int:
        """The number of the exception being handled, 0 in thread mode."""
        return self.read("xpsr") & XPSR_IPSR

    def privileged(self) -> bool:
        """Whether the code that runs is privileged."""
        return bool(self.exception()) or not self.read("control") & CONTROL_NPRIV

    def forget_it_state(self) -> None:
        """Clear ITSTATE in the middle of a block.

        Unicorn sets it, together with PC, for hooks that may look at PC, and never clears it, so that the blocks behind
        would run as if they were conditional. Code in the middle of a block does not use it.
        """
        self._clear_it_state()

    def accept_mode(self) -> None:
        """Unicorn derives flags for translation from the mode; of all registers, only this one makes it do so again."""
        self._write(reg.UC_ARM_REG_APSR_NZCV, self.read("xpsr") & _XPSR_NZCV)

    def _as_privileged(self, action: Callable[[], T]) -> T:
        if self.privileged():
            return action()
        self._write(reg.UC_ARM_REG_IPSR, 1)
        try:
            return action()
        finally:
            self._write(reg.UC_ARM_REG_IPSR, 0)

    def _write_control(self, value: int) -> None:
        """Only privileged thread code can change all of CONTROL: become that for a moment."""
        exception = self.exception()
        self._write(reg.UC_ARM_REG_IPSR, 1)
        self._write(reg.UC_ARM_REG_CONTROL, 0)
        self._write(reg.UC_ARM_REG_IPSR, 0)
        self._write(reg.UC_ARM_REG_CONTROL, value)
        self._write(reg.UC_ARM_REG_IPSR, exception)
