"""What is known of the blocks of code that Unicorn has translated: how many instructions, and where they lie."""

from __future__ import annotations

from harness.emulators.simulator import decode
from harness.emulators.simulator.address_space import PAGE, AddressSpace, Memory
from harness.emulators.simulator.decode import Kind


class Blocks:
    """(bytes, instructions) of each block, by its address."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._known: dict[int, tuple[int, int]] = {}
        self._pages: set[tuple[int, int]] = set()

    def __contains__(self, address: int) -> bool:
        return address in self._known

    def __getitem__(self, address: int) -> tuple[int, int]:
        return self._known[address]

    def examine(self, address: int, size: int) -> list[tuple[int, Kind]]:
        """Take note of a block. Returns its instructions that may need a check: (offset, kind)."""
        count, found = decode.scan(self._space.code(address, size))
        self._known[address] = (size, count)
        memory = self._space.memory_at(address)
        if memory is not None:
            self._pages |= _pages(memory, address - memory.origin, size)
        return found

    def stale(self, address: int) -> None:
        """The block at `address` is translated, perhaps again."""
        self._known.pop(address, None)

    def forget(self) -> None:
        """All translations were thrown away."""
        self._known.clear()

    def hold_code_of(self, memory: Memory, offset: int, size: int) -> bool:
        """Whether there may be translations of code on the pages of that range, at any of its addresses."""
        return bool(self._pages & _pages(memory, offset, size))

    def ends_at(self, block: int, address: int) -> bool:
        """Whether the block at `block` is known, and `address` is the first one behind it."""
        size, _ = self._known.get(block, (0, 0))
        return address == block + size

    def index(self, block: int, pc: int) -> int:
        """How many instructions of the block begin before `pc`."""
        size, _ = self._known[block]
        offset = min(max(pc - block, 0), size)
        return decode.scan(self._space.code(block, offset))[0]


def _pages(memory: Memory, offset: int, size: int) -> set[tuple[int, int]]:
    """The pages of a range, the same for all addresses of a memory."""
    return {(id(memory.data), page) for page in range(offset & -PAGE, offset + size, PAGE)}
