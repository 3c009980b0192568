"""A GDB remote stub for one machine: packets in, packets out. Knows no sockets (server.py) and no board.

Like QEMU's: the core is halted at first, `?` halts it, `c` at a breakpoint stops at once (step first), `k` ends the
simulator, `D` lets the core run on. Beyond QEMU's: X packets, no-ack mode, qCRC, and all packets are served while the
core runs, which pauses for them. A connection that ends without `D` leaves the core as it is, without breakpoints.

A core that locks up stops with `T0Blockup:1;` (SIGSEGV), PC 0xFFFFFFFE and a line on the console that says why; memory
and registers can be read then, DHCSR.S_LOCKUP is set, and `monitor reset` recovers. A firmware that does nothing but
reset itself stops with `T06resetloop:1;` (SIGABRT) and such a line.

Monitor commands: `reset` (or `system_reset`; the core stays halted at its first instruction), and what `help` tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.emulators.gdb_crc import gdb_crc32
from harness.emulators.simulator.address_space import AddressError
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.runner import Runner
from harness.emulators.simulator.stops import Reason, Stop

PACKET_BYTES = 0x10000
"""The longest packet we take, and the longest reply we send, framing apart."""

_INTERRUPT = 0x03
_MONITOR_HELP = (
    "reset: reset the board, halted\ninstructions: executed since reset\n"
    "clock cycles, clock instructions: what timers and the cycle counter count from now on\n"
    "lines: what the firmware sent last, each line with [instructions, cycles] before and after\n"
    "unmodelled: base addresses of the peripherals that it used although they read as zero\n"
    "coverage: instructions that the cycle model has no cost for\n"
)
_SIGNALS = {Reason.REQUEST: 0x02, Reason.LOCKUP: 0x0B, Reason.RESET_LOOP: 0x06}
_SIGTRAP = 0x05
_BAD_ADDRESS, _BAD_PACKET = b"E14", b"E16"


@dataclass(frozen=True)
class _Register:
    name: str
    number: int
    bits: int = 32
    type: str = "int"


class GdbServer:
    """The stub's end of one connection after another. `send` gets what is to be written to the client.

    on_kill: called when the client wants the simulator to end.
    """

    def __init__(
        self, machine: Machine, runner: Runner, send: Callable[[bytes], None], on_kill: Callable[[], None]
    ) -> None:
        self._machine = machine
        self._runner = runner
        self._send = send
        self._on_kill = on_kill
        self._registers = _registers(has_fpu=machine.board.fpu is not None)
        self._by_number = {register.number: register for register in self._registers}
        self._target_xml = _target_xml(self._registers).encode()
        self._received = bytearray()
        self._last_packet = b""
        self._acks = True
        self._expects_stop = False

    # ---- the connection

    def connected(self) -> None:
        """A client is there."""
        self._received.clear()
        self._acks = True
        self._expects_stop = False
        self._machine.debugger = True

    def disconnected(self) -> None:
        """The client is gone, whether it said so or not."""
        with self._runner.paused() as machine:
            machine.breakpoints = frozenset()
            machine.debugger = False

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        self._received += data
        while self._received:
            first = self._received[0]
            if first != ord("$"):
                del self._received[0]
                if first == _INTERRUPT:
                    self._interrupt()
                elif first == ord("-") and self._last_packet:
                    self._send(self._last_packet)
                continue
            end = self._received.find(b"#")
            if end < 0 or len(self._received) < end + 3:
                if len(self._received) > 2 * PACKET_BYTES:
                    self._received.clear()
                return
            body, checksum = bytes(self._received[1:end]), bytes(self._received[end + 1 : end + 3])
            del self._received[: end + 3]
            if self._acks:
                good = checksum.lower() == b"%02x" % (sum(body) & 0xFF)
                self._send(b"+" if good else b"-")
                if not good:
                    continue
            reply = self._answer(body)
            if reply is not None:
                self._reply(reply)

    def stopped(self, stop: Stop) -> None:
        """The machine stopped by itself."""
        if not self._expects_stop:
            return
        if stop.reason is Reason.LOCKUP:
            self._console(f"The core has locked up: {self._machine.lockup}.\n")
        if stop.reason is Reason.RESET_LOOP:
            self._console(f"{self._machine.reset_loop}.\n")
        self._report(stop)

    def _reply(self, body: bytes) -> None:
        self._last_packet = b"$%b#%02x" % (body, sum(body) & 0xFF)
        self._send(self._last_packet)

    def _console(self, text: str) -> None:
        self._reply(b"O" + text.encode().hex().encode())

    def _report(self, stop: Stop) -> None:
        self._expects_stop = False
        self._reply(_stop_reply(stop.reason))

    def _interrupt(self) -> None:
        stop = self._runner.halt()
        if stop is not None and stop.reason is Reason.REQUEST and self._expects_stop:
            self._report(stop)

    # ---- packets

    def _answer(self, body: bytes) -> bytes | None:
        """The reply to a packet, empty for one that is not known; None when it comes later."""
        command, rest = body[:1], body[1:]
        handler = _HANDLERS.get(command)
        if handler is None:
            return b""
        try:
            return handler(self, rest)
        except AddressError:
            return _BAD_ADDRESS
        except (ValueError, KeyError, IndexError):
            return _BAD_PACKET

    def _why_stopped(self, _rest: bytes) -> bytes:
        self._runner.halt()
        self._expects_stop = False
        return _stop_reply(Reason.LOCKUP if self._machine.lockup else Reason.STEP)

    def _read_all(self, _rest: bytes) -> bytes:
        with self._runner.paused():
            return b"".join(self._register_hex(register) for register in self._registers)

    def _write_all(self, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode())
        with self._runner.paused() as machine:
            for register in self._registers:
                size = register.bits // 8
                if len(data) >= size:
                    machine.write_register(register.name, int.from_bytes(data[:size], "little"))
                data = data[size:]
        return b"OK"

    def _read_one(self, rest: bytes) -> bytes:
        register = self._by_number[int(rest, 16)]
        with self._runner.paused():
            return self._register_hex(register)

    def _write_one(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        register = self._by_number[int(number, 16)]
        data = bytes.fromhex(value.decode())
        if len(data) != register.bits // 8:
            return _BAD_PACKET
        with self._runner.paused() as machine:
            machine.write_register(register.name, int.from_bytes(data, "little"))
        return b"OK"

    def _register_hex(self, register: _Register) -> bytes:
        value = self._machine.read_register(register.name)
        return value.to_bytes(register.bits // 8, "little").hex().encode()

    def _read_memory(self, rest: bytes) -> bytes:
        address, size = _place(rest)
        with self._runner.paused() as machine:
            return machine.read(address, min(size, PACKET_BYTES // 2)).hex().encode()

    def _write_memory_hex(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return self._write_memory(place, bytes.fromhex(data.decode()))

    def _write_memory_binary(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return self._write_memory(place, _unescape(data))

    def _write_memory(self, place: bytes, data: bytes) -> bytes:
        address, size = _place(place)
        if len(data) != size:
            return _BAD_PACKET
        if data:
            with self._runner.paused() as machine:
                machine.write(address, data)
        return b"OK"

    def _continue(self, rest: bytes) -> None:
        self._set_pc(rest)
        self._resume()

    def _continue_with_signal(self, rest: bytes) -> None:
        self._set_pc(rest.partition(b";")[2])
        self._resume()

    def _resume(self) -> None:
        self._expects_stop = True
        self._runner.resume()

    def _step(self, rest: bytes) -> bytes:
        self._set_pc(rest)
        return _stop_reply(self._runner.step().reason)

    def _step_with_signal(self, rest: bytes) -> bytes:
        return self._step(rest.partition(b";")[2])

    def _set_pc(self, digits: bytes) -> None:
        self._runner.halt()
        if digits:
            self._machine.write_register("pc", int(digits, 16))

    def _insert(self, rest: bytes) -> bytes:
        return self._change_breakpoints(rest, insert=True)

    def _remove(self, rest: bytes) -> bytes:
        return self._change_breakpoints(rest, insert=False)

    def _change_breakpoints(self, rest: bytes, *, insert: bool) -> bytes:
        kind, address, *_ = rest.split(b",")
        if kind not in (b"0", b"1"):
            return b""
        place = {int(address, 16) & ~1}
        with self._runner.paused() as machine:
            machine.breakpoints = machine.breakpoints | place if insert else machine.breakpoints - place
        return b"OK"

    def _detach(self, _rest: bytes) -> bytes:
        self._expects_stop = False
        self.disconnected()
        if not self._runner.running:
            self._runner.resume()
        return b"OK"

    def _kill(self, _rest: bytes) -> None:
        self._on_kill()

    def _verbose(self, rest: bytes) -> bytes | None:
        if rest == b"Cont?":
            return b"vCont;c;C;s;S"
        if not rest.startswith(b"Cont;"):
            return b""
        action = rest[5:6]
        if action in b"sS":
            return self._step(b"")
        if action not in b"cC":
            return _BAD_PACKET
        self._continue(b"")
        return None

    def _query(self, rest: bytes) -> bytes:
        name, _, arguments = rest.partition(b":")
        if name == b"Supported":
            return b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+" % PACKET_BYTES
        if name == b"Xfer" and arguments.startswith(b"features:read:target.xml:"):
            offset, size = _place(arguments.rpartition(b":")[2])
            part = self._target_xml[offset : offset + size]
            return (b"m" if offset + size < len(self._target_xml) else b"l") + _escape(part)
        if name == b"CRC":
            return self._crc(arguments)
        if rest.startswith(b"Rcmd,"):
            return self._monitor(bytes.fromhex(rest[5:].decode()).decode("latin-1").strip())
        return _FIXED_ANSWERS.get(rest, b"")

    def _crc(self, arguments: bytes) -> bytes:
        address, size = _place(arguments)
        with self._runner.paused() as machine:
            return b"C%08x" % gdb_crc32(machine.read(address, size))

    def _monitor(self, command: str) -> bytes:
        if command in ("reset", "system_reset"):
            self._runner.halt()
            self._machine.reset()
            if self._expects_stop:
                self._report(Stop(Reason.STEP, self._machine.read_register("pc"), 0))
        elif command == "instructions":
            with self._runner.paused() as machine:
                self._console(f"{machine.instructions}\n")
        elif command in ("clock cycles", "clock instructions"):
            with self._runner.paused() as machine:
                machine.clock_in("cycles" if command.endswith("cycles") else "instructions")
        elif command == "lines":
            with self._runner.paused() as machine:
                self._console(json.dumps([[one.text, one.begin, one.end] for one in machine.serial.lines]))
        elif command == "unmodelled":
            self._console(json.dumps(self._machine.unmodelled))
        elif command == "coverage":
            with self._runner.paused() as machine:
                self._console(f"{machine.coverage().to_json()}\n")
        elif command == "help":
            self._console(_MONITOR_HELP)
        else:
            self._console(f"unknown command '{command}'\n{_MONITOR_HELP}")
        return b"OK"

    def _set(self, rest: bytes) -> bytes:
        if rest != b"StartNoAckMode":
            return b""
        self._acks = False
        return b"OK"

    def _accept(self, _rest: bytes) -> bytes:
        return b"OK"


_HANDLERS: dict[bytes, Callable[[GdbServer, bytes], bytes | None]] = {
    b"?": GdbServer._why_stopped,
    b"g": GdbServer._read_all,
    b"G": GdbServer._write_all,
    b"p": GdbServer._read_one,
    b"P": GdbServer._write_one,
    b"m": GdbServer._read_memory,
    b"M": GdbServer._write_memory_hex,
    b"X": GdbServer._write_memory_binary,
    b"c": GdbServer._continue,
    b"C": GdbServer._continue_with_signal,
    b"s": GdbServer._step,
    b"S": GdbServer._step_with_signal,
    b"Z": GdbServer._insert,
    b"z": GdbServer._remove,
    b"D": GdbServer._detach,
    b"k": GdbServer._kill,
    b"v": GdbServer._verbose,
    b"q": GdbServer._query,
    b"Q": GdbServer._set,
    b"H": GdbServer._accept,  # there is only one thread
    b"T": GdbServer._accept,
}
_FIXED_ANSWERS = {
    b"Attached": b"1",
    b"C": b"QC1",
    b"fThreadInfo": b"m1",
    b"sThreadInfo": b"l",
}


def _stop_reply(reason: Reason) -> bytes:
    extra = {Reason.LOCKUP: b"lockup:1;", Reason.RESET_LOOP: b"resetloop:1;"}.get(reason, b"")
    return b"T%02x%bthread:1;" % (_SIGNALS.get(reason, _SIGTRAP), extra)


def _place(text: bytes) -> tuple[int, int]:
    address, _, size = text.partition(b",")
    return int(address, 16), int(size, 16)


def _escape(data: bytes) -> bytes:
    return re.sub(rb"[#$}*]", lambda match: bytes((ord("}"), match[0][0] ^ 0x20)), data)


def _unescape(data: bytes) -> bytes:
    return re.sub(rb"}(.)", lambda match: bytes((match[1][0] ^ 0x20,)), data, flags=re.DOTALL)


def _registers(*, has_fpu: bool) -> list[_Register]:
    """In the order of `g` packets. xpsr has the number that clients without target.xml expect."""
    core = [_Register(f"r{number}", number) for number in range(13)]
    core += [_Register("sp", 13, type="data_ptr"), _Register("lr", 14), _Register("pc", 15, type="code_ptr")]
    core.append(_Register("xpsr", 25))
    if has_fpu:
        core += [_Register(f"d{number}", 26 + number, 64, "ieee_double") for number in range(16)]
        core.append(_Register("fpscr", 42))
    system = ("msp", "psp", "primask", "basepri", "faultmask", "control")
    return core + [_Register(name, 43 + number) for number, name in enumerate(system)]


def _target_xml(registers: list[_Register]) -> str:
    features = {"m-profile": range(26), "vfp": range(26, 43), "m-system": range(43, 64)}
    text = '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>arm</architecture>'
    for feature, numbers in features.items():
        listed = [register for register in registers if register.number in numbers]
        if listed:
            text += f'<feature name="org.gnu.gdb.arm.{feature}">'
            for register in listed:
                text += f'<reg name="{register.name}" bitsize="{register.bits}" regnum="{register.number}"'
                text += f' type="{register.type}"/>'
            text += "</feature>"
    return text + "</target>"
