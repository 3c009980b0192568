"""pyOCD target types made from board manifests: no CMSIS pack, no flash algorithm. For emulators only.

On silicon a memory map is not enough: there pyOCD's own target, or an installed pack, brings the flash algorithm.
"""

from __future__ import annotations

from typing import Any

from pyocd.core.memory_map import FlashRegion, MemoryMap, RamRegion
from pyocd.coresight.coresight_target import CoreSightTarget
from pyocd.target import TARGET

from harness.boards import Board, Region
from harness.probe.flash import DirectFlash

# Erase unit, our own choice: with the part's real sectors (up to 256 KiB) most of an erase would be for nothing.
_SECTOR_BYTES = 4096


def register(board: Board) -> str:
    """Make the board known to pyOCD; returns the target type's name, private to exactly this manifest."""
    name = f"harness_{board.id}_{board.manifest_sha256[:8]}".replace("-", "_").lower()
    if name not in TARGET:
        memory_map = MemoryMap(*(_region(board, region) for region in board.memory))

        def __init__(self: Any, session: Any) -> None:
            CoreSightTarget.__init__(self, session, memory_map.clone())

        TARGET[name] = type(
            name, (CoreSightTarget,), {"VENDOR": board.vendor, "PART_NUMBER": board.name, "__init__": __init__}
        )
    return name


def _region(board: Board, region: Region) -> FlashRegion | RamRegion:
    if region.kind == "ram":
        return RamRegion(name=region.name, start=region.origin, length=region.length)
    return FlashRegion(
        name=region.name,
        start=region.origin,
        length=region.length,
        blocksize=_SECTOR_BYTES,
        page_size=_SECTOR_BYTES,
        flash_class=DirectFlash,
        is_boot_memory=region is board.region("flash"),
    )
