"""Counts instructions and modelled cycles in pure Python: hooks on blocks and on the accesses that may wait.

The block hook runs for every basic block, the access hook for every access to slow memory, so both are written for
speed: closures, lists instead of objects, and a stamp that tells in one comparison that nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from harness.emulators.simulator.address_space import AddressSpace
from harness.emulators.simulator.block_counter import NO_LIMIT
from harness.emulators.simulator.core_registers import IT_STATE_CLEARED, IT_STATE_REGISTER
from harness.emulators.simulator.cycles.dynamic import (
    PREDICT_AT_FIRST,
    PREDICT_STRONGEST,
    PREDICT_TAKEN,
    Place,
    Side,
)
from harness.emulators.simulator.cycles.edges import Edge, Edges, ReadCode, Visits
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.engine import (
    STORE,
    Hook,
    has_native_hooks,
    hook_accesses,
    hook_blocks,
    register_setter,
)

# Answers how many instructions a block has, or None when the run is being stopped in front of it. Must not raise.
Unknown = Callable[[int, int], "int | None"]


class Counter(Protocol):
    """What the machine asks of a counter, with or without a cycle model."""

    def read(self) -> tuple[int, int]:
        """(instructions executed, all of the current block's included; address of the current block)."""
        ...

    def add(self, instructions: int) -> None:
        """Correct the count of instructions."""
        ...

    def uncount(self, index: int, count: int) -> None:
        """The current block, of `count` instructions, was left in front of its instruction number `index`."""
        ...

    def know(self, address: int, count: int) -> None:
        """How many instructions a block has; told from within `unknown`, before that looks for requests."""
        ...

    def leave(self) -> None:
        """Ask `unknown` in front of the next block. May be called on any thread."""
        ...

    def forget(self) -> None:
        """Translations were thrown away: blocks may have changed."""
        ...

    def limit(self, executed: int) -> None:
        """Once so many instructions are executed, no block runs without `unknown` being asked."""
        ...

    def reached(self) -> bool:
        """Whether the limit is reached."""
        ...

    def stale(self, address: int) -> None:
        """The block at `address` is translated, perhaps again."""
        ...

    def restart(self) -> None:
        """Count from 0 again, with cold caches."""
        ...


class CycleCounting(Counter, Protocol):
    """A counter with a cycle model."""

    def cycles(self, index: int | None = None) -> int:
        """Cycles up to the end of the current block, or in front of its instruction number `index`."""
        ...

    def visits(self) -> list[Visits]:
        """What was counted since the last clear_visits(), edge by edge."""
        ...

    def clear_visits(self) -> None:
        """Begin anew with visits(); counts and caches go on."""
        ...


# An edge as the block hook keeps it: a list of these.
_COUNT, _INSTRUCTIONS, _CYCLES, _SUCCESSORS, _STAMP, _SITE, _SETTLED, _DATA, _FETCH, _BRANCH, _EDGE = range(11)


class PythonCounter:
    """CycleCounting on Unicorn engine `uc`."""

    def __init__(self, uc: Any, model: CycleModel, read_code: ReadCode, unknown: Unknown) -> None:
        edges = Edges(model, read_code)
        fetch, data = _Lines(model.memory.fetch), _Lines(model.memory.data)
        cycles = 0
        # What is left until `end`, the count that is the limit: one figure to keep is faster than two.
        end = left = NO_LIMIT
        leaving = True
        stamp: object = object()
        nowhere: list[Any] = [0, 0, 0, {}, None, [0], 0, 0, 0, 0, None]
        current = nowhere
        successors: dict[int, list[Any]] = nowhere[_SUCCESSORS]
        # Where each conditional branch's predictor stands, by the address of its block.
        predictors: dict[int, list[int]] = {}
        # The edges out of each block, by its address, which all edges into it share; and the ways that lead to it.
        outgoing: dict[int, dict[int, list[Any]]] = {}
        ways: dict[int, list[dict[int, list[Any]]]] = {}
        kept: list[list[Any]] = []
        keeping = False

        def on_block(_uc: Any, address: int, size: int, _data: Any) -> None:
            nonlocal left, cycles, current, successors
            try:
                edge = successors[address]
                settled = edge[_STAMP] is stamp and edge[_SITE][0] == edge[_SETTLED] and left > 0
                if not settled and not look_closer(edge, address, size):
                    return
            except KeyError:
                met = meet(address, size)
                if met is None:
                    return
                edge = met
            edge[_COUNT] += 1
            left -= edge[_INSTRUCTIONS]
            cycles += edge[_CYCLES]
            current = edge
            successors = edge[_SUCCESSORS]

        def meet(address: int, size: int) -> list[Any] | None:
            """An edge that is taken for the first time."""
            if unknown(address, size) is None:
                return None
            before: Edge | None = current[_EDGE]
            edge = edges.edge(before.block if before else None, edges.block(address, size))
            cost = edge.cost
            site, settled = [0], 0
            if cost.conditional and edge.before is not None:
                site = predictors.setdefault(edge.before.address, [PREDICT_AT_FIRST])
                settled = PREDICT_STRONGEST if cost.taken else 0
            known = [
                0, len(edge.block.instructions), cost.cycles + cost.branch, outgoing.setdefault(address, {}), None,
                site, settled, 0, 0, 0, edge,
            ]  # fmt: skip
            successors[address] = known
            ways.setdefault(address, []).append(successors)
            kept.append(known)
            look_closer(known, address, size, met=True)
            return known

        def look_closer(edge: list[Any], address: int, size: int, met: bool = False) -> bool:
            """What the fast path does not know to be settled: requests, the predictor, instruction lines."""
            nonlocal cycles, leaving, stamp
            if leaving or left <= 0:
                leaving = False
                if not met and unknown(address, size) is None:
                    return False
            cost = edge[_EDGE].cost
            if cost.conditional:
                site = edge[_SITE]
                state = site[0]
                if (state >= PREDICT_TAKEN) != cost.taken:
                    extra = cost.mispredicted - cost.branch
                    cycles += extra
                    edge[_BRANCH] += extra
                if cost.taken:
                    site[0] = min(state + 1, PREDICT_STRONGEST)
                else:
                    site[0] = max(state - 1, 0)
            if edge[_STAMP] is not stamp:
                now = stamp
                taken = cost.taken or edge[_EDGE].before is None
                filled = False
                for line in edge[_EDGE].block.lines:
                    if fetch.fill(line.number):
                        extra = line.branched if taken else line.fallen
                        cycles += extra
                        edge[_FETCH] += extra
                        filled = True
                if filled:
                    stamp = object()
                elif not leaving:
                    edge[_STAMP] = now
            return True

        def on_access(place: Place) -> Callable[[Any, int, int, int, int, Any], None]:
            miss, store, shift = place.miss, place.sequential, data.shift
            resident, fill = data.resident, data.fill
            forget_it_state = register_setter(uc, IT_STATE_REGISTER, IT_STATE_CLEARED)

            def touched(_uc: Any, kind: int, address: int, _size: int, _value: int, _data: Any) -> None:
                nonlocal cycles
                forget_it_state()
                line = address >> shift
                if line in resident:
                    return
                fill(line)
                extra = store if kind == STORE else miss
                cycles += extra
                current[_DATA] += extra

            return touched

        def read() -> tuple[int, int]:
            edge = current[_EDGE]
            return end - left, edge.block.address if edge is not None else 0

        def add(instructions: int) -> None:
            nonlocal left
            left -= instructions

        def limit(executed: int) -> None:
            nonlocal end, left
            left += executed - end
            end = executed

        def reached() -> bool:
            return left <= 0

        def leave() -> None:
            nonlocal leaving, stamp
            leaving = True  # before the stamp: look_closer() must not miss it
            stamp = object()

        def forget() -> None:
            nonlocal current, successors
            edges.forget()
            nowhere[_SUCCESSORS].clear()
            outgoing.clear()
            ways.clear()
            current, successors = nowhere, nowhere[_SUCCESSORS]
            kept[:] = [edge for edge in kept if edge[_COUNT]] if keeping else []

        def restart() -> None:
            nonlocal left, cycles, stamp
            left, cycles = end, 0
            predictors.clear()
            fetch.clear()
            data.clear()
            forget()
            leave()

        def until(index: int | None = None) -> int:
            edge = current[_EDGE]
            if index is None or edge is None:
                return cycles
            return cycles - sum(map(sum, edge.cost.spent[index:]))

        def uncount(index: int, count: int) -> None:
            nonlocal left, cycles
            left -= index - count
            cycles = until(index)

        def know(_address: int, _count: int) -> None:
            pass

        def stale(address: int) -> None:
            edges.stale(address)
            for into in ways.pop(address, ()):
                into.pop(address, None)
            outgoing.pop(address, None)

        def visits() -> list[Visits]:
            return [
                Visits(edge[_EDGE], edge[_COUNT], edge[_DATA], edge[_FETCH],
                       edge[_BRANCH] + edge[_COUNT] * edge[_EDGE].cost.branch)
                for edge in kept
                if edge[_COUNT]
            ]  # fmt: skip

        def clear_visits() -> None:
            nonlocal keeping
            keeping = True
            for edge in kept:
                edge[_COUNT] = edge[_DATA] = edge[_FETCH] = edge[_BRANCH] = 0

        self.read, self.add, self.leave, self.forget, self.restart = read, add, leave, forget, restart
        self.limit, self.reached = limit, reached
        self.uncount, self.know, self.stale = uncount, know, stale
        self.cycles, self.visits, self.clear_visits = until, visits, clear_visits
        self._hooks: list[Hook] = [hook_blocks(uc, on_block)]
        if model.memory.data is not None:
            self._hooks += [
                hook_accesses(uc, on_access(place), within=range(place.start, place.end), stores=bool(place.sequential))
                for place in model.memory.data.places
            ]


class _Lines:
    """Which lines a cache holds. The last one to come is the last one to go: round robin within each set."""

    def __init__(self, side: Side | None) -> None:
        geometry = side.geometry if side else None
        self.shift = geometry.line_shift if geometry else 0
        self.resident: set[int] = set()
        self._sets = geometry.sets if geometry else 1
        self._ways = geometry.ways if geometry else 1
        self._slots: list[list[int]] = [[] for _ in range(self._sets)]
        self._next = [0] * self._sets

    def fill(self, line: int) -> bool:
        """Bring a line in; False when it is there."""
        if line in self.resident:
            return False
        index = line % self._sets
        slots = self._slots[index]
        if len(slots) < self._ways:
            slots.append(line)
        else:
            way = self._next[index]
            self.resident.discard(slots[way])
            slots[way] = line
            self._next[index] = (way + 1) % self._ways
        self.resident.add(line)
        return True

    def clear(self) -> None:
        """Nothing is there any more."""
        self.resident.clear()
        self._slots = [[] for _ in range(self._sets)]
        self._next = [0] * self._sets


def make_counter(uc: Any, model: CycleModel, space: AddressSpace, unknown: Unknown) -> CycleCounting:
    """The fastest counter that works here."""
    from harness.emulators.simulator.cycles import accelerator

    library = accelerator.library() if has_native_hooks(uc) else None
    if library is None:
        return PythonCounter(uc, model, space.code, unknown)
    return accelerator.AcceleratedCounter(uc, model, space, unknown, library)
