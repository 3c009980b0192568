"""The debug registers of a Cortex-M, emulated on top of a GDB stub: what pyOCD reads and writes to control a core.

pyOCD drives a core through memory: DHCSR halts and resumes it, DCRSR and DCRDR move its registers, DEMCR sets vector
catch, the FPB holds breakpoints. Emulators leave these registers out, as a GDB stub does the same with packets;
EmulatedCore translates.
Register layouts: ARMv7-M Architecture Reference Manual, C1.6 (debug control block), C1.11 (FPB), B3.2 (SCB).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyocd.core import exceptions
from pyocd.core.memory_interface import MemoryInterface

from harness.emulators.gdb_crc import gdb_crc32
from harness.probe.rom_table import DWT, FPB, rom_table
from harness.probe.rsp import GdbClient, RspClosed, RspError
from harness.probe.stubs import PERIPHERALS, Stub

CPUID, VTOR, AIRCR, DFSR = 0xE000_ED00, 0xE000_ED08, 0xE000_ED0C, 0xE000_ED30
DHCSR, DCRSR, DCRDR, DEMCR = 0xE000_EDF0, 0xE000_EDF4, 0xE000_EDF8, 0xE000_EDFC
PRIVATE_PERIPHERAL_BUS = range(0xE000_0000, 0xE010_0000)

DHCSR_KEY, AIRCR_KEY = 0xA05F, 0x05FA
C_DEBUGEN, C_HALT, C_STEP, C_MASKINTS = 1 << 0, 1 << 1, 1 << 2, 1 << 3
S_REGRDY, S_HALT, S_LOCKUP, S_RETIRE_ST = 1 << 16, 1 << 17, 1 << 19, 1 << 24
DFSR_HALTED, DFSR_BKPT, DFSR_VCATCH = 1 << 0, 1 << 1, 1 << 3
AIRCR_VECTRESET, AIRCR_SYSRESETREQ = 1 << 0, 1 << 2
DCRSR_WRITE, DCRSR_REGISTER = 1 << 16, 0x7F
VC_CORERESET, VC_HARDERR = 1 << 0, 1 << 10
RESET_VECTOR = 1
# DEMCR's vector catch bits -> exception number: MemManage, three kinds of UsageFault, BusFault, HardFault.
VECTOR_CATCHES = {1 << 4: 4, 1 << 5: 6, 1 << 6: 6, 1 << 7: 6, 1 << 8: 5, VC_HARDERR: 3}
EXCEPTION_NUMBER = 0x1FF  # of xPSR
VECTOR_TABLE_ALIGNMENT = 0x7F
_VECTORS = 16  # of the core itself; those of interrupts follow

# FPB version 2, whose comparators hold any address. 15 is the most that its control register can announce in one field.
_COMPARATORS = range(FPB + 8, FPB + 8 + 4 * 15, 4)
_FP_CTRL_VALUE = 1 << 28 | len(_COMPARATORS) << 4 | 1
_DWT_CTRL_NOTHING = 1 << 25  # no comparators, no cycle counter: pyOCD then leaves the firmware's DWT alone

# DCRSR's register numbers.
_CORE_REGISTERS = {number: f"r{number}" for number in range(13)} | {
    13: "sp",
    14: "lr",
    15: "pc",
    16: "xpsr",
    17: "msp",
    18: "psp",
    33: "fpscr",
}
_SPECIAL_REGISTERS = 20  # one word: control, faultmask, basepri, primask
_SPECIAL_BYTES = (("control", 24), ("faultmask", 16), ("basepri", 8), ("primask", 0))
_SINGLES = range(64, 96)  # s0 to s31


class EmulatedCore(MemoryInterface):  # type: ignore[misc]  # pyOCD has no type information
    """The memory as a debugger sees it: emulated debug registers over the emulator's own memory.

    Raises pyOCD's exceptions: TransferFaultError for an address that cannot be accessed, ProbeDisconnected once the
    emulator is gone. Never let an exception of rsp.py through: pyOCD would not clean up after it.
    """

    def __init__(self, client: GdbClient, stub: Stub) -> None:
        self._client = client
        self._stub = stub
        self._debug = {DHCSR: 0, DCRDR: 0, DEMCR: 0, DFSR: 0}
        self._comparators = dict.fromkeys(_COMPARATORS, 0)
        self._placed: set[int] = set()  # breakpoints that the stub has now
        self._catching: dict[int, set[int]] = {}  # handler address -> exceptions to stop at
        self._running = False  # as far as the debugger knows: a stop may have been reported that nobody looked at yet
        self._locked_up = False
        with _pyocd_errors():
            client.exchange(b"?")  # some stubs report a stop on connecting; from here on all is answered in order
        part = self._read_word(CPUID) >> 4 & 0xFFF
        self._constants = rom_table(part) | {FPB: _FP_CTRL_VALUE, DWT: _DWT_CTRL_NOTHING} | stub.constants

    def close(self) -> None:
        """Leave no breakpoint behind. The core stays as it is."""
        try:
            if not self._poll() or self._client.serves_while_running:
                self._remove_breakpoints()
        except exceptions.Error:
            pass  # the emulator is gone, and its breakpoints with it

    # ---- run control

    def halt(self) -> None:
        """Stop the core. A core in lockup counts as stopped from here on, as on silicon."""
        while self._poll():
            with _pyocd_errors():
                self._client.interrupt()
        self._locked_up = False
        self._debug[DHCSR] |= C_HALT

    def resume(self) -> None:
        """Let the core run, with breakpoints and vector catches in place."""
        if self._poll():
            return
        with _pyocd_errors():
            self._catching = self._vector_catches()
            if self._program_counter() in self._wanted_breakpoints() | self._catching.keys():
                self._client.step()  # off the breakpoint it stands on
            for address in self._wanted_breakpoints() | self._catching.keys():
                self._client.insert_breakpoint(address)
                self._placed.add(address)
            self._go_on()
        self._debug[DHCSR] &= ~C_HALT

    def step(self) -> None:
        """Run one instruction."""
        with _pyocd_errors():
            self._client.step()
        self._locked_up = self._stub.locked_up()
        self._debug[DFSR] |= DFSR_HALTED
        self._debug[DHCSR] |= C_HALT

    def reset(self) -> None:
        """Reset the machine. The core runs afterwards, unless DEMCR asks to catch the reset."""
        self.halt()
        with _pyocd_errors():
            self._stub.reset()
        if self._debug[DEMCR] & VC_CORERESET:
            self._debug[DFSR] |= DFSR_VCATCH
        else:
            self.resume()

    @property
    def sleeps_after_reset(self) -> bool:
        """See Stub."""
        return self._stub.sleeps_after_reset

    def wake(self) -> None:
        """Make an emulator whose main loop sleeps look at its serial input. Changes nothing, costs a few packets."""
        if self._poll():
            self._read_word(CPUID)

    def _poll(self) -> bool:
        """Whether the core runs; a stop that was reported meanwhile is dealt with."""
        if self._running:
            with _pyocd_errors():
                running = self._client.poll()
            if not running:
                self._note_stop()
        return self._running

    def _go_on(self) -> None:
        self._client.resume()
        self._running = True

    def _note_stop(self) -> None:
        """After the core stopped: find out why, and take the breakpoints out."""
        self._running = False
        with _pyocd_errors():
            if self._client.stop_reply[:1] in (b"W", b"X") and not self._stub.locked_up():
                raise RspClosed("the emulator ended")
            self._locked_up = self._stub.locked_up()
            program_counter = self._program_counter()
            if program_counter in self._wanted_breakpoints():
                reason = DFSR_BKPT
            elif program_counter in self._catching:
                exception = (self._stub.read_register("xpsr") or 0) & EXCEPTION_NUMBER
                if exception not in self._catching[program_counter] and not self._client.stopped_by_interrupt:
                    self._client.step()  # a handler shared with an exception that is not to be caught
                    self._go_on()
                    return
                reason = DFSR_VCATCH
            else:
                reason = DFSR_HALTED
        self._remove_breakpoints()
        self._debug[DFSR] |= reason
        self._debug[DHCSR] |= C_HALT

    def _remove_breakpoints(self) -> None:
        with _pyocd_errors():
            while self._placed:
                self._client.remove_breakpoint(self._placed.pop())

    def _wanted_breakpoints(self) -> set[int]:
        return {value & ~1 for value in self._comparators.values() if value & 1}

    def _program_counter(self) -> int:
        return (self._stub.read_register("pc") or 0) & ~1

    def _vector_catches(self) -> dict[int, set[int]]:
        """Handler address -> exception numbers, for the vector catch bits that are set in DEMCR."""
        numbers = {exception for bit, exception in VECTOR_CATCHES.items() if self._debug[DEMCR] & bit}
        if self._debug[DEMCR] & VC_HARDERR:
            numbers |= self._stub.unescalated_faults
        catches: dict[int, set[int]] = {}
        if numbers or self._debug[DEMCR] & VC_CORERESET:
            table = int.from_bytes(self._client.read_memory(VTOR, 4), "little") & ~VECTOR_TABLE_ALIGNMENT
            try:
                vectors = struct.unpack(f"<{_VECTORS}I", self._stub.read_memory(table, 4 * _VECTORS))
            except RspClosed:
                raise
            except RspError:
                return catches  # no vector table there: the core will lock up, which is noticed without a catch
            for number in numbers:
                if vectors[number]:
                    catches.setdefault(vectors[number] & ~1, set()).add(number)
            if self._debug[DEMCR] & VC_CORERESET:  # by itself: our own resets are held before the first instruction
                catches.setdefault(vectors[RESET_VECTOR] & ~1, set()).add(0)
        return catches

    # ---- the machine's memory

    @contextmanager
    def _accessible(self) -> Iterator[None]:
        """Stop the core for the duration of one access, where the stub serves no packet while it runs."""
        if self._client.serves_while_running or not self._poll():
            yield
            return
        self._client.interrupt()
        if not self._client.stopped_by_interrupt:
            with self._accessible():  # it had stopped by itself just before
                yield
            return
        try:
            yield
        finally:
            self._client.resume()

    def _read(self, address: int, count: int) -> bytes:
        with _pyocd_errors(address, count), self._accessible():
            return self._stub.read_memory(address, count)

    def holds(self, address: int, data: bytes) -> bool:
        """Whether the memory from `address` holds `data`: by the stub's checksum where it has one, else by reading."""
        with _pyocd_errors(address, len(data)), self._accessible():
            crc = self._client.memory_crc(address, len(data))
            if crc is not None:
                return crc == gdb_crc32(data)
            return self._stub.read_memory(address, len(data)) == data

    def _write(self, address: int, data: bytes) -> None:
        with _pyocd_errors(address, len(data)), self._accessible():
            self._stub.write_memory(address, data)

    def _read_word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 4), "little")

    # ---- the debug registers

    def _read_debug_register(self, address: int) -> int | None:
        """The value of an emulated register, or None where the machine itself has to be asked."""
        if address == DHCSR:
            return self._status()
        if address in self._comparators:
            return self._comparators[address]
        if address in self._debug:
            return self._debug[address]
        return self._constants.get(address)

    def _status(self) -> int:
        running = self._poll()
        status = self._debug[DHCSR] & (C_DEBUGEN | C_MASKINTS) | S_REGRDY
        status |= S_RETIRE_ST if running else C_HALT | S_HALT
        return status | S_LOCKUP if self._locked_up else status

    def _write_debug_register(self, address: int, value: int) -> bool:
        """False where the machine itself has to be written."""
        if address == DHCSR:
            self._control(value)
        elif address == DCRSR:
            self._transfer_register(value)
        elif address == DFSR:
            self._debug[DFSR] &= ~value  # write one to clear
        elif address == AIRCR:
            if value >> 16 == AIRCR_KEY and value & (AIRCR_VECTRESET | AIRCR_SYSRESETREQ):
                self.reset()
        elif address in self._debug:
            self._debug[address] = value
        elif address in self._comparators:
            self._comparators[address] = value
        else:
            return address in self._constants  # which ignore what is written
        return True

    def _control(self, value: int) -> None:
        if value >> 16 != DHCSR_KEY:
            return
        debugged_before = self._debug[DHCSR] & C_DEBUGEN
        self._debug[DHCSR] = self._debug[DHCSR] & C_HALT | value & (C_DEBUGEN | C_MASKINTS)
        if not value & C_DEBUGEN:
            if debugged_before:
                self.resume()
        elif value & C_HALT:
            self.halt()
        elif value & C_STEP:
            self.step()
        else:
            self.resume()

    def _transfer_register(self, selector: int) -> None:
        number = selector & DCRSR_REGISTER
        with _pyocd_errors():
            if selector & DCRSR_WRITE:
                self._write_core_register(number, self._debug[DCRDR])
            else:
                self._debug[DCRDR] = self._read_core_register(number)

    def _read_core_register(self, number: int) -> int:
        """Registers that the stub does not show read as 0."""
        if number in _CORE_REGISTERS:
            return self._stub.read_register(_CORE_REGISTERS[number]) or 0
        if number == _SPECIAL_REGISTERS:
            return sum(((self._stub.read_register(name) or 0) & 0xFF) << shift for name, shift in _SPECIAL_BYTES)
        if number in _SINGLES:
            index = number - _SINGLES.start
            single = self._stub.read_register(f"s{index}")
            if single is not None:
                return single
            return (self._stub.read_register(f"d{index // 2}") or 0) >> 32 * (index & 1) & 0xFFFF_FFFF
        return 0

    def _write_core_register(self, number: int, value: int) -> None:
        if number in _CORE_REGISTERS:
            self._stub.write_register(_CORE_REGISTERS[number], value)
        elif number == _SPECIAL_REGISTERS:
            for name, shift in _SPECIAL_BYTES:
                self._stub.write_register(name, value >> shift & 0xFF)
        elif number in _SINGLES:
            index = number - _SINGLES.start
            if not self._stub.write_register(f"s{index}", value):
                double, shift = f"d{index // 2}", 32 * (index & 1)
                other_half = (self._stub.read_register(double) or 0) & ~(0xFFFF_FFFF << shift)
                self._stub.write_register(double, other_half | value << shift)

    # ---- pyOCD's memory interface; sizes in bits, addresses and counts as pyOCD names them

    def read_memory(self, addr: int, transfer_size: int = 32, now: bool = True, **_: Any) -> int | Callable[[], int]:
        value = None
        if addr in PRIVATE_PERIPHERAL_BUS and transfer_size == 32:
            value = self._read_debug_register(addr)
        if value is None:
            try:
                value = int.from_bytes(self._read(addr, transfer_size // 8), "little")
            except exceptions.TransferFaultError:
                if addr not in PRIVATE_PERIPHERAL_BUS:
                    raise
                value = 0  # a register that the emulator leaves out reads as reserved ones do
        result = value
        return result if now else lambda: result

    def write_memory(self, addr: int, data: int, transfer_size: int = 32, **_: Any) -> None:
        if addr in PRIVATE_PERIPHERAL_BUS and transfer_size == 32 and self._write_debug_register(addr, data):
            return
        self._write(addr, data.to_bytes(transfer_size // 8, "little"))

    def read_memory_block32(self, addr: int, size: int, **_: Any) -> Sequence[int]:
        if _needs_words(addr):
            return [int(self.read_memory(addr + 4 * index)) for index in range(size)]  # type: ignore[arg-type]
        return struct.unpack(f"<{size}I", self._read(addr, 4 * size))

    def write_memory_block32(self, addr: int, data: Sequence[int], **_: Any) -> None:
        if _needs_words(addr):
            for index, value in enumerate(data):
                self.write_memory(addr + 4 * index, value)
        else:
            self._write(addr, struct.pack(f"<{len(data)}I", *data))

    def read_memory_block8(self, addr: int, size: int, **_: Any) -> Sequence[int]:
        if _needs_words(addr) and addr % 4 == size % 4 == 0:
            return list(struct.pack(f"<{size // 4}I", *self.read_memory_block32(addr, size // 4)))
        return list(self._read(addr, size))

    def write_memory_block8(self, addr: int, data: Sequence[int], **_: Any) -> None:
        if _needs_words(addr) and addr % 4 == len(data) % 4 == 0:
            self.write_memory_block32(addr, struct.unpack(f"<{len(data) // 4}I", bytes(data)))
        else:
            self._write(addr, bytes(data))


def _needs_words(address: int) -> bool:
    """Peripherals take one word per packet: emulators turn longer ones into accesses that they refuse."""
    return address in PERIPHERALS or address in PRIVATE_PERIPHERAL_BUS


@contextmanager
def _pyocd_errors(address: int | None = None, length: int | None = None) -> Iterator[None]:
    """Turn errors of the GDB connection into pyOCD's."""
    try:
        yield
    except RspClosed as error:
        raise exceptions.ProbeDisconnected(str(error)) from error
    except RspError as error:
        raise exceptions.TransferFaultError(str(error), fault_address=address, length=length) from error
