"""Counts executed instructions with a Unicorn block hook, as fast as Python allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.emulators.simulator.engine import hook_blocks

NO_LIMIT = 1 << 62
"""Instructions that are never reached."""


class BlockCounter:
    """The instructions executed so far, all of the current block's included.

    counts: instructions per block, by its address. A block that is not in it, and every block once a limit is reached,
    is asked of `unknown(address, size)`, which answers with its count, or with None when it will not be executed
    because the run is being stopped. It must not raise.
    """

    def __init__(self, uc: Any, counts: dict[int, int], unknown: Callable[[int, int], int | None]) -> None:
        # What is left until `end`, the count that is the limit: one figure to keep is faster than two.
        end = left = NO_LIMIT
        block = 0

        # Called for every block: closure variables are the fastest state there is.
        def on_block(_uc: Any, address: int, size: int, _data: Any) -> None:
            nonlocal left, block
            try:
                if left <= 0:
                    raise KeyError
                left -= counts[address]
            except KeyError:
                count = unknown(address, size)
                if count is None:
                    return
                left -= count
            block = address

        def read() -> tuple[int, int]:
            return end - left, block

        def add(instructions: int) -> None:
            nonlocal left
            left -= instructions

        def limit(executed: int) -> None:
            nonlocal end, left
            left += executed - end
            end = executed

        def reached() -> bool:
            return left <= 0

        self.read = read
        """() -> (instructions executed, address of the current block)"""
        self.add = add
        """(instructions): correct the count."""
        self.limit = limit
        """(instructions executed): from there on, no block runs without `unknown` being asked."""
        self.reached = reached
        """() -> whether the limit is reached"""
        self._hook = hook_blocks(uc, on_block)
