"""Counts executed instructions with a Unicorn block hook, as fast as Python allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.emulators.simulator.engine import hook_blocks

NO_LIMIT = 1 << 62
"""Instructions that are never reached."""


class BlockCounter:
    """The instructions executed so far, all of the current block's included. A cycles.counter.Counter.

    A block whose count is not known, and every block once a limit is reached, is asked of `unknown(address, size)`,
    which answers with its count, or with None when it will not be executed because the run is being stopped. It must
    not raise.
    """

    def __init__(self, uc: Any, unknown: Callable[[int, int], int | None]) -> None:
        # What is left until `end`, the count that is the limit: one figure to keep is faster than two.
        end = left = NO_LIMIT
        block = 0
        counts: dict[int, int] = {}

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

        def uncount(index: int, count: int) -> None:
            add(index - count)

        def limit(executed: int) -> None:
            nonlocal end, left
            left += executed - end
            end = executed

        def reached() -> bool:
            return left <= 0

        def restart() -> None:
            nonlocal left
            left = end

        def stale(address: int) -> None:
            counts.pop(address, None)

        self.read, self.add, self.uncount, self.restart, self.stale = read, add, uncount, restart, stale
        self.limit, self.reached = limit, reached
        self.leave = self.forget = counts.clear
        self.know = counts.__setitem__
        self._hook = hook_blocks(uc, on_block)
