"""The CoreSight ROM table that emulators lack: pyOCD finds a core's debug components by reading one.

Identification values: Arm CoreSight architecture (IHI 0029), and the ROM tables of the Cortex-M technical reference
manuals.
"""

from __future__ import annotations

ROM_TABLE = 0xE00F_F000
SCS = 0xE000_E000
DWT = 0xE000_1000
FPB = 0xE000_2000

_ARM_JEP106 = {0xFD0: 0x04, 0xFE8: 0x0B}  # continuation code and identity code of Arm's peripheral ids
_ROM_TABLE_CLASS, _GENERIC_CLASS, _CORESIGHT_CLASS = 0x1, 0xE, 0x9
_PRESENT = 0x3  # ROM table entry: present, 32-bit

# Part numbers from CPUID. ARMv6-M cores have an SCS of their own part number and no DWT worth listing.
_V6M_CORES = frozenset({0xC20, 0xC60})
_V8M_FAMILY = 0xD


def rom_table(core_part: int) -> dict[int, int]:
    """Address -> word of the ROM table and the id registers it leads to, for the core with that CPUID part number."""
    v6m, v8m = core_part in _V6M_CORES, core_part >> 8 == _V8M_FAMILY
    scs_part = 0x008 if v6m else 0x00C
    components = [(SCS, scs_part, 0x4770_2A04), (FPB, 0x00E, 0x4770_1A03)]
    if not v6m:
        components.append((DWT, 0x002, 0x4770_1A02))

    words = _identification(ROM_TABLE, 0x4C4, _ROM_TABLE_CLASS)
    for index, (base, part, architecture) in enumerate(components):
        words[ROM_TABLE + 4 * index] = (base - ROM_TABLE) & 0xFFFF_F000 | _PRESENT
        if v8m:  # every component carries the core's part number, and its architecture tells what it is
            words |= _identification(base, core_part, _CORESIGHT_CLASS, architecture)
        else:
            words |= _identification(base, part, _GENERIC_CLASS)
    words[ROM_TABLE + 4 * len(components)] = 0  # end of the table
    return words


def _identification(base: int, part: int, component_class: int, architecture: int = 0) -> dict[int, int]:
    """PIDR0-7, CIDR0-3 and, for CoreSight components, DEVARCH and the DEVID registers."""
    offsets = dict.fromkeys((0xFD4, 0xFD8, 0xFDC, 0xFEC), 0) | _ARM_JEP106
    offsets |= {0xFE0: part & 0xFF, 0xFE4: 0xB0 | part >> 8}
    offsets |= {0xFF0: 0x0D, 0xFF4: component_class << 4, 0xFF8: 0x05, 0xFFC: 0xB1}
    if component_class == _CORESIGHT_CLASS:
        offsets |= {0xFBC: architecture, 0xFC0: 0, 0xFC4: 0, 0xFC8: 0, 0xFCC: 0}
    return {base + offset: value for offset, value in offsets.items()}
