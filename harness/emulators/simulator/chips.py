"""What chips look like to the firmware on them: memories beside the manifest's, peripherals, identification. Data only.

A chip of a family whose peripherals are modelled already (peripherals.py) is one more Chip here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """Bits that hardware derives from others: `to` shows those of `mask` in `source`, `shift` bits further left.

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
    """

    offset: int
    shift: int


@dataclass(frozen=True)
class Block:
    """One peripheral's registers. base and size in bytes; enable: (offset in RCC, bit) of its bus clock, if gated.

    kind: `registers` keep what is written; `usart` moves bytes (the register layout of STM32F0, F3, F7, G, H, L4, U5,
    LPUARTs too); `usart_v1` is the older layout (STM32F1, F2, F4, L1); `timer16` and `timer32` are general-purpose
    timers. reset: offset -> value after reset, where not 0. interrupt: its line of the NVIC. prescaler: of a timer's
    bus; without one it counts the core's clock.
    """

    name: str
    base: int
    kind: Literal["registers", "usart", "usart_v1", "timer16", "timer32"] = "registers"
    size: int = 0x400
    enable: tuple[int, int] | None = None
    reset: Mapping[int, int] = field(default_factory=dict)
    mirrors: tuple[Mirror, ...] = ()
    interrupt: int | None = None
    prescaler: Prescaler | None = None


@dataclass(frozen=True)
class Chip:
    """One chip. cpuid, fpu: what the core's identification registers say.

    flash_aliases: other addresses of the flash. caches: CCSIDR of the data and the instruction cache, if there are any.
    clock_control: the block whose registers hold the others' enable bits. interrupts: lines of the NVIC;
    priority_bits: of a priority, how many the chip has.
    """

    name: str
    cpuid: int
    flash_aliases: tuple[int, ...]
    memories: tuple[Memory, ...]
    constants: tuple[Constants, ...]
    blocks: tuple[Block, ...]
    clock_control: str = "RCC"
    caches: tuple[int, int] | None = None
    interrupts: int = 98
    priority_bits: int = 4


# RM0385 (STM32F75xxx and STM32F74xxx): memory map section 2.2.2, RCC 5.3, PWR 4.4, FLASH 3.7, GPIO 6.4, ids 41;
# interrupts: table 46 in section 10.1.2.
_AHB1, _APB1, _APB2 = 0x30, 0x40, 0x44
_PPRE1 = Prescaler(0x08, 10)

_STM32F746 = Chip(
    name="stm32f746",
    cpuid=0x410FC271,
    flash_aliases=(0x0020_0000,),
    memories=(Memory("ITCM", 0x0000_0000, 0x4000),),
    constants=(
        Constants(
            0x1FF0_F400,
            0x400,
            {
                0x20: 0x0036_0040,  # unique id, 96 bits; that of no real part
                0x24: 0x3136_5105,
                0x28: 0x3033_3834,
                0x40: 1024 << 16,  # flash size in KiB, at 0x1FF0F442
            },
        ),
    ),
    caches=(0xF003_E019, 0xF007_E009),  # Cortex-M7 TRM (DDI 0489) table 4-9: 4 KiB each
    blocks=(
        Block(
            "RCC",
            0x4002_3800,
            reset={0x00: 0x83, 0x04: 0x2400_3010, _AHB1: 0x0010_0000, 0x74: 0x0E00_0000, 0x84: 0x2400_3000},
            mirrors=(
                Mirror(0x00, 1 << 0, 0x00, 1),  # HSION -> HSIRDY
                Mirror(0x00, 1 << 16, 0x00, 1),  # HSEON -> HSERDY
                Mirror(0x00, 1 << 24, 0x00, 1),  # PLLON -> PLLRDY
                Mirror(0x00, 1 << 26, 0x00, 1),  # PLLI2SON -> PLLI2SRDY
                Mirror(0x00, 1 << 28, 0x00, 1),  # PLLSAION -> PLLSAIRDY
                Mirror(0x08, 3, 0x08, 2),  # SW -> SWS
                Mirror(0x70, 1 << 0, 0x70, 1),  # LSEON -> LSERDY
                Mirror(0x74, 1 << 0, 0x74, 1),  # LSION -> LSIRDY
            ),
        ),
        Block(
            "PWR",
            0x4000_7000,
            enable=(_APB1, 28),
            reset={0x00: 0xC000, 0x04: 1 << 14},  # CSR1: the voltage scaling is ready
            mirrors=(
                Mirror(0x00, 1 << 16, 0x04, 0),  # ODEN -> ODRDY
                Mirror(0x00, 1 << 17, 0x04, 0),  # ODSWEN -> ODSWRDY
            ),
        ),
        Block("FLASH", 0x4002_3C00, reset={0x10: 0x8000_0000, 0x14: 0xC0FF_AAFD, 0x18: 0x0040_0080}),
        Block("SYSCFG", 0x4001_3800, enable=(_APB2, 14)),
        *(
            Block(
                f"GPIO{letter}",
                0x4002_0000 + 0x400 * number,
                enable=(_AHB1, number),
                reset={"A": {0x00: 0xA800_0000, 0x08: 0x0C00_0000, 0x0C: 0x6400_0000}}.get(
                    letter, {0x00: 0x280, 0x08: 0xC0, 0x0C: 0x100} if letter == "B" else {}
                ),
            )
            for number, letter in enumerate("ABCDEFGHIJK")
        ),
        Block("USART1", 0x4001_1000, "usart", enable=(_APB2, 4), interrupt=37),
        Block("USART2", 0x4000_4400, "usart", enable=(_APB1, 17), interrupt=38),
        Block("USART3", 0x4000_4800, "usart", enable=(_APB1, 18), interrupt=39),
        Block("UART4", 0x4000_4C00, "usart", enable=(_APB1, 19), interrupt=52),
        Block("UART5", 0x4000_5000, "usart", enable=(_APB1, 20), interrupt=53),
        Block("USART6", 0x4001_1400, "usart", enable=(_APB2, 5), interrupt=71),
        Block("UART7", 0x4000_7800, "usart", enable=(_APB1, 30), interrupt=82),
        Block("UART8", 0x4000_7C00, "usart", enable=(_APB1, 31), interrupt=83),
        Block("TIM2", 0x4000_0000, "timer32", enable=(_APB1, 0), interrupt=28, prescaler=_PPRE1),
        Block("TIM3", 0x4000_0400, "timer16", enable=(_APB1, 1), interrupt=29, prescaler=_PPRE1),
        Block("TIM4", 0x4000_0800, "timer16", enable=(_APB1, 2), interrupt=30, prescaler=_PPRE1),
        Block("TIM5", 0x4000_0C00, "timer32", enable=(_APB1, 3), interrupt=50, prescaler=_PPRE1),
        Block("TIM6", 0x4000_1000, "timer16", enable=(_APB1, 4), interrupt=54, prescaler=_PPRE1),
        Block("TIM7", 0x4000_1400, "timer16", enable=(_APB1, 5), interrupt=55, prescaler=_PPRE1),
        Block("DBGMCU", 0xE004_2000, reset={0x00: 0x1001_6449}),
        # Units of the core that firmware may set up; nothing listens to them.
        Block("ITM", 0xE000_0000, size=0x1000),
        Block("FPB", 0xE000_2000, size=0x1000),
        Block("TPIU", 0xE004_0000, size=0x1000),
    ),
)

# No real part: an STM32F7 with the memory that common benchmarks of larger networks assume (2 MB and 512 kB).
_GENERIC_M7 = replace(
    _STM32F746,
    name="generic-m7",
    constants=(Constants(0x1FF0_F400, 0x400, {0x40: 2048 << 16}),),
    blocks=tuple(replace(block, reset={}) if block.name == "DBGMCU" else block for block in _STM32F746.blocks),
)

_CHIPS = {chip.name: chip for chip in (_STM32F746, _GENERIC_M7)}


def chip(name: str) -> Chip:
    """The chip that manifests call `name`; InputError for one that is not modelled."""
    if name not in _CHIPS:
        raise unknown_name("simulator chip", name, _CHIPS)
    return _CHIPS[name]
