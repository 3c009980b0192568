"""The simulated board in this process: counting, faults, stacks, serial line, running and stopping."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from emulators_assembly import FLASH, NEEDS_COMPILER, NO_COMPILER, cases

from harness import boards
from harness.emulators.simulator.address_space import AddressError
from harness.emulators.simulator.exceptions import LOCKUP_PC
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.stops import Reason, Stop
from harness.errors import InputError

pytestmark = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)

F746 = boards.load("nucleo-f746")
M4 = F746.model_copy(update={"core": "cortex-m4", "fpu": "fpv4-sp-d16"})
NO_FPU = F746.model_copy(update={"fpu": None, "float_abi": "soft"})

CFSR, HFSR, MMFAR, BFAR, SHCSR = 0xE000ED28, 0xE000ED2C, 0xE000ED34, 0xE000ED38, 0xE000ED24
FORCED = 1 << 30


def machine(label: str = "reset", board: boards.Board = F746, *, check_alignment: bool = False) -> Machine:
    """A machine with the test image, about to run from `label`."""
    made = Machine(board, check_alignment=check_alignment)
    made.write(FLASH, cases().data)
    made.reset()
    made.write_register("pc", cases().labels[label])
    return made


def finish(label: str, board: boards.Board = F746) -> Machine:
    """Run from `label` until the firmware sleeps."""
    made = machine(label, board)
    assert made.run(timeout=20).reason is Reason.SLEEP
    return made


def word(made: Machine, address: int) -> int:
    return int.from_bytes(made.read(address, 4), "little")


def at(label: str) -> int:
    return cases().labels[label]


# ---- counting


def test_cycle_counter_counts_instructions_of_a_loop() -> None:
    assert finish("count_loop").read_register("r0") == 1 + 1 + 10 * 4


def test_cycle_counter_is_exact_inside_one_block() -> None:
    assert finish("count_straight").read_register("r0") == 3


def test_count_equals_single_steps() -> None:
    fast, slow = machine("count_mixed"), machine("count_mixed")
    fast.run(timeout=20)
    # An IT block is one step of five instructions here, and one of two where it holds one.
    while slow.read_register("pc") != fast.read_register("pc"):
        slow.step()
    assert fast.instructions == slow.instructions == 5022
    for name in ("r0", "r3", "r6", "r7", "r8", "sp", "xpsr"):
        assert fast.read_register(name) == slow.read_register(name), name


def test_count_survives_stops_at_any_moment() -> None:
    undisturbed = finish("speed").instructions
    disturbed = machine("speed")
    stops = 0
    while True:
        timer = threading.Timer(0.002, disturbed.request_stop)
        timer.start()
        stop = disturbed.run()
        timer.join()
        if stop.reason is Reason.SLEEP:
            break
        stops += 1
    assert stops > 3
    assert disturbed.instructions == undisturbed == 2 + 6 * 1_000_000 + 1


def test_count_is_exact_where_a_fault_ends_a_block() -> None:
    made = machine("load_nothing")
    made.breakpoints = [at("hard_fault")]
    assert made.run(timeout=20).instructions == 2


def test_code_that_changes_in_ram_is_counted_anew() -> None:
    made = finish("code_in_ram")
    assert made.read_register("r4") == 1 + 2
    assert made.instructions == 6 + 2 + 6 + 3 + 1


def test_a_debuggers_write_replaces_code_that_ran() -> None:
    made = machine("hang")
    made.run(timeout=0.05)
    made.write(at("hang"), bytes.fromhex("00bf30bf"))  # nop; wfi
    made.write_register("pc", at("hang"))
    before = made.instructions
    assert made.run(timeout=20) == Stop(Reason.SLEEP, at("hang") + 4, before + 2)


def test_conditional_load_that_misses_the_page_table_leaves_no_condition_behind() -> None:
    # Unicorn forgets to clear ITSTATE then, and would skip what follows the next branch.
    assert finish("count_mixed").read_register("r8") == 0x2000_0000 + 3 * 1024


def test_speed() -> None:
    """Measured: over 30 million instructions per second of this process's time, in blocks of only six."""
    made = machine("speed")
    begin = time.process_time()
    made.run(timeout=20)
    assert made.instructions / (time.process_time() - begin) > 15e6


def test_clock_source_replaces_the_instruction_count() -> None:
    made = machine("count_loop")
    ticks = iter(range(0, 1_000_000, 1000))
    made.clock_source = lambda: next(ticks)
    made.run(timeout=20)
    assert made.read_register("r0") == 1000


