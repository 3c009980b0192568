"""For the link's tests: the real firmware as a host process on a pty or a TCP port, with a line that can be broken."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
BUILD_ID = "0123456789abcdef"

# What a line does to the bytes on it; called with each piece that arrives, in order.
Line = Callable[[bytes], bytes]


def build(folder: Path, input_bytes: int) -> Path:
    """The firmware with the network of link_network/, compiled for this machine."""
    executable = folder / f"board-{input_bytes}"
    firmware = ROOT / "firmware"
    network = ROOT / "tests" / "link_network"
    sources = [firmware / "src" / name for name in ("main.c", "protocol.c", "crc32.c")]
    sources += [firmware / "ports" / "posix.c", network / "network.c"]
    includes = [f"-I{path}" for path in (firmware / "src", firmware / "nn", firmware / "ports", network)]
    defines = [
        f'-DHARNESS_BUILD_ID="{BUILD_ID}"',
        '-DHARNESS_BOARD="host"',
        f"-DNETWORK_INPUT_BYTES={input_bytes}u",
    ]
    command = ["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", *defines, *includes]
    subprocess.run([*command, *map(str, sources), "-o", str(executable)], check=True, timeout=60)
    return executable


class Board:
    """A running board; `url` is where to open its line. With a filter, or with tcp, a relay stands in between."""

    def __init__(
        self, executable: Path, *, to_board: Line | None = None, to_host: Line | None = None, tcp: bool = False
    ) -> None:
        self._filters = (to_board or bytes, to_host or bytes)
        self._open: set[int] = set()
        self._relay: threading.Thread | None = None
        self._listener: socket.socket | None = None
        board_master, board_slave = self._pty()
        if to_board is None and to_host is None and not tcp:
            # The board holds the master side, as QEMU does with `-serial pty`.
            self.url = os.ttyname(board_slave)
            self._start(executable, board_master)
            return
        self._stop, stop_read = os.pipe()[::-1]
        self._open |= {self._stop, stop_read}
        self._start(executable, board_slave)
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
            self._relay = threading.Thread(target=self._serve_tcp, args=(board_master, stop_read))
        else:
            host_master, host_slave = self._pty()
            self.url = os.ttyname(host_slave)
            self._relay = threading.Thread(target=self._pump, args=(board_master, host_master, stop_read))
        self._relay.start()

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        self._process.kill()
        self._process.wait(timeout=10)

    def close(self) -> None:
        self.kill()
        if self._relay:
            os.write(self._stop, b"x")
            self._relay.join(timeout=10)
            assert not self._relay.is_alive()
        if self._listener:
            self._listener.close()
        for handle in tuple(self._open):
            self._close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pty(self) -> tuple[int, int]:
        master, slave = pty.openpty()
        tty.setraw(slave)
        self._open |= {master, slave}
        return master, slave

    def _start(self, executable: Path, line: int) -> None:
        self._process = subprocess.Popen([executable], stdin=line, stdout=line)
        self._close(line)

    def _close(self, handle: int) -> None:
        if handle in self._open:
            self._open.remove(handle)
            os.close(handle)

    def _serve_tcp(self, board: int, stop: int) -> None:
        assert self._listener
        if self._listener in select.select([self._listener, stop], [], [])[0]:
            connection = self._listener.accept()[0]
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pump(board, connection.fileno(), stop)

    def _pump(self, board: int, host: int, stop: int) -> None:
        """Carries bytes both ways until one side hangs up, which the other side then sees."""
        to_board, to_host = self._filters
        with contextlib.suppress(OSError):
            while stop not in (ready := select.select([board, host, stop], [], [])[0]):
                for source, target, line in ((host, board, to_board), (board, host, to_host)):
                    if source in ready:
                        data = os.read(source, 65536)
                        if not data:
                            return
                        os.write(target, line(data))
        self._close(host)


def at(position: int, change: Callable[[bytes], bytes]) -> Line:
    """A line on which `change` befalls the byte at `position` (0 is the first one ever) and nothing else happens."""
    seen = 0

    def line(data: bytes) -> bytes:
        nonlocal seen
        offset = position - seen
        seen += len(data)
        if not 0 <= offset < len(data):
            return data
        return data[:offset] + change(data[offset : offset + 1]) + data[offset + 1 :]

    return line


def drop(byte: bytes) -> bytes:
    return b""


def double(byte: bytes) -> bytes:
    return byte + byte


def flip(mask: int) -> Callable[[bytes], bytes]:
    return lambda byte: bytes([byte[0] ^ mask])


def insert(noise: bytes) -> Callable[[bytes], bytes]:
    return lambda byte: noise + byte
