"""The core's own registers: system control space (SCB, SysTick, NVIC, FPU, caches, debug) and the DWT's cycle counter.

Armv7-M Architecture Reference Manual (DDI 0403E) chapters B3 and C1. The MPU protects nothing: firmware that sets it up
gets a line in the log. Debug halting is the GDB server's business.
"""

from __future__ import annotations

import logging
from typing import Protocol

from harness.emulators.simulator import nvic
from harness.emulators.simulator.nvic import Nvic
from harness.emulators.simulator.peripherals import WORD, Peripheral
from harness.emulators.simulator.timers import SysTick

_log = logging.getLogger(__name__)

SCS_BASE = 0xE000_E000
DWT_BASE = 0xE000_1000


class Offset:
    """Registers of the system control space, as offsets from SCS_BASE."""

    ICTR, ACTLR = 0x004, 0x008
    SYST_CSR, SYST_RVR, SYST_CVR, SYST_CALIB = 0x010, 0x014, 0x018, 0x01C
    CPUID, ICSR, VTOR, AIRCR, SCR, CCR = 0xD00, 0xD04, 0xD08, 0xD0C, 0xD10, 0xD14
    SHPR1, SHPR2, SHPR3, SHCSR = 0xD18, 0xD1C, 0xD20, 0xD24
    CFSR, HFSR, DFSR, MMFAR, BFAR = 0xD28, 0xD2C, 0xD30, 0xD34, 0xD38
    CLIDR, CTR, CCSIDR, CSSELR, CPACR = 0xD78, 0xD7C, 0xD80, 0xD84, 0xD88
    MPU_TYPE, MPU_CTRL, DHCSR, DEMCR = 0xD90, 0xD94, 0xDF0, 0xDFC
    FPCCR, FPCAR, MVFR0, MVFR1, MVFR2 = 0xF34, 0xF38, 0xF40, 0xF44, 0xF48


AIRCR_KEY, AIRCR_KEY_READ = 0x05FA, 0xFA05
AIRCR_SYSRESETREQ = 1 << 2
AIRCR_PRIGROUP = 7 << 8
ICSR_NMIPENDSET, ICSR_PENDSVSET, ICSR_PENDSVCLR = 1 << 31, 1 << 28, 1 << 27
ICSR_PENDSTSET, ICSR_PENDSTCLR, ICSR_ISRPENDING, ICSR_RETTOBASE = 1 << 26, 1 << 25, 1 << 22, 1 << 11
# ICSR's bits for what is pending of the core's own.
_ICSR_PENDING = ((ICSR_NMIPENDSET, nvic.NMI), (ICSR_PENDSVSET, nvic.PENDSV), (ICSR_PENDSTSET, nvic.SYSTICK))
SCR_SLEEPONEXIT = 1 << 1
FPCCR_ASPEN, FPCCR_LSPEN, FPCCR_LSPACT = 1 << 31, 1 << 30, 1 << 0
CCR_UNALIGN_TRP, CCR_DIV_0_TRP, CCR_STKALIGN, CCR_BP = 1 << 3, 1 << 4, 1 << 9, 1 << 18
DEMCR_TRCENA = 1 << 24
DHCSR_DEBUGEN, DHCSR_REGRDY, DHCSR_HALT, DHCSR_SLEEP, DHCSR_LOCKUP = 1 << 0, 1 << 16, 1 << 17, 1 << 18, 1 << 19

# MVFR0 to MVFR2 of the FPUs that manifests name.
_MVFR_OF = {
    "fpv4-sp-d16": (0x1011_0021, 0x1100_0011, 0x0000_0000),
    "fpv5-sp-d16": (0x1011_0021, 0x1100_0011, 0x0000_0040),
}
# ID_PFR0 and what follows, of a Cortex-M7 (TRM table 3-1); what a Cortex-M4 has differs in nothing that software asks.
_IDS = {
    0xD40: 0x30, 0xD44: 0x200, 0xD48: 0x0010_0000, 0xD50: 0x0010_0030, 0xD58: 0x0100_0000,
    0xD60: 0x0110_1110, 0xD64: 0x0211_2000, 0xD68: 0x2023_2231, 0xD6C: 0x0111_1131, 0xD70: 0x0131_0132,
}  # fmt: skip


class Core(Protocol):
    """What the system registers need of the machine."""

    def clock(self) -> int:
        """What the cycle counter counts: ticks of the core's clock, which stands still while the core sleeps."""
        ...

    def time(self) -> int:
        """What timers count: ticks of the core's clock, sleep included."""
        ...

    def events_changed(self) -> None:
        """The next time that a timer interrupts may have moved."""
        ...

    def request_reset(self) -> None:
        """The firmware asks for a system reset."""
        ...

    def checks_changed(self) -> None:
        """Which instructions fault has changed: FPU access, division by zero, alignment."""
        ...

    def trace_changed(self) -> None:
        """DEMCR.TRCENA, which the cycle counter needs, may have changed."""
        ...

    def debug_status(self) -> int:
        """The status bits of DHCSR."""
        ...


