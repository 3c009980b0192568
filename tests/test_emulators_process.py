"""Emulators from outside: QEMU and the simulator started, talked to, and ended in every way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import serial
from emulators_assembly import NEEDS_COMPILER, NO_COMPILER, cases

from harness import boards
from harness.emulators import qemu as qemu_module
from harness.emulators.base import Emulator
from harness.emulators.qemu import start_qemu
from harness.emulators.simulator.launch import start_simulator
from harness.errors import DeviceError, InputError

Start = Callable[[Path], Emulator]

needs_compiler = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)
needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
needs_gdb = pytest.mark.skipif(shutil.which("gdb-multiarch") is None, reason="gdb-multiarch is not installed")


def qemu(folder: Path) -> Emulator:
    return start_qemu(boards.load("mps2-an386"), folder)


def simulator(folder: Path) -> Emulator:
    return start_simulator(boards.load("nucleo-f746"), folder)


each_kind = pytest.mark.parametrize("start", [pytest.param(qemu, marks=needs_qemu), simulator])


def ends_soon(process: psutil.Process) -> bool:
    """Whether that process ends within seconds."""
    with contextlib.suppress(psutil.NoSuchProcess):
        deadline = time.monotonic() + 10
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def tree(emulator: Emulator) -> list[psutil.Process]:
    """Its process and what that started."""
    root = psutil.Process(emulator.pid)
    return [root, *root.children(recursive=True)]


def gdb(emulator: Emulator, *commands: str) -> str:
    """What gdb-multiarch prints for these commands, connected to the emulator."""
    connect = ("set confirm off", "set pagination off", f"target remote 127.0.0.1:{emulator.gdb_port}")
    arguments = [part for command in (*connect, *commands) for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb-multiarch", "-nx", "-batch", *arguments, str(cases().elf)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.stdout + done.stderr


class Client:
    """A GDB client of a few lines, for what gdb does not do: look while the core runs, or end a connection rudely."""

    def __init__(self, emulator: Emulator) -> None:
        self._socket = socket.create_connection(("127.0.0.1", emulator.gdb_port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        assert self.ask(b"QStartNoAckMode") == b"OK"
        self._socket.sendall(b"+")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, body: bytes) -> None:
        self._socket.sendall(b"$%b#%02x" % (body, sum(body) & 0xFF))

    def interrupt(self) -> None:
        self._socket.sendall(b"\x03")

    def reply(self) -> bytes:
        while True:
            found = re.search(rb"\$([^#]*)#..", self._received)
            if found:
                self._received = self._received[found.end() :]
                return found[1]
            part = self._socket.recv(65536)
            assert part, "the stub closed the connection"
            self._received += part

    def ask(self, body: bytes) -> bytes:
        self.send(body)
        return self.reply()

    def monitor(self, command: str) -> None:
        self.send(b"qRcmd," + command.encode().hex().encode())
        while self.reply() != b"OK":
            pass

    def load(self) -> None:
        data = cases().data
        escaped = re.sub(rb"[#$}*]", lambda match: bytes((0x7D, match[0][0] ^ 0x20)), data)
        assert self.ask(b"X8000000,%x:" % len(data) + escaped) == b"OK"
        self.monitor("reset")

    def jump(self, label: str) -> None:
        pc = cases().labels[label].to_bytes(4, "little").hex().encode()
        assert self.ask(b"Pf=" + pc) == b"OK"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Emulator]:
    """A simulator with nothing in its flash."""
    with simulator(tmp_path) as emulator:
        yield emulator


def line_to(emulator: Emulator) -> serial.Serial:
    return serial.serial_for_url(emulator.serial_url, timeout=20)


# ---- starting and ending


@each_kind
def test_start_and_stop(start: Start, tmp_path: Path) -> None:
    with start(tmp_path) as emulator:
        processes = tree(emulator)
        assert emulator.kind == start.__name__
        assert re.match(r"\d+\.\d+", emulator.version)
        assert emulator.alive()
        with line_to(emulator):
            pass
    assert not emulator.alive()
    assert all(ends_soon(process) for process in processes)
    emulator.stop()


@each_kind
def test_a_killed_emulator_is_noticed_and_explained(start: Start, tmp_path: Path) -> None:
    with start(tmp_path) as emulator:
        processes = tree(emulator)
        processes[-1].send_signal(signal.SIGSEGV)
        assert ends_soon(processes[0])
        report = emulator.exit_report()
        assert not emulator.alive()
        assert isinstance(report, DeviceError)
        assert "SIGSEGV" in str(report)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", emulator.gdb_port), timeout=5)


@each_kind
def test_exception_ends_the_emulator(start: Start, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(tmp_path) as emulator:
        processes = tree(emulator)
        raise KeyboardInterrupt
    assert all(ends_soon(process) for process in processes)


PARENT = """
import sys, time
from pathlib import Path
from harness import boards
from harness.emulators.{module} import {start}
emulator = {start}(boards.load("{board}"), Path(sys.argv[1]))
print(emulator.pid, flush=True)
time.sleep(60)
"""


@each_kind
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_emulator_outlives_its_parent(start: Start, end: signal.Signals, tmp_path: Path) -> None:
    if start is qemu:
        script = PARENT.format(module="qemu", start="start_qemu", board="mps2-an386")
    else:
        script = PARENT.format(module="simulator.launch", start="start_simulator", board="nucleo-f746")
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        root = psutil.Process(int(parent.stdout.readline()))
        processes = [root, *root.children(recursive=True)]
        parent.send_signal(end)
        parent.wait(10)
    finally:
        parent.kill()
        parent.wait(10)
        parent.stdout.close()
    assert all(ends_soon(process) for process in processes)


@each_kind
def test_emulator_outlives_the_thread_that_started_it(start: Start, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        emulator = pool.submit(start, tmp_path).result(60)
    with emulator:
        time.sleep(0.7)
        assert emulator.alive()


@needs_qemu
def test_guard_takes_qemu_along_when_it_is_killed(tmp_path: Path) -> None:
    with qemu(tmp_path) as emulator:
        guard, child = tree(emulator)
        guard.kill()
        assert ends_soon(child)


@each_kind
def test_many_at_once(start: Start, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool, contextlib.ExitStack() as stack:
        started = list(pool.map(start, [tmp_path] * 4))
        for emulator in started:
            stack.enter_context(emulator)
        places = {emulator.gdb_port for emulator in started} | {emulator.serial_url for emulator in started}
        assert len(places) == 8
        assert all(emulator.alive() for emulator in started)


@needs_qemu
def test_folder_with_spaces(tmp_path: Path) -> None:
    with qemu(tmp_path / "a folder" / "of runs") as emulator:
        assert emulator.alive()


def test_missing_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="not installed") as caught:
        qemu(tmp_path)
    assert "apt-get install qemu-system-arm" in (caught.value.hint or "")


@needs_qemu
def test_qemu_that_refuses_the_machine(tmp_path: Path) -> None:
    board = boards.load("mps2-an386")
    assert board.engines.qemu is not None
    wrong = board.engines.qemu.model_copy(update={"machine": "no-such-machine"})
    engines = board.engines.model_copy(update={"qemu": wrong})
    begin = time.monotonic()
    with pytest.raises(DeviceError, match=r"no-such-machine.*exit code 1.*unsupported machine"):
        start_qemu(board.model_copy(update={"engines": engines}), tmp_path)
    assert time.monotonic() - begin < 10


@needs_qemu
def test_lockup_in_qemu_is_explained(tmp_path: Path) -> None:
    """QEMU aborts then. Blank memory is no vector table, which is enough."""
    with qemu(tmp_path) as emulator:
        root = psutil.Process(emulator.pid)
        with socket.create_connection(("127.0.0.1", emulator.gdb_port), timeout=20) as client:
            client.sendall(b"$c#63")
            assert ends_soon(root)
        report = emulator.exit_report()
        assert re.search(r"mps2-an386.*SIGABRT: the core has locked up .* at 0x", str(report))


def test_a_program_that_is_no_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / qemu_module.PROGRAM
    fake.write_text("#!/bin/sh\necho version 1.0; echo broken >&2; exit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DeviceError):
        qemu(tmp_path)


def test_boards_without_that_engine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nucleo-f746"):
        start_qemu(boards.load("nucleo-f746"), tmp_path)
    with pytest.raises(InputError, match="mps2-an386"):
        start_simulator(boards.load("mps2-an386"), tmp_path)


def test_log_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="log"):
        simulator(tmp_path / "file" / "logs")


def test_modules_in_the_current_folder_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "socket.py").write_text("raise SystemExit('wrong module')\n")
    monkeypatch.chdir(tmp_path)
    with simulator(tmp_path) as emulator:
        assert emulator.alive()


# ---- the simulator's GDB server


@needs_compiler
@needs_gdb
def test_gdb_loads_breaks_continues_steps(board: Emulator) -> None:
    out = gdb(
        board,
        "load",
        "monitor reset",
        "maintenance flush register-cache",
        "compare-sections",
        "break *uart_read",
        "continue",
        "info registers r1 sp pc xpsr msp control",
        "stepi",
        'printf "stepped %#x\\n", $pc',
        "set var $r7 = 0x1234",
        "print/x $r7",
        "set var $d3 = 1.5",
        "print $d3",
        "print/x *(int*)0xe000ed00",
        "delete",
        "monitor instructions",
    )
    labels = cases().labels
    assert out.count("matched") == 2
    assert "MIS-MATCHED" not in out
    assert re.search(rf"^pc +{labels['uart_read']:#x}", out, re.MULTILINE)
    assert re.search(r"^r1 +0x40004800", out, re.MULTILINE)
    assert re.search(r"^msp +0x20010000", out, re.MULTILINE)
    assert f"stepped {labels['uart_read'] + 4:#x}" in out
    assert "0x1234" in out
    assert "= 1.5" in out
    assert "= 0x410fc271" in out
    assert re.search(r"^\d+$", out, re.MULTILINE)


@needs_compiler
@needs_gdb
def test_gdb_sees_a_fault_in_its_handler(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
    out = gdb(
        board, "break hard_fault", "set var $pc = load_nothing", "continue", "print/x *(int*)0xe000ed28", "backtrace"
    )
    assert "Breakpoint 1" in out
    assert "= 0x8200" in out


@needs_compiler
@needs_gdb
def test_gdb_is_told_of_a_lockup_and_recovers(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
        client.jump("fault_in_handler")
    out = gdb(
        board, "continue", "print/x $pc", "print/x *(int*)0xe000edf0", "monitor reset",
        "maintenance flush register-cache", "print/x $pc",
    )  # fmt: skip
    assert "The core has locked up: UsageFault (UNDEFINSTR)" in out
    assert "SIGSEGV" in out
    assert "= 0xfffffffe" in out
    assert f"= {cases().labels['reset']:#x}" in out


@needs_compiler
def test_hang_is_interrupted_and_goes_on(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
        client.jump("hang")
        client.send(b"c")
        time.sleep(0.1)
        begin = time.monotonic()
        client.interrupt()
        assert client.reply() == b"T02thread:1;"
        assert time.monotonic() - begin < 5  # 50 ms, but the computer is shared
        hang = cases().labels["hang"]
        pc = int.from_bytes(bytes.fromhex(client.ask(b"pf").decode()), "little")
        assert hang <= pc < hang + 4
        before = client.ask(b"p0")
        client.send(b"vCont;c")
        time.sleep(0.05)
        client.interrupt()
        client.reply()
        assert client.ask(b"p0") != before


@needs_compiler
def test_memory_is_served_while_the_core_runs(board: Emulator) -> None:
    with Client(board) as client, line_to(board) as line:
        client.load()
        client.send(b"c")
        line.write(b"!")
        assert line.read(1) == b"!"
        for value in (b"\x12\x34\x56\x78", b"\xff\x00\xff\x00"):
            assert client.ask(b"M20000000,4:" + value.hex().encode()) == b"OK"
            assert client.ask(b"m20000000,4") == value.hex().encode()
            assert client.ask(b"m40004800,4") == b"0d000000"
            line.write(value)
            assert line.read(4) == value
        assert client.ask(b"m90000000,4") == b"E14"
        data = cases().data
        assert client.ask(b"qCRC:8000000,%x" % len(data)) == b"C%08x" % slow_gdb_crc32(data)
        client.interrupt()
        assert client.reply() == b"T02thread:1;"


def slow_gdb_crc32(data: bytes) -> int:
    """As the GDB manual defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


