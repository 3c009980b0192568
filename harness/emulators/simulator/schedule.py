"""Interrupts and time, between two runs of Unicorn: what is due is raised and taken, and the core sleeps and wakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.emulators.simulator.block_counter import NO_LIMIT
from harness.emulators.simulator.cycles.counter import Counter
from harness.emulators.simulator.exceptions import ExceptionModel
from harness.emulators.simulator.nvic import Nvic
from harness.emulators.simulator.peripherals import Usart
from harness.emulators.simulator.serial_line import SerialLine
from harness.emulators.simulator.stops import Reason
from harness.emulators.simulator.timers import Timed

# While it waits, a firmware is woken by its timers at most this often, in seconds, however slow its clock is set up.
_PACE_SECONDS = 0.001
# How often timers may wake a firmware that sleeps, with nothing on its serial line, until run() says that it waits for
# input.
_IDLE_WAKES = 20
# Where time is not instructions: how many of them tell how long others will take, and when an event is close.
_GUESS_FROM = 16
_CLOSE_TICKS = 256


class Schedule:
    """What has to be looked at between two blocks, and when.

    clock: ticks of the core's clock without sleep. in_instructions: whether it counts just those. clock_hz: of the
    board's core, for waiting at its pace. asleep: the core sleeps; spins: it is in a loop without an instruction, which
    is the same but for what wakes it. slept: ticks that the clock was put forward while it slept. waiting: for input,
    or for time to pass, on the wall's clock.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        in_instructions: Callable[[], bool],
        clock_hz: int,
        counter: Counter,
        exceptions: ExceptionModel,
        nvic: Nvic,
        serial: SerialLine,
        timed: Sequence[Timed],
        usarts: Sequence[Usart],
    ) -> None:
        self._clock = clock
        self._in_instructions = in_instructions
        self._clock_hz = clock_hz
        self._counter = counter
        self._exceptions = exceptions
        self._nvic = nvic
        self._serial = serial
        self._timed = timed
        self._usarts = usarts
        self.asleep = self.spins = False
        self.slept = 0
        self.waiting = False
        # What is to be looked at: who is pending, when the next event is, bytes that have arrived.
        self._interrupts_changed = self._events_stale = self._input_arrived = False
        # Something waits to be taken, and may not be as things are.
        self._masked = False
        self._next_event: int | None = None
        # See _limit_run(): (instructions, clock) when it was last called, and the time of one instruction.
        self._limited_at = 0, 0
        self._ticks_per_instruction = 1.0
        # How often the clock was put forward with a silent serial line, and how much that had moved the last time.
        self._idle = 0
        self._moved_at_rest = 0

    def reset(self) -> None:
        """The core starts over, and time with it."""
        self.asleep = self._masked = False
        self.slept = self._idle = 0
        self._limited_at = 0, 0
        self._ticks_per_instruction = 1.0
        self._events_stale = True

    def time(self) -> int:
        """Ticks of the core's clock, sleep included."""
        return self._clock() + self.slept

    @property
    def has_event(self) -> bool:
        """Whether something will happen by itself."""
        return self._next_event is not None

    # ---- what is noted while the firmware runs

    def events_changed(self) -> None:
        """The next event may have moved, which can wait until the core stops anyway."""
        self._events_stale = True

    def interrupts_changed(self) -> None:
        """What is pending, enabled or urgent has changed."""
        self._interrupts_changed = True
        self._counter.leave()

    def unmasking(self) -> None:
        """An instruction comes that may let interrupts pass."""
        if self._masked:
            self.interrupts_changed()

    def input_arrived(self) -> None:
        """Bytes have arrived; on the thread that sends them."""
        if any(usart.listens for usart in self._usarts):
            self._input_arrived = True
            self._counter.leave()

    def wants_attention(self) -> bool:
        """Whether there is something that attend() has to do before the next block runs."""
        if self._input_arrived or self._events_stale or self._counter.reached():
            return True
        if self._interrupts_changed:
            self._interrupts_changed = False
            self._masked = bool(self._nvic.pending) and not self._exceptions.interruptible()
            return bool(self._nvic.pending) and not self._masked
        return False

    # ---- what is done between two runs

    def attend(self) -> None:
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
                self.asleep = False
            self._masked = bool(self._nvic.pending)

    def _limit_run(self) -> None:
        """Stop at the next event. Where time is not instructions that is a guess, from what they have taken of late: it
        is made again a little before, and the event then comes some instructions early or late, each time the same."""
        if self._next_event is None:
            self._counter.limit(NO_LIMIT)
            return
        executed = self._counter.read()[0]
        ticks = self._next_event - self.time()
        if not self._in_instructions():
            clock = self._clock()
            instructions, taken = executed - self._limited_at[0], clock - self._limited_at[1]
            if instructions >= _GUESS_FROM and taken > 0:
                self._ticks_per_instruction = min(max(taken / instructions, 0.25), 32.0)
            self._limited_at = executed, clock
            ahead = ticks if ticks < _CLOSE_TICKS else ticks * 3 // 4
            ticks = int(ahead / self._ticks_per_instruction)
        self._counter.limit(executed + max(1, ticks))

    def rest(self, *, blocking: bool) -> Reason | None:
        """The core sleeps: wait for what wakes it, or go on to the next event. None: look whether it is awake now.

        A loop without an instruction is a kind of sleep, which ends when an interrupt is taken.
        """
        if not self.spins and self._exceptions.wakes():
            self.asleep = False
            return None
        if not blocking:
            listening = any(usart.listens for usart in self._usarts)
            if self._next_event is None or self._idle >= _IDLE_WAKES:
                self._idle = 0
                return Reason.INPUT if listening else Reason.SLEEP
        elif self._wait(self._serial.wait_for_more):
            return None
        self._go_on_to_event()
        return None

    def wait_for_input(self, is_stopping: Callable[[], bool]) -> None:
        """The firmware polls for input in vain, and timers run: they go on while it waits."""
        self._wait(self._serial.wait)
        if not len(self._serial) and not is_stopping():
            self._go_on_to_event()

    def _wait(self, wait: Callable[[float | None], bool]) -> bool:
        """Wait as long as it is to the next event, about at the real clock's pace. Whether it ended before that."""
        if self._next_event is None:
            seconds = None
        elif len(self._serial):
            return False  # the next byte is what it waits for
        else:
            seconds = max(_PACE_SECONDS, (self._next_event - self.time()) / self._clock_hz)
        self._serial.flush()
        self.waiting = True
        try:
            return wait(seconds) or self._next_event is None
        finally:
            self.waiting = False

    def _go_on_to_event(self) -> None:
        if self._next_event is None:
            return
        ticks = max(0, self._next_event - self.time())
        self.slept += ticks
        self._idle = self._idle + 1 if self._serial.moved == self._moved_at_rest else 0
        self._moved_at_rest = self._serial.moved
        self._events_stale = True
