"""What counts by itself: SysTick and the chip's general-purpose timers. They run on the machine's clock, lazily.

A counter is worked out from the time when somebody looks, and tells the machine when its next interrupt is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.emulators.simulator.peripherals import Peripheral


class Timed(Protocol):
    """Something that raises an interrupt at a time of its own."""

    def next_event(self) -> int | None:
        """When, on the machine's clock; None for never, as it is set up now."""
        ...

    def advance(self) -> None:
        """Raise what is due by now."""
        ...


class SysTick:
    """The core's timer: counts down from its reload value, Armv7-M ARM (DDI 0403E) B3.3.

    time: the clock, in ticks of the core. on_wrap: called when it has counted to 0 and TICKINT is set. on_change:
    called when the next event may have moved.
    """

    ENABLE, TICKINT, CLKSOURCE, COUNTFLAG = 1 << 0, 1 << 1, 1 << 2, 1 << 16
    MAXIMUM = 0xFF_FFFF
    # What the external reference clock is on STM32 chips: the core's, divided by this.
    REFERENCE_DIVIDER = 8

    def __init__(self, time: Callable[[], int], on_wrap: Callable[[], None], on_change: Callable[[], None]) -> None:
        self._time = time
        self._on_wrap = on_wrap
        self._on_change = on_change
        self._control = self._reload = 0
        self._since = self._value = 0
        self._told = 0
        self._flag = False

    def reset(self) -> None:
        """It stands still."""
        self._control = self._reload = 0
        self._since = self._value = self._told = 0
        self._flag = False

    @property
    def control(self) -> int:
        """SYST_CSR; reading it clears COUNTFLAG."""
        self.advance()
        flag, self._flag = self._flag, False
        return self._control | (self.COUNTFLAG if flag else 0)

    @control.setter
    def control(self, value: int) -> None:
        self._settle()
        self._control = value & (self.ENABLE | self.TICKINT | self.CLKSOURCE)
        self._on_change()

    @property
    def reload(self) -> int:
        """SYST_RVR."""
        return self._reload

    @reload.setter
    def reload(self, value: int) -> None:
        self._settle()
        self._reload = value & self.MAXIMUM
        self._on_change()

    @property
    def value(self) -> int:
        """SYST_CVR."""
        elapsed = self._elapsed()
        if elapsed <= self._value:
            return self._value - elapsed
        return (self._value - elapsed) % (self._reload + 1)

    def clear(self) -> None:
        """A write to SYST_CVR, of whatever value."""
        self._settle()
        self._value = 0
        self._flag = False
        self._on_change()

    def next_event(self) -> int | None:
        """See Timed."""
        counting = self._control & self.ENABLE and self._reload
        if not counting or not self._control & self.TICKINT:
            return None
        ahead = (self._value or self._reload + 1) + self._told * (self._reload + 1)
        return self._since + ahead * self._divider

    def advance(self) -> None:
        """See Timed."""
        wraps = self._wraps()
        if wraps > self._told:
            self._told = wraps
            self._flag = True
            if self._control & self.TICKINT:
                self._on_wrap()

    @property
    def _divider(self) -> int:
        return 1 if self._control & self.CLKSOURCE else self.REFERENCE_DIVIDER

    def _elapsed(self) -> int:
        """Its own ticks since `_since`, when its value was `_value`."""
        if not self._control & self.ENABLE:
            return 0
        return (self._time() - self._since) // self._divider

    def _wraps(self) -> int:
        """How often it has become 0 since then."""
        elapsed, first = self._elapsed(), self._value or self._reload + 1
        if elapsed < first or not self._reload:
            return 0
        return 1 + (elapsed - first) // (self._reload + 1)

    def _settle(self) -> None:
        """Begin anew from the value that it has now."""
        self.advance()
        self._value, self._since, self._told = self.value, self._time(), 0


