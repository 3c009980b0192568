"""The way to a real board: which probe is taken, what is said when none can be, and pyOCD's own targets.

No board is needed: a probe type is registered in pyOCD whose probes are plugged into QEMU instead of USB.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import probe_boards
import pytest
from firmware_images import INPUT, reference, shared_cache, tiny
from pyocd.board.board_ids import BoardInfo
from pyocd.core import exceptions
from pyocd.probe.aggregator import PROBE_CLASSES
from pyocd.probe.tcp_client_probe import TCPClientProbe

from harness import boards, engines, measurement
from harness.boards import Board, ChipId, HardwareEngine
from harness.engines import Choice
from harness.errors import DeviceError, InputError
from harness.probe import targets
from harness.probe.hardware import ProbeInfo, list_probes, serves
from harness.probe.plugin import EmulatorProbe
from harness.probe.session import open_session
from harness.progress import Silent
from harness.toolchain.platformio import build

Plug = Callable[..., None]


class BenchProbe(EmulatorProbe):  # type: ignore[misc]  # pyOCD has no type information
    """A probe with a serial number, soldered to a board whose core is at a GDB port."""

    connected: list[BenchProbe]

    def __init__(self, serial: str, board: str | None, port: int, refusal: str | None) -> None:
        super().__init__(f"127.0.0.1:{port},qemu")
        self.serial, self.board, self.refusal = serial, board, refusal

    @classmethod
    def get_all_connected_probes(cls, unique_id: str | None = None, is_explicit: bool = False) -> list[Any]:
        return cls.connected

    @classmethod
    def get_probe_with_id(cls, unique_id: str, is_explicit: bool = False) -> Any:
        return next((probe for probe in cls.connected if probe.serial == unique_id), None)

    @property
    def unique_id(self) -> str:
        return self.serial

    @property
    def associated_board_info(self) -> BoardInfo | None:
        return BoardInfo(self.board, "a_target") if self.board else None

    def open(self) -> None:
        if self.refusal:
            raise exceptions.ProbeError(self.refusal)
        super().open()


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """plug(serial, board name, GDB port): connects one more probe. No real probe is looked for."""
    for name in [*PROBE_CLASSES]:
        monkeypatch.delitem(PROBE_CLASSES, name)
    monkeypatch.setitem(PROBE_CLASSES, "bench", BenchProbe)
    monkeypatch.setitem(PROBE_CLASSES, "remote", TCPClientProbe)
    monkeypatch.setattr(BenchProbe, "connected", [], raising=False)

    def connect(serial: str, board: str | None = None, port: int = 1, refusal: str | None = None) -> None:
        BenchProbe.connected.append(BenchProbe(serial, board, port, refusal))

    return connect


def on_hardware(target: str) -> Board:
    """The AN386, as if there were real ones: pyOCD's target of that name also has flash at 0."""
    board = boards.load("mps2-an386")
    hardware = HardwareEngine(pyocd_target=target, board_names=("MPS2",))
    return board.model_copy(update={"engines": board.engines.model_copy(update={"hardware": hardware})})


def failure(board: Board, uid: str | None = None) -> DeviceError:
    with pytest.raises(DeviceError) as caught, open_session(board, emulator=None, probe_uid=uid):
        pass
    assert caught.value.exit_code == 3
    return caught.value


BOARD = on_hardware("hc32f4a0xi")


def test_probes_are_listed_with_their_boards(plug: Plug) -> None:
    plug("B2")
    plug("A1", "MPS2")
    description = "harness emulator (qemu)"
    assert list_probes() == (ProbeInfo("A1", description, "MPS2", "a_target"), ProbeInfo("B2", description, None, None))
    assert [serves(probe, BOARD) for probe in list_probes()] == [True, False]
    assert not serves(list_probes()[0], boards.load("mps2-an386"))


