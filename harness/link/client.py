"""The host side of MLPerf Tiny's serial protocol with our extra commands: one command at a time, one strict answer.

Knows lines and answers, not ports (it takes anything that reads and writes bytes) and not networks.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from harness.errors import DeviceError, InputError
from harness.link.answers import (
    READY,
    Clock,
    Inference,
    LayerCrcs,
    LayerTicks,
    LineError,
    Lines,
    Profile,
    RefusedError,
    SilentBoardError,
    Stack,
    Ticks,
    parse_build,
    parse_clock,
    parse_crc,
    parse_inference,
    parse_layer_crcs,
    parse_layers,
    parse_load,
    parse_name,
    parse_profile,
    parse_stack,
    parse_sum,
    parse_ticks,
    refusal,
    shown,
)

# Bytes in one `db` line, as the stock runner sends them.
DB_BYTES = 31

# `db` lines sent ahead of their answers: 2 kB, half of what a pty holds, so that neither side ever waits for the other.
PIPELINED = 32

LOAD_RETRIES = 3
ANSWER_ATTEMPTS = 4

# How long one look at the line takes before check() is called.
_SLICE_S = 0.05
# A line with nothing on it for this long has nothing more to say: several latencies of a USB serial adapter (16 ms).
_QUIET_S = 0.1
# A board that is still booting loses the first `%`: it is said again this often.
_KNOCK_S = 0.5
# How long after a broken line its cause is asked for: a dying emulator closes its sockets before it is gone.
_CAUSE_S = 0.5

_COMMAND_S = 5.0
_INFERENCE_S = 60.0
_MAX_LINES = 10_000
_HEARD_BYTES = 1_000
_MAX_RUNS = 999_999_999


class BytePort(Protocol):
    """What the client needs of a line: see harness.link.serial_port.SerialPort."""

    def read(self, timeout: float) -> bytes:
        """What has arrived, waiting up to `timeout` seconds for the first byte; b"" when none came."""
        ...

    def write(self, data: bytes) -> None:
        """Sends all of `data`."""
        ...


class BoardClient:
    """Asks a board one thing at a time. Every method raises DeviceError: LineError where line or answer are bad.

    check: called while waiting; raises a DeviceError when it knows that the board faulted or the emulator died.
    window: `db` lines sent ahead of their answers. 1 for a real UART: a board that answers one line by polling loses
    what arrives meanwhile. stall: seconds without a byte after which an answer during load_input counts as lost.
    retries: how often an input or an answer was damaged on the line and had to be sent again, in all.

    After any error the next command first brings board and client back into step (see sync()).
    """

    def __init__(
        self,
        port: BytePort,
        *,
        check: Callable[[], None] | None = None,
        window: int = PIPELINED,
        stall: float = 3.0,
    ) -> None:
        self.retries = 0
        self._port = port
        self._check = check
        self._window = window
        self._stall = stall
        self._lines = Lines()
        self._received: deque[str] = deque()
        self._in_step = False

    # --- what can be asked ---

    def name(self, *, timeout: float = _COMMAND_S) -> str:
        """The name that the firmware gives its board."""
        return parse_name(self._ask("name", timeout))

    def profile(self, *, timeout: float = _COMMAND_S) -> Profile:
        """The protocol's name and the network's."""
        return parse_profile(self._ask("profile", timeout))

    def build(self, *, timeout: float = _COMMAND_S) -> str:
        """The build id of the running image, 16 hex digits."""
        return parse_build(self._ask_for_sure("build", timeout))

    def infer(
        self, runs: int = 1, warmups: int = 0, *, outputs: int | None = None, timeout: float = _INFERENCE_S
    ) -> Inference:
        """`runs` timed inferences of the loaded input after `warmups` untimed ones; `outputs` scores are expected."""
        _require_count("runs", runs, 1)
        _require_count("warmups", warmups, 0)
        lines = self._ask(f"infer {runs} {warmups}", timeout)
        return parse_inference(lines, runs, warmups, outputs)

    def ticks(self, runs: int = 1, *, timeout: float = _INFERENCE_S) -> Ticks:
        """Ticks of `runs` inferences of the loaded input, each timed alone; nothing is subtracted."""
        _require_count("runs", runs, 1)
        return parse_ticks(self._ask_for_sure(f"ticks {runs}", timeout, runs + 2), runs)

    def layers(self, count: int | None = None, *, timeout: float = _INFERENCE_S) -> LayerTicks:
        """Ticks of each of the network's `count` layers in one inference of the loaded input."""
        return parse_layers(self._ask_for_sure("layers", timeout), count)

    def layer_crcs(self, count: int | None = None, *, timeout: float = _INFERENCE_S) -> LayerCrcs:
        """CRC-32 of each of the network's `count` layers in one inference of the loaded input, its class and output."""
        return parse_layer_crcs(self._ask_for_sure("crc", timeout), count)

    def stack(self, *, timeout: float = _COMMAND_S) -> Stack:
        """The stack's high-water mark since boot."""
        return parse_stack(self._ask_for_sure("stack", timeout))

    def clock(self, *, timeout: float = _COMMAND_S) -> Clock:
        """What runs the core: clock source, wait states and caches, read back from the chip's registers."""
        return parse_clock(self._ask_for_sure("clock", timeout))

    # --- loading an input ---

    def load_input(self, data: bytes, *, timeout: float = _INFERENCE_S) -> None:
        """Loads `data` into the board's staging buffer and compares the CRC-32 of what arrived with its own.

        Whatever goes wrong on the line is tried again up to 3 times, then one line at a time; LineError says what was
        lost when that does not help, or when `timeout` seconds are over.
        """
        if not data:
            raise InputError("an input of 0 bytes cannot be loaded")
        deadline = time.monotonic() + timeout
        failures: list[LineError] = []
        while not failures or (len(failures) <= LOAD_RETRIES and time.monotonic() < deadline):
            if failures:
                self.retries += 1
                self._window = 1
            try:
                self._load_once(data, deadline)
                return
            except SilentBoardError:
                raise
            except LineError as error:
                failures.append(error)
        refused = isinstance(failures[-1], RefusedError)
        raise LineError(
            f"an input of {len(data):,} bytes was not loaded whole in {len(failures)} attempts: {failures[-1]}",
            hint=None if refused else "check the cable, the baud rate, and that nothing else uses this serial port",
        ) from failures[-1]

    def input_crc(self, *, timeout: float = _COMMAND_S) -> int:
        """CRC-32 of the input that the board holds; RefusedError when it holds none."""
        return int(parse_crc(self._ask("db crc", timeout)), 16)

    def _load_once(self, data: bytes, deadline: float) -> None:
        size = len(data)
        self._get_in_step(deadline)
        parse_load(self._ask(f"db load {size}", self._patience(deadline)), size)
        self._send_data([f"db {data[start : start + DB_BYTES].hex()}%" for start in range(0, size, DB_BYTES)], deadline)
        got = parse_crc(self._ask("db crc", self._patience(deadline)))
        sent = f"{zlib.crc32(data):08x}"
        if got != sent:
            raise LineError(f"bytes were changed on the way, the CRC-32 of what was sent is {sent}, the board's {got}")

    def _send_data(self, commands: Sequence[str], deadline: float) -> None:
        """Sends `db` lines, at most `window` of them ahead of their m-ready; the last one also gives m-load-done."""
        sent = 0
        with self._exchange(deadline):
            for answered in range(len(commands)):
                # Topped up at half a window: one write for many lines, and the board never runs dry.
                if sent - answered <= self._window // 2:
                    ahead = min(answered + self._window, len(commands))
                    self._write("".join(commands[sent:ahead]))
                    sent = ahead
                last = answered + 1 == len(commands)
                for expected in ("m-load-done", READY) if last else (READY,):
                    line = self._next_line(time.monotonic() + self._patience(deadline))
                    if line != expected:
                        progress = f"of {len(commands)} lines of data the board took {answered}"
                        if line is None:
                            raise LineError(f"{progress}, then it was silent")
                        raise LineError(f"{progress}, then it answered {shown(line.encode())}")

    def _patience(self, deadline: float) -> float:
        """Seconds to wait for one answer while loading, all of which ends at `deadline`."""
        return max(0.0, min(self._stall, deadline - time.monotonic()))

    # --- one command, one answer ---

    def sync(self, *, timeout: float = _COMMAND_S) -> None:
        """Brings board and client into step: ends whatever command the board is in, and drops what it says until then.

        Done by itself before the first command and after every error. SilentBoardError when the board does not answer,
        LineError when it does not stop.
        """
        self._sync(time.monotonic() + timeout, timeout)

    def _sync(self, deadline: float, timeout: float) -> None:
        """timeout: the seconds that errors tell, however few of them a busy computer has left until `deadline`."""
        self._in_step = False
        self._lines.clear()
        self._received.clear()
        heard = b""
        next_knock = time.monotonic()
        while READY.encode() not in heard:
            if time.monotonic() >= deadline:
                said = f"; it sent {shown(heard)}" if heard else ""
                raise SilentBoardError(
                    f"the board does not answer on the serial line within {timeout:.3g} s{said}",
                    hint="is the firmware running, and is this its serial port?",
                )
            if time.monotonic() >= next_knock:
                self._write("%")
                next_knock = time.monotonic() + _KNOCK_S
            heard = (heard + self._receive(min(deadline, next_knock)))[-_HEARD_BYTES:]
        while self._read(_QUIET_S):
            if time.monotonic() >= deadline:
                raise LineError("the board does not stop sending", hint="is this the port of our firmware?")
        self._in_step = True

    @contextmanager
    def _exchange(self, deadline: float, timeout: float = _COMMAND_S) -> Iterator[None]:
        """In step before, and in step afterwards - unless something is raised inside, whatever it is."""
        self._get_in_step(deadline, timeout)
        self._in_step = False
        self._require_quiet()
        yield
        self._require_quiet()
        self._in_step = True

    def _get_in_step(self, deadline: float, timeout: float = _COMMAND_S) -> None:
        """timeout: of the command that wants it, which ends at `deadline`."""
        if not self._in_step:
            self._sync(min(deadline, time.monotonic() + _COMMAND_S), min(timeout, _COMMAND_S))

    def _require_quiet(self) -> None:
        """LineError when there is anything on the line that nobody asked for."""
        self._received.extend(self._lines.feed(self._read(0.0)))
        if self._received or self._lines.partial:
            unasked = self._received[0].encode() if self._received else self._lines.partial
            raise LineError(f"the board sent something unasked: {shown(unasked)}")

    def _ask(self, command: str, timeout: float, most_lines: int = _MAX_LINES) -> list[str]:
        """Sends a command and returns the lines of its answer, m-ready left out."""
        lines: list[str] = []
        deadline = time.monotonic() + timeout
        with self._exchange(deadline, timeout):
            self._write(f"{command}%")
            while (line := self._next_line(deadline)) != READY:
                if line is None:
                    raise LineError(self._unfinished(command, timeout, lines))
                reason = refusal(line)
                if reason is not None:
                    raise RefusedError(f"the board refused `{command}`: {reason}")
                lines.append(line)
                if len(lines) > most_lines:
                    raise LineError(f"the board's answer to `{command}` does not end: {len(lines):,} lines")
        return lines

    def _ask_for_sure(self, command: str, timeout: float, most_lines: int = _MAX_LINES) -> list[str]:
        """The answer to `command`, compared with the CRC-32 that the board has of what it sent.

        A digit that was damaged on the way fits every pattern. The command is asked again up to 3 times, so it must
        have no effect of its own; LineError when no answer arrives whole.
        """
        for _ in range(ANSWER_ATTEMPTS):
            lines = self._ask(command, timeout, most_lines)
            received = zlib.crc32("".join(f"{line}\r\n" for line in lines).encode("ascii"))
            sent = parse_sum(self._ask("sum", _COMMAND_S))
            if sent == f"{received:08x}":
                return lines
            self.retries += 1
        raise LineError(
            f"the board's answer to `{command}` was damaged on the line {ANSWER_ATTEMPTS} times",
            hint="check the cable, the baud rate, and that nothing else uses this serial port",
        )

    def _unfinished(self, command: str, timeout: float, lines: Sequence[str]) -> str:
        text = f"the board did not finish its answer to `{command}` within {timeout:.3g} s"
        if lines:
            text += f": {len(lines):,} lines came, the last was {shown(lines[-1].encode())}"
        if self._lines.partial:
            text += f"; of the next one, {shown(self._lines.partial)}"
        return text

    def _next_line(self, deadline: float) -> str | None:
        """The next line; None when it has not come by `deadline`."""
        while not self._received:
            data = self._receive(deadline)
            if not data:
                return None
            self._received.extend(self._lines.feed(data))
        return self._received.popleft()

    def _receive(self, deadline: float) -> bytes:
        """What arrives next, b"" when nothing does by `deadline`; calls check() now and then."""
        while True:
            left = deadline - time.monotonic()
            data = self._read(max(0.0, min(left, _SLICE_S)))
            if data or left <= 0:
                return data
            if self._check is not None:
                self._check()

    def _read(self, timeout: float) -> bytes:
        try:
            return self._port.read(timeout)
        except DeviceError:
            self._ask_for_cause()
            raise

    def _write(self, text: str) -> None:
        try:
            self._port.write(text.encode("ascii"))
        except DeviceError:
            self._ask_for_cause()
            raise

    def _ask_for_cause(self) -> None:
        """Gives check() a moment to raise a better reason than a line that broke."""
        if self._check is None:
            return
        deadline = time.monotonic() + _CAUSE_S
        while True:
            self._check()
            if time.monotonic() >= deadline:
                return
            time.sleep(_SLICE_S)


def _require_count(what: str, value: int, least: int) -> None:
    if not least <= value <= _MAX_RUNS:
        raise InputError(f"{what} must be {least} to {_MAX_RUNS:,}, not {value:,}")