class SystemControl(Peripheral):
    """The system control space. Fault status is kept here, and written by exceptions.py."""

    def __init__(
        self, core: Core, nvic: Nvic, *, cpuid: int, fpu: str | None, caches: tuple[int, int] | None, vectors: int
    ) -> None:
        """caches: CCSIDR of the data and the instruction cache. vectors: VTOR after reset."""
        self.nvic = nvic
        self.systick = SysTick(core.time, self._on_systick, core.events_changed)
        self._core = core
        self._vectors = vectors
        self._has_fpu = fpu is not None
        self._caches = caches
        self._constants = {Offset.CPUID: cpuid, Offset.SYST_CALIB: 0, Offset.ICTR: 3, Offset.MPU_TYPE: 0x800, **_IDS}
        mvfr = _MVFR_OF.get(fpu or "", (0, 0, 0))
        self._constants |= dict(zip((Offset.MVFR0, Offset.MVFR1, Offset.MVFR2), mvfr, strict=True))
        if caches:
            self._constants |= {Offset.CLIDR: 0x0900_0003, Offset.CTR: 0x8303_C003}
        self._warned: set[str] = set()
        self.vtor = vectors
        self.ccr = self.shcsr_enables = self.cfsr = self.hfsr = self.mmfar = self.bfar = self.cpacr = self.demcr = 0
        self._words: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """See Peripheral."""
        self.nvic.reset()
        self.systick.reset()
        self.vtor = self._vectors
        self.ccr = CCR_STKALIGN | (CCR_BP if self._caches else 0)
        self.shcsr_enables = self.cfsr = self.hfsr = self.mmfar = self.bfar = self.cpacr = 0
        self._words = {Offset.FPCCR: FPCCR_ASPEN | FPCCR_LSPEN if self._has_fpu else 0}

    @property
    def fpu_access(self) -> int:
        """CPACR's field of the FPU: 0 none, 1 privileged code only, 3 all; always 0 without an FPU."""
        return self.cpacr >> 20 & 3

    @property
    def stacks_float(self) -> bool:
        """Whether exception entry saves the floating-point registers that are in use: FPCCR.ASPEN."""
        return bool(self._words[Offset.FPCCR] & FPCCR_ASPEN)

    def note_float_frame(self, address: int | None) -> None:
        """A floating-point frame was made at `address`; None: one was left."""
        lazy = address is not None and self._words[Offset.FPCCR] & FPCCR_LSPEN
        self._words[Offset.FPCCR] = self._words[Offset.FPCCR] & ~FPCCR_LSPACT | (FPCCR_LSPACT if lazy else 0)
        if address is not None:
            self._words[Offset.FPCAR] = address

    @property
    def sleeps_on_exit(self) -> bool:
        """Whether the core sleeps when it returns to thread mode: SCR.SLEEPONEXIT."""
        return bool(self._words.get(Offset.SCR, 0) & SCR_SLEEPONEXIT)

    def read(self, offset: int) -> int:
        """See Peripheral."""
        if offset in self._constants:
            return self._constants[offset]
        match offset:
            case Offset.SYST_CSR:
                return self.systick.control
            case Offset.SYST_RVR:
                return self.systick.reload
            case Offset.SYST_CVR:
                return self.systick.value
            case Offset.ICSR:
                return self._interrupt_state()
            case Offset.VTOR:
                return self.vtor
            case Offset.AIRCR:
                return AIRCR_KEY_READ << 16 | self.nvic.prigroup << 8
            case Offset.CCR:
                return self.ccr
            case Offset.SHPR1 | Offset.SHPR2 | Offset.SHPR3:
                return self.nvic.read_priorities(4 + offset - Offset.SHPR1)
            case Offset.SHCSR:
                return self.shcsr_enables | self._active_bits()
            case Offset.CFSR:
                return self.cfsr
            case Offset.HFSR:
                return self.hfsr
            case Offset.MMFAR:
                return self.mmfar
            case Offset.BFAR:
                return self.bfar
            case Offset.CCSIDR:  # of the cache that CSSELR names: level 1 data, or instruction
                selector = self._words.get(Offset.CSSELR, 0)
                return self._caches[selector & 1] if self._caches and selector < 2 else 0
            case Offset.CPACR:
                return self.cpacr
            case Offset.DHCSR:
                return self._core.debug_status()
            case Offset.DEMCR:
                return self.demcr
        if any(offset in place for place in nvic.REGISTERS):
            return self.nvic.read(offset)
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        value &= mask
        if offset in self._constants:
            return
        match offset:
            case Offset.SYST_CSR:
                self.systick.control = value
            case Offset.SYST_RVR:
                self.systick.reload = value
            case Offset.SYST_CVR:
                self.systick.clear()
            case Offset.ICSR:
                self._write_icsr(value)
            case Offset.VTOR:
                self.vtor = (self.vtor & ~mask | value) & ~0x7F
            case Offset.AIRCR:
                self._write_aircr(value)
            case Offset.CCR:
                self._write_ccr(self.ccr & ~mask | value)
            case Offset.SHPR1 | Offset.SHPR2 | Offset.SHPR3:
                self.nvic.write_priorities(4 + offset - Offset.SHPR1, value, mask)
            case Offset.SHCSR:
                self.shcsr_enables = (self.shcsr_enables & ~mask | value) & 0x7_0000
            case Offset.CFSR:
                self.cfsr &= ~value
            case Offset.HFSR:
                self.hfsr &= ~value
            case Offset.MMFAR:
                self.mmfar = self.mmfar & ~mask | value
            case Offset.BFAR:
                self.bfar = self.bfar & ~mask | value
            case Offset.CPACR:
                if self._has_fpu:
                    self.cpacr = (self.cpacr & ~mask | value) & 0xF0_0000
                    self._core.checks_changed()
            case Offset.DEMCR:
                self.demcr = self.demcr & ~mask | value
                self._core.trace_changed()
            case _:
                self._write_word(offset, value, mask)

    def _write_word(self, offset: int, value: int, mask: int) -> None:
        if any(offset in place for place in nvic.REGISTERS):
            self.nvic.write(offset, value, mask)
            return
        if offset == Offset.MPU_CTRL and value & 1:
            self._warn("the MPU is not modelled: it protects nothing")
        self._words[offset] = self._words.get(offset, 0) & ~mask | value

    def _write_aircr(self, value: int) -> None:
        if value >> 16 != AIRCR_KEY:
            return
        self.nvic.prigroup = (value & AIRCR_PRIGROUP) >> 8
        if value & AIRCR_SYSRESETREQ:
            self._core.request_reset()

    def _write_ccr(self, value: int) -> None:
        changed = self.ccr ^ value
        self.ccr = value | CCR_STKALIGN
        if changed & (CCR_UNALIGN_TRP | CCR_DIV_0_TRP):
            self._core.checks_changed()

    def _write_icsr(self, value: int) -> None:
        for bit, exception in _ICSR_PENDING:
            if value & bit:
                self.nvic.pend(exception)
        for bit, exception in ((ICSR_PENDSVCLR, nvic.PENDSV), (ICSR_PENDSTCLR, nvic.SYSTICK)):
            if value & bit:
                self.nvic.pending.discard(exception)

    def _interrupt_state(self) -> int:
        """ICSR: VECTACTIVE, RETTOBASE, VECTPENDING, ISRPENDING and what is pending of the core's own."""
        controller = self.nvic
        state = min(controller.active, key=controller.priority, default=0)
        state |= ICSR_RETTOBASE if len(controller.active) <= 1 else 0
        first = controller.next()
        state |= first[0] << 12 if first is not None else 0
        state |= ICSR_ISRPENDING if any(one >= nvic.FIRST_LINE for one in controller.pending) else 0
        for bit, exception in _ICSR_PENDING:
            state |= bit if exception in controller.pending else 0
        return state

    def _active_bits(self) -> int:
        bits = {4: 0, 5: 1, 6: 3, 11: 7, 14: 10, 15: 11}
        return sum(1 << bits[number] for number in self.nvic.active if number in bits)

    def _on_systick(self) -> None:
        self.nvic.pend(nvic.SYSTICK)

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning(text)


