"""What differs between GDB stubs: how to reset, which register has which number, what is served while the core runs.

A new emulator is one subclass of Stub and one line in `open_stub`. The protocol itself is in rsp.py.
"""

from __future__ import annotations

import re

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
    """

    kind: EmulatorKind
    serves_while_running = False
    sleeps_after_reset = False

    def __init__(self, client: GdbClient) -> None:
        self.client = client
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

    def write_memory(self, address: int, data: bytes) -> None:
        """Write `data` from `address`, peripherals included."""
        self.client.write_memory(address, data)

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


def open_stub(client: GdbClient, kind: EmulatorKind | None = None) -> Stub:
    """The stub at the other end; asked for its kind where the caller does not know."""
    if kind is None:
        kind = "qemu" if client.exchange(b"qqemu.sstepbits").startswith(b"ENABLE") else "simulator"
    stub = {"qemu": QemuStub, "simulator": SimulatorStub}.get(kind)
    if stub is None:
        raise RspError(f"no GDB stub of the kind '{kind}' is known")
    return stub(client)


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