class Timer(Peripheral):
    """A general-purpose timer that counts up: RM0385 chapter 23 (TIM2 to TIM5) and 25 (TIM6, TIM7).

    Modelled: counter, prescaler, auto-reload, update and the four compare events with their interrupts. Not modelled:
    capture, outputs, counting down, slave modes. Reading a register shows the time of the instruction that reads.
    """

    CR1, DIER, SR, EGR, CNT, PSC, ARR, CCR1 = 0x00, 0x0C, 0x10, 0x14, 0x24, 0x28, 0x2C, 0x34
    COMPARATORS = 4
    CEN, UDIS, OPM = 1 << 0, 1 << 1, 1 << 3
    UPDATE = 1 << 0

    def __init__(
        self,
        bits: int,
        time: Callable[[], int],
        divider: Callable[[], int],
        signal: Callable[[bool], None],
        on_change: Callable[[], None],
    ) -> None:
        """divider: ticks of `time` for one of the clock that it gets, which its own prescaler divides further. signal:
        drives its interrupt line. on_change: called when the next event may have moved."""
        self._mask = (1 << bits) - 1
        self._time = time
        self._divider = divider
        self._signal = signal
        self._on_change = on_change
        self._words: dict[int, int] = {}
        self._flags = 0
        self._since = self._value = 0
        self._prescaler = 0  # as in use: what is written to PSC waits for the next update
        self.reset()

    def reset(self) -> None:
        """See Peripheral."""
        self._words = {self.ARR: self._mask}
        self._flags = 0
        self._since = self._value = self._prescaler = 0
        self._signal(False)

    def read(self, offset: int) -> int:
        """See Peripheral."""
        self.advance()
        if offset == self.CNT:
            return self._value
        if offset == self.SR:
            return self._flags
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self.advance()
        value &= mask
        if offset == self.SR:  # flags are cleared by writing 0
            self._flags &= value | ~mask
        elif offset == self.EGR:
            self._generate(value)
        elif offset == self.CNT:
            self._value = (self._value & ~mask | value) & self._mask
            self._since = self._time()
        else:
            self._words[offset] = self._words.get(offset, 0) & ~mask | value
            if offset in (self.ARR, *self._compare_offsets()):
                self._words[offset] &= self._mask
        self._drive()
        self._on_change()

    def next_event(self) -> int | None:
        """See Timed."""
        if not self.clocked or not self._words.get(self.CR1, 0) & self.CEN:
            return None
        enabled = self._words.get(self.DIER, 0) & ~self._flags
        counts = [self._counts_to(value) for flag, value in self._targets() if enabled & flag]
        if not counts:
            return None
        return self._since + min(counts) * self._ticks_per_count()

    def advance(self) -> None:
        """See Timed. Flags what the counter has passed since the last look."""
        if not self.clocked or not self._words.get(self.CR1, 0) & self.CEN:
            self._since = self._time()
            return
        ticks_per_count = self._ticks_per_count()
        elapsed = (self._time() - self._since) // ticks_per_count
        if elapsed <= 0:
            return
        updates = False
        for flag, value in self._targets():
            if self._counts_to(value) <= elapsed:
                self._flags |= flag
                updates = updates or flag == self.UPDATE
        self._since += elapsed * ticks_per_count
        self._value = self._after(elapsed)
        if updates:
            self._update()
        self._drive()

    def _after(self, counts: int) -> int:
        """The counter `counts` later."""
        period = self._words[self.ARR] + 1
        if self._value >= period:  # beyond the reload value: on to the end, and around
            around = self._mask + 1 - self._value
            return self._value + counts if counts < around else (counts - around) % period
        return (self._value + counts) % period

    def _counts_to(self, target: int) -> int:
        """How many counts until the counter becomes `target`: at least 1."""
        period = self._words[self.ARR] + 1
        if self._value >= period:
            around = self._mask + 1 - self._value
            return target - self._value if target > self._value else around + target
        if target >= period:
            return 1 << 62  # never
        return (target - self._value - 1) % period + 1

    def _targets(self) -> list[tuple[int, int]]:
        """The events: flag, and the counter's value that they happen at. An update is the counter's return to 0."""
        compared = [(1 << 1 + number, self._words.get(at, 0)) for number, at in enumerate(self._compare_offsets())]
        return [(self.UPDATE, 0), *compared]

    def _compare_offsets(self) -> range:
        return range(self.CCR1, self.CCR1 + 4 * self.COMPARATORS, 4)

    def _ticks_per_count(self) -> int:
        return self._divider() * (self._prescaler + 1)

    def _update(self) -> None:
        self._prescaler = self._words.get(self.PSC, 0) & 0xFFFF
        if self._words.get(self.CR1, 0) & self.OPM:
            self._words[self.CR1] &= ~self.CEN

    def _generate(self, value: int) -> None:
        """EGR: events by software. An update begins counting anew, with the prescaler that was written."""
        if value & self.UPDATE and not self._words.get(self.CR1, 0) & self.UDIS:
            self._value = 0
            self._since = self._time()
            self._update()
            self._flags |= self.UPDATE
        self._flags |= value & 0x1E

    def _drive(self) -> None:
        self._signal(bool(self._flags & self._words.get(self.DIER, 0) & 0x1F))