@needs_compiler
def test_breakpoint_reported_while_running(board: Emulator) -> None:
    with Client(board) as client, line_to(board) as line:
        client.load()
        client.send(b"c")
        assert client.ask(b"Z1,%x,2" % cases().labels["uart_write"]) == b"OK"
        line.write(b"a")
        assert client.reply() == b"T05thread:1;"
        assert client.ask(b"p0") == b"61000000"
        assert client.ask(b"z1,%x,2" % cases().labels["uart_write"]) == b"OK"
        client.send(b"c")
        assert line.read(1) == b"a"


@needs_compiler
def test_bkpt_halts_for_a_client_and_faults_without(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
        client.jump("breakpoint")
        assert client.ask(b"c") == b"T05thread:1;"
        assert client.ask(b"D") == b"OK"
    with Client(board) as client:
        deadline = time.monotonic() + 10
        while client.ask(b"me000ed2c,4") != b"00000080":
            assert time.monotonic() < deadline
            client.send(b"D")
            client.reply()
            time.sleep(0.05)


@needs_compiler
def test_client_that_goes_without_a_word_leaves_no_breakpoint(board: Emulator) -> None:
    with line_to(board) as line:
        with Client(board) as client:
            client.load()
            assert client.ask(b"Z0,%x,2" % cases().labels["uart_write"]) == b"OK"
            client.send(b"c")
        # The next client is served once the stub has noticed that this one is gone.
        with Client(board):
            pass
        line.write(b"still here")
        assert line.read(10) == b"still here"
        with Client(board) as client:
            assert client.ask(b"?") == b"T05thread:1;"
            line.write(b"x")
            line.timeout = 0.2
            assert line.read(1) == b""


@needs_compiler
def test_reset_while_running_halts(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
        client.send(b"c")
        client.send(b"qRcmd," + b"system_reset".hex().encode())
        assert {client.reply(), client.reply()} == {b"T05thread:1;", b"OK"}
        assert client.ask(b"pf") == cases().labels["reset"].to_bytes(4, "little").hex().encode()


def test_kill_packet_ends_the_simulator(board: Emulator) -> None:
    with Client(board) as client:
        client.send(b"k")
        assert ends_soon(psutil.Process(board.pid))
    assert "exit code 0" in str(board.exit_report())


def test_garbage_does_no_harm(board: Emulator) -> None:
    with Client(board) as client:
        for body in (b"m", b"mzz,4", b"p99", b"Pf", b"X0,4:a", b"Z1", b"vCont;x", b"qCRC:1", b"G0", b"M8000000,2:ff"):
            assert client.ask(body) == b"E16", body
        for body in (b"Z2,20000000,4", b"vMustReplyEmpty", b"QUnknown", b"qUnknown", b"!", b"_"):
            assert client.ask(body) == b"", body
        assert client.ask(b"m8000000,4") == b"ffffffff"


# ---- the simulator's serial port


@needs_compiler
def test_serial_loses_and_reorders_nothing(board: Emulator) -> None:
    data = os.urandom(60_000)
    with Client(board) as client, line_to(board) as line:
        client.load()
        client.send(b"c")
        writer = threading.Thread(target=line.write, args=(data,))
        writer.start()
        begin = time.monotonic()
        assert line.read(len(data)) == data
        assert time.monotonic() - begin < 15
        writer.join(10)
        # Bytes written while the core is halted wait for it.
        client.interrupt()
        client.reply()
        line.write(b"later")
        client.send(b"c")
        assert line.read(5) == b"later"


@needs_compiler
def test_waiting_for_input_takes_no_time(board: Emulator) -> None:
    process = psutil.Process(board.pid)
    with Client(board) as client:
        client.load()
        client.send(b"c")
        time.sleep(0.2)
        before = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - before < 0.15


@needs_compiler
def test_two_simulators_are_independent(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(simulator(tmp_path)) for _ in range(2))
        first, second = (stack.enter_context(line_to(emulator)) for emulator in (one, other))
        for client in [stack.enter_context(Client(emulator)) for emulator in (one, other)]:
            client.load()
            client.send(b"c")
        first.write(b"first")
        second.write(b"second")
        assert first.read(5) == b"first"
        assert second.read(6) == b"second"
        one.stop()
        second.write(b"alone")
        assert second.read(5) == b"alone"


@needs_compiler
def test_serial_client_can_come_back(board: Emulator) -> None:
    with Client(board) as client:
        client.load()
        client.send(b"c")
        for text in (b"once", b"again"):
            with line_to(board) as line:
                line.write(text)
                assert line.read(len(text)) == text
