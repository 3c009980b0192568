"""QEMU as an emulator: which machine it is told to be, and what its end means."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from harness.boards import Board
from harness.emulators import guard
from harness.emulators.base import HOST, START_DEADLINE, Emulator, Process
from harness.errors import DeviceError, InputError

PROGRAM = "qemu-system-arm"
_VERSION_DEADLINE = 30.0


def start_qemu(board: Board, work_dir: Path) -> Emulator:
    """Start QEMU for `board`, halted; its log goes to `work_dir`.

    One instruction takes 2**icount_shift ns of virtual time, so that timers count instructions.
    InputError when QEMU has no model of the board; DeviceError when QEMU is missing or does not start.
    """
    engine = board.engines.qemu
    if engine is None:
        raise InputError(f"QEMU does not model board {board.id}", hint="harness boards lists what each board runs on")
    program = shutil.which(PROGRAM)
    if program is None:
        raise DeviceError(
            f"{PROGRAM} is not installed",
            hint="apt-get install qemu-system-arm, or another package of your system with QEMU 7.2 or later for Arm",
        )
    version = _version(program)
    with contextlib.ExitStack() as stack:
        # The ports are opened here and handed over: nobody can take them in between.
        gdb, serial = (stack.enter_context(_listener()) for _ in range(2))
        ports = [listener.getsockname()[1] for listener in (gdb, serial)]
        qemu = [program, "-M", engine.machine, "-display", "none", "-monitor", "none", "-S"]
        qemu += ["-icount", f"shift={engine.icount_shift}"]
        qemu += [*_chardev("gdb", gdb), "-gdb", "chardev:gdb", *_chardev("serial", serial), "-serial", "chardev:serial"]
        command = [sys.executable, "-I", "-S", str(Path(guard.__file__)), *qemu]
        fds = (gdb.fileno(), serial.fileno())
        process = Process(f"QEMU ({engine.machine})", "qemu", command, work_dir, pass_fds=fds, explain=_explain)
    try:
        _wait_for_stub(process, ports[0])
    except BaseException:
        process.stop()
        raise
    return Emulator("qemu", version, process, gdb_port=ports[0], serial_port=ports[1])


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(1)
    return listener


def _chardev(name: str, listener: socket.socket) -> list[str]:
    # Without nodelay, each short line on the serial port takes 40 ms.
    return ["-chardev", f"socket,id={name},fd={listener.fileno()},server=on,wait=off,nodelay=on"]


def _wait_for_stub(process: Process, port: int) -> None:
    """Until QEMU answers its first packet. The connection itself is made by the kernel, before QEMU runs."""
    deadline = time.monotonic() + START_DEADLINE
    try:
        with socket.create_connection((HOST, port), timeout=START_DEADLINE) as client:
            client.sendall(b"$?#3f")
            reply = b""
            while b"#" not in reply:
                client.settimeout(max(0.01, deadline - time.monotonic()))
                part = client.recv(4096)
                if not part:
                    break
                reply += part
            else:
                client.sendall(b"+")
                return
    except OSError:
        pass
    # A process that is ending closes its sockets before it can be waited for.
    while process.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    raise process.exit_report()


def _explain(log: str) -> str | None:
    if "Lockup" in log:
        where = re.search(r"R15=([0-9a-f]{8})", log)
        return "the core has locked up (a fault inside the HardFault handler)" + (
            f" at 0x{where[1]}" if where is not None else ""
        )
    error = re.search(r"^qemu[^:]*: (?!warning:|terminating)(.+)$", log, re.MULTILINE)
    return error[1] if error is not None else None


@cache
def _version(program: str) -> str:
    """QEMU's version, such as 7.2.22."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_DEADLINE, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"{program} does not run", hint=str(error)) from error
    found = re.search(r"version (\S+)", answer)
    return found[1] if found is not None else answer.strip()
