"""The STM32 chips that the simulator models. Data only; from the reference manuals that each chip names.

Modelled is what firmware needs to start and to talk: clock and power ready flags, flash interface, GPIO as memory,
UARTs, general-purpose timers, identification. Everything else reads as zero and is listed in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.emulators.simulator.chips import Block, Chip, Constants, Memory, Mirror, Prescaler

# Units of the core that firmware may set up; nothing listens to them.
_CORE_UNITS = (
    Block("ITM", 0xE000_0000, size=0x1000),
    Block("FPB", 0xE000_2000, size=0x1000),
    Block("TPIU", 0xE004_0000, size=0x1000),
)

_KIB = 1024

# 96 bits; that of no real part.
_UNIQUE_ID = (0x0036_0040, 0x3136_5105, 0x3033_3834)


def _ready(*bits: int, register: int = 0x00, shift: int = 1) -> tuple[Mirror, ...]:
    """Oscillators and PLLs: `shift` bits to the left of each enable bit is its ready flag."""
    return tuple(Mirror(register, 1 << bit, register, shift) for bit in bits)


def _identification(unique_id: int, flash_size: int, kib: int) -> Constants:
    """The system memory's page that holds both, at these addresses; the size is a halfword in KiB."""
    page = unique_id & ~0x3FF
    words = {unique_id + 4 * number - page: word for number, word in enumerate(_UNIQUE_ID)}
    words[(flash_size & ~3) - page] = kib << 8 * (flash_size & 3)
    return Constants(page, 0x400, words)


def _gpios(base: int, letters: str, enable: int, modes: Mapping[str, Mapping[int, int]]) -> tuple[Block, ...]:
    """modes: registers after reset, by the port's letter; "" for those of all other ports."""
    return tuple(
        Block(f"GPIO{letter}", base + 0x400 * number, enable=(enable, number), reset=modes.get(letter, modes[""]))
        for number, letter in enumerate(letters)
    )


def _timers(
    enable: int, interrupts: Sequence[int], prescaler: Prescaler, *, wide: Sequence[int] = (2, 5)
) -> tuple[Block, ...]:
    """TIM2 to TIM7. wide: those with 32 bits."""
    return tuple(
        Block(
            f"TIM{number}",
            0x4000_0000 + 0x400 * (number - 2),
            "timer32" if number in wide else "timer16",
            enable=(enable, number - 2),
            interrupt=interrupt,
            prescaler=prescaler,
        )
        for number, interrupt in enumerate(interrupts, 2)
    )


# ---- STM32F4 and F7
# RM0385 (STM32F75xxx and STM32F74xxx): memory map section 2.2.2, RCC 5.3, PWR 4.4, FLASH 3.7, GPIO 6.4, ids 41;
# interrupts: table 46 in section 10.1.2. RM0390 (STM32F446): 2.2.2, 6.3, 5.4, 3.8, 7.4, 33.6.1, table 38.
# RM0090 (STM32F405, F407): 2.3, 7.3, 5.4, 3.9, 8.4, 38.6.1, table 62.
_AHB1, _APB1, _APB2 = 0x30, 0x40, 0x44

_F4_F7_MODES: dict[str, dict[int, int]] = {
    "A": {0x00: 0xA800_0000, 0x08: 0x0C00_0000, 0x0C: 0x6400_0000},
    "B": {0x00: 0x280, 0x08: 0xC0, 0x0C: 0x100},
    "": {},
}
_F4_F7_TIMERS = _timers(_APB1, (28, 29, 30, 50, 54, 55), Prescaler(0x08, 10))
_OVER_DRIVE = (Mirror(0x00, 1 << 16, 0x04, 0), Mirror(0x00, 1 << 17, 0x04, 0))  # ODEN -> ODRDY, ODSWEN -> ODSWRDY
_VOLTAGE_READY = {0x04: 1 << 14}


