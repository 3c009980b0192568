"""Emulated flash, as pyOCD programs it: plain memory, written directly.

Real flash algorithms run on the core and end in BKPT, which no emulator of ours halts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyocd.flash.flash import Flash


class DirectFlash(Flash):  # type: ignore[misc]  # pyOCD has no type information
    """pyOCD's Flash without an algorithm. The order of calls is pyOCD's: init, erase or program, uninit, cleanup."""

    def __init__(self, target: Any) -> None:
        super().__init__(target, None)
        self._did_prepare_target = False
        self.is_valid = True
        self.min_program_length = 1

    @property
    def is_erase_all_supported(self) -> bool:
        return True

    def init(self, operation: Flash.Operation, address: int | None = None, clock: int = 0, reset: bool = False) -> None:
        """Stop the core: code must not run while it changes."""
        if not self._did_prepare_target:
            if reset:
                self.target.reset_and_halt()
            else:
                self.target.halt()
            self._did_prepare_target = True
        self._active_operation = operation

    def uninit(self) -> None:
        self._active_operation = None

    def cleanup(self) -> None:
        self.uninit()
        self._did_prepare_target = False

    def erase_all(self) -> None:
        self._fill(self.region.start, self.region.length)

    def erase_sector(self, address: int) -> None:
        self._fill(address, self.get_sector_info(address).size)

    def program_page(self, address: int, bytes: Sequence[int]) -> None:
        self.target.write_memory_block8(address, bytes)

    def program_phrase(self, address: int, bytes: Sequence[int]) -> None:
        self.target.write_memory_block8(address, bytes)

    def _fill(self, address: int, size: int) -> None:
        # Lists, not bytes: a remote probe sends them as JSON.
        self.target.write_memory_block8(address, [self.region.erased_byte_value] * size)
