"""The images on QEMU's boards: the same answers as the reference, and instruction counts that are exact."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from firmware_images import INPUT, Line, network_files, on_qemu, reference, shared_cache, tiny

from harness import boards
from harness.toolchain.platformio import Firmware, build

# One for each kind of timer; test_boards_all.py has a network on every board.
QEMU_BOARDS = ("microbit", "mps2-an386", "mps2-an500", "mps3-an547", "netduinoplus2")
INFER = "void network_infer(nn_observer observer)\n{\n"
DEEP = """
    uint8_t deep[{bytes}];
    deep[0] = 1;
    __asm volatile("" ::"r"(deep) : "memory");
"""


@pytest.fixture(scope="module")
def cache() -> Path:
    return shared_cache()


@pytest.fixture(scope="module", params=QEMU_BOARDS)
def board(request: pytest.FixtureRequest) -> boards.Board:
    return boards.load(request.param)


@pytest.fixture(scope="module")
def firmware(board: boards.Board, cache: Path) -> Firmware:
    return build(tiny(), board, cache_dir=cache)


@pytest.fixture(scope="module")
def line(firmware: Firmware, board: boards.Board) -> Iterator[Line]:
    with on_qemu(firmware, board) as (line, _):
        yield line


def instructions(ticks: str, board: boards.Board) -> int:
    """QEMU's clock: an instruction lasts 2**icount_shift ns."""
    assert board.engines.qemu is not None
    per_instruction = board.engines.qemu.tick_hz * 2**board.engines.qemu.icount_shift / 1e9
    counted = int(re.fullmatch(r"m-\w+(?:-\w+)?-\[(?:\d+,)?(\d+)\]", ticks)[1]) / per_instruction
    assert abs(counted - round(counted)) < 0.35, "an interval is a whole number of instructions, within a tick"
    return round(counted)


def test_answers_as_itself(line: Line, firmware: Firmware, board: boards.Board) -> None:
    assert line.ask("name") == [f"m-name-dut-[{board.id}]"]
    assert line.ask("build") == [f"m-build-[{firmware.build_id}]"]
    assert line.ask("profile")[1] == "m-model-[tiny]"


def test_every_layer_is_the_references(line: Line) -> None:
    for data in (INPUT, bytes(16), bytes([255] * 16), INPUT[::-1]):
        line.load(data)
        expected = reference(data)
        assert line.ask("crc")[:3] == [
            f"m-layer-crc-[0,{expected.crcs[0]:08x}]",
            f"m-layer-crc-[1,{expected.crcs[1]:08x}]",
            f"m-class-[{expected.outputs.index(max(expected.outputs))}]",
        ]


def test_results_and_laps(line: Line) -> None:
    line.load(INPUT)
    answers = line.ask("infer 20 2")
    first, second = (int(answer.removeprefix("m-lap-us-")) for answer in answers if answer.startswith("m-lap"))
    hz, empty, ticks = line.ask("ticks 1")
    inference_us = (int(ticks[9:-1]) - int(empty[9:-1])) / (int(hz[11:-1]) / 1e6)
    assert second - first == pytest.approx(20 * inference_us, rel=0.1)
    assert answers[-1] == "m-results-[" + ",".join(f"{v * 0.5:.3f}" for v in reference(INPUT).outputs) + "]"


def test_every_inference_takes_the_same_instructions(line: Line, board: boards.Board) -> None:
    line.load(INPUT)
    counts = set()
    for _ in range(10):
        _, empty, *ticks = line.ask("ticks 5")
        counts |= {instructions(each, board) - instructions(empty, board) for each in ticks}
        time.sleep(0.001)  # shifts the phase between instructions and ticks
    assert len(counts) == 1


def test_counts_to_the_instruction(line: Line, board: boards.Board, cache: Path) -> None:
    added = 7
    more = network_files(**{INFER: INFER + f'    __asm volatile(".rept {added}\\n nop\\n .endr");\n'})
    longer = build(tiny(files=more), board, cache_dir=cache)
    with on_qemu(longer, board) as (other, _):
        counted = []
        for each in (line, other):
            each.load(INPUT)
            _, empty, ticks = each.ask("ticks 1")
            counted.append(instructions(ticks, board) - instructions(empty, board))
    assert counted[1] - counted[0] == added


