"""The chip's peripherals: registers that keep what is written, flags that follow, and UARTs that move bytes.

Nothing here takes time, raises an interrupt or does DMA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from harness.emulators.simulator.chips import Block, Mirror
from harness.emulators.simulator.serial_line import SerialLine

WORD = 0xFFFF_FFFF


class Peripheral(ABC):
    """The registers of one block, as 32-bit words at offsets that are multiples of 4.

    clocked: whether its bus clock is on; without it, reads give 0 and writes are lost.
    """

    clocked = True

    @abstractmethod
    def reset(self) -> None:
        """Every register to its value after reset."""

    @abstractmethod
    def read(self, offset: int) -> int:
        """The word at `offset`."""

    @abstractmethod
    def write(self, offset: int, value: int, mask: int) -> None:
        """Write the bytes that `mask` covers: all of a word, or one or two bytes of it."""

    def firmware_reads(self, offset: int) -> int:
        """read(), by the core rather than by a debugger."""
        return self.read(offset)

    def firmware_writes(self, offset: int, value: int, mask: int) -> None:
        """write(), by the core rather than by a debugger."""
        self.write(offset, value, mask)


class Registers(Peripheral):
    """Registers that keep what is written, and show mirrored bits."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._words: dict[int, int] = {}
        self._mirrors: dict[int, list[Mirror]] = {}
        for mirror in block.mirrors:
            self._mirrors.setdefault(mirror.to, []).append(mirror)
        self.on_change: Callable[[], None] = lambda: None
        self.reset()

    def reset(self) -> None:
        """See Peripheral."""
        self._words = dict(self._block.reset)
        self.on_change()

    def read(self, offset: int) -> int:
        """See Peripheral."""
        word = self._words.get(offset, 0)
        for mirror in self._mirrors.get(offset, ()):
            shown = mirror.mask << mirror.shift
            word = word & ~shown | (self._words.get(mirror.source, 0) & mirror.mask) << mirror.shift
        return word

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self._words[offset] = self._words.get(offset, 0) & ~mask | value & mask
        self.on_change()


class Usart(Peripheral):
    """A USART of the newer kind (STM32F7, L4, H7): RM0385 section 31.8. No baud rate, no errors, no FIFO limit."""

    CR1, ISR, RDR, TDR = 0x00, 0x1C, 0x24, 0x28
    UE, RE, TE = 1 << 0, 1 << 2, 1 << 3
    RXNE, TC, TXE, TEACK, REACK = 1 << 5, 1 << 6, 1 << 7, 1 << 21, 1 << 22

    # Status reads in a row, with nothing received or sent between, after which the firmware must be waiting for input.
    # One or two are what a transmit loop makes between two bytes.
    IDLE_POLLS = 3

    def __init__(self, line: SerialLine, on_idle: Callable[[], None]) -> None:
        """on_idle: called on each further status read while the firmware waits for input; may block briefly."""
        self._line = line
        self._on_idle = on_idle
        self._words: dict[int, int] = {}
        self._polls = 0
        self._sends = self._receives = False
        self._status_without_input = 0
        self.reset()

    def reset(self) -> None:
        """See Peripheral."""
        self._words.clear()
        self._polls = 0
        self._set_up()

    def read(self, offset: int) -> int:
        """See Peripheral. Reading RDR takes the byte, as it does for a debugger on silicon."""
        if offset == self.ISR:
            return self._status()
        if offset == self.RDR:
            return self._line.take() if self._receives else 0
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        if offset == self.TDR:
            if self._sends:
                self._line.transmit(value & 0xFF)
        elif offset != self.ISR:
            self._words[offset] = self._words.get(offset, 0) & ~mask | value & mask
            self._set_up()

    def firmware_reads(self, offset: int) -> int:
        """See Peripheral. A loop that polls for input blocks here instead of burning time."""
        if offset != self.ISR:
            self._polls = 0
            return self.read(offset)
        status = self._status()
        if status & self.RXNE or not self._receives:
            return status
        self._polls += 1
        if self._polls <= self.IDLE_POLLS:
            return status
        self._on_idle()
        return self._status()

    def firmware_writes(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self._polls = 0
        self.write(offset, value, mask)

    def _set_up(self) -> None:
        """Take over what CR1 says."""
        control = self._words.get(self.CR1, 0)
        self._sends = control & (self.UE | self.TE) == self.UE | self.TE
        self._receives = control & (self.UE | self.RE) == self.UE | self.RE
        acknowledged = (self.TEACK if self._sends else 0) | (self.REACK if self._receives else 0)
        self._status_without_input = self.TXE | self.TC | acknowledged

    def _status(self) -> int:
        if self._receives and len(self._line):
            return self._status_without_input | self.RXNE
        return self._status_without_input


class ClockGate:
    """Switches peripherals on and off with the enable bits in the clock controller's registers."""

    def __init__(self, control: Registers, gated: Sequence[tuple[Block, Peripheral]]) -> None:
        self._control = control
        self._gated = [(block.enable, peripheral) for block, peripheral in gated if block.enable is not None]
        control.on_change = self._apply
        self._apply()

    def _apply(self) -> None:
        for (offset, bit), peripheral in self._gated:
            peripheral.clocked = bool(self._control.read(offset) >> bit & 1)
