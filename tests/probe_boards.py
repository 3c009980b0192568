"""For the probe's tests: boards on their emulators, and firmware for them, built with the real compiler."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harness import boards
from harness.boards import Board
from harness.errors import DeviceError
from harness.probe.faults import FaultReport
from harness.probe.session import BoardSession

SOURCES = Path(__file__).parent / "probe_firmware"
LARGE_WORDS = 75_000  # 300 kB
NO_COMPILER = shutil.which("arm-none-eabi-gcc") is None
NO_QEMU = shutil.which("qemu-system-arm") is None


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


class Qemu:
    """QEMU with its serial line; what open_session() needs of an emulator, and a socket to talk to the firmware."""

    kind = "qemu"

    def __init__(self, board: Board, folder: Path) -> None:
        assert board.engines.qemu is not None
        self.gdb_port, serial_port = _free_ports(2)
        self.log = folder / "qemu.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(
                        "qemu-system-arm",
                        "-M",
                        board.engines.qemu.machine,
                        "-display",
                        "none",
                        "-monitor",
                        "none",
                        "-S",
                    ),
                    *("-gdb", f"tcp:127.0.0.1:{self.gdb_port}", "-icount", f"shift={board.engines.qemu.icount_shift}"),
                    *("-serial", f"tcp:127.0.0.1:{serial_port},server=on,wait=off,nodelay=on"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.serial = _connect(serial_port)

    def alive(self) -> bool:
        return self.process.poll() is None

    def exit_report(self) -> DeviceError:
        return DeviceError(f"QEMU ended with code {self.process.poll()}", hint=self.log.read_text())

    def stop(self) -> None:
        self.serial.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(board: Board, folder: Path) -> Iterator[Qemu]:
    emulator = Qemu(board, folder)
    try:
        yield emulator
    finally:
        emulator.stop()


def read_line(serial: socket.socket, timeout: float = 5.0) -> bytes:
    """One line from the firmware, without its end."""
    serial.settimeout(timeout)
    line = b""
    while not line.endswith(b"\n"):
        line += serial.recv(1)
    return line[:-1]


def wait_for_report(session: BoardSession, seconds: float = 5.0) -> FaultReport:
    """What check() finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (report := session.check()) is not None:
            return report
        time.sleep(0.005)
    raise AssertionError("no fault was reported")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _connect(port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


Running = Qemu


def board_names() -> tuple[str, ...]:
    return tuple(name for name in boards.names() if boards.load(name).engines.qemu)