def test_layers_add_up_to_the_inference(line: Line, board: boards.Board) -> None:
    line.load(INPUT)
    _, empty, ticks = line.ask("ticks 1")
    whole = instructions(ticks, board) - instructions(empty, board)
    overhead, *layers = line.ask("layers")
    # Layer 0 calls the observer twice, and pays for one call like layer 1.
    times = [instructions(each, board) - instructions(overhead, board) for each in layers]
    # What is in front of the first layer and behind the last one belongs to none; a Cortex-M0 takes longer for it.
    assert sum(times) == pytest.approx(whole, abs=25 if board.core != "cortex-m0" else 60)
    assert times[1] > times[0] > 0


def test_the_stack_is_painted_and_measured(line: Line, board: boards.Board) -> None:
    line.load(INPUT)
    line.ask("infer 1 0")
    used, reserved = map(int, re.fullmatch(r"m-stack-\[(\d+),(\d+)\]", line.ask("stack")[0]).groups())
    assert reserved == board.stack_bytes
    assert 100 < used < 600


def test_a_deep_stack_shows(board: boards.Board, cache: Path) -> None:
    deep = network_files(**{INFER: INFER + DEEP.format(bytes=1200)})
    with on_qemu(build(tiny(files=deep), board, cache_dir=cache), board) as (line, _):
        before = int(line.ask("stack")[0].split("[")[1].split(",")[0])
        line.load(INPUT)
        line.ask("infer 1 0")
        after = int(line.ask("stack")[0].split("[")[1].split(",")[0])
    assert before < 600 and 1200 < after < 1800


def test_an_overflowing_stack_faults_instead_of_giving_results(board: boards.Board, cache: Path) -> None:
    sink = """
__attribute__((noipa)) static uint32_t sink(uint32_t depth)
{
    uint32_t frame[4] = {depth};
    __asm volatile("" ::"r"(frame) : "memory");
    uint32_t deeper = depth ? sink(depth - 1u) : 0u;
    __asm volatile("" ::"r"(frame) : "memory"); /* no tail call: the frame must stay */
    return deeper + frame[0];
}

"""
    calls = f"    arena.half[0] = (int16_t)sink({board.stack_bytes // 16}u);\n"
    files = network_files(**{INFER: sink + INFER + calls})
    with on_qemu(build(tiny(files=files), board, cache_dir=cache), board) as (line, _):
        line.load(INPUT)
        line.send(b"infer 1 0%")
        received = b""
        while chunk := line.read(0.5):
            received += chunk
        assert b"m-infer-start-1" in received
        assert b"m-results" not in received


def test_a_silent_line_costs_no_host_cpu(firmware: Firmware, board: boards.Board) -> None:
    with on_qemu(firmware, board) as (line, process):
        line.ask("name")
        times = psutil.Process(process.pid).cpu_times
        before = sum(times()[:2])
        time.sleep(0.5)
        assert sum(times()[:2]) - before < 0.1
        assert line.ask("name")


@pytest.mark.parametrize("name", ["nucleo-f746", *QEMU_BOARDS])
def test_the_platform_is_small(name: str, cache: Path) -> None:
    firmware = build(tiny(), boards.load(name), cache_dir=cache)
    assert firmware.footprint.flash.platform <= 6000
    assert firmware.footprint.ram.platform <= 256


def test_the_nucleos_image_starts_as_a_cortex_m_wants(cache: Path) -> None:
    from elftools.elf.elffile import ELFFile

    board = boards.load("nucleo-f746")
    firmware = build(tiny(), board, cache_dir=cache)
    with firmware.elf.open("rb") as file:
        vectors = ELFFile(file).get_section_by_name(".isr_vector")
        assert vectors["sh_addr"] == board.region("flash").origin
        words = [int.from_bytes(vectors.data()[at : at + 4], "little") for at in range(0, 64, 4)]
    assert words[0] == board.region("ram").origin + board.stack_bytes
    flash = range(board.region("flash").origin, board.region("flash").origin + board.region("flash").length)
    assert all(word % 2 == 1 and word in flash for word in words[1:7])