def test_listing_never_raises(plug: Plug, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class WithoutUsb(BenchProbe):
        @classmethod
        def get_all_connected_probes(cls, unique_id: str | None = None, is_explicit: bool = False) -> list[Any]:
            raise OSError("No backend available")

    monkeypatch.setitem(PROBE_CLASSES, "a broken type", WithoutUsb)
    plug("A1")
    assert [probe.uid for probe in list_probes()] == ["A1"]
    assert capfd.readouterr() == ("", "")


def test_no_probe(plug: Plug) -> None:
    error = failure(BOARD)
    assert error.message == "no debug probe is connected"
    assert "--engine" in (error.hint or "")


def test_a_probe_that_is_not_there(plug: Plug) -> None:
    plug("A1", "MPS2")
    error = failure(BOARD, "B2")
    assert error.message == "no debug probe with the id 'B2' is connected"
    assert "id A1" in (error.hint or "")


def test_several_probes_are_listed(plug: Plug) -> None:
    plug("A1", "MPS2")
    plug("A2", "MPS2")
    for uid in (None, "A"):
        error = failure(BOARD, uid)
        assert error.message.startswith("2 debug probes are connected: ")
        assert "id A1" in error.message
        assert "id A2" in error.message
        assert "--probe" in (error.hint or "")


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        ("[Errno 16] Resource busy", "another program uses it"),
        ("[Errno 13] Access denied (insufficient permissions)", "udev"),
        ("STLink error (9): Get IDCODE error", "unplug"),
    ],
)
def test_a_probe_that_cannot_be_opened(plug: Plug, refusal: str, remedy: str) -> None:
    plug("A1", refusal=refusal)
    error = failure(BOARD)
    assert refusal in error.message
    assert remedy in (error.hint or "")


def test_a_target_that_needs_its_pack(plug: Plug) -> None:
    plug("A1")
    error = failure(boards.load("nucleo-f746"))
    assert error.hint == "install it once with: harness doctor --install pack --board nucleo-f746"


def test_a_board_that_exists_as_an_emulator_only(plug: Plug) -> None:
    with (
        pytest.raises(InputError, match="emulator only"),
        open_session(boards.load("mps2-an386"), emulator=None),
    ):
        pass


@pytest.mark.skipif(probe_boards.NO_COMPILER or probe_boards.NO_QEMU, reason="compiler or QEMU is missing")
@pytest.mark.parametrize("uid", [None, "A1"])
def test_a_board_is_programmed_and_run_with_pyocds_own_target(plug: Plug, tmp_path: Path, uid: str | None) -> None:
    elf = probe_boards.build(BOARD, tmp_path)
    with probe_boards.running(BOARD, tmp_path) as running:
        plug("B2", "another board")
        plug("A1", "MPS2", running.emulator.gdb_port)
        with open_session(BOARD, emulator=None, probe_uid=uid) as session:
            for _ in range(2):  # the second time all pages are the same already
                assert session.program(elf).verified
                session.reset_and_run()
                assert probe_boards.read_line(running.serial) == b"ready"
            running.serial.sendall(b"\n!U")
            assert probe_boards.read_line(running.serial) == b""
            report = probe_boards.wait_for_report(session)
            assert report.text.startswith("HardFault in undefined+0x0")


# ---- chips, and probes that go away


def test_another_core_is_told_before_anything_is_written(plug: Plug, tmp_path: Path) -> None:
    with probe_boards.running(boards.load("mps2-an500"), tmp_path) as running:  # a Cortex-M7
        plug("A1", "MPS2", running.emulator.gdb_port)
        error = failure(BOARD)
    assert error.message == "this is not a Arm MPS2 AN386 (Cortex-M4F, QEMU): its core is a cortex-m7, not a cortex-m4"
    assert "--probe" in (error.hint or "")


@pytest.mark.skipif(probe_boards.NO_QEMU, reason="QEMU is missing")
@pytest.mark.parametrize(("value", "right"), [(0xC24, True), (0x449, False)])
def test_another_chip_is_told_by_its_identification(plug: Plug, tmp_path: Path, value: int, right: bool) -> None:
    # CPUID's part number stands for a chip's own identification.
    chip = ChipId(at=0xE000ED00, mask=0xFFF0, value=value << 4)
    assert BOARD.engines.hardware is not None
    hardware = BOARD.engines.hardware.model_copy(update={"chip_id": chip})
    board = BOARD.model_copy(update={"engines": BOARD.engines.model_copy(update={"hardware": hardware})})
    with probe_boards.running(BOARD, tmp_path) as running:
        plug("A1", "MPS2", running.emulator.gdb_port)
        if right:
            with open_session(board, emulator=None) as session:
                assert session.probe_uid == "A1"
        else:
            assert "its identification at 0xe000ed00 is 0xc240, not 0x4490" in failure(board).message


