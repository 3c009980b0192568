"""A board session, end to end: real compiler, real pyOCD, real emulators."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import probe_boards
import pytest
from pyocd.core.target import Target

from harness import boards
from harness.assets import boards_dir
from harness.boards import Board
from harness.errors import BuildError, DeviceError, InputError
from harness.probe import targets
from harness.probe.image import read_segments
from harness.probe.session import BoardSession, open_session
from harness.toolchain import symbols

pytestmark = pytest.mark.skipif(probe_boards.NO_COMPILER, reason="arm-none-eabi-gcc is missing")


@pytest.fixture(scope="module", params=probe_boards.board_names())
def board(request: pytest.FixtureRequest) -> Board:
    found: Board = boards.load(request.param)
    return found


@pytest.fixture(scope="module")
def small(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_boards.build(board, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_boards.build(board, tmp_path_factory.mktemp("large"), payload_words=probe_boards.LARGE_WORDS)


@pytest.fixture
def running(board: Board, tmp_path: Path) -> Iterator[probe_boards.Running]:
    with probe_boards.running(board, tmp_path) as running:
        yield running


@pytest.fixture
def session(board: Board, running: probe_boards.Running) -> Iterator[BoardSession]:
    with open_session(board, emulator=running.emulator) as session:
        yield session


def start(session: BoardSession, elf: Path, running: probe_boards.Running) -> None:
    session.program(elf)
    session.reset_and_run()
    assert probe_boards.read_line(running.serial) == b"ready"


def address_of(elf: Path, function: str) -> int:
    found = symbols.read(elf).named(function)
    assert found is not None
    return found.address


# ---- programming


def test_a_small_image_is_programmed_and_runs(
    session: BoardSession, small: Path, running: probe_boards.Running
) -> None:
    assert session.state() == "halted"
    report = session.program(small)
    assert report.verified
    assert report.bytes == sum(len(segment.data) for segment in read_segments(small)) < 2000
    session.reset_and_run()
    assert probe_boards.read_line(running.serial) == b"ready"
    assert session.state() == "running"
    assert session.check() is None
    running.serial.sendall(b"echo\n")
    assert probe_boards.read_line(running.serial) == b"echo"


def test_a_large_image_arrives_whole(
    session: BoardSession, small: Path, large: Path, running: probe_boards.Running
) -> None:
    shares: list[float] = []
    session.program(small)
    assert session.program(large, progress=shares.append).bytes > 300_000
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    start(session, large, running)
    running.serial.sendall(b"!P")  # the firmware's own sum of the payload
    assert int(probe_boards.read_line(running.serial), 16) == (0x600DDA7A + 0xFFFFFFFF + 0xE0F) & 0xFFFFFFFF


def test_whole_sectors_are_erased_and_no_more(board: Board, session: BoardSession, small: Path) -> None:
    flash = board.region("flash")
    (_, size), *_ = targets.sectors(board, flash)
    for offset in (size - 4, size):
        session.write_memory(flash.origin + offset, b"kept")
    session.program(small)
    assert session.read_memory(flash.origin + size - 4, 8) == b"\xff\xff\xff\xff" + b"kept"


def test_sectors_of_256_bytes(tmp_path: Path) -> None:
    manifest = json.loads((boards_dir() / "nucleo-f746.json").read_text())
    manifest["harness"]["memory"][0]["sectors"] = [[4096, 256]]
    path = tmp_path / "finely-divided.json"
    path.write_text(json.dumps(manifest))
    board = boards.load(str(path))
    elf = probe_boards.build(board, tmp_path)
    end = max(segment.address + len(segment.data) for segment in read_segments(elf))
    behind = -(-end // 256) * 256
    with probe_boards.running(board, tmp_path) as running, open_session(board, emulator=running.emulator) as session:
        session.write_memory(behind - 4, b"kept" * 2)
        session.program(elf)
        assert session.read_memory(behind - 4, 8)[4:] == b"kept"
        assert session.read_memory(end, behind - end) == b"\xff" * (behind - end)
        session.reset_and_run()
        assert probe_boards.read_line(running.serial) == b"ready"


@pytest.mark.parametrize("offset", [0, 5000, -1])
def test_a_byte_that_changed_after_programming_is_found(session: BoardSession, large: Path, offset: int) -> None:
    segment = read_segments(large)[0]
    expected = segment.data[offset]
    address = segment.address + offset % len(segment.data)

    def corrupt(share: float) -> None:
        if share == pytest.approx(0.8):  # all is programmed, nothing verified
            session.write_memory(address, bytes([expected ^ 0x40]))

    with pytest.raises(DeviceError) as caught:
        session.program(large, progress=corrupt)
    for part in (f"{address:#010x}", f"{expected:#04x}", f"{expected ^ 0x40:#04x}"):
        assert part in caught.value.message
    session.program(large)


def test_an_image_for_another_board_is_refused(board: Board, session: BoardSession, tmp_path: Path) -> None:
    flash = board.region("flash")
    elsewhere = board.model_copy(
        update={"memory": (flash.model_copy(update={"origin": 0x60000000}), board.region("ram"))}
    )
    with pytest.raises(BuildError, match="0x60000000, outside the flash"):
        session.program(probe_boards.build(elsewhere, tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"not an ELF file", b"\x7fELF\x01\x01\x01" + bytes(40)])
def test_what_is_not_an_elf_file_is_refused(session: BoardSession, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.elf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.elf"):
        session.program(path)


# ---- run control and memory


def test_breakpoint_and_step(session: BoardSession, small: Path, running: probe_boards.Running) -> None:
    session.program(small)
    session.reset_and_halt()
    assert session.target.read_core_register("pc") == address_of(small, "Reset_Handler")
    assert session.check() is None
    work = address_of(small, "work")
    session.target.set_breakpoint(work)
    session.resume()
    assert probe_boards.read_line(running.serial) == b"ready"
    running.serial.sendall(b"!W")
    report = probe_boards.wait_for_report(session)
    assert (report.kind, report.function) == ("stopped", "work+0x0")
    assert session.target.get_halt_reason() == Target.HaltReason.BREAKPOINT
    session.target.step()
    assert work < session.target.read_core_register("pc") < work + 8
    session.target.remove_breakpoint(work)
    session.resume()
    assert running.serial.recv(1) == b"."
    assert session.check() is None


def test_memory_is_read_and_written_while_the_firmware_runs(
    session: BoardSession, small: Path, running: probe_boards.Running
) -> None:
    start(session, small, running)
    segment = read_segments(small)[0]
    assert session.read_memory(segment.address, 64) == segment.data[:64]
    ram = session.read_memory(session.board.region("ram").origin, 64)
    offset = ram.index((0x12345678).to_bytes(4, "little"))
    session.write_memory(session.board.region("ram").origin + offset, bytes.fromhex("efbeadde"))
    assert session.state() == "running"
    running.serial.sendall(b"!M")
    assert probe_boards.read_line(running.serial) == b"deadbeef"


def test_memory_that_does_not_exist_is_an_error(session: BoardSession) -> None:
    with pytest.raises(DeviceError, match="reading 4 bytes at 0x90000000"):
        session.read_memory(0x9000_0000, 4)
    assert session.state() == "halted"


def test_the_first_byte_after_a_reset_does_not_wait(
    session: BoardSession, small: Path, running: probe_boards.Running
) -> None:
    session.program(small)
    taken = []
    for _ in range(5):
        session.reset_and_run()
        started = time.monotonic()
        running.serial.sendall(b"\n")
        assert probe_boards.read_line(running.serial) == b"ready"
        assert probe_boards.read_line(running.serial) == b""
        taken.append(time.monotonic() - started)
    assert sorted(taken)[-2] < 0.5, taken  # all but one: the computer is shared


# ---- faults


@pytest.mark.parametrize(
    ("letter", "function", "caller", "reason"),
    [
        ("U", "undefined", "main", "undefined instruction"),
        ("L", "load_from_nothing", "main", "precise data bus error at 0x90000000"),
        ("Z", None, "null_call", "call of a null function pointer"),
        ("S", None, None, "the stack pointer 0x8fffffe0 is outside RAM"),
        ("E", "undefined", "main", "undefined instruction"),
    ],
)
def test_a_fault_is_explained(
    session: BoardSession,
    small: Path,
    running: probe_boards.Running,
    letter: str,
    function: str | None,
    caller: str | None,
    reason: str,
) -> None:
    start(session, small, running)
    running.serial.sendall(b"!" + letter.encode())
    report = probe_boards.wait_for_report(session)
    assert session.state() == "fault"
    assert report.kind == "fault"
    assert reason in "; ".join(report.reasons)
    assert (report.function or "").split("+")[0] == (function or "")
    assert (report.caller or "").split("+")[0] == (caller or "")
    assert report.text.startswith("UsageFault" if letter == "E" else "HardFault")
    assert report.text in str(report.error())
    assert f"cfsr={report.cfsr:#010x}" in (report.error().hint or "")
    start(session, small, running)  # a reset recovers


def test_a_lockup_is_explained(board: Board, session: BoardSession, small: Path, running: probe_boards.Running) -> None:
    start(session, small, running)
    running.serial.sendall(b"!K")
    report = probe_boards.wait_for_report(session)
    assert report.kind == "lockup"
    assert report.text.startswith("lockup (a fault where no fault handler can run) ")
    assert (report.caller or "").startswith("main+")
    if board.engines.qemu:  # QEMU ends itself, and tells where it was
        assert (report.function or "").startswith("lock_up+")
        assert session.state() == "lockup"
        with pytest.raises(DeviceError, match="locked up"):
            session.read_memory(board.region("ram").origin, 4)
    else:
        assert "undefined instruction" in report.reasons
        start(session, small, running)  # a reset recovers


def test_a_hang_is_explained(session: BoardSession, small: Path, running: probe_boards.Running) -> None:
    start(session, small, running)
    running.serial.sendall(b"!H")
    time.sleep(0.1)
    assert session.check() is None
    report = session.fault_report(small)
    assert report.kind == "hang"
    assert report.text.startswith("the firmware hangs in hang+")
    assert (report.caller or "").startswith("main+")
    assert session.state() == "halted"
    assert session.check() is None


# ---- emulators that die, sessions that fail


def test_an_emulator_that_dies_while_it_is_programmed(board: Board, large: Path, running: probe_boards.Running) -> None:
    def die(share: float) -> None:
        if 0.4 < share < 0.8:
            running.kill()

    with pytest.raises(DeviceError, match="ended"), open_session(board, emulator=running.emulator) as session:
        session.program(large, progress=die)


def test_an_emulator_that_dies_while_the_firmware_runs(
    board: Board, small: Path, running: probe_boards.Running
) -> None:
    actions: list[Callable[[BoardSession], object]] = [
        lambda session: session.check(),
        lambda session: session.state(),
        lambda session: session.fault_report(),
        lambda session: session.halt(),
        lambda session: session.reset_and_run(),
        lambda session: session.read_memory(board.region("ram").origin, 4),
    ]
    with open_session(board, emulator=running.emulator) as session:
        start(session, small, running)
        running.kill()
        for action in actions:
            with pytest.raises(DeviceError, match="ended"):
                action(session)


def test_an_emulator_that_is_dead_already(board: Board, running: probe_boards.Running) -> None:
    running.kill()
    with pytest.raises(DeviceError, match="ended"), open_session(board, emulator=running.emulator):
        pass


def test_an_interrupted_session_does_not_spoil_the_next(
    board: Board, small: Path, large: Path, running: probe_boards.Running
) -> None:
    def interrupt(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_session(board, emulator=running.emulator) as session:
        session.target.set_breakpoint(address_of(large, "work"))
        session.program(large, progress=interrupt)
    with open_session(board, emulator=running.emulator) as session:
        start(session, small, running)
        running.serial.sendall(b"!W")
        assert running.serial.recv(1) == b"."


def test_sessions_leave_nothing_behind(
    board: Board, small: Path, running: probe_boards.Running, capfd: pytest.CaptureFixture[str]
) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with open_session(board, emulator=running.emulator) as session:
        session.program(small)
    files, threads = open_files(), threading.active_count()
    for _ in range(30):
        with open_session(board, emulator=running.emulator) as session:
            session.reset_and_run()
    assert (open_files(), threading.active_count()) == (files, threads)
    assert logging.getLogger("pyocd").propagate
    assert not logging.getLogger("pyocd").handlers
    assert capfd.readouterr() == ("", "")