# ---- faults


@dataclasses.dataclass(frozen=True)
class Expected:
    """cfsr: without the address's valid bit, which address implies. pc: the stacked one, or a label's."""

    cfsr: int
    address: int | None = None
    pc: int | None = None
    board: boards.Board = F746
    exception: int = 3
    hfsr: int = FORCED
    check_alignment: bool = False


PRECISERR, IBUSERR, IACCVIOL = 1 << 9, 1 << 8, 1 << 0
UNDEFINSTR, INVSTATE, NOCP, UNALIGNED, DIVBYZERO = 1 << 16, 1 << 17, 1 << 19, 1 << 24, 1 << 25

FAULTS = {
    "undefined": Expected(UNDEFINSTR),
    "arm_state": Expected(INVSTATE),
    "load_nothing": Expected(PRECISERR, 0x9000_0008),
    "store_nothing": Expected(PRECISERR, 0x9000_0004),
    "store_flash": Expected(PRECISERR, 0x0800_0005),
    "load_over_edge": Expected(PRECISERR, 0x2005_0000),
    "load_in_it_block": Expected(PRECISERR, 0x9000_0000),
    "jump_nothing": Expected(IBUSERR, pc=0x9000_0000),
    "jump_peripheral": Expected(IACCVIOL, pc=0x4000_4800),
    "call_null": Expected(INVSTATE, pc=0),
    "exclusive_misaligned": Expected(UNALIGNED),
    "coprocessor": Expected(NOCP),
    "fpu_off": Expected(NOCP),
    "fpu_off_in_it_block": Expected(NOCP),
    "double_precision": Expected(UNDEFINSTR),
    "float_v5": Expected(UNDEFINSTR, board=M4),
    "fpu_on": Expected(NOCP, board=NO_FPU),
    "fpu_on_then_off": Expected(NOCP),
    "divide_by_zero": Expected(DIVBYZERO),
    "unaligned_trap": Expected(UNALIGNED),
    "unaligned_pair": Expected(UNALIGNED, check_alignment=True),
    "breakpoint": Expected(0, hfsr=1 << 31),
    "call_supervisor_masked": Expected(0),
}
OWN_PC = {"fpu_on": "bad_fpu_on", "fpu_on_then_off": "use_fpu"}


@pytest.mark.parametrize("label", FAULTS)
def test_fault(label: str) -> None:
    expected = FAULTS[label]
    made = machine(label, expected.board, check_alignment=expected.check_alignment)
    made.breakpoints = [at("hard_fault")]
    stop = made.run(timeout=20)
    assert (stop.reason, stop.pc) == (Reason.BREAKPOINT, at("hard_fault"))
    valid = 1 << 15 if expected.address is not None else 0
    assert (word(made, CFSR), word(made, HFSR)) == (expected.cfsr | valid, expected.hfsr)
    if expected.address is not None:
        assert word(made, BFAR) == expected.address
    assert made.read_register("xpsr") & 0x1FF == 3
    assert made.read_register("lr") == 0xFFFF_FFF9 or label == "fpu_on_then_off"
    frame = made.read_register("sp")
    pc = expected.pc if expected.pc is not None else at(OWN_PC.get(label, f"bad_{label}"))
    assert word(made, frame + 0x18) == pc


@pytest.mark.parametrize("label", ["load_nothing", "store_nothing", "store_flash", "fpu_off", "unaligned_trap"])
def test_nothing_behind_the_faulting_instruction_has_happened(label: str) -> None:
    made = machine(label)
    made.breakpoints = [at("hard_fault")]
    made.run(timeout=20)
    assert made.read_register("r2") == 1
    assert made.read_register("sp") == 0x2001_0000 - 0x20


def test_fault_in_an_it_block_can_be_returned_to() -> None:
    """ITSTATE is stacked: the instruction at fault is the second of three, on condition EQ."""
    for label in ("load_in_it_block", "fpu_off_in_it_block"):
        made = machine(label)
        made.breakpoints = [at("hard_fault")]
        made.run(timeout=20)
        assert made.read_register("r2") == 3
        stacked = word(made, made.read_register("sp") + 0x1C)
        it_state = stacked >> 25 & 3 | stacked >> 8 & 0xFC
        assert it_state >> 4 == 0
        assert it_state & 0xF in (0x4, 0xC)


