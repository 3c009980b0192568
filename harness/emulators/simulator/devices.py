"""The peripherals of a board's chip, put where they are in the address space, and wired to interrupts and time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from harness.emulators.simulator.address_space import AddressSpace
from harness.emulators.simulator.chips import Block, Chip
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
from harness.emulators.simulator.system import DWT_BASE, SCS_BASE, Dwt, SystemControl
from harness.emulators.simulator.timers import Timed, Timer

_log = logging.getLogger(__name__)

PERIPHERALS = range(0x4000_0000, 0x6000_0000)

_USARTS: dict[str, type[Usart]] = {"usart": Usart, "usart_v1": UsartV1, "nrf_uart": NrfUart}


class Host(Protocol):
    """What peripherals need of the machine."""

    def time(self) -> int:
        """See system.Core."""
        ...

    def events_changed(self) -> None:
        """See system.Core."""
        ...

    def on_poll(self) -> None:
        """The firmware has polled the serial line some times in vain."""
        ...

    def on_taken(self) -> None:
        """A byte was taken in its interrupt, at whose end there is time enough to work out when the next one comes."""
        ...


class Devices:
    """All peripherals.

    usarts, timed: those of that kind, SysTick too. exact: (base, size) of those that show time. unmodelled: base
    addresses of the peripherals that the firmware has used although nobody models them.
    """

    def __init__(
        self,
        space: AddressSpace,
        chip: Chip,
        host: Host,
        nvic: Nvic,
        serial: SerialLine,
        system: SystemControl,
        dwt: Dwt,
    ) -> None:
        self._host = host
        self._nvic = nvic
        self._serial = serial
        self.usarts: list[Usart] = []
        self.timed: list[Timed] = [system.systick]
        self.exact = [(SCS_BASE, 0x1000), (DWT_BASE, 0x1000)]
        self.unmodelled: list[int] = []
        self._clock_control: Registers | None = None
        space.add_peripheral(SCS_BASE, 0x1000, system)
        space.add_peripheral(DWT_BASE, 0x1000, dwt)
        modelled: list[tuple[Block, Peripheral]] = []
        for block in chip.blocks:
            peripheral = self._peripheral(block)
            if block.name == chip.clock_control and isinstance(peripheral, Registers):
                self._clock_control = peripheral
            modelled.append((block, peripheral))
            space.add_peripheral(block.base, block.size, peripheral)
        if self._clock_control is not None:
            ClockGate(self._clock_control, modelled)
        space.fill(PERIPHERALS, lambda base: Unmodelled(base, self.unmodelled, _warn))

    def _peripheral(self, block: Block) -> Peripheral:
        host = self._host
        match block.kind:
            case "usart" | "usart_v1" | "nrf_uart":
                signal = self._signal(block.interrupt)
                usart = _USARTS[block.kind](self._serial, host.on_poll, host.time, signal, host.on_taken)
                self.usarts.append(usart)
                self.timed.append(usart)
                return usart
            case "timer16" | "timer32":
                bits = 16 if block.kind == "timer16" else 32
                signal = self._signal(block.interrupt)
                timer = Timer(bits, host.time, lambda: self._divider(block), signal, host.events_changed)
                self.timed.append(timer)
                self.exact.append((block.base, block.size))
                return timer
        return Registers(block)

    def _signal(self, line: int | None) -> Callable[[bool], None]:
        """What drives that interrupt line."""

        def signal(asserted: bool) -> None:
            if line is not None:
                self._nvic.signal(line, asserted)

        return signal

    def _divider(self, block: Block) -> int:
        """Ticks of the core's clock for one of a timer's."""
        if block.prescaler is None or self._clock_control is None:
            return 1
        return block.prescaler.divider(self._clock_control.read)


def _warn(base: int) -> None:
    _log.warning("no peripheral is modelled at %#010x: it reads as zero", base)
