"""What chips look like to the firmware on them: memories beside the manifest's, peripherals, identification.

A chip of a family whose peripherals are modelled already (peripherals.py) is one more Chip in stm32.py or nrf.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import unknown_name


@dataclass(frozen=True)
class Memory:
    """A memory that every part of this chip has. Addresses and length in bytes."""

    name: str
    origin: int
    length: int


@dataclass(frozen=True)
class Constants:
    """A page of read-only memory: offset from `origin` -> 32-bit word."""

    origin: int
    length: int
    words: Mapping[int, int]


@dataclass(frozen=True)
class Mirror:
    """Bits that hardware derives from others: `to` shows those of `mask` in `source`, `shift` bits further left (right,
    where it is negative).

    source, to: register offsets. Ready flags that follow their enable bits, status fields that follow their selection.
    """

    source: int
    mask: int
    to: int
    shift: int


@dataclass(frozen=True)
class Prescaler:
    """Where an APB prescaler is set: three bits at `shift` of the clock control's register at `offset`.

    Below 4: the bus runs as fast as the core; 4 to 7: 2, 4, 8 and 16 times slower. Timers on a slower bus count at
    twice its clock (RM0385 section 5.2, figure 13; the other families have the same rule).
    ahb: where a prescaler between the core and all buses is set, if the chip has one (STM32H7): register and shift of
    four bits; from 8 on: 2, 4, 8, 16, 64, 128, 256 and 512 times slower.
    """

    offset: int
    shift: int
    ahb: tuple[int, int] | None = None

    def divider(self, read: Callable[[int], int]) -> int:
        """Ticks of the core's clock for one of a timer's. read: the clock control's register at an offset."""
        apb = read(self.offset) >> self.shift & 7
        divider = 1 if apb < 4 else 1 << apb - 4
        if self.ahb is not None:
            ahb = read(self.ahb[0]) >> self.ahb[1] & 0xF
            divider *= 1 if ahb < 8 else (2, 4, 8, 16, 64, 128, 256, 512)[ahb - 8]
        return divider


@dataclass(frozen=True)
class Block:
    """One peripheral's registers. base and size in bytes; enable: (offset in RCC, bit) of its bus clock, if gated.

    kind: `registers` keep what is written; `usart` moves bytes (the register layout of STM32F0, F3, F7, G, H, L4, U5,
    LPUARTs too); `usart_v1` is the older layout (STM32F1, F2, F4, L1), `nrf_uart` Nordic's; `timer16` and `timer32` are
    general-purpose timers. reset: offset -> value after reset, where not 0. ones, zeros: offset -> bits that always
    read 1 or 0, whatever is written. interrupt: its line of the NVIC. prescaler: of a timer's bus; without one it
    counts the core's clock.
    """

    name: str
    base: int
    kind: Literal["registers", "usart", "usart_v1", "nrf_uart", "timer16", "timer32"] = "registers"
    size: int = 0x400
    enable: tuple[int, int] | None = None
    reset: Mapping[int, int] = field(default_factory=dict)
    mirrors: tuple[Mirror, ...] = ()
    ones: Mapping[int, int] = field(default_factory=dict)
    zeros: Mapping[int, int] = field(default_factory=dict)
    interrupt: int | None = None
    prescaler: Prescaler | None = None


@dataclass(frozen=True)
class Chip:
    """One chip. cpuid, fpu: what the core's identification registers say.

    flash_aliases: other addresses of the flash. sectors: what it erases at once, as in board manifests; () where that
    is not known. caches: CCSIDR of the data and the instruction cache, if there are any.
    clock_control: the block whose registers hold the others' enable bits. interrupts: lines of the NVIC;
    priority_bits: of a priority, how many the chip has.
    """

    name: str
    cpuid: int
    flash_aliases: tuple[int, ...]
    memories: tuple[Memory, ...]
    constants: tuple[Constants, ...]
    blocks: tuple[Block, ...]
    sectors: tuple[tuple[int, int], ...] = ()
    clock_control: str = "RCC"
    caches: tuple[int, int] | None = None
    interrupts: int = 98
    priority_bits: int = 4


def chip(name: str) -> Chip:
    """The chip that manifests call `name`; InputError for one that is not modelled."""
    from harness.emulators.simulator import nrf, stm32

    known = {chip.name: chip for chip in (*stm32.CHIPS, *nrf.CHIPS)}
    if name not in known:
        raise unknown_name("simulator chip", name, known)
    return known[name]
