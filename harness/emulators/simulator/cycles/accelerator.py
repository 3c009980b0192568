"""The counter in C, built on this machine at its first use; the same figures as counter.py's, sooner.

Where there is no C compiler, no writable cache, or a Unicorn whose library cannot be reached, there is no accelerator.
HARNESS_CYCLES=python does without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.emulators.simulator.address_space import PAGE, AddressSpace
from harness.emulators.simulator.block_counter import NO_LIMIT
from harness.emulators.simulator.core_registers import IT_STATE_CLEARED, IT_STATE_REGISTER
from harness.emulators.simulator.cycles.dynamic import Place, Side
from harness.emulators.simulator.cycles.edges import Block, Edge, Edges, Visits
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.engine import (
    FORGET_TRANSLATIONS,
    PROT_EXEC,
    Hook,
    hook_native_accesses,
    hook_native_blocks,
    hook_native_pages,
    native_control,
    native_register_write,
    split_size_offset,
)
from harness.files import cache_dir
from harness.toolchain import compiler

_log = logging.getLogger(__name__)

_NOTHING = 0xFFFF_FFFF
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra")
_COMPILE_SECONDS = 60.0

_ANSWER = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)


@cache
def library() -> Any:
    """The compiled accelerator, or None."""
    if os.environ.get("HARNESS_CYCLES") == "python" or sys.byteorder != "little":
        return None
    source = Path(__file__).with_name("accelerator.c")
    found = compiler.find_host()
    if found is None:
        return None
    digest = hashlib.sha256("\0".join((found.identity, *_FLAGS)).encode() + source.read_bytes()).hexdigest()[:32]
    path = cache_dir() / "accelerator" / f"cycles-{digest}.so"
    try:
        if not path.is_file():
            _build(found.path, source, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the cycle counter runs in Python: its accelerator cannot be built (%s)", error)
        return None
    for name, result in (("counter_new", ctypes.c_void_p), ("counter_place", ctypes.c_void_p)):
        getattr(loaded, name).restype = result
    for name in ("counter_site", "counter_edge"):
        getattr(loaded, name).restype = ctypes.c_uint32
    return loaded


def _build(program: Path, source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as folder:
        built = Path(folder) / "cycles.so"
        command = [str(program), *_FLAGS, str(source), "-o", str(built)]
        subprocess.run(command, capture_output=True, timeout=_COMPILE_SECONDS, check=True, stdin=subprocess.DEVNULL)
        built.replace(path)


class AcceleratedCounter:
    """CycleCounting in C. library: what library() returned."""

    def __init__(self, uc: Any, model: CycleModel, space: AddressSpace, unknown: Any, library: Any) -> None:
        self._library = library
        self._edges = Edges(model, space.code)
        self._unknown = unknown
        self._known: list[Edge] = []
        self._ways: dict[int, list[int]] = {}
        # Numbers of the blocks that are known, by address; a block that is translated again gets another one.
        self._numbers: dict[int, int] = {}
        self._last_number = 0
        self._sites: dict[int, int] = {}
        self._keeping = False
        self._limit = NO_LIMIT
        # What the library keeps the addresses of.
        self._code: list[Any] = []
        places = model.memory.data.places if model.memory.data else ()
        self._counter = ctypes.c_void_p(
            # A place may need another one in front of it, see _watch().
            library.counter_new(_geometry(model.memory.fetch), _geometry(model.memory.data), 2 * len(places))
        )
        # Not at exit, when the core's thread may still be inside.
        weakref.finalize(self, library.counter_free, self._counter).atexit = False
        # Unicorn and the library keep these addresses.
        self._callbacks = _ANSWER(self._meet), _ANSWER(self._leave)
        library.counter_callbacks(self._counter, *(ctypes.cast(one, ctypes.c_void_p) for one in self._callbacks))
        library.counter_it_state(self._counter, native_register_write(uc), IT_STATE_REGISTER, IT_STATE_CLEARED)
        self._hooks: list[Hook] = [hook_native_blocks(uc, library.counter_on_block, self._counter)]
        split_at = split_size_offset(uc)
        # Hooks slow down all of the firmware's loads and stores, devices only those that reach them.
        if split_at is not None and all(_is_watchable(space, place) for place in places):
            library.counter_devices(self._counter, native_control(uc), FORGET_TRANSLATIONS, split_at)
            for place in places:
                self._watch(space, place, places)
            for memory, permissions in space.memories:
                self._tell_pages(memory, permissions, permissions, memory.start, None)
            self._hooks.append(hook_native_pages(uc, library.counter_on_page, self._counter))
        else:
            for place in places:
                self._hook(uc, place)
        self.leave()

    def _hook(self, uc: Any, place: Place) -> None:
        fields = (ctypes.c_uint32 * 4)(place.start, 1, place.miss, place.sequential)
        data = ctypes.c_void_p(self._library.counter_place(self._counter, fields, None, None))
        within = range(place.start, place.end)
        stores = bool(place.sequential)
        self._hooks.append(hook_native_accesses(uc, self._library.counter_on_access, data, within, stores=stores))

    def _watch(self, space: AddressSpace, place: Place, places: Sequence[Place]) -> None:
        self._watch_pages(space, range(place.start, place.end), place)
        # The first piece of a misaligned access may be in front of the place, and says that the second does not count.
        before = range(place.start - PAGE, place.start)
        if space.memory_at(before.start) is not None and not any(before.start in range(p.start, p.end) for p in places):
            self._watch_pages(space, before, None)

    def _watch_pages(self, space: AddressSpace, within: range, place: Place | None) -> None:
        library = self._library
        fields = (ctypes.c_uint32 * 4)(within.start, *((1, place.miss, place.sequential) if place else (0, 0, 0)))
        pointer = ctypes.c_void_p(space.pointer(within))
        code = (ctypes.c_uint8 * (len(within) // PAGE))()
        self._code.append(code)
        data = ctypes.c_void_p(library.counter_place(self._counter, fields, pointer, code))
        physical = space.watch(within, library.counter_on_load, library.counter_on_store, data)
        permissions = next(permissions for memory, permissions in space.memories if within.start in memory)
        self._tell_pages(within, permissions & ~PROT_EXEC, PROT_EXEC, physical, code)

    def _tell_pages(self, within: range, data: int, fetch: int, physical: int, code: Any) -> None:
        fields = (ctypes.c_uint32 * 4)(within.start, len(within), data, fetch)
        self._library.counter_pages(self._counter, fields, ctypes.c_uint64(physical), code)

    def _meet(self, address: int, size: int) -> int:
        """An edge that is taken for the first time: 1 when it is known now, 0 when the run is being stopped."""
        self._library.counter_leave(self._counter, 0)
        if self._unknown(address, size) is None:
            return 0
        current = self._read()[2]
        before = self._known[current].block if current != _NOTHING else None
        block = self._edges.block(address, size)
        edge = self._edges.edge(before, block)
        cost = edge.cost
        site = _NOTHING
        if cost.conditional and before is not None:
            if before.address not in self._sites:
                self._sites[before.address] = self._library.counter_site(self._counter)
            site = self._sites[before.address]
        fields = (ctypes.c_uint32 * 9)(
            self._number(before) if before is not None else _NOTHING,
            address,
            self._number(block),
            len(block.instructions),
            cost.cycles + cost.branch,
            cost.mispredicted - cost.branch if site != _NOTHING else 0,
            site,
            cost.taken,
            cost.taken or before is None,
        )
        lines = [value for line in block.lines for value in (line.number, line.branched, line.fallen)]
        number = self._library.counter_edge(
            self._counter, fields, (ctypes.c_uint32 * max(1, len(lines)))(*lines), len(block.lines)
        )
        assert number == len(self._known)
        self._known.append(edge)
        self._ways.setdefault(address, []).append(number)
        return 1

    def _leave(self, address: int, size: int) -> int:
        self._library.counter_leave(self._counter, 0)
        return 0 if self._unknown(address, size) is None else 1

    def _number(self, block: Block) -> int:
        if block.address not in self._numbers:
            self._last_number += 1
            self._numbers[block.address] = self._last_number
        return self._numbers[block.address]

    def _read(self) -> tuple[int, int, int]:
        out = (ctypes.c_uint64 * 3)()
        self._library.counter_read(self._counter, out)
        return out[0], out[1], out[2]

    def _current(self) -> Edge | None:
        number = self._read()[2]
        return self._known[number] if number != _NOTHING else None

    def read(self) -> tuple[int, int]:
        """See Counter."""
        executed, _, number = self._read()
        return executed, self._known[number].block.address if number != _NOTHING else 0

    def add(self, instructions: int) -> None:
        """See Counter."""
        self._library.counter_add(self._counter, ctypes.c_int64(instructions), ctypes.c_int64(0))

    def uncount(self, index: int, count: int) -> None:
        """See Counter."""
        cycles = self.cycles(index) - self.cycles()
        self._library.counter_add(self._counter, ctypes.c_int64(index - count), ctypes.c_int64(cycles))

    def limit(self, executed: int) -> None:
        """See Counter."""
        self._library.counter_limit(self._counter, ctypes.c_uint64(executed))
        self._limit = executed

    def reached(self) -> bool:
        """See Counter."""
        return self._read()[0] >= self._limit

    def know(self, address: int, count: int) -> None:
        """See Counter."""

    def leave(self) -> None:
        """See Counter."""
        self._library.counter_leave(self._counter, 1)

    def stale(self, address: int) -> None:
        """See Counter."""
        self._edges.stale(address)
        self._numbers.pop(address, None)
        for number in self._ways.pop(address, ()):
            self._library.counter_drop(self._counter, number)

    def forget(self) -> None:
        """See Counter."""
        self._edges.forget()
        self._numbers.clear()
        self._ways.clear()
        if not self._keeping:
            self._known.clear()
        self._library.counter_forget(self._counter, self._keeping)

    def restart(self) -> None:
        """See Counter."""
        self.forget()
        self._library.counter_restart(self._counter)
        self.leave()

    def cycles(self, index: int | None = None) -> int:
        """See CycleCounting."""
        _, cycles, number = self._read()
        if index is None or number == _NOTHING:
            return cycles
        return cycles - sum(map(sum, self._known[number].cost.spent[index:]))

    def visits(self) -> list[Visits]:
        """See CycleCounting."""
        found = []
        out = (ctypes.c_uint64 * 4)()
        for number, edge in enumerate(self._known):
            self._library.counter_visits(self._counter, number, out)
            if out[0]:
                found.append(Visits(edge, out[0], out[1], out[2], out[3] + out[0] * edge.cost.branch))
        return found

    def clear_visits(self) -> None:
        """See CycleCounting."""
        self._keeping = True
        self._library.counter_clear_visits(self._counter)


def _is_watchable(space: AddressSpace, place: Place) -> bool:
    within = range(place.start, place.end)
    return not place.start % PAGE and not place.end % PAGE and space.pointer(within) is not None


def _geometry(side: Side | None) -> Any:
    geometry = side.geometry if side is not None else None
    return (ctypes.c_uint32 * 3)(*((geometry.line_shift, geometry.sets, geometry.ways) if geometry else (0, 1, 1)))
