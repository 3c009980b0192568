"""A client of the GDB remote serial protocol: framing, run control, memory and registers of one core over TCP.

It knows the protocol and nothing else: what particular stubs do differently is in stubs.py, what a Cortex-M debugger
needs on top is in core.py. Protocol: https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable

from harness.emulators.transcript import Transcript

# T05..., S05: stopped by that signal; W00, X06: the program (here: the emulator or its core) ended.
_STOP_REPLY = re.compile(rb"[TS][0-9a-fA-F]{2}|[WX][0-9a-fA-F]{2}")
_ERROR_REPLY = re.compile(rb"E[0-9A-Fa-f]{1,4}\Z")
_ESCAPE = 0x7D  # "}": the next byte is XORed with 0x20
_REPEAT = 0x2A  # "*": the previous byte is repeated (next byte - 29) times
_RETRY_SECONDS = 0.02
SIGINT = 2


class RspError(Exception):
    """The stub answered with an error, or not as the protocol says."""


class RspClosed(RspError):
    """The connection is gone: the emulator ended, or did not answer in time and cannot be trusted any more."""


class GdbClient:
    """One connection to one stub with one core.

    A stop reply can arrive at any moment (QEMU sends one when a debugger connects; a breakpoint can be hit while a
    packet is on its way): it changes `running` and `stop_reply`, and is never taken for the answer to another packet.

    running: the core was told to continue or step and has not reported a stop yet.
    stop_reply: the last stop reply, b"" before the first.
    stray_stops: stop replies that end a step and never a continue, in spite of the protocol; they may come late.
        stubs.py sets it.
    serves_while_running: whether the stub answers packets while the core runs; stubs.py sets it. If not, any packet
        but an interrupt raises RspError while the core runs.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_timeout: float = 10.0,
        reply_timeout: float = 10.0,
        keep_trying: Callable[[], bool] = lambda: True,
        transcript: Transcript | None = None,
    ) -> None:
        """Connect, and ask what the stub can do.

        connect_timeout, reply_timeout in seconds. keep_trying: asked between attempts to connect; False gives up at
        once (the emulator died). transcript: gets every packet. Raises RspClosed when nothing listens, or the
        stub does not answer.
        """
        self.running = False
        self.stop_reply = b""
        self.serves_while_running = False
        self.stray_stops: frozenset[bytes] = frozenset()
        self._stepping = False
        self._has_crc = True  # until a stub does not know the packet
        self._transcript = transcript
        self._reply_timeout = reply_timeout
        self._buffer = bytearray()
        self._socket = _connect(host, port, connect_timeout, keep_trying)
        try:
            features = self.exchange(b"qSupported:swbreak+;hwbreak+;xmlRegisters=arm;qXfer:features:read+")
            packet_size = re.search(rb"PacketSize=([0-9a-fA-F]+)", features)
            self._packet_bytes = int(packet_size[1], 16) if packet_size else 1024
            # Binary writes take half the bytes of hexadecimal ones. A stub without them gives an empty answer.
            self._binary_writes = self.exchange(b"X0,0:") == b"OK"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection. May be called again."""
        self._socket.close()

    # ---- packets

    def exchange(self, body: bytes) -> bytes:
        """Send one packet and return its answer (b"" means: the stub does not know this packet)."""
        self._send(body)
        return self._answer(to=body)

    def expect_ok(self, body: bytes) -> None:
        """Send one packet that has to be answered with OK."""
        reply = self.exchange(body)
        if reply != b"OK":
            raise RspError(f"{_shown(body)} was answered {_shown(reply)}")

    def monitor(self, command: str) -> str:
        """Run an emulator command (GDB's `monitor`) and return what it printed."""
        body = b"qRcmd," + command.encode().hex().encode()
        self._send(body)
        printed = ""
        while (reply := self._answer(to=body)) != b"OK":
            if not reply or _ERROR_REPLY.match(reply):
                raise RspError(f"monitor command '{command}' was answered {_shown(reply)}")
            printed += _from_hex(reply.removeprefix(b"O")).decode("latin-1")
        return printed

    def _send(self, body: bytes) -> None:
        if self.running and not self.serves_while_running:
            raise RspError("the stub takes no packets while the core runs")
        if self._transcript is not None:
            self._transcript.note(">", body)
        self._transmit(b"$" + body + b"#%02x" % (sum(body) & 0xFF))

    def _answer(self, *, to: bytes) -> bytes:
        deadline = time.monotonic() + self._reply_timeout
        while True:
            reply = self._receive(deadline)
            if to != b"?" and _STOP_REPLY.match(reply):
                self._note_stop(reply)
            elif reply[:1] != b"O" or reply == b"OK" or to.startswith(b"qRcmd,"):  # else what a program prints
                return reply

    def _transmit(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._reply_timeout)
            self._socket.sendall(data)
        except OSError as error:
            self.close()
            raise RspClosed(f"connection to the GDB stub lost: {error}") from error

    def _receive(self, deadline: float) -> bytes:
        """The body of the next packet; acknowledgements are skipped, as TCP loses nothing."""
        while (body := self._take_packet()) is None:
            if not self._fill(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                self.close()  # a late answer would be taken for the next packet's
                raise RspClosed(f"the GDB stub did not answer within {self._reply_timeout:g} s")
        return body

    def _take_packet(self) -> bytes | None:
        start = self._buffer.find(b"$")
        end = self._buffer.find(b"#", start)
        if start < 0 or end < 0 or len(self._buffer) < end + 3:
            return None
        body, checksum = bytes(self._buffer[start + 1 : end]), bytes(self._buffer[end + 1 : end + 3])
        del self._buffer[: end + 3]
        if checksum.lower() != b"%02x" % (sum(body) & 0xFF):
            raise RspError(f"packet {_shown(body)} has the wrong checksum {_shown(checksum)}")
        self._transmit(b"+")
        if self._transcript is not None:
            self._transcript.note("<", body)
        return _decoded(body)

    def _fill(self, timeout: float) -> bool:
        """Read what has arrived, waiting up to `timeout` seconds; False when nothing came."""
        try:
            self._socket.settimeout(timeout)
            data = self._socket.recv(1 << 16)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            self.close()
            raise RspClosed(f"connection to the GDB stub lost: {error}") from error
        if not data:
            self.close()
            raise RspClosed("the emulator closed the GDB connection")
        self._buffer += data
        return True

    # ---- run control

    def resume(self) -> None:
        """Let the core run; returns at once."""
        self._start(b"c")

    def step(self) -> None:
        """Run one instruction."""
        self._start(b"s")
        self._stepping = True
        self._wait_for_stop()

    def poll(self) -> bool:
        """Whether the core runs; takes note of a stop that was reported meanwhile, without sending anything."""
        while self.running:
            packet = self._take_packet()
            if packet is not None:
                if _STOP_REPLY.match(packet):
                    self._note_stop(packet)
            elif not self._fill(0.0):
                break
        return self.running

    def interrupt(self) -> None:
        """Stop the core, if it still runs."""
        if not self.poll():
            return
        if self._transcript is not None:
            self._transcript.note(">", b"\x03")
        self._transmit(b"\x03")
        self._wait_for_stop()
        if self.stray_stops and not self.stopped_by_interrupt:
            # It had stopped by itself just before, and will answer the interrupt as well: not after the next continue.
            self.exchange(b"qAttached")

    @property
    def stopped_by_interrupt(self) -> bool:
        """Whether the last stop came from interrupt(), not from the core itself."""
        return self.stop_reply[:1] in (b"T", b"S") and int(self.stop_reply[1:3], 16) == SIGINT

    def _start(self, body: bytes) -> None:
        if self.stray_stops:
            self._drop_late_stops()
        self._send(body)
        self.running = True

    def _drop_late_stops(self) -> None:
        while self._take_packet() is not None or self._fill(0.0):
            pass

    def _note_stop(self, reply: bytes) -> None:
        if self.running and (self._stepping or reply not in self.stray_stops):
            self.running = self._stepping = False
            self.stop_reply = reply

    def _wait_for_stop(self) -> None:
        deadline = time.monotonic() + self._reply_timeout
        while self.running:
            packet = self._receive(deadline)
            if _STOP_REPLY.match(packet):
                self._note_stop(packet)

    # ---- memory

    def read_memory(self, address: int, count: int) -> bytes:
        """`count` bytes from `address`. RspError when any of them cannot be read."""
        data = bytearray()
        limit = (self._packet_bytes - 8) // 2
        while len(data) < count:
            start, size = address + len(data), min(count - len(data), limit)
            part = _from_hex(self._unless_error(b"m%x,%x" % (start, size)))
            if len(part) != size:
                raise RspError(f"read of {size} bytes at {start:#010x} returned {len(part)}")
            data += part
        return bytes(data)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write `data` from `address`. RspError when any of it cannot be written."""
        limit = (self._packet_bytes - 32) // 2  # room for the header, and for hexadecimal or for every byte escaped
        for offset in range(0, len(data), limit):
            part = data[offset : offset + limit]
            command = b"X" if self._binary_writes else b"M"
            payload = _escaped(part) if self._binary_writes else part.hex().encode()
            self.expect_ok(b"%b%x,%x:%b" % (command, address + offset, len(part), payload))

    def memory_crc(self, address: int, count: int) -> int | None:
        """gdb_crc32() of the memory, computed by the stub; None where it cannot."""
        reply = self.exchange(b"qCRC:%x,%x" % (address, count)) if self._has_crc else b""
        if not reply:
            self._has_crc = False
        if not re.fullmatch(rb"C[0-9a-fA-F]{1,8}", reply):
            return None
        return int(reply[1:], 16)

    # ---- registers

    def read_register(self, number: int) -> int | None:
        """The register with the stub's `number`, or None where the stub has none of that number."""
        reply = self.exchange(b"p%x" % number)
        if not reply or _ERROR_REPLY.match(reply) or b"x" in reply:
            return None
        return int.from_bytes(_from_hex(reply), "little")

    def write_register(self, number: int, value: int, size: int) -> bool:
        """Write `size` bytes; False where the stub refuses."""
        return self.exchange(b"P%x=%b" % (number, value.to_bytes(size, "little").hex().encode())) == b"OK"

    def target_description(self, annex: str = "target.xml") -> str:
        """The XML that names the registers, "" where the stub has none."""
        text = b""
        while True:
            reply = self.exchange(
                b"qXfer:features:read:%b:%x,%x" % (annex.encode(), len(text), self._packet_bytes - 16)
            )
            if reply[:1] not in (b"l", b"m"):
                return ""
            text += reply[1:]
            if reply[:1] == b"l":
                return text.decode("latin-1")

    # ---- breakpoints

    def insert_breakpoint(self, address: int) -> None:
        """A hardware breakpoint on the Thumb instruction at `address`."""
        self.expect_ok(b"Z1,%x,2" % address)

    def remove_breakpoint(self, address: int) -> None:
        """Take it away again. A stub that has forgotten it (after a reset) answers with an error, which is fine."""
        self.exchange(b"z1,%x,2" % address)

    def _unless_error(self, body: bytes) -> bytes:
        reply = self.exchange(body)
        if not reply or _ERROR_REPLY.match(reply):
            raise RspError(f"{_shown(body)} was answered {_shown(reply)}")
        return reply


def _connect(host: str, port: int, timeout: float, keep_trying: Callable[[], bool]) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() >= deadline or not keep_trying():
                raise RspClosed(f"no GDB stub answers at {host}:{port}: {error}") from error
            time.sleep(_RETRY_SECONDS)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


def _decoded(body: bytes) -> bytes:
    """Undo escapes and run-length encoding."""
    if _ESCAPE not in body and _REPEAT not in body:
        return body
    out = bytearray()
    pending = iter(body)
    for byte in pending:
        if byte == _ESCAPE:
            out.append(next(pending, 0) ^ 0x20)
        elif byte == _REPEAT:
            out += out[-1:] * (next(pending, 29) - 29)
        else:
            out.append(byte)
    return bytes(out)


def _escaped(data: bytes) -> bytes:
    for special in (b"}", b"#", b"$", b"*"):  # the escape character first
        data = data.replace(special, b"}" + bytes([special[0] ^ 0x20]))
    return data


def _from_hex(digits: bytes) -> bytes:
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError as error:
        raise RspError(f"{_shown(digits)} is not hexadecimal") from error


def _shown(body: bytes) -> str:
    """A packet for an error message, in one short line."""
    text = body.decode("latin-1")
    return repr(text if len(text) <= 40 else text[:40] + "...")
