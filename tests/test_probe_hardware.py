"""The way to a real board: which probe is taken, what is said when none can be, and pyOCD's own targets.

No board is needed: a probe type is registered in pyOCD whose probes are plugged into QEMU instead of USB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import probe_boards
import pytest
from pyocd.board.board_ids import BoardInfo
from pyocd.core import exceptions
from pyocd.probe.aggregator import PROBE_CLASSES

from harness import boards
from harness.boards import Board, HardwareEngine
from harness.errors import DeviceError, InputError
from harness.probe.hardware import ProbeInfo, list_probes, serves
from harness.probe.plugin import EmulatorProbe
from harness.probe.session import open_session

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
