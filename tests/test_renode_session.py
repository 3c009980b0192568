"""Sessions on Renode: what it does in its own way, and what goes wrong. With the program itself where it is installed,
and everywhere with the stand-in of fake_renode.py."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import probe_boards
import pytest
import renode_stand_in
from pyocd.core.target import Target

from harness import boards
from harness.boards import Board
from harness.emulators import logs, renode
from harness.emulators.renode import start_renode
from harness.errors import DeviceError, InputError
from harness.probe.image import read_segments
from harness.probe.session import BoardSession, open_session
from harness.toolchain import symbols

pytestmark = pytest.mark.skipif(probe_boards.NO_COMPILER, reason="arm-none-eabi-gcc is missing")

BOARD = boards.load("nucleo-f746")
# Found before any test changes the environment.
REAL = renode.find()


@pytest.fixture(scope="module", params=["stand-in", "renode"], autouse=True)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Which program is started."""
    if request.param == "renode" and REAL is None:
        pytest.skip("renode is not installed: harness doctor --install renode")
    folder = tmp_path_factory.mktemp("renode")
    path = renode_stand_in.program(folder) if request.param == "stand-in" else REAL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(renode.ENVIRONMENT, str(path))
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        yield request.param


@pytest.fixture(scope="module")
def small(program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_boards.build(BOARD, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def shared(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[probe_boards.Running]:
    """One emulator for all tests that leave it alive: starting it takes seconds."""
    with probe_boards.running(BOARD, tmp_path_factory.mktemp("a folder"), start=start_renode) as running:
        yield running


@pytest.fixture
def session(shared: probe_boards.Running) -> Iterator[BoardSession]:
    with open_session(BOARD, emulator=shared.emulator) as session:
        yield session


def start(session: BoardSession, elf: Path, running: probe_boards.Running) -> None:
    session.program(elf)
    session.reset_and_halt()
    probe_boards.drain(running.serial)
    session.reset_and_run()
    assert probe_boards.read_line(running.serial) == b"ready"


def address_of(elf: Path, function: str) -> int:
    found = symbols.read(elf).named(function)
    assert found is not None
    return found.address


def test_it_says_what_it_is(shared: probe_boards.Running, program: str) -> None:
    assert shared.emulator.kind == "renode"
    assert shared.emulator.version.startswith("1.")
    assert ("NOT Renode" in shared.emulator.log()) == (program == "stand-in")


def test_an_image_is_programmed_verified_and_run(
    session: BoardSession, small: Path, shared: probe_boards.Running
) -> None:
    assert session.state() == "halted"
    start(session, small, shared)
    shared.serial.sendall(b"echo\n")
    assert probe_boards.read_line(shared.serial) == b"echo"
    assert session.check() is None
    # Served while the core runs, and by words where peripherals are.
    assert session.read_memory(0x0800_0000, 16) == read_segments(small)[0].data[:16]
    assert session.target.read_memory_block32(0xE000_ED00, 2)[0] >> 4 & 0xFFF == 0xC27
    assert int.from_bytes(session.read_memory(0xE000_ED00, 12)[:4], "little") >> 4 & 0xFFF == 0xC27
    assert session.state() == "running"


def test_a_large_image_arrives_whole(
    session: BoardSession, shared: probe_boards.Running, tmp_path: Path, program: str
) -> None:
    large = probe_boards.build(BOARD, tmp_path, payload_words=probe_boards.LARGE_WORDS)
    report = session.program(large)
    assert report.bytes > 300_000
    if program == "renode":
        assert report.seconds < 1.5
    start(session, large, shared)
    shared.serial.sendall(b"!P")  # the firmware's own sum of the payload
    assert int(probe_boards.read_line(shared.serial), 16) == (0x600DDA7A + 0xFFFFFFFF + 0xE0F) & 0xFFFFFFFF


@pytest.mark.parametrize("offset", [0, -1])
def test_a_byte_that_changed_after_programming_is_found(session: BoardSession, small: Path, offset: int) -> None:
    segment = read_segments(small)[0]
    address = segment.address + offset % len(segment.data)

    def corrupt(share: float) -> None:
        if share == pytest.approx(0.8):
            session.write_memory(address, bytes([segment.data[offset] ^ 0x40]))

    with pytest.raises(DeviceError, match=f"{address:#010x}"):
        session.program(small, progress=corrupt)
    session.program(small)


def test_superfluous_stop_replies_confuse_nothing(
    session: BoardSession, small: Path, shared: probe_boards.Running
) -> None:
    session.program(small)
    work = address_of(small, "work")
    session.target.set_breakpoint(work)
    for _ in range(10):
        session.reset_and_halt()
        assert session.target.read_core_register("pc") == address_of(small, "Reset_Handler")
        session.target.step()
        session.target.step()
        probe_boards.drain(shared.serial)
        session.resume()
        assert probe_boards.read_line(shared.serial) == b"ready"
        assert session.state() == "running"
        shared.serial.sendall(b"!W")
        report = probe_boards.wait_for_report(session)
        assert (report.kind, report.function) == ("stopped", "work+0x0")
        assert session.target.get_halt_reason() == Target.HaltReason.BREAKPOINT
        before = work
        for _ in range(3):
            session.target.step()
            after = session.target.read_core_register("pc")
            assert after != before
            before = after
    session.target.remove_breakpoint(work)
    session.resume()
    assert shared.serial.recv(1) == b"."
    assert session.state() == "running"
    session.halt()
    assert session.state() == "halted"


def test_registers_that_it_numbers_wrongly(session: BoardSession, small: Path, shared: probe_boards.Running) -> None:
    start(session, small, shared)
    session.halt()
    read = session.target.read_core_register
    assert read("msp") == read("sp") > 0x2000_0000
    assert read("control") & 2 == 0
    session.target.write_core_register("psp", 0x2000_4000)
    assert read("psp") == 0x2000_4000
    assert read("msp") == read("sp") != 0x2000_4000
    session.target.write_core_register("r7", 0x1234_ABCD)
    assert read("r7") == 0x1234_ABCD
    assert session.target.selected_core.has_fpu  # told by registers that it lacks


def test_what_is_not_there_cannot_be_read(session: BoardSession) -> None:
    with pytest.raises(DeviceError, match="nothing is at 0x90000000"):
        session.read_memory(0x9000_0000, 4)
    with pytest.raises(DeviceError, match="nothing is at 0x20050000"):
        session.write_memory(0x2004_FFFE, bytes(4))
    assert session.state() == "halted"


@pytest.mark.parametrize(
    ("letter", "function", "reason"),
    [
        ("U", "undefined", "undefined instruction"),
        ("L", None, "access to nothing: read at 0x90000000 by the instruction at 0x0"),
        ("Z", None, "call of a null function pointer"),
        ("S", None, "outside RAM"),
    ],
)
def test_a_fault_is_explained(
    session: BoardSession,
    small: Path,
    shared: probe_boards.Running,
    program: str,
    letter: str,
    function: str | None,
    reason: str,
) -> None:
    start(session, small, shared)
    shared.serial.sendall(b"!" + letter.encode())
    report = probe_boards.wait_for_report(session)
    assert report.kind == "fault"
    assert report.text.split()[0] in ("HardFault", "UsageFault")
    assert reason in report.text
    if function is not None:
        assert (report.function or "").split("+")[0] == function
    assert "pc=0x" in (report.error().hint or "")
    start(session, small, shared)  # a reset recovers


def test_an_aborted_core_is_a_lockup_that_a_reset_recovers(
    session: BoardSession, small: Path, shared: probe_boards.Running
) -> None:
    session.program(small)
    session.reset_and_halt()
    session.target.write_core_register("pc", 0x9000_0000)
    session.resume()
    report = probe_boards.wait_for_report(session)
    assert report.kind in ("lockup", "fault")
    start(session, small, shared)


def test_a_hang_is_explained(session: BoardSession, small: Path, shared: probe_boards.Running) -> None:
    start(session, small, shared)
    shared.serial.sendall(b"!H")
    time.sleep(0.1)
    assert session.check() is None
    assert session.fault_report(small).text.startswith("the firmware hangs in hang+")


# ---- starting and ending


def processes_of(group: int) -> set[str]:
    """Those that run; what was killed may wait for its parent to notice."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat=,pid="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {pid for row_group, state, pid in rows if row_group == str(group) and state[0] != "Z"}


def test_it_ends_with_the_block_and_when_it_is_killed(tmp_path: Path) -> None:
    with start_renode(BOARD, tmp_path) as emulator:
        assert emulator.alive()
        assert len(processes_of(emulator.pid)) >= 2  # the guard, and the program
    assert not emulator.alive()
    assert processes_of(emulator.pid) == set()


def test_a_killed_emulator_is_noticed_and_the_next_one_works(tmp_path: Path, small: Path) -> None:
    with (
        probe_boards.running(BOARD, tmp_path, start=start_renode) as running,
        pytest.raises(DeviceError, match=r"Renode was ended by SIGKILL"),
        open_session(BOARD, emulator=running.emulator) as session,
    ):
        start(session, small, running)
        os.killpg(running.emulator.pid, signal.SIGKILL)
        probe_boards.wait_for_report(session)
    assert processes_of(running.emulator.pid) == set()


def _broken(board: Board) -> Board:
    assert board.engines.renode is not None
    engine = board.engines.renode.model_copy(update={"uart": "usart99"})
    return board.model_copy(update={"engines": board.engines.model_copy(update={"renode": engine})})


def test_a_script_that_is_refused_is_shown_and_kept(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Renode refuses the board's script") as caught:
        start_renode(_broken(BOARD), tmp_path)
    hint = caught.value.hint or ""
    assert "usart99" in hint
    (kept,) = logs.folder().glob("renode-*.log")
    assert str(kept) in hint
    text = kept.read_text()
    for part in ("--disable-gui", "using sysbus", "PerformanceInMips", "connector Connect sysbus.usart99"):
        assert part in text


def test_a_board_that_it_does_not_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Renode does not model board mps2-an386"):
        start_renode(boards.load("mps2-an386"), tmp_path)


def test_every_exchange_is_kept(session: BoardSession, small: Path, shared: probe_boards.Running) -> None:
    start(session, small, shared)
    evidence = shared.emulator.evidence()
    assert "[machine Reset]" in evidence
    assert "> qSupported" in evidence
    assert "==== board.resc" in evidence
    assert f"StartGdbServer {shared.emulator.gdb_port}" in evidence
