"""For the probe's tests: boards on their emulators, and firmware for them, built with the real compiler."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.boards import Board
from harness.emulators.base import Emulator
from harness.emulators.qemu import start_qemu
from harness.emulators.simulator.launch import start_simulator
from harness.probe.faults import FaultReport
from harness.probe.session import BoardSession

SOURCES = Path(__file__).parent / "probe_firmware"
LARGE_WORDS = 75_000  # 300 kB
NO_COMPILER = shutil.which("arm-none-eabi-gcc") is None
NO_QEMU = shutil.which("qemu-system-arm") is None


def board_names() -> tuple[str, ...]:
    """Boards whose UART the test firmware knows, as far as an emulator models them here and now."""
    return ("nucleo-f746",) if NO_QEMU else ("mps2-an386", "mps2-an500", "nucleo-f746")


def build(board: Board, folder: Path, *, payload_words: int = 0, name: str = "firmware") -> Path:
    """The test firmware for that board, as an ELF file."""
    elf = folder / f"{name}.elf"
    flash, ram = board.region("flash"), board.region("ram")
    places = {
        "FLASH_ORIGIN": flash.origin,
        "FLASH_LENGTH": flash.length,
        "RAM_ORIGIN": ram.origin,
        "RAM_LENGTH": ram.length,
    }
    subprocess.run(
        [
            "arm-none-eabi-gcc",
            *(f"-mcpu={board.core}", "-mthumb", "-mfloat-abi=soft", "-O1", "-g", "-ffreestanding", "-nostdlib"),
            *("-Wall", "-Wextra", "-Wno-array-bounds", f"-DUART_{board.port.upper()}"),
            *([f"-DPAYLOAD_WORDS={payload_words}"] if payload_words else []),
            *(f"-Wl,--defsym={symbol}={value:#x}" for symbol, value in places.items()),
            *("-T", str(SOURCES / "link.ld"), "-Wl,--no-warn-rwx-segments", "-o", str(elf), str(SOURCES / "main.c")),
        ],
        check=True,
        timeout=60,
    )
    return elf


@dataclass(frozen=True)
class Running:
    """An emulator, and its serial line."""

    emulator: Emulator
    serial: socket.socket

    def kill(self) -> None:
        """End the emulator as a crash would."""
        os.killpg(self.emulator.pid, signal.SIGKILL)
        while self.emulator.alive():
            time.sleep(0.001)


def _start(board: Board) -> Callable[[Board, Path], Emulator]:
    return start_simulator if board.engines.simulator else start_qemu


@contextlib.contextmanager
def running_alone(board: Board, folder: Path) -> Iterator[Emulator]:
    """The board's emulator, halted, with nobody on its serial line."""
    with _start(board)(board, folder) as emulator:
        yield emulator


@contextlib.contextmanager
def running(board: Board, folder: Path, *, start: Callable[[Board, Path], Emulator] | None = None) -> Iterator[Running]:
    """The board's emulator, halted. start: which one, else the simulator or QEMU."""
    with (start or _start(board))(board, folder) as emulator:
        host, _, port = emulator.serial_url.removeprefix("socket://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as serial:
            yield Running(emulator, serial)


def read_line(serial: socket.socket, timeout: float = 5.0) -> bytes:
    """One line from the firmware, without its end."""
    serial.settimeout(timeout)
    line = b""
    while not line.endswith(b"\n"):
        line += serial.recv(1)
    return line[:-1]


def drain(serial: socket.socket) -> None:
    """Forget what the firmware has sent so far."""
    serial.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while serial.recv(4096):
            pass
    serial.setblocking(True)


def wait_for_report(session: BoardSession, seconds: float = 5.0) -> FaultReport:
    """What check() finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (report := session.check()) is not None:
            return report
        time.sleep(0.005)
    raise AssertionError("no fault was reported")
