"""The wire between a simulated chip's UARTs and the outside: two queues of bytes, safe between two threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_KEPT_LINES = 64
_KEPT_BYTES = 96


@dataclass(frozen=True)
class SentLine:
    """A line that the firmware sent, without its end, and when: what `stamp` said before its first byte and after its
    last, (instructions, modelled cycles or None)."""

    text: str
    begin: tuple[int, int | None]
    end: tuple[int, int | None]


class SerialLine:
    """One serial line, wired to every UART of the chip: the firmware uses the one it sets up.

    The machine's thread takes received bytes and transmits; feed(), wait() and wake() may be called on any thread.
    `transmit` is called with every byte that the firmware sends; by default `output` collects them. `flush` is called
    when the firmware has nothing more to do than wait, `on_fed` when bytes have arrived, on the thread that feeds.
    moved: how many bytes the firmware has taken and sent. lines: the last ones that it sent, stamped.
    """

    def __init__(self) -> None:
        self.output = bytearray()
        self.transmit: Callable[[int], None] = self.output.append
        self.flush: Callable[[], None] = lambda: None
        self.on_fed: Callable[[], None] = lambda: None
        self.moved = 0
        self.stamp: Callable[[], tuple[int, int | None]] = lambda: (0, None)
        self.lines: deque[SentLine] = deque(maxlen=_KEPT_LINES)
        self._line = bytearray()
        self._line_begin: tuple[int, int | None] = (0, None)
        self._received: deque[int] = deque()
        self._changed = threading.Condition()
        self._woken = self._fed = False

    def __len__(self) -> int:
        """How many received bytes the firmware has not taken yet."""
        return len(self._received)

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the chip. There is no baud rate and no overrun: they wait until the firmware takes them."""
        self._received.extend(data)
        self.on_fed()
        with self._changed:
            self._fed = True
            self._changed.notify_all()

    def take(self) -> int:
        """The oldest received byte, or 0 when there is none."""
        self.moved += 1
        return self._received.popleft() if self._received else 0

    def send(self, byte: int) -> None:
        """The firmware sends a byte."""
        self.moved += 1
        if not self._line:
            self._line_begin = self.stamp()
        if byte == 0x0A:
            text = self._line[:_KEPT_BYTES].decode("latin-1").rstrip("\r")
            self.lines.append(SentLine(text, self._line_begin, self.stamp()))
            self._line.clear()
        elif len(self._line) <= _KEPT_BYTES:
            self._line.append(byte)
        self.transmit(byte)

    def clear(self) -> None:
        """Forget what was received: the chip was reset."""
        self._received.clear()

    def wait(self, seconds: float | None) -> bool:
        """Returns when there is something to take, when wake() was called, or - False - after `seconds`."""
        with self._changed:
            if not self._received and not self._woken:
                self._changed.wait(seconds)
            changed = bool(self._received) or self._woken
            self._woken = False
            return changed

    def wait_for_more(self, seconds: float | None) -> bool:
        """As wait(), but what waits to be taken already is no reason to return. False when `seconds` have passed."""
        with self._changed:
            if not self._fed and not self._woken:
                self._changed.wait(seconds)
            changed = self._fed or self._woken
            self._fed = self._woken = False
            return changed

    def wake(self) -> None:
        """End the wait that is going on, or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()
