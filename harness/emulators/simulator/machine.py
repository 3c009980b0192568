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

import enum
import logging
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import unicorn
from unicorn import arm_const as reg

from harness.boards import Board
from harness.emulators.simulator import chips, decode
from harness.emulators.simulator.address_space import PAGE, AddressError, AddressSpace, Memory
from harness.emulators.simulator.block_counter import NO_LIMIT, BlockCounter
from harness.emulators.simulator.core_registers import FLOAT, GENERAL, XPSR_IT, XPSR_T, CoreRegisters
from harness.emulators.simulator.cycles.counter import Counter, CycleCounting, make_counter
from harness.emulators.simulator.cycles.edges import Coverage, coverage
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.decode import Kind
from harness.emulators.simulator.engine import Hook, UcError, hook_accesses, hook_instruction, thumb_engine, unhook
from harness.emulators.simulator.exceptions import Architecture, Cfsr, ExceptionModel, Fault
from harness.emulators.simulator.nvic import Nvic
from harness.emulators.simulator.peripherals import (
    ClockGate,
    NrfUart,
    Peripheral,
    Registers,
    Unmodelled,
    Usart,
    UsartV1,
)
from harness.emulators.simulator.serial_line import SerialLine
from harness.emulators.simulator.system import (
    CCR_DIV_0_TRP,
    CCR_UNALIGN_TRP,
    DHCSR_DEBUGEN,
    DHCSR_HALT,
    DHCSR_LOCKUP,
    DHCSR_REGRDY,
    DHCSR_SLEEP,
    DWT_BASE,
    SCS_BASE,
    Dwt,
    SystemControl,
)
from harness.emulators.simulator.timers import Timed, Timer
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

_PERIPHERALS = range(0x4000_0000, 0x6000_0000)
# Where nothing can be executed, by the default memory map: Armv7-M ARM B3.1.
_EXECUTE_NEVER = (_PERIPHERALS, range(0xA000_0000, 0x1_0000_0000))

# Unicorn's kind of access -> the permission it needs.
_NEEDED = {
    unicorn.UC_MEM_READ: unicorn.UC_PROT_READ,
    unicorn.UC_MEM_WRITE: unicorn.UC_PROT_WRITE,
    unicorn.UC_MEM_FETCH: unicorn.UC_PROT_EXEC,
}
# QEMU's exception numbers, which Unicorn's interrupt hook gets.
_EXCP_SWI, _EXCP_DATA_ABORT, _EXCP_BKPT, _EXCP_EXCEPTION_EXIT, _EXCP_NOCP, _EXCP_STKOF = 2, 4, 7, 8, 17, 19

# What instructions can change, beside xPSR, PC and memory.
_UNDONE = (*GENERAL, *FLOAT, "control")

# How long, in seconds, one unsuccessful poll of the serial line may block.
_POLL_SECONDS = 0.02
# Polls that are further apart than this, in instructions, are no loop that waits for input.
_POLL_DISTANCE = 2000
# While it waits, a firmware is woken by its timers at most this often, in seconds, however slow its clock is set up.
_PACE_SECONDS = 0.001
# How often timers may wake a firmware that sleeps, with nothing on its serial line, until run() says that it waits for
# input.
_IDLE_WAKES = 20
# `b .`: a branch to itself, which only an interrupt can end.
_BRANCH_TO_ITSELF = b"\xfe\xe7"
# With a cycle model: how many instructions tell how long others will take, and when an event is close.
_GUESS_FROM = 16
_CLOSE_TICKS = 256
# How many resets in a row, with nothing on the serial line between them, are a loop.
_RESETS_IN_A_LOOP = 8


class Reason(enum.Enum):
    """Why run() or step() returned."""

    REQUEST = "stop was requested"
    TIMEOUT = "the time given is over"
    BREAKPOINT = "a breakpoint is reached"
    BKPT = "a BKPT instruction, with a debugger attached"
    STEP = "one instruction was executed"
    INPUT = "the firmware waits for serial input"
    SLEEP = "the firmware sleeps, or is in a loop without an instruction, and nothing is there to wake it"
    LOCKUP = "the core is locked up"
    RESET_LOOP = "the firmware resets itself again and again"


