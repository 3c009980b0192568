"""The interrupt controller: which exceptions are pending, which of them may interrupt what runs, and its registers.

Armv7-M Architecture Reference Manual (DDI 0403E) B1.5.4 (priorities), B3.2.4 (ICSR) and B3.4 (NVIC). Exceptions have
their numbers: 15 is SysTick, 16 the first interrupt line. Taking them is the exception model's business.
"""

from __future__ import annotations

from collections.abc import Callable

NMI, HARD_FAULT, PENDSV, SYSTICK = 2, 3, 14, 15
FIRST_LINE = 16

IDLE_PRIORITY = 256
"""Of thread mode: any configurable priority is more urgent."""

# Registers as offsets in the system control space; each bank has a word for 32 lines.
_ISER, _ICER, _ISPR, _ICPR, _IABR, _IPR = 0x100, 0x180, 0x200, 0x280, 0x300, 0x400
_BANK_BYTES, _IPR_BYTES = 0x40, 0xF0
_STIR = 0xF00
REGISTERS = (range(_ISER, _IABR + _BANK_BYTES), range(_IPR, _IPR + _IPR_BYTES), range(_STIR, _STIR + 4))


class Nvic:
    """Pending and active exceptions with their priorities.

    active: the exceptions that have begun and not ended. pending: those that wait to be taken, enabled or not.
    prigroup: AIRCR's field of that name. on_change is called when something that waits may have become takable.
    """

    def __init__(self, lines: int, priority_bits: int, on_change: Callable[[], None] = lambda: None) -> None:
        self._count = FIRST_LINE + lines
        self._priority_mask = 0xFF << 8 - priority_bits & 0xFF
        self._priorities = bytearray(self._count)
        self._enabled: set[int] = set()
        self._asserted: set[int] = set()
        self.on_change = on_change
        self.active: set[int] = set()
        self.pending: set[int] = set()
        self.prigroup = 0

    def reset(self) -> None:
        """Nothing is enabled, pending or active; signals that peripherals assert are theirs to take back."""
        self._priorities[:] = bytes(self._count)
        self._enabled = {NMI, PENDSV, SYSTICK}
        self._asserted.clear()
        self.active.clear()
        self.pending.clear()
        self.prigroup = 0

    # ---- what peripherals and the core do

    def signal(self, line: int, asserted: bool) -> None:
        """A peripheral drives its interrupt line. A line that stays asserted is pending again after its handler."""
        exception = FIRST_LINE + line
        if asserted == (exception in self._asserted):
            return
        if asserted:
            self._asserted.add(exception)
            self.pend(exception)
        else:
            self._asserted.discard(exception)

    def pend(self, exception: int) -> None:
        """Make an exception pending."""
        if exception < self._count and exception not in self.pending:
            self.pending.add(exception)
            self.on_change()

    def begin(self, exception: int) -> None:
        """The core enters its handler."""
        self.pending.discard(exception)
        self.active.add(exception)

    def end(self, exception: int) -> None:
        """The core leaves its handler."""
        self.active.discard(exception)
        if exception in self._asserted:
            self.pending.add(exception)

    def next(self) -> tuple[int, int] | None:
        """The exception to take first, of those that are pending and enabled, with its group priority."""
        waiting = self.pending & self._enabled
        if not waiting:
            return None
        first = min(waiting, key=lambda exception: (self.priority(exception), exception))
        return first, self.group_priority(self.priority(first))

    # ---- priorities

    def priority(self, exception: int) -> int:
        """Of an exception: what its register holds; fixed, and negative, for those before MemManage."""
        return exception - 4 if exception < 4 else self._priorities[exception]

    def group_priority(self, priority: int) -> int:
        """The part of a priority that decides whether one exception interrupts another."""
        return priority if priority < 0 else priority & (0xFF << self.prigroup + 1) & 0xFF

    def active_priority(self) -> int:
        """The group priority of what runs, masks left out."""
        return min((self.group_priority(self.priority(one)) for one in self.active), default=IDLE_PRIORITY)

    def read_priorities(self, first: int) -> int:
        """A word of priorities, of exception `first` and the three behind it."""
        return int.from_bytes(self._priorities[first : first + 4].ljust(4, b"\0"), "little")

    def write_priorities(self, first: int, value: int, mask: int) -> None:
        """Write the bytes of such a word that `mask` covers; bits that the chip does not have stay 0."""
        word = (self.read_priorities(first) & ~mask | value & mask).to_bytes(4, "little")
        for exception, priority in enumerate(word, start=first):
            if exception < self._count:
                self._priorities[exception] = priority & self._priority_mask
        self.on_change()

    # ---- registers

    def read(self, offset: int) -> int:
        """A register of the ranges REGISTERS."""
        if _IPR <= offset < _IPR + _IPR_BYTES:
            return self.read_priorities(FIRST_LINE + offset - _IPR)
        bank, first = _bank_and_first(offset)
        shown: set[int] = set()
        if bank in (_ISER, _ICER):
            shown = self._enabled
        elif bank in (_ISPR, _ICPR):
            shown = self.pending
        elif bank == _IABR:
            shown = self.active
        return sum(1 << exception - first for exception in shown if 0 <= exception - first < 32)

    def write(self, offset: int, value: int, mask: int) -> None:
        """A register of the ranges REGISTERS."""
        if _IPR <= offset < _IPR + _IPR_BYTES:
            self.write_priorities(FIRST_LINE + offset - _IPR, value, mask)
            return
        if offset == _STIR:
            self.pend(FIRST_LINE + (value & 0x1FF))
            return
        bank, first = _bank_and_first(offset)
        named = {first + bit for bit in range(32) if value & mask & 1 << bit and first + bit < self._count}
        if bank == _ISER:
            self._enabled |= named
        elif bank == _ICER:
            self._enabled -= named
        elif bank == _ISPR:
            self.pending |= named
        elif bank == _ICPR:
            # A line that a peripheral still asserts stays pending.
            self.pending -= named - (self._asserted - self.active)
        self.on_change()


def _bank_and_first(offset: int) -> tuple[int, int]:
    """The bank of a register, and the exception of its lowest bit: each of its bytes stands for 8 lines."""
    return offset & -_BANK_BYTES, FIRST_LINE + 8 * (offset & _BANK_BYTES - 1)