def _f4_f7_rcc(reset: Mapping[int, int]) -> Block:
    """HSI, HSE, PLL, PLLI2S and PLLSAI; SW -> SWS; LSE and LSI."""
    return Block(
        "RCC",
        0x4002_3800,
        reset={0x00: 0x83, 0x04: 0x2400_3010, 0x74: 0x0E00_0000, **reset},
        mirrors=(
            *_ready(0, 16, 24, 26, 28),
            Mirror(0x08, 3, 0x08, 2),
            *_ready(0, register=0x70),
            *_ready(0, register=0x74),
        ),
    )


def _f4_uarts(*numbers: int) -> tuple[Block, ...]:
    known = {
        1: Block("USART1", 0x4001_1000, "usart_v1", enable=(_APB2, 4), interrupt=37),
        2: Block("USART2", 0x4000_4400, "usart_v1", enable=(_APB1, 17), interrupt=38),
        3: Block("USART3", 0x4000_4800, "usart_v1", enable=(_APB1, 18), interrupt=39),
        4: Block("UART4", 0x4000_4C00, "usart_v1", enable=(_APB1, 19), interrupt=52),
        5: Block("UART5", 0x4000_5000, "usart_v1", enable=(_APB1, 20), interrupt=53),
        6: Block("USART6", 0x4001_1400, "usart_v1", enable=(_APB2, 5), interrupt=71),
    }
    return tuple(known[number] for number in numbers)


_STM32F446 = Chip(
    name="stm32f446",
    cpuid=0x410F_C241,
    flash_aliases=(0x0000_0000,),
    memories=(),
    constants=(_identification(0x1FFF_7A10, 0x1FFF_7A22, 512),),
    blocks=(
        _f4_f7_rcc({0x84: 0x2400_3000}),
        Block("PWR", 0x4000_7000, enable=(_APB1, 28), reset={0x00: 0xC000}, ones=_VOLTAGE_READY, mirrors=_OVER_DRIVE),
        Block("FLASH", 0x4002_3C00, reset={0x10: 0x8000_0000, 0x14: 0x0FFF_AAED}),
        Block("SYSCFG", 0x4001_3800, enable=(_APB2, 14)),
        *_gpios(0x4002_0000, "ABCDEFGH", _AHB1, _F4_F7_MODES),
        *_f4_uarts(1, 2, 3, 4, 5, 6),
        *_F4_F7_TIMERS,
        Block("DBGMCU", 0xE004_2000, reset={0x00: 0x1000_6421}),
        *_CORE_UNITS,
    ),
    sectors=((4, 16 * _KIB), (1, 64 * _KIB), (3, 128 * _KIB)),  # RM0390 section 3.3
    interrupts=97,
)

_STM32F407 = Chip(
    name="stm32f407",
    cpuid=0x410F_C241,
    flash_aliases=(0x0000_0000,),
    memories=(Memory("CCM", 0x1000_0000, 0x1_0000),),
    constants=(_identification(0x1FFF_7A10, 0x1FFF_7A22, 1024),),
    blocks=(
        _f4_f7_rcc({_AHB1: 0x0010_0000, 0x84: 0x2000_3000}),
        Block("PWR", 0x4000_7000, enable=(_APB1, 28), reset={0x00: 0x4000}, ones=_VOLTAGE_READY),
        Block("FLASH", 0x4002_3C00, reset={0x10: 0x8000_0000, 0x14: 0x0FFF_AAED}),
        Block("SYSCFG", 0x4001_3800, enable=(_APB2, 14)),
        *_gpios(0x4002_0000, "ABCDEFGHI", _AHB1, _F4_F7_MODES),
        *_f4_uarts(1, 2, 3, 4, 5, 6),
        *_F4_F7_TIMERS,
        Block("DBGMCU", 0xE004_2000, reset={0x00: 0x1007_6413}),
        *_CORE_UNITS,
    ),
    sectors=((4, 16 * _KIB), (1, 64 * _KIB), (7, 128 * _KIB)),  # RM0090 section 3.3
    interrupts=82,
)