@pytest.mark.skipif(probe_boards.NO_COMPILER or probe_boards.NO_QEMU, reason="compiler or QEMU is missing")
def test_a_probe_that_is_unplugged_while_it_programs(plug: Plug, tmp_path: Path) -> None:
    elf = probe_boards.build(BOARD, tmp_path, payload_words=probe_boards.LARGE_WORDS)
    small = probe_boards.build(BOARD, tmp_path, name="small")
    with probe_boards.running(BOARD, tmp_path) as running:
        plug("A1", "MPS2", running.emulator.gdb_port)

        def unplug(share: float) -> None:
            if share > 0.6:
                BenchProbe.connected[0].core._client.close()

        with (
            pytest.raises(DeviceError, match=r"programming failed: .*lost") as caught,
            open_session(BOARD, emulator=None) as session,
        ):
            session.program(elf, progress=unplug)
        assert caught.value.exit_code == 3
        # Plugged in again, the board is as good as before.
        BenchProbe.connected.clear()
        plug("A1", "MPS2", running.emulator.gdb_port)
        with open_session(BOARD, emulator=None) as session:
            session.program(small)
            session.reset_and_run()
            assert probe_boards.read_line(running.serial) == b"ready"


# ---- a whole measurement


@contextlib.contextmanager
def serial_device(emulator_url: str) -> Iterator[str]:
    """A tty whose other end is the emulator's serial port."""
    host, _, port = emulator_url.removeprefix("socket://").partition(":")
    master, slave = pty.openpty()
    tty.setraw(slave)
    with socket.create_connection((host, int(port))) as line:

        def relay(read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
            with contextlib.suppress(OSError):
                while data := read():
                    write(data)

        threads = [
            threading.Thread(target=relay, args=(lambda: os.read(master, 4096), line.sendall), daemon=True),
            threading.Thread(target=relay, args=(lambda: line.recv(4096), lambda d: os.write(master, d)), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield os.ttyname(slave)
        finally:
            line.shutdown(socket.SHUT_RDWR)
            os.close(slave)
            threads[1].join(5)
            os.close(master)


def measured(board: Board, choice: Choice, serial: str) -> measurement.Measured:
    inputs: Sequence[bytes] = [INPUT, INPUT]
    firmware = build(tiny(), boards.load(board.id), cache_dir=shared_cache())
    return measurement.measure(firmware, board, choice, inputs, layers=2, repeat=2, serial=serial, reporter=Silent())


@pytest.mark.skipif(probe_boards.NO_COMPILER or probe_boards.NO_QEMU, reason="compiler or QEMU is missing")
def test_a_board_on_a_probe_and_a_tty_is_measured(plug: Plug, tmp_path: Path) -> None:
    plug("B2", "another board")
    with probe_boards.running_alone(BOARD, tmp_path) as emulator, serial_device(emulator.serial_url) as device:
        plug("A1", "MPS2", emulator.gdb_port)
        choice = engines.choose(BOARD, "auto", None)
        assert choice == Choice("hardware", "probe A1 is connected to it", "A1")
        for _ in range(2):
            found = measured(BOARD, choice, device)
            assert [one.crcs for one in found.inferences] == [reference(INPUT).crcs] * 2
            assert found.retries == 0


@pytest.mark.skipif(probe_boards.NO_COMPILER or probe_boards.NO_QEMU, reason="compiler or QEMU is missing")
def test_a_probe_on_another_machine_is_used_through_pyocds_server(plug: Plug, tmp_path: Path) -> None:
    board = on_hardware(targets.register(boards.load("mps2-an386")))
    with (
        probe_boards.running_alone(board, tmp_path) as emulator,
        probe_server(f"127.0.0.1:{emulator.gdb_port},qemu") as port,
        serial_device(emulator.serial_url) as device,
    ):
        choice = engines.choose(board, "auto", f"remote:127.0.0.1:{port}")
        assert choice.probe == f"remote:127.0.0.1:{port}"
        found = measured(board, choice, device)
        assert [one.crcs for one in found.inferences] == [reference(INPUT).crcs] * 2


@pytest.mark.skipif(probe_boards.NO_QEMU, reason="QEMU is missing")
def test_a_remote_probe_that_nobody_serves(plug: Plug) -> None:
    error = failure(BOARD, "remote:127.0.0.1:9")
    assert "remote:127.0.0.1:9" in error.message
    assert "pyocd server" in (error.hint or "")


@contextlib.contextmanager
def probe_server(emulator: str) -> Iterator[int]:
    """`pyocd server`, as on the machine that has the board, in a process of its own."""
    code = (
        "import sys, time, json\n"
        "from pyocd.core.session import Session\n"
        "from pyocd.probe.tcp_probe_server import DebugProbeServer\n"
        "from harness.probe.plugin import EmulatorProbe\n"
        "session = Session(probe=None, no_config=True)\n"
        "probe = EmulatorProbe(sys.argv[1]); probe.session = session\n"
        "server = DebugProbeServer(session, probe, 0, True); server.start()\n"
        "print(json.dumps(server._server.server_address[1]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, emulator], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.communicate(timeout=20)