class Dwt(Peripheral):
    """The cycle counter of the data watchpoint and trace unit; the other counters read 0.

    It counts while DEMCR.TRCENA and CYCCNTENA are set. A Cortex-M7 locks it against software (CoreSight lock access
    register) until the key is written; debuggers are never locked out.
    """

    CTRL, CYCCNT, LAR, LSR = 0x000, 0x004, 0xFB0, 0xFB4
    KEY = 0xC5AC_CE55
    CYCCNTENA = 1 << 0
    COMPARATORS = 4

    def __init__(self, core: Core, system: SystemControl, *, has_lock: bool) -> None:
        self._core = core
        self._system = system
        self._has_lock = has_lock
        self._locked = has_lock
        self._enabled = False
        self._counted = 0
        self._since: int | None = None

    def reset(self) -> None:
        """See Peripheral. On silicon the debug logic outlives a system reset; here every run begins alike."""
        self._locked = self._has_lock
        self._enabled = False
        self._counted = 0
        self._since = None

    def read(self, offset: int) -> int:
        """See Peripheral."""
        match offset:
            case Dwt.CTRL:
                return self.COMPARATORS << 28 | (self.CYCCNTENA if self._enabled else 0)
            case Dwt.CYCCNT:
                self.update()
                return self._counted & WORD
            case Dwt.LSR:
                return (1 | (2 if self._locked else 0)) if self._has_lock else 0
        return 0

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self.update()
        if offset == self.CTRL:
            self._enabled = bool(value & self.CYCCNTENA)
            self.update()
        elif offset == self.CYCCNT:
            self._counted = value & mask

    def firmware_writes(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        if offset == self.LAR:
            self._locked = self._has_lock and value != self.KEY
        elif not self._locked:
            self.write(offset, value, mask)

    def update(self) -> None:
        """Add what went by since the last look, if it was counting; note whether it counts from now on."""
        now = self._core.clock()
        if self._since is not None:
            self._counted += now - self._since
        self._since = now if self._enabled and self._system.demcr & DEMCR_TRCENA else None