_STM32F746 = Chip(
    name="stm32f746",
    cpuid=0x410F_C271,
    flash_aliases=(0x0020_0000,),
    memories=(Memory("ITCM", 0x0000_0000, 0x4000),),
    constants=(_identification(0x1FF0_F420, 0x1FF0_F442, 1024),),
    caches=(0xF003_E019, 0xF007_E009),  # Cortex-M7 TRM (DDI 0489) table 4-9: 4 KiB each
    blocks=(
        _f4_f7_rcc({_AHB1: 0x0010_0000, 0x84: 0x2400_3000}),
        Block("PWR", 0x4000_7000, enable=(_APB1, 28), reset={0x00: 0xC000}, ones=_VOLTAGE_READY, mirrors=_OVER_DRIVE),
        Block("FLASH", 0x4002_3C00, reset={0x10: 0x8000_0000, 0x14: 0xC0FF_AAFD, 0x18: 0x0040_0080}),
        Block("SYSCFG", 0x4001_3800, enable=(_APB2, 14)),
        *_gpios(0x4002_0000, "ABCDEFGHIJK", _AHB1, _F4_F7_MODES),
        Block("USART1", 0x4001_1000, "usart", enable=(_APB2, 4), interrupt=37),
        Block("USART2", 0x4000_4400, "usart", enable=(_APB1, 17), interrupt=38),
        Block("USART3", 0x4000_4800, "usart", enable=(_APB1, 18), interrupt=39),
        Block("UART4", 0x4000_4C00, "usart", enable=(_APB1, 19), interrupt=52),
        Block("UART5", 0x4000_5000, "usart", enable=(_APB1, 20), interrupt=53),
        Block("USART6", 0x4001_1400, "usart", enable=(_APB2, 5), interrupt=71),
        Block("UART7", 0x4000_7800, "usart", enable=(_APB1, 30), interrupt=82),
        Block("UART8", 0x4000_7C00, "usart", enable=(_APB1, 31), interrupt=83),
        *_F4_F7_TIMERS,
        Block("DBGMCU", 0xE004_2000, reset={0x00: 0x1001_6449}),
        *_CORE_UNITS,
    ),
    sectors=((4, 32 * _KIB), (1, 128 * _KIB), (3, 256 * _KIB)),  # RM0385 section 3.3.1
    interrupts=98,
)

# No real part: an STM32F7 with the memory that common benchmarks of larger networks assume (2 MB and 512 kB).
_GENERIC_M7 = replace(
    _STM32F746,
    name="generic-m7",
    constants=(_identification(0x1FF0_F420, 0x1FF0_F442, 2048),),
    sectors=(),
    blocks=tuple(replace(block, reset={}) if block.name == "DBGMCU" else block for block in _STM32F746.blocks),
)

# ---- STM32L4R5. RM0432: memory map 2.2.2, RCC 6.4, PWR 5.4, FLASH 3.7, GPIO 8.4, interrupts in section 13.3, ids 57.
# SRAM2 is at 0x20030000 only, between the others, and not at 0x10000000 too.
_L4_AHB2, _L4_APB1_1, _L4_APB1_2, _L4_APB2 = 0x4C, 0x58, 0x5C, 0x60

