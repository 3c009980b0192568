"""Every board: its manifest, and a network on the engine that it has here, equal to the reference in every layer."""

from __future__ import annotations

import configparser
import shutil
from functools import cache

import pytest

from harness import boards
from harness.assets import firmware_dir
from harness.pipeline import RunSpec, run
from harness.results.record import Footprint, Result

NO_QEMU = shutil.which("qemu-system-arm") is None
# One of each core: kernels are chosen by the core, and tests of kernels have the rest.
ONE_PER_CORE = ("microbit", "mps2-an385", "nucleo-l4r5", "nucleo-h743", "b-u585i", "mps3-an547")


def emulated() -> list[object]:
    """The boards that an emulator models; those for QEMU are skipped where it is missing."""
    known = [boards.load(name) for name in boards.names()]
    missing = pytest.mark.skipif(NO_QEMU, reason="qemu-system-arm is missing")
    return [
        pytest.param(board.id, marks=() if board.engines.simulator else missing)
        for board in known
        if board.engines.simulator or board.engines.qemu
    ]


@cache
def deep(name: str) -> Result:
    """LeNet-5, as small as it gets, on that board."""
    return run(RunSpec(model="lenet5", board=name, variant="deep", samples=2, repeat=2)).result


def fits(board: boards.Board, footprint: Footprint) -> bool:
    return footprint.flash.total <= board.region("flash").length and footprint.ram.total <= board.region("ram").length


@pytest.mark.parametrize("name", emulated())
def test_lenet5_is_bit_exact(name: str) -> None:
    result = deep(name)
    assert result.bit_exact is True
    assert result.accuracy.device == result.accuracy.host
    assert result.latency.min == result.latency.max, "the same instructions every time"
    assert result.footprint is not None and fits(boards.load(name), result.footprint)
    assert 0 < result.footprint.stack_used < result.footprint.ram.stack


@pytest.mark.parametrize("name", ONE_PER_CORE)
def test_int8_is_bit_exact_on_every_core(name: str) -> None:
    if boards.load(name).engines.qemu and NO_QEMU:
        pytest.skip("qemu-system-arm is missing")
    result = run(RunSpec(model="lenet5", board=name, samples=2, repeat=1)).result
    assert result.bit_exact is True
    portable = {layer.form for layer in result.layers} <= {"rows", "plain"}
    assert portable == (boards.load(name).core not in boards.DSP_CORES)


@pytest.mark.skipif(NO_QEMU, reason="qemu-system-arm is missing")
def test_simulator_and_qemu_count_the_same() -> None:
    counts = {name: deep(name).latency.median for name in ("mps2-an386", "netduinoplus2", "nucleo-f446", "nucleo-l4r5")}
    assert len(set(counts.values())) == 1, counts


def test_every_board_can_be_built_by_hand() -> None:
    project = configparser.ConfigParser()
    project.read(firmware_dir() / "platformio.ini")
    assert {name[4:] for name in project.sections() if name.startswith("env:")} == set(boards.names())


def test_every_port_has_a_board() -> None:
    ports = {path.stem for path in (firmware_dir() / "ports").glob("*.c")} - {"posix"}
    assert ports == {boards.load(name).port for name in boards.names()}


@pytest.mark.parametrize("name", boards.names())
def test_the_wait_states_are_those_of_the_timing_table(name: str) -> None:
    board = boards.load(name)
    if board.clock is not None and board.timing is not None:
        assert board.clock.wait_states == board.timing.flash.at(board.clock_hz)