def test_a_peripheral_that_is_not_modelled_reads_as_zero_and_is_listed_once(caplog: pytest.LogCaptureFixture) -> None:
    made = machine("unmodelled_peripheral")
    assert made.run(timeout=20).reason is Reason.SLEEP
    assert made.read_register("r1") == 0
    assert made.unmodelled == (0x4000_2C00, 0x5006_0800)
    assert caplog.text.count("no peripheral is modelled at 0x40002c00") == 1


def test_floating_point_behind_a_false_condition_does_not_fault() -> None:
    assert word(finish("fpu_off_skipped"), CFSR) == 0


def test_floating_point_works_once_enabled() -> None:
    assert finish("fpu_on").read_register("r3") == 0x4040_0000  # 3.0
    assert finish("float_v5").read_register("fpscr") & 0xF == 0


def test_misaligned_pair_passes_unless_it_is_checked() -> None:
    assert finish("unaligned_pair").read_register("r2") == 2


def test_handler_runs_even_though_its_frame_is_lost() -> None:
    made = machine("push_nothing")
    made.breakpoints = [at("hard_fault")]
    assert made.run(timeout=20).reason is Reason.BREAKPOINT
    assert word(made, CFSR) == 1 << 15 | 1 << 12 | PRECISERR
    assert word(made, BFAR) == 0x8FFF_FFF8


def test_enabled_usage_fault_has_its_own_handler_and_returns() -> None:
    made = finish("skip_fault")
    assert made.read_register("r4") == 1
    assert (word(made, CFSR), word(made, HFSR)) == (UNDEFINSTR, 0)
    assert word(made, SHCSR) == 1 << 18


def test_fault_in_the_hard_fault_handler_locks_up() -> None:
    made = machine("fault_in_handler")
    stop = made.run(timeout=20)
    assert (stop.reason, stop.pc) == (Reason.LOCKUP, LOCKUP_PC)
    assert f"{at('udf_handler'):#010x}" in (made.lockup or "")
    assert word(made, 0xE000EDF0) & 1 << 19
    assert made.run(timeout=20).reason is Reason.LOCKUP
    made.reset()
    assert made.lockup is None
    assert made.run(timeout=20).reason is Reason.INPUT


def test_unreadable_vector_table_locks_up() -> None:
    made = machine("no_vectors")
    assert made.run(timeout=20).reason is Reason.LOCKUP
    assert word(made, HFSR) & 1 << 1


def test_blank_flash_locks_up() -> None:
    assert Machine(F746).run(timeout=20).reason is Reason.LOCKUP


# ---- exceptions that return


def test_supervisor_call_returns_behind_it() -> None:
    made = finish("call_supervisor")
    assert (made.read_register("r4"), made.read_register("r0")) == (2, 12)
    assert made.read_register("sp") == 0x2001_0000


def test_stack_is_aligned_for_a_handler_and_restored() -> None:
    made = finish("call_supervisor_misaligned")
    assert made.read_register("r5") == made.read_register("r6") == 0x2001_0000 - 4


def test_unprivileged_code_on_the_process_stack() -> None:
    made = finish("process_stack")
    assert made.read_register("r4") == 1
    assert made.read_register("r5") == made.read_register("control") == 3
    assert made.read_register("r6") == made.read_register("psp") == made.read_register("sp") == 0x2000_8000 - 4
    assert made.read_register("msp") == 0x2001_0000


def test_handler_of_unprivileged_code_is_privileged() -> None:
    made = finish("mask_in_handler")
    # PRIMASK before, PRIMASK and CONTROL in the handler, PRIMASK after it was set there.
    assert [made.read_register(name) for name in ("r4", "r5", "r7")] == [0, 0, 1]
    assert made.read_register("r6") & 2 == 0
    assert made.read_register("primask") == 1


def test_floating_point_frame() -> None:
    made = finish("call_supervisor_float")
    assert made.read_register("r4") == 0  # CONTROL.FPCA, which the handler's own use of the FPU sets
    assert made.read_register("r3") == 0x4000_0000  # 2.0, though the handler changed s0
    assert made.read_register("r5") == 0xFFFF_FFE9
    assert made.read_register("r6") == made.read_register("r7") == made.read_register("r8") + 0x68


# ---- stopping


