"""What is where: a board's memories and peripherals, mapped into Unicorn, as the firmware and a debugger see them."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import unicorn

from harness.boards import Board
from harness.emulators.simulator.chips import Chip
from harness.emulators.simulator.engine import map_device, map_native_device
from harness.emulators.simulator.peripherals import Peripheral

PAGE = 0x400
"""Bytes: Unicorn's page on M-profile cores, and what STM32 chips give to one peripheral."""

# Physical addresses of memory that firmware does not reach directly: behind all that it can name.
_WATCHED = 1 << 32

_MEMORY = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
_DEVICE = unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE


class AddressError(Exception):
    """A debugger's access to an address where nothing is, or where nothing can be written."""

    def __init__(self, address: int) -> None:
        super().__init__(f"nothing can be accessed at {address:#010x}")
        self.address = address


@dataclass(frozen=True)
class Memory:
    """A memory at one of its addresses. writable: by firmware. A debugger writes all but constants."""

    origin: int
    data: mmap.mmap
    writable: bool
    constant: bool = False

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.origin + len(self.data)

    def slice(self, address: int, size: int) -> slice:
        """Where those bytes are in `data`, as far as they are in this memory."""
        return slice(address - self.origin, min(address + size, self.end) - self.origin)


class AddressSpace:
    """The memory map.

    on_written(memory, offset, size) is called when a debugger wrote to a memory; on_failure(error), when a peripheral
    raised an exception while the firmware accessed it.
    """

    def __init__(
        self,
        uc: Any,
        board: Board,
        chip: Chip,
        *,
        on_written: Callable[[Memory, int, int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._uc = uc
        self._on_written = on_written
        self._on_failure = on_failure
        self._keep: list[Any] = []
        self._memories: list[Memory] = []
        self._devices: list[tuple[range, Peripheral]] = []
        self._permissions: dict[int, int] = {}
        self._next_watched = _WATCHED
        for region in board.memory:
            data = mmap.mmap(-1, region.length)
            if region.kind == "flash":
                data[:] = b"\xff" * region.length
            origins = (region.origin, *(chip.flash_aliases if region.kind == "flash" else ()))
            for origin in origins:
                self._add_memory(Memory(origin, data, writable=region.kind == "ram"))
        for extra in chip.memories:
            self._add_memory(Memory(extra.origin, mmap.mmap(-1, extra.length), writable=True))
        for constants in chip.constants:
            data = mmap.mmap(-1, constants.length)
            for offset, word in constants.words.items():
                data[offset : offset + 4] = word.to_bytes(4, "little")
            self._add_memory(Memory(constants.origin, data, writable=False, constant=True))

    def fill(self, space: range, peripheral: Callable[[int], Peripheral]) -> None:
        """Put `peripheral(base)` wherever nothing is in `space`. After that nothing can be added there."""
        taken = sorted((place.start, place.stop) for place, _ in self._devices if place.start in space)
        begin = space.start
        for start, stop in (*taken, (space.stop, space.stop)):
            if begin < start:
                self.add_peripheral(begin, start - begin, peripheral(begin))
            begin = max(begin, stop)

    @property
    def peripherals(self) -> list[Peripheral]:
        """All peripherals, in the order in which they were added."""
        return [peripheral for _, peripheral in self._devices]

    def _add_memory(self, memory: Memory) -> None:
        permissions = _MEMORY | (unicorn.UC_PROT_WRITE if memory.writable else 0)
        # The address stays valid: a mmap with an exported buffer cannot be closed, and `_memories` keeps it.
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(memory.data))
        self._uc.mem_map_ptr(memory.origin, len(memory.data), permissions, pointer)
        self._permissions |= dict.fromkeys(range(memory.origin, memory.end, PAGE), permissions)
        self._memories.append(memory)

    def add_peripheral(self, base: int, size: int, peripheral: Peripheral) -> None:
        """Put the registers of `peripheral` at `base`."""

        # Unicorn would lose an exception.
        def on_read(_uc: Any, offset: int, _width: int, _data: Any) -> int:
            try:
                if not peripheral.clocked:
                    return 0
                if offset & 3:
                    return peripheral.firmware_reads(offset & ~3) >> 8 * (offset & 3)
                return peripheral.firmware_reads(offset)
            except BaseException as error:
                self._on_failure(error)
                return 0

        def on_write(_uc: Any, offset: int, width: int, value: int, _data: Any) -> None:
            try:
                if peripheral.clocked:
                    shift = 8 * (offset & 3)
                    mask = ((1 << 8 * width) - 1) << shift
                    peripheral.firmware_writes(offset & ~3, value << shift & mask, mask)
            except BaseException as error:
                self._on_failure(error)

        self._keep.append(map_device(self._uc, base, size, on_read, on_write))
        self._devices.append((range(base, base + size), peripheral))

    def permissions(self, page: int) -> int:
        """What the firmware may do with the page at that address: Unicorn's UC_PROT_*, 0 where nothing is."""
        known = self._permissions.get(page)
        if known is None:
            known = _DEVICE if any(page in place for place, _ in self._devices) else 0
            self._permissions[page] = known
        return known

    @property
    def memories(self) -> list[tuple[range, int]]:
        """Each memory's addresses, and what the firmware may do there: UC_PROT_*."""
        return [(range(one.origin, one.end), self._permissions[one.origin]) for one in self._memories]

    def watch(self, within: range, read: Any, write: Any, data: Any) -> int:
        """A device in the place of those pages, which one memory holds, where C functions load and store for the
        firmware: `read(uc, offset, size, data)` and `write(uc, offset, size, value, data)`, offset from the first of
        them. Misaligned accesses come in pieces, as Unicorn splits them. Returns the physical address, which nothing
        leads to yet.
        """
        physical = self._next_watched
        map_native_device(self._uc, physical, len(within), read, write, data)
        self._next_watched += len(within)
        return physical

    def pointer(self, within: range) -> int | None:
        """Where those addresses are in this process; None unless one memory holds all of them."""
        memory = self.memory_at(within.start)
        if memory is None or within.stop > memory.end:
            return None
        return ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) + within.start - memory.origin

    def memory_at(self, address: int) -> Memory | None:
        """The memory that holds `address`."""
        return next((memory for memory in self._memories if memory.origin <= address < memory.end), None)

    # ---- as a debugger sees it

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`; AddressError where nothing is. Reading a peripheral has its side effects."""
        out = bytearray()
        while len(out) < size:
            at, left = address + len(out), size - len(out)
            memory = self.memory_at(at)
            if memory is not None:
                out += memory.data[memory.slice(at, left)]
                continue
            peripheral, offset = self._device_at(at)
            word = peripheral.read(offset & ~3).to_bytes(4, "little")
            out += word[offset & 3 :][:left]
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` from `address`, flash included; AddressError where nothing is, or constants are."""
        done = 0
        while done < len(data):
            at, left = address + done, len(data) - done
            memory = self.memory_at(at)
            if memory is not None:
                if memory.constant:
                    raise AddressError(at)
                place = memory.slice(at, left)
                count = place.stop - place.start
                memory.data[place] = data[done : done + count]
                self._on_written(memory, place.start, count)
            else:
                peripheral, offset = self._device_at(at)
                count = min(left, 4 - (offset & 3))
                shift = 8 * (offset & 3)
                value = int.from_bytes(data[done : done + count], "little")
                peripheral.write(offset & ~3, value << shift, ((1 << 8 * count) - 1) << shift)
            done += count

    def _device_at(self, address: int) -> tuple[Peripheral, int]:
        for place, peripheral in self._devices:
            if address in place:
                return peripheral, address - place.start
        raise AddressError(address)

    # ---- as the firmware sees it

    def load(self, address: int, size: int) -> bytes | None:
        """What firmware reads from memory; None where it would fault."""
        memory = self.memory_at(address)
        if memory is None or address + size > memory.end:
            return None
        return memory.data[memory.slice(address, size)]

    def store(self, address: int, data: bytes) -> bool:
        """Write to memory as firmware does; False, and nothing written, where it would fault."""
        memory = self.memory_at(address)
        if memory is None or not memory.writable or address + len(data) > memory.end:
            return False
        self.write(address, data)
        return True

    def code(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of code from `address`; fewer where memory ends."""
        memory = self.memory_at(address)
        return b"" if memory is None else memory.data[memory.slice(address, size)]