_STM32L4R5 = Chip(
    name="stm32l4r5",
    cpuid=0x410F_C241,
    flash_aliases=(0x0000_0000,),
    memories=(),
    constants=(_identification(0x1FFF_7590, 0x1FFF_75E0, 2048),),
    blocks=(
        Block(
            "RCC",
            0x4002_1000,
            reset={0x00: 0x63, 0x0C: 0x1000, 0x10: 0x1000, 0x14: 0x1000, 0x48: 0x100, 0x94: 0x0C00_0600},
            mirrors=(
                *_ready(0, 16, 24, 26, 28),  # MSI, HSE, PLL, PLLSAI1, PLLSAI2
                *_ready(8, shift=2),  # HSI
                Mirror(0x08, 3, 0x08, 2),  # SW -> SWS
                *_ready(0, register=0x90),  # LSE
                *_ready(0, register=0x94),  # LSI
                *_ready(0, register=0x98),  # HSI48
            ),
        ),
        Block("PWR", 0x4000_7000, enable=(_L4_APB1_1, 28), reset={0x00: 0x200, 0x80: 0x100}),
        Block("FLASH", 0x4002_2000, reset={0x00: 0x600, 0x14: 0xC000_0000, 0x20: 0xFFEF_F8AA}),
        Block("SYSCFG", 0x4001_0000, enable=(_L4_APB2, 0)),
        *_gpios(
            0x4800_0000,
            "ABCDEFGHI",
            _L4_AHB2,
            {
                "A": {0x00: 0xABFF_FFFF, 0x08: 0x0C00_0000, 0x0C: 0x6400_0000},
                "B": {0x00: 0xFFFF_FEBF, 0x0C: 0x100},
                "": {0x00: 0xFFFF_FFFF},
            },
        ),
        Block("USART1", 0x4001_3800, "usart", enable=(_L4_APB2, 14), interrupt=37),
        Block("USART2", 0x4000_4400, "usart", enable=(_L4_APB1_1, 17), interrupt=38),
        Block("USART3", 0x4000_4800, "usart", enable=(_L4_APB1_1, 18), interrupt=39),
        Block("UART4", 0x4000_4C00, "usart", enable=(_L4_APB1_1, 19), interrupt=52),
        Block("UART5", 0x4000_5000, "usart", enable=(_L4_APB1_1, 20), interrupt=53),
        Block("LPUART1", 0x4000_8000, "usart", enable=(_L4_APB1_2, 0), interrupt=70),
        *_timers(_L4_APB1_1, (28, 29, 30, 50, 54, 55), Prescaler(0x08, 8)),
        Block("DBGMCU", 0xE004_2000, reset={0x00: 0x1003_6470}),
        *_CORE_UNITS,
    ),
    sectors=((512, 4 * _KIB),),  # RM0432 section 3.3.1, with two banks
    interrupts=95,
)

# ---- STM32H743. RM0433: memory map 2.3.2, RCC 8.7, PWR 6.8, FLASH 4.9, GPIO 11.4, interrupts 19.1.2, ids 61.
# SRAM1 to SRAM3 are at 0x30000000 only, and not at 0x10000000 too.
_H7_AHB4, _H7_APB1, _H7_APB2, _H7_APB4 = 0xE0, 0xE8, 0xF0, 0xF4

