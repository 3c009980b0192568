"""The chip's peripherals: registers that keep what is written, flags that follow, and UARTs that move bytes.

Nothing here takes time or does DMA. Timers are in timers.py.
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


def _shifted(bits: int, left: int) -> int:
    return bits << left if left >= 0 else bits >> -left


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
        word = self._words.get(offset, 0) & ~self._block.zeros.get(offset, 0) | self._block.ones.get(offset, 0)
        for mirror in self._mirrors.get(offset, ()):
            shown = self._words.get(mirror.source, 0) & mirror.mask
            word = word & ~_shifted(mirror.mask, mirror.shift) | _shifted(shown, mirror.shift)
        return word

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self._words[offset] = self._words.get(offset, 0) & ~mask | value & mask
        self.on_change()


class Usart(Peripheral):
    """A USART of the newer kind (STM32F7, L4, H7, U5; LPUART too): RM0385 section 31.8. No baud rate, no errors.

    What is sent has left at once. Received bytes are there when the firmware polls for them; where they interrupt it,
    they come one after the other (see BYTE_TICKS), so that a main loop can keep up. The line is idle when the last byte
    was read.
    """

    CR1, RQR, ISR, ICR, RDR, TDR = 0x00, 0x18, 0x1C, 0x20, 0x24, 0x28
    UE, RE, TE = 1 << 0, 1 << 2, 1 << 3
    IDLE, RXNE, TC, TXE, TEACK, REACK = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 21, 1 << 22
    # CR1's interrupt enables are at the places that their flags have in the status register.
    INTERRUPTS = IDLE | RXNE | TC | TXE
    RXFRQ = 1 << 3

    # Status reads in a row, with nothing received or sent between, after which the firmware must be waiting for input.
    # One or two are what a transmit loop makes between two bytes.
    IDLE_POLLS = 3

    # Ticks of the core's clock from one byte that interrupts to the next: 2 Mbaud at 216 MHz.
    BYTE_TICKS = 1000

    def __init__(
        self,
        line: SerialLine,
        on_idle: Callable[[], None],
        time: Callable[[], int],
        signal: Callable[[bool], None],
        on_taken: Callable[[], None],
    ) -> None:
        """on_idle: called on each further status read while the firmware waits for input; may block briefly. time: the
        clock, asked for outside of runs only. signal: drives its interrupt line. on_taken: a byte was taken, and the
        next event has to be asked for before long."""
        self._line = line
        self._time = time
        self._on_taken = on_taken
        self._between_bytes = False
        self._next_byte: int | None = None
        self._on_idle = on_idle
        self._signal = signal
        self._words: dict[int, int] = {}
        self._polls = 0
        self._sends = self._receives = False
        self._flags = 0
        self._acknowledged = 0
        self.reset()

    @property
    def listens(self) -> bool:
        """Whether received bytes interrupt the firmware."""
        return self._receives and bool(self._control() & self.RXNE)

    def reset(self) -> None:
        """See Peripheral."""
        self._words.clear()
        self._polls = 0
        self._between_bytes = False
        self._next_byte = None
        self._flags = self.TC
        self._set_up()

    def read(self, offset: int) -> int:
        """See Peripheral. Reading the data register takes the byte, as it does for a debugger on silicon."""
        if offset == self.ISR:
            return self._status() | self._acknowledged
        if offset == self.RDR:
            return self._take()
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        if offset == self.TDR:
            self._transmit(value & 0xFF)
        elif offset == self.ICR:
            self._flags &= ~(value & mask)
            self.drive()
        elif offset == self.RQR:
            if value & self.RXFRQ:
                self._take()
        elif offset != self.ISR:
            self._words[offset] = self._words.get(offset, 0) & ~mask | value & mask
            self._set_up()

    def firmware_reads(self, offset: int) -> int:
        """See Peripheral. A loop that polls for input blocks here instead of burning time."""
        if offset != self.ISR:
            self._polls = 0
            return self.read(offset)
        status = self.read(offset)
        if status & self.RXNE or not self._receives:
            return status
        self._polls += 1
        if self._polls <= self.IDLE_POLLS:
            return status
        self._on_idle()
        return self.read(offset)

    def firmware_writes(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self._polls = 0
        self.write(offset, value, mask)

    def drive(self) -> None:
        """Bytes have arrived, or registers changed: assert the interrupt line, or take it back."""
        self._signal(bool(self._control() & self._status() & self.INTERRUPTS) and self.clocked)

    def _control(self) -> int:
        return self._words.get(self.CR1, 0)

    def _set_up(self) -> None:
        """Take over what CR1 says."""
        control = self._control()
        self._sends = control & (self.UE | self.TE) == self.UE | self.TE
        self._receives = control & (self.UE | self.RE) == self.UE | self.RE
        self._acknowledged = (self.TEACK if self._sends else 0) | (self.REACK if self._receives else 0)
        self.drive()

    def _status(self) -> int:
        """The flags that both kinds have."""
        arrived = self._receives and len(self._line) and not (self._between_bytes and self.listens)
        return self.TXE | self._flags | (self.RXNE if arrived else 0)

    def _transmit(self, byte: int) -> None:
        if self._sends:
            self._line.send(byte)
            self._flags |= self.TC
            self.drive()

    def _take(self) -> int:
        if not self._receives or not len(self._line):
            return 0
        byte = self._line.take()
        if not len(self._line):
            self._flags |= self.IDLE
        if self.listens:
            self._between_bytes = True
            self._next_byte = None
            self._on_taken()
        self.drive()
        return byte

    # ---- as something timed: see timers.Timed

    def next_event(self) -> int | None:
        """When the next byte is there."""
        if self._between_bytes and self._next_byte is None:
            self._next_byte = self._time() + self.BYTE_TICKS
        return self._next_byte

    def advance(self) -> None:
        """It is there, if its time has come."""
        if self._next_byte is not None and self._time() >= self._next_byte:
            self._between_bytes = False
            self._next_byte = None
            self.drive()


class UsartV1(Usart):
    """A USART of the older kind (STM32F1, F2, F4, L1): RM0390 section 25.6."""

    ISR, CR1 = 0x00, 0x0C
    RDR = TDR = 0x04
    UE = 1 << 13
    # It has none of these registers: places behind its last one.
    RQR, ICR = 0x100, 0x104

    def read(self, offset: int) -> int:
        """See Peripheral. Reading the data register also clears IDLE."""
        if offset == self.ISR:
            return self._status()
        if offset == self.RDR:
            self._flags &= ~self.IDLE
        return super().read(offset)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral. TC is cleared by writing 0 to it."""
        if offset == self.ISR:
            self._flags &= value | ~mask | ~self.TC
            self.drive()
        else:
            super().write(offset, value, mask)


