"""Firmware that works with interrupts, on the simulated board in this process."""

from __future__ import annotations

import dataclasses

import pytest
from measure_images import BOARD, NEEDS_COMPILER, NO_COMPILER, foreign

from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.nvic import FIRST_LINE, PENDSV, SYSTICK, Nvic
from harness.emulators.simulator.stops import Reason
from harness.emulators.simulator.timers import SysTick, Timer

needs_compiler = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)


def booted(*defines: str, cycles: bool = False) -> Machine:
    made = Machine(BOARD, cycle_model=CycleModel.of(BOARD) if cycles else None)
    made.load_elf(foreign(*defines))
    made.reset()
    assert made.run(timeout=30).reason is Reason.INPUT
    assert bytes(made.serial.output) == b"m-init-done\r\nm-ready\r\n"
    return made


def ask(made: Machine, command: str) -> list[str]:
    made.serial.output.clear()
    made.serial.feed(command.encode() + b"%")
    assert made.run(timeout=30).reason is Reason.INPUT
    *lines, ready, end = made.serial.output.decode().split("\r\n")
    assert (ready, end) == ("m-ready", "")
    return lines


def load(made: Machine, data: bytes) -> None:
    assert ask(made, f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
    for start in range(0, len(data), 31):
        answer = ask(made, f"db {data[start : start + 31].hex()}")
    assert answer == ["m-load-done"]


DATA = bytes(range(245)) * 2


def expected_results(data: bytes, outputs: int = 12) -> str:
    sums = [1 + sum(data[output::outputs]) for output in range(outputs)]
    total = 1 + sum(sums)
    shares = (value * 1000 // total for value in sums)
    return f"m-results-[{','.join(f'{share // 1000}.{share % 1000:03}' for share in shares)}]"


@needs_compiler
@pytest.mark.parametrize("cycles", [False, True])
def test_a_firmware_of_interrupts_speaks_the_protocol(cycles: bool) -> None:
    made = booted(cycles=cycles)
    assert ask(made, "name") == ["m-name-dut-[somebody else's board]"]
    load(made, DATA)
    answer = ask(made, "infer 2 1")
    assert [line.partition("us-")[0] for line in answer[3:5]] == ["m-lap-", "m-lap-"]
    assert answer[-1] == expected_results(DATA)
    assert made.unmodelled == ()


@needs_compiler
def test_the_same_bytes_give_the_same_count() -> None:
    counts = set()
    for _ in range(3):
        made = booted()
        load(made, DATA)
        ask(made, "infer 20 0")
        laps = [line for line in made.serial.lines if line.text.startswith("m-lap-us")]
        counts.add((made.instructions, laps[1].begin[0] - laps[0].end[0]))
    assert len(counts) == 1


@needs_compiler
def test_time_goes_on_while_the_core_sleeps() -> None:
    made = booted()
    before = int(ask(made, "timestamp")[0].removeprefix("m-lap-us-"))
    after = int(ask(made, "timestamp")[0].removeprefix("m-lap-us-"))
    # run() puts up with 20 ticks of SysTick, a millisecond each.
    assert after - before >= 19_000
    assert made.instructions < 1_000_000


@needs_compiler
def test_a_clock_of_64_bits_passes_the_overflow_of_32() -> None:
    made = booted()
    counter = 0x4000_0024
    made.write(counter, (0xFFFF_FF00).to_bytes(4, "little"))
    first = int(ask(made, "timestamp")[0].removeprefix("m-lap-us-"))
    assert first < 10_000_000  # the firmware sends the low word; the overflow was counted
    assert int.from_bytes(made.read(dict(_symbols())["overflows"], 4), "little") == 1


def _symbols() -> list[tuple[str, int]]:
    from elftools.elf.elffile import ELFFile

    with foreign().open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return [(symbol.name, symbol["st_value"]) for symbol in table.iter_symbols()]


@needs_compiler
def test_floating_point_in_a_handler_leaves_the_others_registers_alone() -> None:
    made = booted("FLOAT")
    load(made, DATA)
    assert ask(made, "infer 1 0")[-1] == expected_results(DATA)


@needs_compiler
def test_a_reset_loop_is_noticed_and_a_reset_ends_it() -> None:
    made = Machine(BOARD)
    made.load_elf(foreign("FAULT_BOOT_RESETS"))
    made.reset()
    assert made.run(timeout=30).reason is Reason.RESET_LOOP
    assert "8 times without a byte" in (made.reset_loop or "")
    made.load_elf(foreign())
    made.reset()
    assert made.reset_loop is None
    assert made.run(timeout=30).reason is Reason.INPUT


@needs_compiler
def test_stepping_leaves_interrupts_alone() -> None:
    made = booted()
    made.serial.feed(b"name%")
    place = made.step().pc
    for _ in range(40):
        place = made.step().pc
    assert made.read_register("xpsr") & 0x1FF == 0
    assert place != 0


@needs_compiler
def test_each_sent_line_is_stamped() -> None:
    made = booted()
    ask(made, "profile")
    *_, profile, model, ready = made.serial.lines
    assert (model.text, ready.text) == ("m-model-[kws01]", "m-ready")
    assert profile.begin < profile.end <= model.begin < model.end <= ready.begin


# ---- parts


def test_the_most_urgent_is_next_and_equal_ones_go_by_number() -> None:
    nvic = Nvic(32, 4)
    nvic.reset()
    nvic.write(0x100, 0b1110, 0xFFFF_FFFF)
    nvic.write(0x400, 0x20_30_20_00, 0xFFFF_FFFF)
    for line in (1, 2, 3):
        nvic.signal(line, True)
    assert nvic.next() == (FIRST_LINE + 1, 0x20)
    nvic.begin(FIRST_LINE + 1)
    assert (nvic.active_priority(), nvic.next()) == (0x20, (FIRST_LINE + 3, 0x20))
    assert nvic.read(0x300) == 0b10
    nvic.end(FIRST_LINE + 1)  # its peripheral has not been served
    assert nvic.next() == (FIRST_LINE + 1, 0x20)
    nvic.signal(1, False)
    nvic.write(0x280, 0b10, 0xFFFF_FFFF)
    assert nvic.next() == (FIRST_LINE + 3, 0x20)


def test_subpriorities_order_but_do_not_interrupt() -> None:
    nvic = Nvic(32, 4)
    nvic.reset()
    nvic.prigroup = 5  # two bits of group, two of subpriority
    nvic.write_priorities(12, 0x50_40_00_00, 0xFFFF_FFFF)
    nvic.pend(SYSTICK)
    nvic.pend(PENDSV)
    assert nvic.next() == (PENDSV, 0x40)
    nvic.begin(PENDSV)
    assert nvic.next() == (SYSTICK, 0x40)
    assert nvic.active_priority() == 0x40


def test_priorities_have_the_bits_of_the_chip() -> None:
    nvic = Nvic(8, 2)
    nvic.write_priorities(FIRST_LINE, 0xFFFF_FFFF, 0x0000_FF00)
    assert nvic.read_priorities(FIRST_LINE) == 0x0000_C000


@dataclasses.dataclass
class _Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


def test_systick_tells_when_it_wraps() -> None:
    clock, wraps = _Clock(), []
    timer = SysTick(clock, lambda: wraps.append(clock.now), lambda: None)
    timer.reload = 99
    timer.control = 7
    assert timer.next_event() == 100
    clock.now = 150
    timer.advance()
    assert (wraps, timer.value, timer.next_event()) == ([150], 50, 200)
    timer.control = 7  # writing it again does not start it anew
    assert timer.next_event() == 200
    timer.clear()
    assert timer.next_event() == 250


def _timer(clock: _Clock, signals: list[bool]) -> Timer:
    timer = Timer(32, clock, lambda: 2, signals.append, lambda: None)
    for offset, value in ((Timer.PSC, 9), (Timer.ARR, 999), (Timer.EGR, 1), (Timer.SR, 0), (Timer.CR1, 1)):
        timer.write(offset, value, 0xFFFF_FFFF)
    return timer


def test_a_timer_counts_its_bus_clock_through_its_prescaler() -> None:
    clock, signals = _Clock(), []
    timer = _timer(clock, signals)
    clock.now = 20 * 123 + 19
    assert timer.read(Timer.CNT) == 123
    clock.now = 20 * 1001
    assert (timer.read(Timer.CNT), timer.read(Timer.SR) & 1) == (1, 1)
    assert not any(signals)


def test_a_timer_interrupts_at_update_and_compare() -> None:
    clock, signals = _Clock(), []
    timer = _timer(clock, signals)
    timer.write(Timer.CCR1, 400, 0xFFFF_FFFF)
    timer.write(Timer.DIER, 0b11, 0xFFFF_FFFF)
    assert timer.next_event() == 20 * 400
    clock.now = 20 * 400
    timer.advance()
    assert (signals[-1], timer.read(Timer.SR)) == (True, 0b10)
    timer.write(Timer.SR, 0, 0xFFFF_FFFF)
    assert (signals[-1], timer.next_event()) == (False, 20 * 1000)
    clock.now = 20 * 1000
    timer.advance()
    assert timer.read(Timer.SR) & 0b11 == 0b01