def test_breakpoint_stops_in_front_and_step_goes_on() -> None:
    made = machine("load_in_it_block")
    inside = at("bad_load_in_it_block")
    made.breakpoints = [inside]
    assert made.run(timeout=20).pc == inside
    assert made.read_register("r2") == 3
    assert made.run(timeout=20) == made.run(timeout=20)
    assert made.step().pc == at("hard_fault")


def test_breakpoint_at_the_very_beginning_of_a_memory() -> None:
    made = machine()
    made.write(0x2000_0000, bytes.fromhex("00bf30bf"))  # nop; wfi
    made.write_register("pc", 0x2000_0000)
    made.breakpoints = [0x2000_0000]
    assert made.run(timeout=20) == Stop(Reason.BREAKPOINT, 0x2000_0000, 0)
    made.breakpoints = []
    assert made.run(timeout=20).reason is Reason.SLEEP


def test_step_executes_one_instruction_and_counts_it() -> None:
    made = machine("undefined")
    assert made.step() == Stop(Reason.STEP, at("bad_undefined"), 1)
    assert made.step() == Stop(Reason.STEP, at("hard_fault"), 1)


@pytest.mark.parametrize(
    ("label", "steps", "pc"),
    [("fpu_off", 1, None), ("load_nothing", 2, None), ("arm_state", 2, None), ("jump_nothing", 2, 0x9000_0000)],
)
def test_step_takes_a_fault(label: str, steps: int, pc: int | None) -> None:
    made = machine(label)
    stops = [made.step() for _ in range(steps)]
    assert stops[-1] == Stop(Reason.STEP, at(f"bad_{label}") if pc is None else pc, steps)
    assert made.step() == Stop(Reason.STEP, at("hard_fault"), steps)
    assert made.read_register("xpsr") & 0x1FF == 3


def test_step_after_a_stop_request_that_came_too_late() -> None:
    made = machine("undefined")
    made.request_stop()
    assert made.step() == Stop(Reason.STEP, at("bad_undefined"), 1)


def test_breakpoint_instruction_halts_for_a_debugger() -> None:
    made = machine("breakpoint")
    made.debugger = True
    assert made.run(timeout=20) == Stop(Reason.BKPT, at("bad_breakpoint"), 1)


def test_hang_ends_with_the_timeout() -> None:
    made = machine("hang")
    begin = time.monotonic()
    stop = made.run(timeout=0.1)
    assert stop.reason is Reason.TIMEOUT
    assert at("hang") <= stop.pc < at("hang") + 4
    assert time.monotonic() - begin < 10


def test_requested_stop_of_a_machine_that_is_not_running_is_kept() -> None:
    made = machine("hang")
    made.request_stop()
    assert made.run(timeout=20) == Stop(Reason.REQUEST, at("hang"), 0)


@pytest.mark.parametrize("label", ["hang", "sleep", "echo"])
def test_stop_comes_soon_whatever_the_firmware_does(label: str) -> None:
    taken = []
    for _ in range(3):
        made = machine("reset" if label == "echo" else label)
        made.blocking = True
        worker = threading.Thread(target=made.run)
        worker.start()
        time.sleep(0.1)
        assert worker.is_alive()
        begin = time.monotonic()
        made.request_stop()
        worker.join(20)
        assert not worker.is_alive()
        taken.append(time.monotonic() - begin)
    assert min(taken) < 0.5  # the quickest: the computer is shared


def test_software_reset_starts_over() -> None:
    made = machine("software_reset")
    made.write(0x2000_0000, b"kept")
    assert made.run(timeout=20).reason is Reason.INPUT
    assert made.read(0x2000_0000, 4) == b"kept"


def test_hints_do_nothing() -> None:
    assert finish("yield_and_wait").read_register("r0") == 7


# ---- serial line


def test_echo() -> None:
    made = machine()
    text = bytes(range(256)) * 4
    for part in (text[:1], text[1:500], text[500:]):
        made.serial.feed(part)
        assert made.run(timeout=20).reason is Reason.INPUT
    assert bytes(made.serial.output) == text


def test_computing_between_polls_is_not_waiting() -> None:
    made = machine("respond")
    made.serial.feed(b"HAL")
    made.run(timeout=20)
    assert bytes(made.serial.output) == b"IBM"
    assert made.instructions > 300_000


def test_looking_at_the_line_now_and_then_is_not_waiting() -> None:
    assert finish("poll_now_and_then").instructions > 200_000


