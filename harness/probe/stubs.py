"""What differs between GDB stubs: how to reset, which register has which number, what is served while the core runs.

A new emulator is one subclass of Stub and one entry of `_STUBS`. The protocol itself is in rsp.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.emulators.base import EmulatorKind
from harness.probe.rsp import GdbClient, RspError

PERIPHERALS = range(0x4000_0000, 0x6000_0000)

# Numbers and sizes in bits, for a stub without target.xml: GDB's own order for M-profile cores.
_DEFAULT_REGISTERS = {f"r{number}": (number, 32) for number in range(13)} | {
    "sp": (13, 32),
    "lr": (14, 32),
    "pc": (15, 32),
    "xpsr": (25, 32),
}


class Stub:
    """A stub that does all that the protocol promises. Register names are pyOCD's, in lower case.

    serves_while_running: packets are answered while the core runs, so that memory can be read without stopping it.
    sleeps_after_reset: the emulator may notice serial input up to 1 s late after a reset unless a debugger packet
        wakes it.
    unescalated_faults: exceptions that come in HardFault's place although the firmware has not enabled them.
    unmapped: where nothing is; never read or written, see Emulator.
    constants: address -> word of registers that a debugger needs and this emulator lacks.
    """

    kind: EmulatorKind
    serves_while_running = False
    sleeps_after_reset = False
    unescalated_faults: frozenset[int] = frozenset()

    def __init__(self, client: GdbClient, unmapped: Sequence[range] = ()) -> None:
        self.client = client
        self.constants: dict[int, int] = {}
        self._unmapped = tuple(unmapped)
        client.serves_while_running = self.serves_while_running
        self._registers = _described_registers(client) or _DEFAULT_REGISTERS

    def reset(self) -> None:
        """Reset the machine; the core stays stopped before its first instruction. Memory keeps its contents."""
        raise NotImplementedError

    def read_register(self, name: str) -> int | None:
        """The register's value, or None where this stub has no such register."""
        if name not in self._registers:
            return None
        return self.client.read_register(self._registers[name][0])

    def write_register(self, name: str, value: int) -> bool:
        """False where this stub has no such register, or refuses."""
        if name not in self._registers:
            return False
        number, bits = self._registers[name]
        return self.client.write_register(number, value, bits // 8)

    def read_memory(self, address: int, count: int) -> bytes:
        """`count` bytes from `address`. RspError where nothing is there."""
        self._refuse_unmapped(address, count)
        return self.client.read_memory(address, count)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write `data` from `address`, peripherals included. RspError where nothing is there."""
        self._refuse_unmapped(address, len(data))
        self.client.write_memory(address, data)

    def _refuse_unmapped(self, address: int, count: int) -> None:
        for region in self._unmapped:
            if address < region.stop and region.start < address + count:
                raise RspError(f"nothing is at {max(address, region.start):#010x}")

    def locked_up(self) -> bool:
        """Whether the last stop reply says that the core is in lockup."""
        return False


class QemuStub(Stub):
    """QEMU 7.2 and later: the machine has to be paused for every packet, and a lockup ends the process."""

    kind: EmulatorKind = "qemu"
    sleeps_after_reset = True

    def reset(self) -> None:
        """See Stub. The main loop does the reset after answering; the next answered packet proves that it is done."""
        self.client.monitor("system_reset")
        self.client.exchange(b"?")

    def read_register(self, name: str) -> int | None:
        """See Stub. Before 8.0 neither MSP nor PSP exist: the current stack pointer stands for both."""
        value = super().read_register(name)
        if value is None and name in ("msp", "psp"):
            return super().read_register("sp")
        return value

    def write_register(self, name: str, value: int) -> bool:
        """See Stub."""
        return super().write_register(name, value) or (name == "msp" and super().write_register("sp", value))

    def write_memory(self, address: int, data: bytes) -> None:
        """See Stub. A plain write to a peripheral is dropped without an error: those need physical addressing."""
        if address not in PERIPHERALS:
            super().write_memory(address, data)
            return
        self.client.exchange(b"Qqemu.PhyMemMode:1")
        try:
            super().write_memory(address, data)
        finally:
            self.client.exchange(b"Qqemu.PhyMemMode:0")


class SimulatorStub(Stub):
    """The built-in simulator (harness/emulators/simulator)."""

    kind: EmulatorKind = "simulator"
    serves_while_running = True

    def reset(self) -> None:
        """See Stub."""
        self.client.monitor("reset")

    def locked_up(self) -> bool:
        """See Stub. A reset recovers."""
        return b"lockup:" in self.client.stop_reply


_CPUID, _MVFR0, _MVFR2 = 0xE000_ED00, 0xE000_EF40, 0xE000_EF48
# Of cores with a single-precision FPU, by the part number in CPUID (Arm's technical reference manuals).
_SINGLE_PRECISION, _FPV4, _FPV5 = 0x1011_0021, 0x00, 0x40
_MVFR2_OF = {0xC24: _FPV4, 0xC27: _FPV5, 0xD21: _FPV5}
# Renode's own numbers of registers that its target.xml numbers wrongly: 18 CONTROL, 19 BASEPRI, 22 the stack pointer
# that is not in use. Under target.xml's (26, 27, 29, 31) are other registers or none.
_RENODE_NUMBERS = {"control": (18, 32), "basepri": (19, 32), "other_sp": (22, 32)}
_BANKED = ("msp", "psp")


class RenodeStub(Stub):
    """Renode 1.16.1. What it does differently was seen on the release; docs/renode.md lists it."""

    kind: EmulatorKind = "renode"
    serves_while_running = True
    # MemManage, BusFault, UsageFault and the debug monitor (BKPT) are taken as such even where they are not enabled.
    unescalated_faults = frozenset({4, 5, 6, 12})

    def __init__(self, client: GdbClient, unmapped: Sequence[range] = (), *, cpu: str = "sysbus.cpu") -> None:
        # Up to three of them end a step, and one comes up to 15 ms after a reset. What ends a continue says more.
        client.stray_stops = frozenset({b"S05"})
        super().__init__(client, unmapped)
        self._cpu = cpu
        sp = self.read_register("sp")
        if sp == 0 or sp not in (self.read_register("msp"), self.read_register("psp")):
            for name in _BANKED:
                self._registers.pop(name, None)
            self._registers |= _RENODE_NUMBERS
        if "d0" in self._registers and self._word(_MVFR0) == 0:
            # It has an FPU, but not the registers by which a debugger finds one.
            part = self._word(_CPUID) >> 4 & 0xFFF
            if part in _MVFR2_OF:
                self.constants = {_MVFR0: _SINGLE_PRECISION, _MVFR2: _MVFR2_OF[part]}

    def _word(self, address: int) -> int:
        return int.from_bytes(self.client.read_memory(address, 4), "little")

    def reset(self) -> None:
        """See Stub. Runs the script's reset macro, which sets the vector table.

        After a continue the core would run on from the reset: single stepping is what holds it.
        """
        self._monitor(f"{self._cpu} ExecutionMode SingleStep")
        self._monitor("machine Reset")

    def _monitor(self, command: str) -> None:
        """Refused commands are answered with OK too, and what is wrong as console output."""
        printed = self.client.monitor(command).strip()
        if printed:
            raise RspError(f"Renode refuses '{command}': {printed.splitlines()[0]}")

    def read_register(self, name: str) -> int | None:
        """See Stub."""
        if name in _BANKED and "other_sp" in self._registers:
            name = "sp" if self._is_current(name) else "other_sp"
        return super().read_register(name)

    def write_register(self, name: str, value: int) -> bool:
        """See Stub."""
        if name in _BANKED and "other_sp" in self._registers:
            name = "sp" if self._is_current(name) else "other_sp"
        return super().write_register(name, value)

    def _is_current(self, stack_pointer: str) -> bool:
        """Whether the core uses MSP or PSP: the latter with CONTROL.SPSEL, outside exceptions."""
        control, xpsr = self.read_register("control") or 0, self.read_register("xpsr") or 0
        return (stack_pointer == "psp") == (bool(control & 2) and not xpsr & 0x1FF)

    def locked_up(self) -> bool:
        """See Stub. The core aborts where no code can be; a reset recovers."""
        return self.client.stop_reply.startswith(b"X")


_STUBS: dict[EmulatorKind, type[Stub]] = {"qemu": QemuStub, "simulator": SimulatorStub, "renode": RenodeStub}


def open_stub(client: GdbClient, kind: EmulatorKind | None = None, unmapped: Sequence[range] = ()) -> Stub:
    """The stub at the other end; asked for its kind where the caller does not know. unmapped: see Emulator."""
    return _STUBS[kind or _kind(client)](client, unmapped)


def _kind(client: GdbClient) -> EmulatorKind:
    if client.exchange(b"qqemu.sstepbits").startswith(b"ENABLE"):
        return "qemu"
    return "renode" if "renode" in client.monitor("version").lower() else "simulator"


def _described_registers(client: GdbClient) -> dict[str, tuple[int, int]]:
    """Register name -> (number, bits), from target.xml and the files it includes.

    Has to be read even where the numbers are known: QEMU answers no register packet before.
    """
    registers: dict[str, tuple[int, int]] = {}
    main = client.target_description()
    number = 0
    for text in (main, *(client.target_description(name) for name in re.findall(r'include href="([^"]+)"', main))):
        for tag in re.findall(r"<reg\s[^>]*>", text):
            attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
            number = int(attributes.get("regnum", number))
            registers[attributes["name"].lower()] = (number, int(attributes["bitsize"]))
            number += 1
    if registers and "xpsr" not in registers and "cpsr" in registers:
        registers["xpsr"] = registers["cpsr"]
    return registers
