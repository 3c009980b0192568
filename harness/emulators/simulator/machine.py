"""A board in this process: its core on Unicorn, its memories, peripherals and faults. No sockets, no processes.

    machine = Machine(boards.load("nucleo-f746"))
    machine.load_elf(path)
    machine.reset()
    machine.serial.feed(b"name%")
    stop = machine.run(timeout=5.0)  # Reason.INPUT: it has answered, and waits
    answer = machine.serial.output

Time is the exact number of executed instructions, or, with a cycle model, of modelled cycles. Timers run on it, and
where the core sleeps until one of them interrupts, it goes on to that moment. Interrupts are taken between blocks of
code.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import unicorn
from unicorn import arm_const as reg

from harness.boards import Board
from harness.emulators.simulator import chips, decode
from harness.emulators.simulator.address_space import PAGE, AddressError, AddressSpace, Memory
from harness.emulators.simulator.block_counter import BlockCounter
from harness.emulators.simulator.blocks import Blocks
from harness.emulators.simulator.checks import Checks
from harness.emulators.simulator.core_registers import FLOAT, GENERAL, XPSR_T, CoreRegisters
from harness.emulators.simulator.cycles.counter import Counter, CycleCounting, make_counter
from harness.emulators.simulator.cycles.edges import Coverage, coverage
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.devices import PERIPHERALS, Devices
from harness.emulators.simulator.engine import Hook, UcError, hook_instruction, thumb_engine
from harness.emulators.simulator.exceptions import Architecture, Cfsr, ExceptionModel, Fault
from harness.emulators.simulator.nvic import Nvic
from harness.emulators.simulator.schedule import Schedule
from harness.emulators.simulator.serial_line import SerialLine
from harness.emulators.simulator.stops import (
    Event,
    Interrupt,
    Invalid,
    Late,
    Reason,
    Refused,
    Spinning,
    Stop,
    Waiting,
)
from harness.emulators.simulator.system import (
    DHCSR_DEBUGEN,
    DHCSR_HALT,
    DHCSR_LOCKUP,
    DHCSR_REGRDY,
    DHCSR_SLEEP,
    Dwt,
    SystemControl,
)
from harness.errors import InputError

_log = logging.getLogger(__name__)

# Unicorn has no Cortex-M0+, which executes what a Cortex-M0 does.
_CPU_MODELS = {
    "cortex-m0": reg.UC_CPU_ARM_CORTEX_M0,
    "cortex-m0plus": reg.UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": reg.UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": reg.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": reg.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": reg.UC_CPU_ARM_CORTEX_M33,
}
_ARCHITECTURES: dict[str, Architecture] = {
    "cortex-m0": "armv6-m",
    "cortex-m0plus": "armv6-m",
    "cortex-m33": "armv8-m",
}

# Where nothing can be executed, by the default memory map: Armv7-M ARM B3.1.
_EXECUTE_NEVER = (PERIPHERALS, range(0xA000_0000, 0x1_0000_0000))

# Unicorn's kind of access -> the permission it needs.
_NEEDED = {
    unicorn.UC_MEM_READ: unicorn.UC_PROT_READ,
    unicorn.UC_MEM_WRITE: unicorn.UC_PROT_WRITE,
    unicorn.UC_MEM_FETCH: unicorn.UC_PROT_EXEC,
}
# QEMU's exception numbers, which Unicorn's interrupt hook gets.
_EXCP_SWI, _EXCP_DATA_ABORT, _EXCP_BKPT, _EXCP_EXCEPTION_EXIT, _EXCP_NOCP, _EXCP_STKOF = 2, 4, 7, 8, 17, 19

# How long, in seconds, one unsuccessful poll of the serial line may block.
_POLL_SECONDS = 0.02
# Polls that are further apart than this, in instructions, are no loop that waits for input.
_POLL_DISTANCE = 2000
# `b .`: a branch to itself, which only an interrupt can end.
_BRANCH_TO_ITSELF = b"\xfe\xe7"
# How many resets in a row, with nothing on the serial line between them, are a loop.
_RESETS_IN_A_LOOP = 8


class Machine:
    """One board. Not for two threads at a time, except request_stop() and the serial line.

    serial: the line to its UARTs. clock_source: what timers and CYCCNT count; by default `cycles` where there is a
    cycle model, else `instructions`. counting: the counter of a machine with a cycle model, for profiles.
    debugger: whether BKPT halts instead of faulting. blocking: whether run() waits while the firmware polls for serial
    input in vain or sleeps, rather than return.
    """

    def __init__(self, board: Board, *, check_alignment: bool = False, cycle_model: CycleModel | None = None) -> None:
        """check_alignment: whether misaligned LDM, LDRD, VLDR and their like fault, as they always do on silicon; only
        2 million instructions per second then. cycle_model: counts cycles too, which SysTick and CYCCNT then show.

        InputError when the simulator does not model the board.
        """
        if board.engines.simulator is None or board.core not in _CPU_MODELS:
            raise InputError(
                f"the simulator does not model board {board.id}",
                hint="its manifest has to name a chip that is modelled",
            )
        self.board = board
        self.serial = SerialLine()
        self.cycle_model = cycle_model
        self.clock_source: Callable[[], int] = self._count_instructions if cycle_model is None else self._count_cycles
        self.debugger = False
        self.blocking = False

        self._uc = thumb_engine(_CPU_MODELS[board.core])
        self._registers = CoreRegisters(self._uc)

        self._breakpoints: frozenset[int] = frozenset()
        self._translations_stale = True
        self._calls: list[Hook] = []

        # The block hook has stopped the run.
        self._left = False
        # Resets by software with nothing on the serial line in between, and where the last one was asked for.
        self._resets = 0
        self._moved_at_reset = 0
        self._reset_from = 0
        self._reset_loop: str | None = None

        self._running = False
        # Where the instruction is that a step executes; None during runs.
        self._stepping: int | None = None
        self._stop_requested = False
        self._reset_requested = False
        self._event: Event | None = None
        self._failure: BaseException | None = None
        self._last_poll = 0

        chip = chips.chip(board.engines.simulator.chip)
        self._space = AddressSpace(
            self._uc, board, chip, on_written=self._on_debugger_write, on_failure=self._on_failure
        )
        self._blocks = Blocks(self._space)
        self._nvic = Nvic(chip.interrupts, chip.priority_bits, lambda: self._schedule.interrupts_changed())
        self._system = SystemControl(
            self, self._nvic, cpuid=chip.cpuid, fpu=board.fpu, caches=chip.caches, vectors=board.region("flash").origin
        )
        self._dwt = Dwt(self, self._system, has_lock=board.core == "cortex-m7")
        architecture = _ARCHITECTURES.get(board.core, "armv7-m")
        self._exceptions = ExceptionModel(
            self._registers, self._space, self._system, architecture, has_fpu=board.fpu is not None
        )
        self._devices = Devices(self._space, chip, self, self._nvic, self.serial, self._system, self._dwt)
        self._checks = Checks(
            self._uc,
            self._registers,
            self._space,
            self._system,
            has_float_v5=(board.fpu or "").startswith("fpv5"),
            all_alignment=check_alignment,
            current_block=lambda: self._counter.read()[1],
            on_unmasking=lambda: self._schedule.unmasking(),
            on_fault=self._on_late_fault,
            on_failure=self._on_failure,
        )
        self.counting: CycleCounting | None = None
        if cycle_model is None:
            self._counter: Counter = BlockCounter(self._uc, self._on_new_block)
        else:
            self._counter = self.counting = make_counter(self._uc, cycle_model, self._space, self._on_new_block)
        self._schedule = Schedule(
            clock=self.clock,
            in_instructions=lambda: self.clock_source == self._count_instructions,
            clock_hz=board.clock_hz,
            counter=self._counter,
            exceptions=self._exceptions,
            nvic=self._nvic,
            serial=self.serial,
            timed=self._devices.timed,
            usarts=self._devices.usarts,
        )
        self._add_hooks()
        self.reset()

    # ---- what a debugger sees

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`; AddressError where nothing is. Reading a peripheral has its side effects."""
        return self._space.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` from `address`, flash included; AddressError where nothing is, or only constants."""
        self._space.write(address, data)

    def load_elf(self, path: Path) -> None:
        """Write what an ELF file holds to where it belongs. A reset() has to follow.

        InputError when it is no ELF file or holds something for an address where nothing is.
        """
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            with path.open("rb") as file:
                for segment in ELFFile(file).iter_segments("PT_LOAD"):
                    self.write(segment["p_paddr"], segment.data())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except ELFError as error:
            raise InputError(f"{path} is not a valid ELF file: {error}") from error
        except AddressError as error:
            raise InputError(f"{path} does not fit board {self.board.id}: {error}") from error

    def read_register(self, name: str) -> int:
        """r0 to r12, sp, lr, pc, xpsr, msp, psp, primask, basepri, faultmask, control, s0 to s31, d0 to d15, fpscr."""
        return self._registers.read(name)

    def write_register(self, name: str, value: int) -> None:
        """See read_register()."""
        if name == "pc":
            self._schedule.asleep = False
        self._registers.write(name, value)

    @property
    def breakpoints(self) -> frozenset[int]:
        """The instructions in front of which run() stops, by address; any number of them, in flash or RAM."""
        return self._breakpoints

    @breakpoints.setter
    def breakpoints(self, addresses: Iterable[int]) -> None:
        wanted = frozenset(address & ~1 for address in addresses)
        if wanted != self._breakpoints:
            self._breakpoints = wanted
            self._translations_stale = True

    @property
    def instructions(self) -> int:
        """Instructions executed since reset, exactly; a conditional one that is skipped counts as executed.

        Seen by the firmware, through CYCCNT: those before the one that reads.
        """
        executed, block = self._counter.read()
        if not self._running:
            return executed
        _, count = self._blocks[block]
        return executed - count + self._blocks.index(block, self._registers.read("pc"))

    @property
    def cycles(self) -> int:
        """Modelled cycles since reset; seen by the firmware: those before the instruction that reads.

        InputError on a machine without a cycle model.
        """
        if self.counting is None:
            raise InputError("this machine counts instructions only")
        if not self._running:
            return self.counting.cycles()
        _, block = self._counter.read()
        return self.counting.cycles(self._blocks.index(block, self._registers.read("pc")))

    def clock_in(self, unit: Literal["cycles", "instructions"]) -> None:
        """What SysTick and CYCCNT count from now on; they go on from where they are. InputError: see `cycles`."""
        source = self._count_cycles if unit == "cycles" else self._count_instructions
        ahead = self.clock() - source()
        self.clock_source = lambda: source() + ahead
        self._schedule.events_changed()

    def coverage(self) -> Coverage:
        """Which executed instructions the cycle model has no cost for; none on a machine without one."""
        if self.counting is None or self.cycle_model is None:
            return Coverage(self.instructions, {})
        return coverage(self.counting.visits(), self.cycle_model)

    def call_at(self, address: int, call: Callable[[], None]) -> None:
        """Call `call` in front of the instruction at `address`, each time and from now on; it may look, not touch."""

        def on_instruction(*_: Any) -> None:
            try:
                call()
            except BaseException as error:
                self._on_failure(error)

        self._calls.append(hook_instruction(self._uc, address & ~1, on_instruction))
        self._translations_stale = True

    @property
    def lockup(self) -> str | None:
        """Why the core is locked up, in words; None while it is not."""
        return self._exceptions.lockup

    @property
    def reset_loop(self) -> str | None:
        """In words, that the firmware does nothing but reset itself, and from where; None while it does not."""
        return self._reset_loop

    @property
    def unmodelled(self) -> tuple[int, ...]:
        """Base addresses of the peripherals that the firmware has used although nobody models them. They read as 0."""
        return tuple(self._devices.unmodelled)

    # ---- running

    def reset(self) -> None:
        """What the reset pin does: registers and peripherals start over, flash and RAM keep their contents."""
        self._resets = 0
        self._reset_loop = None
        self._reset()

    def _reset(self) -> None:
        self.serial.clear()
        self._reset_requested = False
        self._schedule.reset()
        self._exceptions.reset()
        for peripheral in self._space.peripherals:
            peripheral.reset()
        self._counter.restart()
        self._last_poll = 0
        registers = self._registers
        registers.write("xpsr", XPSR_T)
        registers.write("control", 0)
        for name in (*GENERAL, *FLOAT, "primask", "basepri", "faultmask", "psp"):
            registers.write(name, 0)
        stack_pointer, start = struct.unpack("<II", self.read(self._system.vtor, 8))
        registers.write("lr", 0xFFFF_FFFF)
        registers.write("sp", stack_pointer & ~3)
        registers.write("xpsr", XPSR_T if start & 1 else 0)
        registers.write("pc", start)
        self.checks_changed()

    def run(self, timeout: float | None = None) -> Stop:
        """Execute until there is a reason to stop, at most for `timeout` seconds.

        A breakpoint at PC stops it at once: step() first. On the main thread, Ctrl-C raises KeyboardInterrupt.
        """
        timed_out = threading.Event()

        def on_timeout() -> None:
            timed_out.set()
            self.request_stop()

        timer = threading.Timer(timeout, on_timeout) if timeout is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            reason = self._run_interruptibly()
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
        if timed_out.is_set():
            self._take_stop_request()
            reason = Reason.TIMEOUT if reason is Reason.REQUEST else reason
        return self._stop(reason)

    def step(self) -> Stop:
        """Execute one instruction, or enter the exception that it raises. An IT block counts as one instruction.

        Interrupts wait meanwhile, as in a debugger that masks them for its steps.
        """
        self.cancel_stop()
        self._schedule.asleep = False
        if self._reset_requested:
            self._reset_by_firmware()
        reason = self._step() if self.lockup is None else None
        return self._stop(Reason.LOCKUP if self.lockup else reason or Reason.STEP)

    def request_stop(self) -> None:
        """Make run() return, or the next run() return at once. May be called on any thread."""
        self._stop_requested = True
        self._counter.leave()
        self.serial.wake()

    def cancel_stop(self) -> None:
        """Forget a requested stop that run() has not seen."""
        self._take_stop_request()

    # ---- for the core's own registers (system.Core) and the chip's peripherals (devices.Host)

    def clock(self) -> int:
        """See system.Core."""
        return self.clock_source()

    def time(self) -> int:
        """See system.Core."""
        return self._schedule.time()

    def events_changed(self) -> None:
        """See system.Core."""
        self._schedule.events_changed()
        self._leave_at_next_block()

    def request_reset(self) -> None:
        """See system.Core."""
        self._reset_requested = True
        self._reset_from = self._registers.read("pc")
        self._leave_at_next_block()

    def checks_changed(self) -> None:
        """See system.Core."""
        self._checks.changed()
        self._leave_at_next_block()

    def trace_changed(self) -> None:
        """See system.Core."""
        self._dwt.update()

    def debug_status(self) -> int:
        """See system.Core."""
        waiting = self._schedule.waiting
        return (
            DHCSR_REGRDY
            | (DHCSR_DEBUGEN if self.debugger else 0)
            | (DHCSR_HALT if not self._running and not waiting else 0)
            | (DHCSR_SLEEP if waiting else 0)
            | (DHCSR_LOCKUP if self.lockup else 0)
        )

    def on_poll(self) -> None:
        """See devices.Host."""
        executed, _ = self._counter.read()
        distance, self._last_poll = executed - self._last_poll, executed
        if distance > _POLL_DISTANCE:
            return
        if not self.blocking or self._schedule.has_event:
            self._event = self._event or Waiting()
            self._leave_at_next_block()
        elif not self._stop_requested:
            self.serial.flush()
            self.serial.wait(_POLL_SECONDS)

    def on_taken(self) -> None:
        """See devices.Host."""
        self._schedule.events_changed()

    # ---- hooks: Unicorn calls them in the middle of a run

    def _add_hooks(self) -> None:
        uc = self._uc
        # Breakpoints are Unicorn's exits: the only stops that are exact inside IT blocks too.
        uc.ctl_exits_enabled(True)
        # With a virtual TLB, the page hook decides about every access, and a refused one has no effect at all. With the
        # usual one, code behind a refused store would run on to the end of its block.
        uc.hook_add(unicorn.UC_HOOK_TLB_FILL, self._on_page)
        uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid)
        uc.hook_add(unicorn.UC_HOOK_EDGE_GENERATED, self._on_translation)
        # The counters have to know PC in the middle of a block. Unicorn sets it for the hook of a protected access.
        protected = unicorn.UC_HOOK_MEM_READ_PROT | unicorn.UC_HOOK_MEM_WRITE_PROT
        for base, size in self._devices.exact:
            uc.mem_protect(base, size, unicorn.UC_PROT_NONE)
            uc.hook_add(protected, self._on_protected, begin=base, end=base + size - 1)
        self.serial.on_fed = self._schedule.input_arrived
        self.serial.stamp = self._stamp

    def _on_page(self, _uc: Any, page: int, access: int, entry: Any, _data: Any) -> bool:
        permissions = self._space.permissions(page)
        if not permissions & _NEEDED[access]:
            if self._event is None:
                self._event = Refused(access, page)
            return False
        entry.paddr = page
        entry.perms = permissions
        if access != unicorn.UC_MEM_FETCH:
            self._registers.forget_it_state()
        return True

    def _on_protected(self, *_: Any) -> bool:
        self._registers.forget_it_state()
        return True

    def _on_interrupt(self, uc: Any, number: int, _data: Any) -> None:
        self._event = self._event or Interrupt(number)
        uc.emu_stop()

    def _on_invalid(self, _uc: Any, _data: Any) -> bool:
        _, block = self._counter.read()
        if self._registers.thumb() and self._blocks.ends_at(block, self._registers.read("pc")):
            return True  # WFE and YIELD end their block like this; they do nothing here
        self._event = self._event or Invalid()
        return False

    def _on_translation(self, _uc: Any, block: Any, _previous: Any, _data: Any) -> None:
        """Unicorn translates this block, perhaps again: what is known of code at its address is old."""
        self._counter.stale(block.pc)
        self._blocks.stale(block.pc)

    def _on_new_block(self, address: int, size: int) -> int | None:
        """See BlockCounter: the instructions of a block, or None to stop in front of it."""
        try:
            if address not in self._blocks:
                self._checks.note(address, self._blocks.examine(address, size), guard=self._stepping is None)
            size, count = self._blocks[address]
            if size == len(_BRANCH_TO_ITSELF) and self._stepping is None and self._spins_at(address):
                self._event = self._event or Spinning()
            # In this order: request_stop() sets its flag and then makes the counter forget, so that none is missed.
            self._counter.know(address, count)
            if self._must_leave():
                self._leave_at_next_block()
                self._left = True
                self._uc.emu_stop()
                return None
            return count
        except BaseException as error:
            self._on_failure(error)
            return None

    def _on_failure(self, error: BaseException) -> None:
        """Something of ours raised an exception inside a hook: run() raises it."""
        self._failure = self._failure or error
        self._uc.emu_stop()

    def _spins_at(self, address: int) -> bool:
        return address not in self._breakpoints and self._space.code(address, 2) == _BRANCH_TO_ITSELF

    def _must_leave(self) -> bool:
        if self._stop_requested or self._reset_requested or self._event is not None:
            return True
        return self._stepping is None and (self._checks.stale or self._schedule.wants_attention())

    def _leave_at_next_block(self) -> None:
        """Make the block hook look whether it has to stop. In the middle of a block, Unicorn's own stop would forget
        the results of the instruction."""
        self._counter.leave()

    def _stamp(self) -> tuple[int, int | None]:
        """Instructions and cycles to the end of the block that runs: PC is not known while a UART is accessed."""
        return self._counter.read()[0], self.counting.cycles() if self.counting is not None else None

    def _on_late_fault(self, late: Late) -> None:
        if self._event is None:
            self._event = late
            self._uc.emu_stop()

    def _on_debugger_write(self, memory: Memory, offset: int, size: int) -> None:
        if self._blocks.hold_code_of(memory, offset, size):
            self._translations_stale = True

    # ---- the run loop

    def _stop(self, reason: Reason) -> Stop:
        return Stop(reason, self._registers.read("pc"), self._counter.read()[0])

    def _take_stop_request(self) -> bool:
        requested = self._stop_requested
        self._stop_requested = False
        return requested

    def _run_interruptibly(self) -> Reason:
        """Python raises KeyboardInterrupt on the main thread only, where Unicorn's callbacks would lose it."""
        if threading.current_thread() is not threading.main_thread():
            return self._run()
        outcome: list[Reason | BaseException] = []

        def target() -> None:
            try:
                outcome.append(self._run())
            except BaseException as error:
                outcome.append(error)

        worker = threading.Thread(target=target, name="simulated core", daemon=True)
        worker.start()
        try:
            worker.join()
        except BaseException:
            self.request_stop()
            worker.join()
            self._take_stop_request()
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _run(self) -> Reason:
        while True:
            if self._take_stop_request():
                return Reason.REQUEST
            if self._reset_requested:
                self._reset_by_firmware()
            if self.lockup:
                return Reason.LOCKUP
            if self._reset_loop:
                return Reason.RESET_LOOP
            self._schedule.attend()
            asleep = self._schedule.asleep
            reason = self._schedule.rest(blocking=self.blocking) if asleep else self._execute()
            if reason is not None:
                return reason

    def _reset_by_firmware(self) -> None:
        """Do the reset that the firmware asked for, unless that is all it does."""
        self._resets = self._resets + 1 if self.serial.moved == self._moved_at_reset else 1
        self._moved_at_reset = self.serial.moved
        if self._resets < _RESETS_IN_A_LOOP:
            self._reset()
            return
        self._reset_requested = False
        self._reset_loop = (
            f"the firmware resets itself again and again: {self._resets} times without a byte on the serial line,"
            f" the last time at {self._reset_from:#010x}"
        )

    def _count_cycles(self) -> int:
        return self.cycles

    def _count_instructions(self) -> int:
        return self.instructions

    def _step(self) -> Reason | None:
        pc, xpsr = self._registers.read("pc"), self._registers.read("xpsr")
        first = int.from_bytes(self._space.code(pc, 2), "little")
        # Unicorn cannot stop inside an IT block.
        length = decode.it_remaining(xpsr) or 1 + decode.it_length(first)
        executed, _ = self._counter.read()
        self._renew_checks()
        self._checks.note_ahead(pc, length)
        self._stepping = pc
        try:
            reason = self._execute()
        finally:
            self._stepping = None
            self._translations_stale = True  # single steps translate blocks that do not hold for runs
        if self._event is None:
            # The block hook has counted whole blocks, perhaps the next one too.
            self._counter.add(executed + length - self._counter.read()[0])
        return reason

    def _execute(self) -> Reason | None:
        """Let Unicorn run until it stops, then do what it stopped for. None: it can go on."""
        self._renew_checks()
        if self._translations_stale or self._stepping is not None:
            self._translations_stale = False
            self._counter.forget()
            self._blocks.forget()
            self._uc.ctl_set_exits(sorted(self._breakpoints) if self._stepping is None else [])
            self._uc.ctl_flush_tb()
        self._registers.accept_mode()
        self._event = None
        self._left = False
        error: Exception | None = None
        start = self._registers.read("pc") | self._registers.thumb()
        self._running = True
        try:
            self._uc.emu_start(start, 0, count=0 if self._stepping is None else 1)
        except UcError as caught:
            error = caught
        finally:
            self._running = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._settle(error)

    def _renew_checks(self) -> None:
        if self._checks.stale:
            self._checks.renew()
            self._translations_stale = True

    def _settle(self, error: Exception | None) -> Reason | None:
        pc = self._registers.read("pc")
        if self._stepping not in (None, pc) and self._concerns_fetch():
            # The step was a branch; what is wrong at its target is for the next one.
            self._event = None
        match self._event:
            case Refused(access=unicorn.UC_MEM_FETCH, page=page):
                if page not in (pc & -PAGE, (pc + 2) & -PAGE):
                    # Unicorn looks at the byte before each breakpoint when it stops.
                    self._event = None
                    return self._settle(None)
                never = any(pc in place for place in _EXECUTE_NEVER)
                self._exceptions.fault(Fault(Cfsr.IACCVIOL if never else Cfsr.IBUSERR))
            case Refused(page=page):
                self._uncount_from(pc)
                touched = self._checks.accessed(pc)
                # It may begin on the page before.
                address = max(touched.address, page) if touched is not None else page
                if address in PERIPHERALS:
                    _log.warning("bus fault at %#010x: no peripheral is modelled at %#010x", pc, address)
                self._exceptions.fault(Fault(Cfsr.PRECISERR, address))
            case Interrupt(number):
                return self._take_interrupt(number, pc)
            case Invalid():
                self._uncount_from(pc)
                self._exceptions.fault(Fault(Cfsr.UNDEFINSTR if self._registers.thumb() else Cfsr.INVSTATE))
            case Late(fault, at, xpsr, values):
                self._registers.write("xpsr", xpsr)
                for name, value in values.items():
                    self._registers.write(name, value)
                self._registers.write("pc", at)
                self._uncount_from(at)
                self._exceptions.fault(fault)
            case Waiting():
                if not self.blocking:
                    return Reason.INPUT
                self._schedule.wait_for_input(lambda: self._stop_requested)
            case Spinning():
                self._schedule.asleep = self._schedule.spins = True
            case None:
                return self._settle_quiet_stop(pc, error)
        return None

    def _concerns_fetch(self) -> bool:
        """Whether the event is about the way to an instruction rather than the instruction."""
        match self._event:
            case Refused(access=unicorn.UC_MEM_FETCH):
                return True
            case Invalid():
                return not self._registers.thumb()
        return False

    def _settle_quiet_stop(self, pc: int, error: Exception | None) -> Reason | None:
        """Unicorn stopped without an event: it was asked to, or is at a breakpoint, or WFI put the core to sleep."""
        if self._left or self._stepping is not None:
            return None
        if pc in self._breakpoints:
            return Reason.BREAKPOINT
        if error is not None:
            raise RuntimeError(f"Unicorn stopped at {pc:#010x}: {error}") from error
        self._schedule.asleep, self._schedule.spins = True, False
        return None

    def _take_interrupt(self, number: int, pc: int) -> Reason | None:
        if number == _EXCP_SWI:
            self._exceptions.supervisor_call()
            return None
        if number == _EXCP_EXCEPTION_EXIT:
            if self._registers.exception():
                self._exceptions.leave(pc | 1)
                self._schedule.asleep = self._system.sleeps_on_exit and not self._registers.exception()
                self._schedule.spins = False
            else:
                self._exceptions.fault(Fault(Cfsr.IACCVIOL))
            return None
        self._uncount_from(pc)
        if number == _EXCP_BKPT:
            if self.debugger:
                return Reason.BKPT
            self._exceptions.breakpoint()
        else:
            known = {_EXCP_DATA_ABORT: Cfsr.UNALIGNED, _EXCP_NOCP: Cfsr.NOCP, _EXCP_STKOF: Cfsr.STKOF}
            self._exceptions.fault(Fault(known.get(number, Cfsr.UNDEFINSTR)))
        return None

    def _uncount_from(self, pc: int) -> None:
        """The current block was left at `pc`, whose instruction was not executed."""
        _, block = self._counter.read()
        size, count = self._blocks[block]
        if block <= pc < block + size:
            self._counter.uncount(self._blocks.index(block, pc), count)
