"""Counts executed instructions with a Unicorn block hook, as fast as Python allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.emulators.simulator.engine import hook_blocks


class BlockCounter:
    """The instructions executed so far, all of the current block's included.

    counts: instructions per block, by its address. A block that is not in it is asked of `unknown(address, size)`,
    which answers with its count, or with None when it will not be executed because the run is being stopped. It must
    not raise.
    """

    def __init__(self, uc: Any, counts: dict[int, int], unknown: Callable[[int, int], int | None]) -> None:
        executed = block = 0

        # Called for every block: closure variables are the fastest state there is.
        def on_block(_uc: Any, address: int, size: int, _data: Any) -> None:
            nonlocal executed, block
            try:
                executed += counts[address]
            except KeyError:
                count = unknown(address, size)
                if count is None:
                    return
                executed += count
            block = address

        def read() -> tuple[int, int]:
            return executed, block

        def add(instructions: int) -> None:
            nonlocal executed
            executed += instructions

        self.read = read
        """() -> (instructions executed, address of the current block)"""
        self.add = add
        """(instructions): correct the count."""
        self._hook = hook_blocks(uc, on_block)
