"""The Nordic chips that the simulator models. Data only; nRF52840 product specification (PS) 1.7.

Modelled is what firmware needs to start and to talk: the high-frequency clock's event and status, the flash interface,
GPIO as memory, the UART without DMA, identification. Its UART is polled: nothing interrupts.
"""

from __future__ import annotations

from harness.emulators.simulator.chips import Block, Chip, Constants, Mirror

_STARTED = (
    Mirror(0x000, 1, 0x100, 0),  # TASKS_HFCLKSTART -> EVENTS_HFCLKSTARTED
    Mirror(0x000, 1, 0x40C, 0),  # and HFCLKSTAT: from the crystal,
    Mirror(0x000, 1, 0x40C, 16),  # running
)

_NRF52840 = Chip(
    name="nrf52840",
    cpuid=0x410F_C241,
    flash_aliases=(),
    memories=(),
    constants=(
        # FICR, PS section 4.4: page size and count, a device id of no real part, part, variant, RAM and flash in KiB.
        Constants(
            0x1000_0000,
            0x400,
            {
                0x010: 0x1000,
                0x014: 256,
                0x060: 0x0036_0040,
                0x064: 0x3136_5105,
                0x100: 0x0005_2840,
                0x104: 0x4141_4430,
                0x10C: 256,
                0x110: 1024,
            },
        ),
    ),
    blocks=(
        Block("CLOCK", 0x4000_0000, size=0x1000, mirrors=_STARTED),
        Block("UART0", 0x4000_2000, "nrf_uart", size=0x1000),
        Block("NVMC", 0x4001_E000, size=0x1000, ones={0x400: 1}),  # READY
        Block("GPIO", 0x5000_0000, size=0x1000),
        # Units of the core that firmware may set up; nothing listens to them.
        Block("ITM", 0xE000_0000, size=0x1000),
        Block("FPB", 0xE000_2000, size=0x1000),
        Block("TPIU", 0xE004_0000, size=0x1000),
    ),
    sectors=((256, 4096),),  # what FICR says
    interrupts=48,
    priority_bits=3,
)

CHIPS = (_NRF52840,)
"""All chips that the simulator models."""
