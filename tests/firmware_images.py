"""What tests of the firmware and the toolchain share: a hand-written network, its reference, a way to talk to it."""

from __future__ import annotations

import atexit
import os
import pty
import select
import socket
import subprocess
import time
import tty
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.assets import firmware_dir
from harness.boards import Board
from harness.toolchain import compiler
from harness.toolchain.platformio import BuildInputs, Firmware

NETWORK = Path(__file__).parent / "firmware_network"
INPUT = bytes(range(0, 256, 16))


@cache
def shared_cache() -> Path:
    """A cache that lasts as long as this process of tests: each image is built once in it."""
    folder = TemporaryDirectory(prefix="harness-tests-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def network_files(**replacements: str) -> dict[str, str | bytes]:
    """The generated folder of the little network; every text in `replacements` that is found in it is replaced."""
    source = (NETWORK / "network.c").read_text()
    for old, new in replacements.items():
        assert old in source
        source = source.replace(old, new)
    return {"network.c": source, "network.h": (NETWORK / "network.h").read_text()}


def tiny(**options: object) -> BuildInputs:
    """The little network, to be built as `options` of BuildInputs say."""
    return BuildInputs(name="tiny", **{"files": network_files(), **options})


@dataclass(frozen=True)
class Expected:
    """What the little network returns for one input."""

    outputs: tuple[int, ...]
    crcs: tuple[int, int]


def reference(data: bytes) -> Expected:
    """The little network in Python."""
    half = [value // 2 for value in data]
    weights = [
        list(range(1, 17)),
        [-1, 1] * 8,
        [0] * 15 + [127],
        [-128] + [0] * 15,
    ]
    outputs = tuple(
        bias + sum(w * x for w, x in zip(row, half, strict=True))
        for row, bias in zip(weights, (10, -20, 30, -40), strict=True)
    )
    packed = b"".join(value.to_bytes(4, "little", signed=True) for value in outputs)
    return Expected(outputs, (zlib.crc32(bytes(half)), zlib.crc32(packed)))


class Line:
    """A serial line as a file descriptor: commands out, answer lines in."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def hang_up(self) -> None:
        """Closes our end of a pty."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.descriptor, data) :]

    def read(self, seconds: float) -> bytes:
        """What arrives next; nothing after `seconds` of silence."""
        ready, _, _ = select.select([self.descriptor], [], [], seconds)
        return os.read(self.descriptor, 4096) if ready else b""

    def answers(self, seconds: float = 10) -> list[str]:
        """The lines up to m-ready, without it."""
        deadline = time.monotonic() + seconds
        received = b""
        while not received.endswith(b"m-ready\r\n"):
            chunk = self.read(max(0.0, deadline - time.monotonic()))
            assert chunk, f"no m-ready, only {received!r}"
            received += chunk
        return received.decode().removesuffix("m-ready\r\n").split("\r\n")[:-1]

    def knock(self, seconds: float = 20) -> None:
        """Until the firmware has booted: QEMU's STM32 drops what comes before its UART is on."""
        deadline = time.monotonic() + seconds
        heard = b""
        while b"m-ready" not in heard:
            assert time.monotonic() < deadline, f"no answer, only {heard!r}"
            self.send(b"%")
            heard += self.read(0.5)
        while self.read(0.2):
            pass

    def ask(self, command: str) -> list[str]:
        self.send(command.encode() + b"%")
        return self.answers()

    def load(self, data: bytes) -> None:
        """As the MLCommons runner does: 31 bytes a line."""
        assert self.ask(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
        for start in range(0, len(data), 31):
            answer = self.ask(f"db {data[start : start + 31].hex()}")
        assert answer == ["m-load-done"]


def compile_host(output: Path, *, source: Path | None = None, sanitize: bool = True, staging: bool = True) -> Path:
    """The firmware with the posix port and the little network as a host program; with `source`, that file instead.

    staging: whether it keeps the input it was sent.
    """
    firmware = firmware_dir()
    ours = [firmware / "src" / name for name in ("protocol.c", "main.c", "crc32.c")] + [firmware / "ports" / "posix.c"]
    command = [
        str(compiler.host().path),
        *("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"),
        *(("-fsanitize=address,undefined", "-fno-sanitize-recover=all") if sanitize else ()),
        *('-DHARNESS_BUILD_ID="0123456789abcdef"', '-DHARNESS_BOARD="posix"', f"-DHARNESS_STAGING={int(staging)}"),
        *(f"-I{folder}" for folder in (NETWORK, *(firmware / name for name in ("src", "ports", "nn")))),
        str(NETWORK / "network.c"),
        *map(str, [source, firmware / "src" / "crc32.c"] if source else ours),
        *("-o", str(output)),
    ]
    subprocess.run(command, check=True, timeout=60)
    return output


@contextmanager
def on_pty(program: Path) -> Iterator[tuple[Line, subprocess.Popen[bytes]]]:
    """The host program with a pty for its serial line."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    process = subprocess.Popen([str(program)], stdin=theirs, stdout=theirs)
    os.close(theirs)
    line = Line(ours)
    try:
        yield line, process
    finally:
        process.kill()
        process.wait()
        line.hang_up()


@contextmanager
def on_qemu(firmware: Firmware, board: Board) -> Iterator[tuple[Line, subprocess.Popen[bytes]]]:
    """The image on QEMU, with a TCP connection for its serial line."""
    assert board.engines.qemu is not None
    with closing(socket.socket()) as listener:  # QEMU connects to us: no port to guess
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(20)
        port = listener.getsockname()[1]
        command = [
            *("qemu-system-arm", "-M", board.engines.qemu.machine, "-display", "none", "-monitor", "none"),
            *("-kernel", str(firmware.elf), "-icount", f"shift={board.engines.qemu.icount_shift}"),
            *("-serial", f"tcp:127.0.0.1:{port},nodelay=on"),
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line = Line(connection.fileno())
                line.knock()
                yield line, process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