class NrfUart(Usart):
    """Nordic's UART without DMA: nRF52840 product specification section 6.33. Polled: it raises no interrupt.

    The event of a received byte is there for as long as a byte waits, whatever is written to it.
    """

    STARTRX, STOPRX, STARTTX, STOPTX = 0x000, 0x004, 0x008, 0x00C
    RXDRDY, TXDRDY, ENABLE, RXD, TXD = 0x108, 0x11C, 0x500, 0x518, 0x51C
    ENABLED = 4

    def reset(self) -> None:
        """See Peripheral."""
        self._receiving = self._sending = self._sent = False
        super().reset()

    def read(self, offset: int) -> int:
        """See Peripheral. Reading RXD takes the byte."""
        match offset:
            case self.RXDRDY:
                return int(self._receives and len(self._line) > 0)
            case self.TXDRDY:
                return int(self._sent)
            case self.RXD:
                return self._take()
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        match offset:
            case self.TXD:
                self._transmit(value & 0xFF)
                self._sent = self._sends
            case self.TXDRDY:
                self._sent = bool(value & mask)
            case self.RXDRDY:
                pass
            case self.STARTRX | self.STOPRX:
                self._receiving = offset == self.STARTRX
            case self.STARTTX | self.STOPTX:
                self._sending = offset == self.STARTTX
            case _:
                self._words[offset] = self._words.get(offset, 0) & ~mask | value & mask
        self._set_up()

    def firmware_reads(self, offset: int) -> int:
        """See Peripheral. A loop that polls for input blocks here instead of burning time."""
        if offset == self.RXDRDY and self._receives and not len(self._line):
            self._polls += 1
            if self._polls > self.IDLE_POLLS:
                self._on_idle()
        else:
            self._polls = 0
        return self.read(offset)

    def drive(self) -> None:
        """See Usart: nothing is driven."""

    def _control(self) -> int:
        return 0

    def _set_up(self) -> None:
        enabled = self._words.get(self.ENABLE, 0) == self.ENABLED
        self._receives = enabled and self._receiving
        self._sends = enabled and self._sending


class Unmodelled(Peripheral):
    """All peripherals that nobody models: they read as zero, and take what is written.

    seen: the base addresses of those that the firmware has used, in the order of their first use; on_first(base) is
    called then.
    """

    # What STM32 chips give to one peripheral.
    BLOCK_BYTES = 0x400

    def __init__(self, base: int, seen: list[int], on_first: Callable[[int], None]) -> None:
        self._base = base
        self._seen = seen
        self._on_first = on_first

    def reset(self) -> None:
        """See Peripheral."""

    def read(self, offset: int) -> int:
        """See Peripheral."""
        return 0

    def write(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""

    def firmware_reads(self, offset: int) -> int:
        """See Peripheral."""
        self._note(offset)
        return 0

    def firmware_writes(self, offset: int, value: int, mask: int) -> None:
        """See Peripheral."""
        self._note(offset)

    def _note(self, offset: int) -> None:
        block = self._base + offset & -self.BLOCK_BYTES
        if block not in self._seen:
            self._seen.append(block)
            self._on_first(block)


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