_STM32H743 = Chip(
    name="stm32h743",
    cpuid=0x411F_C271,
    flash_aliases=(),
    memories=(
        Memory("ITCM", 0x0000_0000, 0x1_0000),
        Memory("DTCM", 0x2000_0000, 0x2_0000),
        Memory("SRAM1 to SRAM3", 0x3000_0000, 0x4_8000),
        Memory("SRAM4", 0x3800_0000, 0x1_0000),
        Memory("backup SRAM", 0x3880_0000, 0x1000),
    ),
    constants=(_identification(0x1FF1_E800, 0x1FF1_E880, 2048),),
    caches=(0xF00F_E019, 0xF01F_E009),  # Cortex-M7 TRM (DDI 0489) table 4-9: 16 KiB each
    blocks=(
        Block(
            "RCC",
            0x5802_4400,
            reset={
                0x00: 0x83,
                0x04: 0x4000_0000,
                0x28: 0x0202_0200,
                0x2C: 0x01FF_0000,
                **dict.fromkeys((0x30, 0x38, 0x40), 0x0101_0280),  # the dividers of three PLLs
            },
            ones={0x00: 3 << 14 | 1 << 5},  # D1CKRDY, D2CKRDY, HSIDIVF: whatever was chosen is in effect
            mirrors=(
                *_ready(0, shift=2),  # HSI
                *_ready(7, 12, 16, 24, 26, 28),  # CSI, HSI48, HSE, PLL1, PLL2, PLL3
                Mirror(0x10, 7, 0x10, 3),  # SW -> SWS
                *_ready(0, register=0x70),  # LSE
                *_ready(0, register=0x74),  # LSI
            ),
        ),
        Block(
            "PWR",
            0x5802_4800,
            reset={0x00: 0xF000_C000, 0x0C: 0x0000_0006, 0x18: 0x4000},
            ones={0x04: 1 << 13, 0x18: 1 << 13},  # ACTVOSRDY, VOSRDY
            mirrors=(Mirror(0x18, 3 << 14, 0x04, 0),),  # VOS -> ACTVOS
        ),
        Block("FLASH", 0x5200_2000, reset={0x00: 0x37, 0x0C: 0x31, 0x10C: 0x31}),
        Block("SYSCFG", 0x5800_0400, enable=(_H7_APB4, 1)),
        *_gpios(
            0x5802_0000,
            "ABCDEFGHIJK",
            _H7_AHB4,
            {
                "A": {0x00: 0xABFF_FFFF, 0x08: 0x0C00_0000, 0x0C: 0x6400_0000},
                "B": {0x00: 0xFFFF_FEBF, 0x08: 0xC0, 0x0C: 0x100},
                "": {0x00: 0xFFFF_FFFF},
            },
        ),
        Block("USART1", 0x4001_1000, "usart", enable=(_H7_APB2, 4), interrupt=37),
        Block("USART2", 0x4000_4400, "usart", enable=(_H7_APB1, 17), interrupt=38),
        Block("USART3", 0x4000_4800, "usart", enable=(_H7_APB1, 18), interrupt=39),
        Block("UART4", 0x4000_4C00, "usart", enable=(_H7_APB1, 19), interrupt=52),
        Block("UART5", 0x4000_5000, "usart", enable=(_H7_APB1, 20), interrupt=53),
        Block("USART6", 0x4001_1400, "usart", enable=(_H7_APB2, 5), interrupt=71),
        Block("UART7", 0x4000_7800, "usart", enable=(_H7_APB1, 30), interrupt=82),
        Block("UART8", 0x4000_7C00, "usart", enable=(_H7_APB1, 31), interrupt=83),
        Block("LPUART1", 0x5800_0C00, "usart", enable=(_H7_APB4, 3), interrupt=142),
        *_timers(_H7_APB1, (28, 29, 30, 50, 54, 55), Prescaler(0x1C, 4, ahb=(0x18, 0))),
        Block("DBGMCU", 0x5C00_1000, reset={0x00: 0x2003_6450}),
        *_CORE_UNITS,
    ),
    sectors=((16, 128 * _KIB),),  # RM0433 section 4.3.4
    interrupts=150,
)

# ---- STM32U585 without TrustZone. RM0456: memory map 2.3.2, RCC 11.8, PWR 10.10, FLASH 7.9, ICACHE 8.7, GPIO 13.4,
# interrupts in section 22.3, ids 75.12.4.
_U5_AHB2, _U5_AHB3, _U5_APB1, _U5_APB2, _U5_APB3 = 0x8C, 0x94, 0x9C, 0xA4, 0xA8

