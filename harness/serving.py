"""Keeps a board up for somebody else's client of its serial line: programs it, runs it, and watches over it.

An emulator's line is a socket; clients of serial ports want a terminal device. A pseudo-terminal of this machine stands
in for it: what a client writes to it reaches the board, whatever baud rate and modem lines the client sets.
"""

from __future__ import annotations

import os
import select
import socket
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.boards import Board
from harness.engines import Choice
from harness.errors import DeviceError
from harness.measurement import started
from harness.progress import Reporter

if TYPE_CHECKING:
    from harness.emulators.base import Emulator
    from harness.probe.session import BoardSession

# How often the core is looked at, in seconds, and how many bytes go at once.
_LOOK_SECONDS = 0.05
_BYTES = 4096
# What a client that has gone away did not read is kept up to here, then lost, as on a wire.
_MOST_UNREAD = 1 << 16


@dataclass(frozen=True)
class Served:
    """A board that runs. tty: the device for its serial line. run() forwards until something ends it."""

    tty: str
    run: Callable[[], None]


@contextmanager
def serve(firmware: Path, board: Board, choice: Choice, *, serial: str | None, reporter: Reporter) -> Iterator[Served]:
    """Programs `firmware` and lets it run; leaves nothing behind. serial: the port of a real board, where it is not the
    probe's.

    DeviceError, with a report on the core, from run() when the firmware faults or the emulator ends.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="harness-")))
        with reporter.stage(f"starting {choice.engine}"):
            emulator, session = stack.enter_context(started(board, choice, work))
        with reporter.stage(f"programming {board.id}") as advance:
            session.program(firmware, progress=advance)
        if emulator is None:
            from harness.link.usb_ports import port_of_probe

            port = serial or port_of_probe(session.probe_uid)
            session.reset_and_run()
            yield Served(port, lambda: _watch(session))
            return
        bridge = stack.enter_context(_Bridge.opened(emulator))
        session.reset_and_run()
        yield Served(bridge.tty, lambda: bridge.forward(session))


def _watch(session: BoardSession) -> None:
    """Look at a real board's core for as long as it runs; its line is the client's."""
    while True:
        _check(session)
        time.sleep(_LOOK_SECONDS)


def _check(session: BoardSession) -> None:
    report = session.check()
    if report is not None:
        raise report.error()


class _Bridge:
    """A pseudo-terminal on one side, an emulator's serial socket on the other."""

    def __init__(self, ours: int, theirs: int, line: socket.socket) -> None:
        self.tty = os.ttyname(theirs)
        self._ours = ours
        self._line = line

    @classmethod
    @contextmanager
    def opened(cls, emulator: Emulator) -> Iterator[_Bridge]:
        """Both ends, open. We keep the clients' end open too: without any client, ours would break."""
        host, _, port = emulator.serial_url.removeprefix("socket://").partition(":")
        try:
            ours, theirs = os.openpty()
        except OSError as error:
            raise DeviceError(f"this machine has no pseudo-terminal left: {error.strerror}") from error
        try:
            # As a UART: no echo, no line ends changed, no signals - until the client sets it up the same way.
            tty.setraw(theirs)
            os.set_blocking(ours, False)
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield cls(ours, theirs, line)
        except ConnectionError as error:
            raise emulator.exit_report() from error
        finally:
            os.close(ours)
            os.close(theirs)

    def forward(self, session: BoardSession) -> None:
        """Carry bytes both ways until the core stops or the emulator ends, which is an error."""
        unread = b""
        next_look = time.monotonic()
        while True:
            wanted = [self._ours] if unread else []
            readable = select.select([self._ours, self._line.fileno()], wanted, [], _LOOK_SECONDS)[0]
            if self._ours in readable:
                self._to_board(session)
            if self._line.fileno() in readable:
                data = self._line.recv(_BYTES)
                if not data:
                    _check(session)
                    raise DeviceError("the emulator closed the board's serial line")
                unread = (unread + data)[-_MOST_UNREAD:]
            if unread:
                with suppress(BlockingIOError):
                    unread = unread[os.write(self._ours, unread) :]
            if time.monotonic() >= next_look:
                _check(session)
                next_look = time.monotonic() + _LOOK_SECONDS

    def _to_board(self, session: BoardSession) -> None:
        try:
            self._line.sendall(os.read(self._ours, _BYTES))
        except TimeoutError as error:
            _check(session)
            raise DeviceError("the board takes no bytes on its serial line") from error
        except OSError as error:
            _check(session)
            raise DeviceError(f"the board's serial line broke: {error}") from error