def test_uart_without_clock_sends_nothing() -> None:
    assert finish("send_unclocked").serial.output == b""


def test_reset_forgets_what_was_received() -> None:
    made = machine()
    made.serial.feed(b"old")
    made.reset()
    made.serial.feed(b"new")
    made.run(timeout=20)
    assert bytes(made.serial.output) == b"new"


# ---- the address space, as a debugger sees it


def test_flash_and_its_alias_are_one() -> None:
    made = machine()
    made.write(0x0020_0100, b"alias")
    assert made.read(FLASH + 0x100, 5) == b"alias"
    assert made.read(FLASH + 0x10_0000 - 4, 4) == b"\xff" * 4


def test_elf_is_loaded_to_where_it_belongs(tmp_path: Path) -> None:
    made = Machine(F746)
    made.load_elf(cases().elf)
    assert made.read(FLASH, 0x40) == cases().data[:0x40]
    made.reset()
    made.serial.feed(b"ok")
    assert made.run(timeout=20).reason is Reason.INPUT
    assert made.serial.output == b"ok"
    (tmp_path / "text").write_text("no ELF file")
    with pytest.raises(InputError, match="ELF"):
        made.load_elf(tmp_path / "text")
    small = F746.model_copy(update={"memory": (F746.memory[0].model_copy(update={"length": 1024}), F746.memory[1])})
    with pytest.raises(InputError, match="0x08000400"):
        Machine(small).load_elf(cases().elf)


def test_nothing_is_outside() -> None:
    made = machine()
    for address in (0x2005_0000, 0x0810_0000, 0x6000_0000, 0xE010_0000):
        with pytest.raises(AddressError, match=f"{address:#010x}"):
            made.read(address, 4)
        with pytest.raises(AddressError):
            made.write(address, b"1234")
    with pytest.raises(AddressError, match="0x20050000"):
        made.read(0x2004_FFFE, 4)


@pytest.mark.parametrize(
    ("address", "value"),
    [
        (0xE000ED00, 0x410F_C271),  # CPUID: Cortex-M7
        (0xE0042000, 0x1001_6449),  # DBGMCU_IDCODE
        (0x1FF0F440, 1024 << 16),  # flash size in KiB
        (0xE000EF48, 0x40),  # MVFR2: FPv5
        (0xE000ED80, 0xF003_E019),  # CCSIDR of the data cache
        (0xE000ED08, FLASH),  # VTOR
    ],
)
def test_identification(address: int, value: int) -> None:
    assert word(machine(), address) == value


def test_parts_of_a_word_can_be_written() -> None:
    made = machine()
    made.write(0xE000ED18, bytes([0x10, 0x20, 0x30, 0x40]))
    made.write(0xE000ED19, bytes([0x55]))
    assert made.read(0xE000ED18, 4) == bytes([0x10, 0x50, 0x30, 0x40])


def test_ready_flags_follow() -> None:
    made = machine()
    rcc = 0x4002_3800
    made.write(rcc, (0x0101_0001).to_bytes(4, "little"))
    assert word(made, rcc) == 0x0303_0003
    made.write(rcc + 8, (2).to_bytes(4, "little"))
    assert word(made, rcc + 8) == 0xA


def test_what_start_code_of_an_stm32u5_waits_for_comes() -> None:
    """ST's HAL stops in its error handler where one of these does not (RM0456: PWR_SVMSR, ADC_ISR, OTG_GRSTCTL)."""
    made = Machine(boards.load("b-u585i"))
    made.reset()

    def write(address: int, value: int) -> None:
        made.write(address, value.to_bytes(4, "little"))

    write(0x4602_0C94, 1 << 2)  # PWREN
    write(0x4602_0C8C, 1 << 14 | 1 << 10)  # OTGEN, ADC12EN
    power, usb, converter = 0x4602_0800, 0x4204_0000, 0x4202_8000
    for range_, regulator in ((3, 0), (1, 2)):
        write(power + 0x08, regulator)
        write(power + 0x0C, range_ << 16)
        assert word(made, power + 0x3C) == range_ << 16 | 1 << 15 | regulator
    write(usb + 0x10, 0x31)
    assert word(made, usb + 0x10) == 1 << 31
    assert word(made, converter) & 1 << 12


def test_a_board_that_is_not_modelled_is_refused() -> None:
    with pytest.raises(InputError, match="mps2-an386"):
        Machine(boards.load("mps2-an386"))