_STM32U585 = Chip(
    name="stm32u585",
    cpuid=0x410F_D214,
    flash_aliases=(),
    memories=(Memory("SRAM4", 0x2800_0000, 0x4000),),
    constants=(_identification(0x0BFA_0700, 0x0BFA_07A0, 2048),),
    blocks=(
        Block(
            "RCC",
            0x4602_0C00,
            reset={
                0x00: 0x35,
                0x08: 0x4400_0000,
                **dict.fromkeys((0x34, 0x3C, 0x44), 0x0101_0280),  # the dividers of three PLLs
                0x88: 0xD020_0100,
                _U5_AHB2: 0xC000_0000,
                0x90: 0x8000_0000,
                _U5_AHB3: 0x8000_0000,
            },
            mirrors=(
                *_ready(0, 8, shift=2),  # MSIS, HSI
                *_ready(4, 12, 14, 16, 24, 26, 28),  # MSIK, HSI48, SHSI, HSE, PLL1, PLL2, PLL3
                Mirror(0x1C, 3, 0x1C, 2),  # SW -> SWS
                *_ready(0, 26, register=0xF0),  # LSE, LSI
            ),
        ),
        Block(
            "PWR",
            0x4602_0800,
            enable=(_U5_AHB3, 2),
            ones={0x0C: 1 << 15, 0x3C: 1 << 15},  # VOSRDY, ACTVOSRDY
            mirrors=(
                Mirror(0x0C, 1 << 18, 0x0C, -4),  # BOOSTEN -> BOOSTRDY
                Mirror(0x0C, 3 << 16, 0x3C, 0),  # VOS -> ACTVOS
                Mirror(0x08, 1 << 1, 0x3C, 0),  # REGSEL -> REGS
            ),
        ),
        Block("FLASH", 0x4002_2000, reset={0x00: 0x1, 0x28: 0xC000_0000, 0x2C: 0xC000_0000}),
        Block("ICACHE", 0x4003_0400, reset={0x00: 0x4}, ones={0x04: 0x2}),  # BSYENDF: it has emptied itself
        Block("SYSCFG", 0x4600_0400, enable=(_U5_APB3, 1)),
        *_gpios(
            0x4202_0000,
            "ABCDEFGHI",
            _U5_AHB2,
            {
                "A": {0x00: 0xABFF_FFFF, 0x08: 0x0800_0000, 0x0C: 0x6400_0000},
                "B": {0x00: 0xFFFF_FEBF, 0x0C: 0x100},
                "": {0x00: 0xFFFF_FFFF},
            },
        ),
        Block("ADC1", 0x4202_8000, enable=(_U5_AHB2, 10), reset={0x08: 0x2000_0000}, ones={0x00: 1 << 12}),  # LDORDY
        Block(
            "USB",
            0x4204_0000,
            size=0x2_0000,
            enable=(_U5_AHB2, 14),
            ones={0x10: 1 << 31},  # AHBIDL
            zeros={0x10: 1 << 5 | 1 << 4 | 1 << 0},  # TXFFLSH, RXFFLSH, CSRST: done
        ),
        Block("USART1", 0x4001_3800, "usart", enable=(_U5_APB2, 14), interrupt=61),
        Block("USART2", 0x4000_4400, "usart", enable=(_U5_APB1, 17), interrupt=62),
        Block("USART3", 0x4000_4800, "usart", enable=(_U5_APB1, 18), interrupt=63),
        Block("UART4", 0x4000_4C00, "usart", enable=(_U5_APB1, 19), interrupt=64),
        Block("UART5", 0x4000_5000, "usart", enable=(_U5_APB1, 20), interrupt=65),
        Block("LPUART1", 0x4600_2400, "usart", enable=(_U5_APB3, 6), interrupt=66),
        *_timers(_U5_APB1, (45, 46, 47, 48, 49, 50), Prescaler(0x20, 4), wide=(2, 3, 4, 5)),
        Block("DBGMCU", 0xE004_4000, reset={0x00: 0x3001_6482}),
        *_CORE_UNITS,
    ),
    sectors=((256, 8 * _KIB),),  # RM0456 section 7.3.1
    interrupts=126,
)

CHIPS = (_STM32F407, _STM32F446, _STM32F746, _GENERIC_M7, _STM32L4R5, _STM32H743, _STM32U585)
"""All chips that the simulator models."""
