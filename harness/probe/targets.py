"""pyOCD target types made from board manifests: no CMSIS pack, no flash algorithm. For emulators only.

On silicon a memory map is not enough: there pyOCD's own target, or an installed pack, brings the flash algorithm.
"""

from __future__ import annotations

import math
from typing import Any

from pyocd.core.memory_map import FlashRegion, MemoryMap, RamRegion
from pyocd.coresight.coresight_target import CoreSightTarget
from pyocd.target import TARGET

from harness.boards import Board, Region
from harness.emulators.simulator import chips
from harness.probe.flash import DirectFlash

# What flash erases at once where nobody says, and what is programmed at once, in bytes.
_SECTOR_BYTES = _PAGE_BYTES = 4096


def register(board: Board) -> str:
    """Make the board known to pyOCD; returns the target type's name, private to exactly this manifest."""
    name = f"harness_{board.id}_{board.manifest_sha256[:8]}".replace("-", "_").lower()
    if name not in TARGET:
        memory_map = MemoryMap(*(part for region in board.memory for part in _regions(board, region)))

        def __init__(self: Any, session: Any) -> None:
            CoreSightTarget.__init__(self, session, memory_map.clone())

        TARGET[name] = type(
            name, (CoreSightTarget,), {"VENDOR": board.vendor, "PART_NUMBER": board.name, "__init__": __init__}
        )
    return name


def sectors(board: Board, region: Region) -> tuple[tuple[int, int], ...]:
    """What that flash erases at once, from its origin on: pairs of how many and of how many bytes each.

    As the manifest says, or as the chip does that it names for the simulator. Where neither knows, sectors are as small
    as those of any part, so that little is erased for nothing.
    """
    if region.sectors:
        return region.sectors
    simulator = board.engines.simulator
    known = chips.chip(simulator.chip).sectors if simulator is not None and region is board.region("flash") else ()
    found: list[tuple[int, int]] = []
    left = region.length
    for count, size in known:  # of the largest part with this chip
        fitting = min(count, left // size)
        if fitting:
            found.append((fitting, size))
            left -= fitting * size
    if left:
        size = math.gcd(left, _SECTOR_BYTES)
        found.append((left // size, size))
    return tuple(found)


def _regions(board: Board, region: Region) -> list[FlashRegion | RamRegion]:
    """pyOCD's regions: flash has one for each run of equal sectors."""
    if region.kind == "ram":
        return [RamRegion(name=region.name, start=region.origin, length=region.length)]
    found: list[FlashRegion | RamRegion] = []
    start = region.origin
    for count, size in sectors(board, region):
        found.append(
            FlashRegion(
                name=region.name if not found else f"{region.name}_{len(found)}",
                start=start,
                length=count * size,
                blocksize=size,
                page_size=min(size, _PAGE_BYTES),
                flash_class=DirectFlash,
                is_boot_memory=not found and region is board.region("flash"),
            )
        )
        start += count * size
    return found
