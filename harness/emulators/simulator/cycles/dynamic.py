"""What a block costs beyond its instructions, which depends on what ran before: branches, flash, caches.

Everything here is exact integers, so that the accelerator in C can do the same. Replacement is round robin: silicon's
is pseudo-random (Cortex-M7) or LRU (ST's ART), and neither is known well enough to be copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.boards import Board, CacheTiming, Timing
from harness.emulators.simulator.cycles.tables import Parameter, Values

MEMORY_PARAMETERS = (
    Parameter("fetch_bus", 0, 0, 20, "cycles from a missing instruction line to the pipeline, beyond flash's own: the "
              "bus, and the refill of the prefetch unit"),
    Parameter("fetch_share", 0, 0, 1, "share of a line's later flash reads that instructions wait for: the word that "
              "is wanted comes first, the others overlap with execution"),
    Parameter("sequential_share", 1, 0, 1, "share of that cost which is left when the line follows the one before, "
              "which a prefetch has begun to read"),
    Parameter("data_bus", 0, 0, 20, "cycles from a missing data line to the register, beyond flash's own"),
    Parameter("data_share", 1, 0, 1, "share of a line's later flash reads that data waits for"),
    Parameter("ram_bus", 0, 0, 20, "cycles to fill a data cache line from RAM that is not tightly coupled"),
    Parameter("ram_write", 0, 0, 20, "cycles of a store that misses the data cache, beyond what the buffer hides"),
)  # fmt: skip

# States of a two-bit branch predictor: 0 and 1 predict not taken, 2 and 3 taken. It starts at the weaker one.
PREDICT_TAKEN = 2
PREDICT_STRONGEST = 3
PREDICT_AT_FIRST = 2

_WHOLE = 1 << 32


@dataclass(frozen=True)
class Geometry:
    """A cache as the model keeps it. line_shift: of an address. sets, ways: lines. sets is a power of two or not."""

    line_shift: int
    sets: int
    ways: int


@dataclass(frozen=True)
class Place:
    """Addresses start..end-1 and what a line costs there that no cache holds, in cycles. sequential: of one that
    follows the line before (instructions); of a store (data)."""

    start: int
    end: int
    miss: int
    sequential: int


@dataclass(frozen=True)
class Side:
    """Instructions or data: one cache, and the places behind it. Whatever is in no place costs nothing."""

    geometry: Geometry
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Memory:
    """Both sides of a board's memory at one clock; None where nothing ever waits."""

    fetch: Side | None
    data: Side | None

    @staticmethod
    def of(board: Board, clock_hz: int, values: Values) -> Memory:
        """InputError when flash cannot be read at that clock. Without timing in the manifest, memory costs nothing."""
        timing = board.timing
        if timing is None:
            return Memory(None, None)
        flash = _Flash(timing, timing.flash.at(clock_hz))
        return Memory(_fetch_side(board, timing, flash, values), _data_side(board, timing, flash, values))


@dataclass(frozen=True)
class _Flash:
    timing: Timing
    wait_states: int

    def line(self, line_bytes: int, bus: float, share: float) -> int:
        """Cycles that the core waits for a line of `line_bytes`. share: of the reads behind the first."""
        reads = max(1, line_bytes // self.timing.flash.read_bytes)
        return round(self.wait_states * (1 + share * (reads - 1)) + share * (reads - 1) + bus)


def _geometry(cache: CacheTiming) -> Geometry:
    lines = cache.bytes // cache.line_bytes
    return Geometry(cache.line_bytes.bit_length() - 1, lines // cache.ways, cache.ways)


def _buffer(read_bytes: int) -> Geometry:
    """One line: what flash without any cache has."""
    return Geometry(read_bytes.bit_length() - 1, 1, 1)


def _flash_places(board: Board, timing: Timing) -> list[tuple[int, int]]:
    return [(region.origin, region.origin + region.length) for region in board.memory if region.kind == "flash"]


def _fetch_side(board: Board, timing: Timing, flash: _Flash, values: Values) -> Side | None:
    cache = timing.icache or timing.flash.instruction_cache
    if timing.icache is None and not flash.wait_states:
        return None  # flash is as fast as a cache, and the core is on its bus
    geometry = _geometry(cache) if cache else _buffer(timing.flash.read_bytes)
    line_bytes = 1 << geometry.line_shift
    miss = flash.line(line_bytes, values["fetch_bus"], values["fetch_share"])
    sequential = round(miss * values["sequential_share"]) if timing.flash.prefetch else miss
    places = [Place(start, end, miss, sequential) for start, end in _flash_places(board, timing)]
    if timing.icache is not None:
        ram = round(values["ram_bus"]) + timing.ram_wait_states
        places += [Place(start, end, ram, ram) for start, end in _slow_ram(board, timing)]
    return _side(geometry, places)


def _data_side(board: Board, timing: Timing, flash: _Flash, values: Values) -> Side | None:
    cache = timing.dcache or timing.flash.data_cache
    if timing.dcache is None and not flash.wait_states:
        return None
    geometry = _geometry(cache) if cache else _buffer(timing.flash.read_bytes)
    line_bytes = 1 << geometry.line_shift
    miss = flash.line(line_bytes, values["data_bus"], values["data_share"])
    places = [Place(start, end, miss, 0) for start, end in _flash_places(board, timing)]
    if timing.dcache is not None:
        read, write = round(values["ram_bus"]) + timing.ram_wait_states, round(values["ram_write"])
        places += [Place(start, end, read, write) for start, end in _slow_ram(board, timing)]
    return _side(geometry, places)


def _slow_ram(board: Board, timing: Timing) -> list[tuple[int, int]]:
    """RAM of the manifest without what is tightly coupled."""
    parts = [(region.origin, region.origin + region.length) for region in board.memory if region.kind == "ram"]
    for tight in timing.tcm:
        first, last = tight.origin, tight.origin + tight.length
        parts = [
            piece
            for start, end in parts
            for piece in ((start, min(end, first)), (max(start, last), end))
            if piece[0] < piece[1]
        ]
    return parts


def _side(geometry: Geometry, places: list[Place]) -> Side | None:
    costly = tuple(place for place in places if place.miss or place.sequential)
    return Side(geometry, costly) if costly else None