@dataclass(frozen=True)
class Stop:
    """How a run ended. pc: the next instruction. instructions: executed since reset."""

    reason: Reason
    pc: int
    instructions: int


@dataclass(frozen=True)
class _Refused:
    """An access that no page allows. access: Unicorn's UC_MEM_*. page: the address of the page."""

    access: int
    page: int


@dataclass(frozen=True)
class _Interrupt:
    """An exception that QEMU leaves to us, by its number."""

    number: int


@dataclass(frozen=True)
class _Invalid:
    """An instruction that QEMU does not know, or one in Arm state."""


@dataclass(frozen=True)
class _Late:
    """A fault at `pc` after which Unicorn goes on to the end of a block, and the registers to go back to."""

    fault: Fault
    pc: int
    xpsr: int
    registers: tuple[int, ...]


@dataclass(frozen=True)
class _Waiting:
    """The firmware polls for input in vain."""


@dataclass(frozen=True)
class _Spinning:
    """The firmware is in a loop without an instruction."""


_Event = _Refused | _Interrupt | _Invalid | _Late | _Waiting | _Spinning


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

        self._check_alignment = check_alignment
        self._has_float_v5 = (board.fpu or "").startswith("fpv5")
        self._uc = thumb_engine(_CPU_MODELS[board.core])
        self._registers = CoreRegisters(self._uc)

        # (bytes, instructions) of each block, by address.
        self._blocks: dict[int, tuple[int, int]] = {}
        self._code_pages: set[tuple[int, int]] = set()
        self._breakpoints: frozenset[int] = frozenset()
        self._translations_stale = True
        # Where instructions are that may fault as the core is set up now.
        self._guards: set[int] = set()
        self._guards_stale = True
        self._checks_stale = True
        self._check_hooks: list[Hook] = []
        self._calls: list[Hook] = []

        # Where instructions are that may let an interrupt pass.
        self._unmasking: set[int] = set()
        # Something waits to be taken, and may not be as things are.
        self._masked = False
        # What is to be looked at between two blocks: who is pending, when the next event is, bytes that have arrived.
        self._interrupts_changed = self._events_stale = self._input_arrived = False
        self._next_event: int | None = None
        # With a cycle model, see _limit_run(): (instructions, clock) when it was last called, and the time of one.
        self._limited_at = 0, 0
        self._ticks_per_instruction = 1.0
        # Ticks that the clock was put forward while the core slept; how often that was, with a silent serial line.
        self._slept = self._idle = 0
        # The core sleeps; or spins, which is the same but for what wakes it.
        self._asleep = self._spins = False
        self._moved_at_rest = 0
        # The block hook has stopped the run.
        self._left = False
        # Resets by software with nothing on the serial line in between, and where the last one was asked for.
        self._resets = 0
        self._moved_at_reset = 0
        self._reset_from = 0
        self._reset_loop: str | None = None
        self._unmodelled: list[int] = []

        self._running = False
        # Where the instruction is that a step executes; None during runs.
        self._stepping: int | None = None
        self._sleeping = False
        self._stop_requested = False
        self._reset_requested = False
        self._event: _Event | None = None
        self._failure: BaseException | None = None
        self._last_poll = 0

        chip = chips.chip(board.engines.simulator.chip)
        self._space = AddressSpace(
            self._uc, board, chip, on_written=self._on_debugger_write, on_failure=self._on_failure
        )
        self._nvic = Nvic(chip.interrupts, chip.priority_bits, self._on_interrupts_changed)
        self._system = SystemControl(
            self, self._nvic, cpuid=chip.cpuid, fpu=board.fpu, caches=chip.caches, vectors=board.region("flash").origin
        )
        self._dwt = Dwt(self, self._system, has_lock=board.core == "cortex-m7")
        architecture = _ARCHITECTURES.get(board.core, "armv7-m")
        self._exceptions = ExceptionModel(
            self._registers, self._space, self._system, architecture, has_fpu=board.fpu is not None
        )
        self._usarts: list[Usart] = []
        self._timed: list[Timed] = [self._system.systick]
        self._add_peripherals(chip)
        self.counting: CycleCounting | None = None
        if cycle_model is None:
            self._counter: Counter = BlockCounter(self._uc, self._on_new_block)
        else:
            self._counter = self.counting = make_counter(self._uc, cycle_model, self._space, self._on_new_block)
        self._add_hooks()
        self.reset()

    def _add_peripherals(self, chip: chips.Chip) -> None:
        self._space.add_peripheral(SCS_BASE, 0x1000, self._system)
        self._space.add_peripheral(DWT_BASE, 0x1000, self._dwt)
        modelled: list[tuple[chips.Block, Peripheral]] = []
        control: Registers | None = None
        self._exact_pages = [(SCS_BASE, 0x1000), (DWT_BASE, 0x1000)]
        for block in chip.blocks:
            peripheral = self._peripheral(block)
            if block.name == chip.clock_control and isinstance(peripheral, Registers):
                control = peripheral
            modelled.append((block, peripheral))
            self._space.add_peripheral(block.base, block.size, peripheral)
        self._clock_control = control
        if control is not None:
            ClockGate(control, modelled)
        self._space.fill(_PERIPHERALS, lambda base: Unmodelled(base, self._unmodelled, self._on_unmodelled))

    def _peripheral(self, block: chips.Block) -> Peripheral:
        line = block.interrupt

        def signal(asserted: bool) -> None:
            if line is not None:
                self._nvic.signal(line, asserted)

        match block.kind:
            case "usart" | "usart_v1" | "nrf_uart":
                kinds: dict[str, type[Usart]] = {"usart": Usart, "usart_v1": UsartV1, "nrf_uart": NrfUart}
                usart = kinds[block.kind](self.serial, self._on_poll, self.time, signal, self._on_taken)
                self._usarts.append(usart)
                self._timed.append(usart)
                return usart
            case "timer16" | "timer32":
                bits = 16 if block.kind == "timer16" else 32
                timer = Timer(bits, self.time, lambda: self._timer_divider(block), signal, self.events_changed)
                self._timed.append(timer)
                self._exact_pages.append((block.base, block.size))
                return timer
        return Registers(block)

    def _timer_divider(self, block: chips.Block) -> int:
        """Ticks of the core's clock for one of a timer's."""
        if block.prescaler is None or self._clock_control is None:
            return 1
        return block.prescaler.divider(self._clock_control.read)

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
            self._asleep = False
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
        size, count = self._blocks[block]
        return executed - count + self._index_in_block(block, size, self._registers.read("pc"))

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
        size, _ = self._blocks[block]
        return self.counting.cycles(self._index_in_block(block, size, self._registers.read("pc")))

    def clock_in(self, unit: Literal["cycles", "instructions"]) -> None:
        """What SysTick and CYCCNT count from now on; they go on from where they are. InputError: see `cycles`."""
        source = self._count_cycles if unit == "cycles" else self._count_instructions
        ahead = self.clock() - source()
        self.clock_source = lambda: source() + ahead
        self._events_stale = True

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
        return tuple(self._unmodelled)

    # ---- running

    def reset(self) -> None:
        """What the reset pin does: registers and peripherals start over, flash and RAM keep their contents."""
        self._resets = 0
        self._reset_loop = None
        self._reset()

    def _reset(self) -> None:
        self.serial.clear()
        self._reset_requested = self._asleep = self._masked = False
        self._slept = self._idle = 0
        self._limited_at = 0, 0
        self._ticks_per_instruction = 1.0
        self._events_stale = True
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
        self._asleep = False
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

    # ---- for the core's own registers (system.Core)

    def clock(self) -> int:
        """See system.Core."""
        return self.clock_source()

    def time(self) -> int:
        """See system.Core."""
        return self.clock_source() + self._slept

    def events_changed(self) -> None:
        """See system.Core."""
        self._events_stale = True
        self._leave_at_next_block()

    def request_reset(self) -> None:
        """See system.Core."""
        self._reset_requested = True
        self._reset_from = self._registers.read("pc")
        self._leave_at_next_block()

    def checks_changed(self) -> None:
        """See system.Core."""
        self._guards_stale = self._checks_stale = True
        self._leave_at_next_block()

    def trace_changed(self) -> None:
        """See system.Core."""
        self._dwt.update()

    def debug_status(self) -> int:
        """See system.Core."""
        halted = not self._running and not self._sleeping
        return (
            DHCSR_REGRDY
            | (DHCSR_DEBUGEN if self.debugger else 0)
            | (DHCSR_HALT if halted else 0)
            | (DHCSR_SLEEP if self._sleeping else 0)
            | (DHCSR_LOCKUP if self.lockup else 0)
        )

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
        for base, size in self._exact_pages:
            uc.mem_protect(base, size, unicorn.UC_PROT_NONE)
            uc.hook_add(protected, self._on_protected, begin=base, end=base + size - 1)
        self.serial.on_fed = self._on_fed
        self.serial.stamp = self._stamp

    def _on_page(self, _uc: Any, page: int, access: int, entry: Any, _data: Any) -> bool:
        permissions = self._space.permissions(page)
        if not permissions & _NEEDED[access]:
            if self._event is None:
                self._event = _Refused(access, page)
            return False
        fetch = access == unicorn.UC_MEM_FETCH
        entry.paddr, entry.perms = self._space.page(page, fetch)
        if not fetch:
            self._registers.forget_it_state()
        return True

    def _on_protected(self, *_: Any) -> bool:
        self._registers.forget_it_state()
        return True

    def _on_interrupt(self, uc: Any, number: int, _data: Any) -> None:
        self._event = self._event or _Interrupt(number)
        uc.emu_stop()

    def _on_invalid(self, _uc: Any, _data: Any) -> bool:
        _, block = self._counter.read()
        size, _ = self._blocks.get(block, (0, 0))
        if self._registers.thumb() and self._registers.read("pc") == block + size:
            return True  # WFE and YIELD end their block like this; they do nothing here
        self._event = self._event or _Invalid()
        return False

    def _on_translation(self, _uc: Any, block: Any, _previous: Any, _data: Any) -> None:
        """Unicorn translates this block, perhaps again: what is known of code at its address is old."""
        self._counter.stale(block.pc)
        self._blocks.pop(block.pc, None)

    def _on_new_block(self, address: int, size: int) -> int | None:
        """See BlockCounter: the instructions of a block, or None to stop in front of it."""
        try:
            if address not in self._blocks:
                self._examine(address, size)
            size, count = self._blocks[address]
            if size == len(_BRANCH_TO_ITSELF) and self._stepping is None and self._spins_at(address):
                self._event = self._event or _Spinning()
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

    def _examine(self, address: int, size: int) -> None:
        """Take note of a block: its instructions, and which of them need a check."""
        count, found = decode.scan(self._space.code(address, size))
        self._blocks[address] = (size, count)
        memory = self._space.memory_at(address)
        if memory is not None:
            self._code_pages |= _pages(memory, address - memory.origin, size)
        self._unmasking |= {address + offset for offset, kind in found if kind is Kind.MASK}
        guards = {address + offset for offset, kind in found if self._may_fault(kind)}
        if guards - self._guards and self._stepping is None:
            self._guards |= guards
            self._checks_stale = True

    def _spins_at(self, address: int) -> bool:
        return address not in self._breakpoints and self._space.code(address, 2) == _BRANCH_TO_ITSELF

    def _must_leave(self) -> bool:
        if self._stop_requested or self._reset_requested or self._event is not None:
            return True
        return self._stepping is None and (self._checks_stale or self._wants_attention())

    def _wants_attention(self) -> bool:
        """Whether there is something that _attend() has to do before the next block runs."""
        if self._input_arrived or self._events_stale or self._counter.reached():
            return True
        if self._interrupts_changed:
            self._interrupts_changed = False
            self._masked = bool(self._nvic.pending) and not self._exceptions.interruptible()
            return bool(self._nvic.pending) and not self._masked
        return False

    def _leave_at_next_block(self) -> None:
        """Make the block hook look whether it has to stop. In the middle of a block, Unicorn's own stop would forget
        the results of the instruction."""
        self._counter.leave()

    def _on_interrupts_changed(self) -> None:
        """What is pending, enabled or urgent has changed."""
        self._interrupts_changed = True
        self._leave_at_next_block()

    def _on_fed(self) -> None:
        """Bytes have arrived; on the thread that sends them."""
        if any(usart.listens for usart in self._usarts):
            self._input_arrived = True
            self._leave_at_next_block()

    def _stamp(self) -> tuple[int, int | None]:
        """Instructions and cycles to the end of the block that runs: PC is not known while a UART is accessed."""
        return self._counter.read()[0], self.counting.cycles() if self.counting is not None else None

    def _on_taken(self) -> None:
        """A byte was taken in its interrupt, at whose end there is time enough to work out when the next one comes."""
        self._events_stale = True

    def _on_unmodelled(self, base: int) -> None:
        _log.warning("no peripheral is modelled at %#010x: it reads as zero", base)

    def _on_poll(self) -> None:
        """The firmware has polled the serial line some times in vain."""
        executed, _ = self._counter.read()
        distance, self._last_poll = executed - self._last_poll, executed
        if distance > _POLL_DISTANCE:
            return
        if not self.blocking or self._next_event is not None:
            self._event = self._event or _Waiting()
            self._leave_at_next_block()
        elif not self._stop_requested:
            self.serial.flush()
            self.serial.wait(_POLL_SECONDS)

    def _on_debugger_write(self, memory: Memory, offset: int, size: int) -> None:
        if self._code_pages & _pages(memory, offset, size):
            self._translations_stale = True

    # ---- checks that Unicorn does not make

    def _fpu_usable(self) -> bool:
        access = self._system.fpu_access
        return access == 3 or (access == 1 and self._registers.privileged())

    def _may_fault(self, kind: Kind) -> bool:
        """Whether an instruction of this kind may fault, as the core is set up now."""
        if kind is Kind.DIVIDE:
            return bool(self._system.ccr & CCR_DIV_0_TRP)
        if kind is Kind.MASK:
            return True  # it does not, but what comes behind it may have to wait for an interrupt
        return self._system.fpu_access != 3 or (kind is Kind.FLOAT_V5 and not self._has_float_v5)

    def _renew_checks(self) -> None:
        """Hook what needs a check now: guarded instructions, and every access where alignment matters."""
        uc = self._uc
        if self._guards_stale:
            self._guards.clear()
        self._guards_stale = self._checks_stale = False
        for hook in self._check_hooks:
            unhook(uc, hook)
        self._check_hooks = [hook_instruction(uc, address, self._on_guarded) for address in self._guards]
        if self._check_alignment or self._system.ccr & CCR_UNALIGN_TRP:
            self._check_hooks.append(hook_accesses(uc, self._on_access))
        self._translations_stale = True

    def _on_guarded(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        if address in self._unmasking:
            if self._masked:
                self._interrupts_changed = True
                self._leave_at_next_block()
            return
        fault = self._guard(address)
        if fault is not None and self._event is None:
            _, block = self._counter.read()
            offset = address - block
            it_state = decode.it_state(self._space.code(block, offset), offset)
            self._note_late(fault, address, (it_state & 3) << 25 | (it_state & 0xFC) << 8)

    def _guard(self, address: int) -> Fault | None:
        """The fault of the guarded instruction at `address`, which is about to run."""
        code = self._space.code(address, 4)
        _, found = decode.scan(code)
        if not found or found[0][0]:
            return None  # code in RAM that has changed since
        kind = found[0][1]
        if kind is Kind.MASK:
            return None
        if kind is Kind.DIVIDE:
            zero = self._registers.numbered(decode.divisor(code)) == 0
            return Fault(Cfsr.DIVBYZERO) if zero and self._system.ccr & CCR_DIV_0_TRP else None
        if not self._fpu_usable():
            return Fault(Cfsr.NOCP)
        return Fault(Cfsr.UNDEFINSTR) if kind is Kind.FLOAT_V5 and not self._has_float_v5 else None

    def _on_access(self, _uc: Any, _access: int, address: int, size: int, _value: int, _data: Any) -> None:
        try:
            if address & 3 and address & (size - 1) and self._event is None:
                self._on_misaligned()
            self._registers.forget_it_state()
        except BaseException as error:
            self._on_failure(error)

    def _on_misaligned(self) -> None:
        """An access is misaligned, which is allowed for some instructions."""
        pc = self._registers.read("pc")
        touched = self._accessed(pc)
        if touched is None or not touched.address % touched.alignment:
            return
        if touched.always or self._system.ccr & CCR_UNALIGN_TRP:
            self._note_late(Fault(Cfsr.UNALIGNED), pc, self._registers.read("xpsr") & XPSR_IT)

    def _note_late(self, fault: Fault, pc: int, it_bits: int) -> None:
        """`fault` happens at `pc`. In an IT block, Unicorn runs on to its end: that is undone later, except stores."""
        registers = self._registers
        xpsr = registers.read("xpsr") & ~XPSR_IT | it_bits
        self._event = _Late(fault, pc, xpsr, tuple(registers.read(name) for name in _UNDONE))
        self._uc.emu_stop()

    def _accessed(self, pc: int) -> decode.Access | None:
        """The memory that the instruction at `pc` touches, by the registers as they are."""
        first, second = struct.unpack("<HH", self._space.code(pc, 4).ljust(4, b"\0"))
        return decode.memory_access(first, second, pc, self._registers.numbered)

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
            self._attend()
            reason = self._rest() if self._asleep else self._execute()
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

    # ---- interrupts and time, between two runs of Unicorn

    def _attend(self) -> None:
        """Let timers and UARTs raise what is due, work out when the next event is, and take an interrupt."""
        if self._input_arrived:
            self._input_arrived = False
            for usart in self._usarts:
                usart.drive()
        if self._events_stale or self._counter.reached():
            self._events_stale = False
            for timed in self._timed:
                timed.advance()
            events = [timed.next_event() for timed in self._timed]
            self._next_event = min((event for event in events if event is not None), default=None)
            self._limit_run()
        self._masked = self._interrupts_changed = False
        if self._nvic.pending:
            if self._exceptions.interrupt():
                self._asleep = False
            self._masked = bool(self._nvic.pending)

    def _limit_run(self) -> None:
        """Stop at the next event. With a cycle model that is a guess, from what instructions have taken of late: it is
        made again a little before, and the event then comes some instructions early or late, each time the same."""
        if self._next_event is None:
            self._counter.limit(NO_LIMIT)
            return
        executed = self._counter.read()[0]
        ticks = self._next_event - self.time()
        if self.clock_source != self._count_instructions:
            clock = self.clock()
            instructions, taken = executed - self._limited_at[0], clock - self._limited_at[1]
            if instructions >= _GUESS_FROM and taken > 0:
                self._ticks_per_instruction = min(max(taken / instructions, 0.25), 32.0)
            self._limited_at = executed, clock
            ahead = ticks if ticks < _CLOSE_TICKS else ticks * 3 // 4
            ticks = int(ahead / self._ticks_per_instruction)
        self._counter.limit(executed + max(1, ticks))

    def _rest(self) -> Reason | None:
        """The core sleeps: wait for what wakes it, or go on to the next event. None: look whether it is awake now.

        A loop without an instruction is a kind of sleep, which ends when an interrupt is taken.
        """
        if not self._spins and self._exceptions.wakes():
            self._asleep = False
            return None
        if not self.blocking:
            listening = any(usart.listens for usart in self._usarts)
            if self._next_event is None or self._idle >= _IDLE_WAKES:
                self._idle = 0
                return Reason.INPUT if listening else Reason.SLEEP
        elif self._wait(self.serial.wait_for_more):
            return None
        self._go_on_to_event()
        return None

    def _wait_for_input(self) -> None:
        """The firmware polls for input in vain, and timers run: they go on while it waits."""
        self._wait(self.serial.wait)
        if not len(self.serial) and not self._stop_requested:
            self._go_on_to_event()

    def _wait(self, wait: Callable[[float | None], bool]) -> bool:
        """Wait as long as it is to the next event, about at the real clock's pace. Whether it ended before that."""
        if self._next_event is None:
            seconds = None
        elif len(self.serial):
            return False  # the next byte is what it waits for
        else:
            seconds = max(_PACE_SECONDS, (self._next_event - self.time()) / self.board.clock_hz)
        self.serial.flush()
        self._sleeping = True
        try:
            return wait(seconds) or self._next_event is None
        finally:
            self._sleeping = False

    def _go_on_to_event(self) -> None:
        if self._next_event is None:
            return
        ticks = max(0, self._next_event - self.time())
        self._slept += ticks
        self._idle = self._idle + 1 if self.serial.moved == self._moved_at_rest else 0
        self._moved_at_rest = self.serial.moved
        self._events_stale = True

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
        if self._checks_stale:
            self._renew_checks()
        self._guard_ahead(pc, length)
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

    def _guard_ahead(self, pc: int, length: int) -> None:
        """Guard the next instructions, since a step cannot be started over as a block can."""
        code = self._space.code(pc, 4 * length)
        for offset, kind in decode.scan(code)[1]:
            if self._may_fault(kind):
                self._guards.add(pc + offset)
                self._checks_stale = True

    def _execute(self) -> Reason | None:
        """Let Unicorn run until it stops, then do what it stopped for. None: it can go on."""
        if self._checks_stale:
            self._renew_checks()
        if self._translations_stale or self._stepping is not None:
            self._translations_stale = False
            self._counter.forget()
            self._blocks.clear()
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

    def _settle(self, error: Exception | None) -> Reason | None:
        pc = self._registers.read("pc")
        if self._stepping not in (None, pc) and self._concerns_fetch():
            # The step was a branch; what is wrong at its target is for the next one.
            self._event = None
        match self._event:
            case _Refused(access=unicorn.UC_MEM_FETCH, page=page):
                if page not in (pc & -PAGE, (pc + 2) & -PAGE):
                    # Unicorn looks at the byte before each breakpoint when it stops.
                    self._event = None
                    return self._settle(None)
                never = any(pc in place for place in _EXECUTE_NEVER)
                self._exceptions.fault(Fault(Cfsr.IACCVIOL if never else Cfsr.IBUSERR))
            case _Refused(page=page):
                self._uncount_from(pc)
                touched = self._accessed(pc)
                # It may begin on the page before.
                address = max(touched.address, page) if touched is not None else page
                if address in _PERIPHERALS:
                    _log.warning("bus fault at %#010x: no peripheral is modelled at %#010x", pc, address)
                self._exceptions.fault(Fault(Cfsr.PRECISERR, address))
            case _Interrupt(number):
                return self._take_interrupt(number, pc)
            case _Invalid():
                self._uncount_from(pc)
                self._exceptions.fault(Fault(Cfsr.UNDEFINSTR if self._registers.thumb() else Cfsr.INVSTATE))
            case _Late(fault, at, xpsr, values):
                self._registers.write("xpsr", xpsr)
                for name, value in zip(_UNDONE, values, strict=True):
                    self._registers.write(name, value)
                self._registers.write("pc", at)
                self._uncount_from(at)
                self._exceptions.fault(fault)
            case _Waiting():
                if not self.blocking:
                    return Reason.INPUT
                self._wait_for_input()
            case _Spinning():
                self._asleep = self._spins = True
            case None:
                return self._settle_quiet_stop(pc, error)
        return None

    def _concerns_fetch(self) -> bool:
        """Whether the event is about the way to an instruction rather than the instruction."""
        match self._event:
            case _Refused(access=unicorn.UC_MEM_FETCH):
                return True
            case _Invalid():
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
        self._asleep, self._spins = True, False
        return None

    def _take_interrupt(self, number: int, pc: int) -> Reason | None:
        if number == _EXCP_SWI:
            self._exceptions.supervisor_call()
            return None
        if number == _EXCP_EXCEPTION_EXIT:
            if self._registers.exception():
                self._exceptions.leave(pc | 1)
                self._asleep = self._system.sleeps_on_exit and not self._registers.exception()
                self._spins = False
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
            self._counter.uncount(self._index_in_block(block, size, pc), count)

    def _index_in_block(self, block: int, size: int, pc: int) -> int:
        """How many instructions of the block begin before `pc`."""
        offset = min(max(pc - block, 0), size)
        return decode.scan(self._space.code(block, offset))[0]


def _pages(memory: Memory, offset: int, size: int) -> set[tuple[int, int]]:
    """The pages of a range, the same for all addresses of a memory."""
    return {(id(memory.data), page) for page in range(offset & -PAGE, offset + size, PAGE)}
