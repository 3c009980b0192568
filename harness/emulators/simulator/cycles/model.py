"""The cycle model of one board at one clock: tables, parameters and memories together, and what an edge costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.boards import Board
from harness.emulators.simulator.cycles import cores
from harness.emulators.simulator.cycles.dynamic import Memory, Place
from harness.emulators.simulator.cycles.instructions import Flow, Instruction, Kind
from harness.emulators.simulator.cycles.parameters import ParameterSet, load, shipped
from harness.emulators.simulator.cycles.tables import CoreTable, Spent

# Changes whenever the same parameters give other cycles.
REVISION = 1


@dataclass(frozen=True)
class FetchLine:
    """One line of a block. cost: in cycles, when it is missing and the block was branched to; next: fallen into."""

    number: int
    branched: int
    fallen: int


@dataclass(frozen=True)
class EdgeCost:
    """What a block costs behind another, caches and predictor aside.

    cycles: of all instructions. taken: whether the way was a branch. conditional: whether the block before ends in a
    conditional branch. branch: further cycles for a branch that needs no prediction, or was predicted; mispredicted:
    for one that was predicted wrongly.
    """

    spent: tuple[Spent, ...]
    cycles: int
    taken: bool
    conditional: bool
    branch: int
    mispredicted: int


@dataclass(frozen=True, eq=False)
class CycleModel:
    """One core with one set of parameters and one board's memories.

    error_band: half-width of the error that the parameters were seen to have on integer code, as a fraction; None where
    nobody has measured this core, or the manifest does not tell what its memories cost. float_error_band: the same of
    floating-point code.
    """

    table: CoreTable
    parameters: ParameterSet
    memory: Memory
    clock_hz: int
    error_band: float | None
    float_error_band: float | None
    version: str
    notes: tuple[str, ...] = field(default=())

    @staticmethod
    def of(
        board: Board,
        *,
        clock_hz: int | None = None,
        parameters: ParameterSet | None = None,
        parameters_file: Path | None = None,
    ) -> CycleModel:
        """The model of `board` at `clock_hz` (default: the manifest's). parameters: default those in
        `parameters_file`, or else the core's shipped ones.

        InputError for a core without a table, parameters of another core, and a clock that flash cannot follow.
        """
        table = cores.table(board.core)
        chosen = parameters or (load(parameters_file) if parameters_file is not None else shipped(table))
        chosen.check(table)
        clock = clock_hz or board.clock_hz
        notes = []
        if board.timing is None:
            notes.append(f"no memory timing in the manifest of {board.id}: memories cost nothing, uncalibrated")
        if chosen.error_band is None:
            notes.append(f"{board.core} is modelled from {table.manual}, uncalibrated")
        band, float_band = (None, None) if notes else (chosen.error_band, chosen.float_error_band)
        version = f"{board.core} {REVISION}.{chosen.version}" + (" uncalibrated" if notes else "")
        return CycleModel(
            table, chosen, Memory.of(board, clock, chosen.values), clock, band, float_band, version, tuple(notes)
        )

    def band(self, *, integer: bool) -> float | None:
        """The error band of integer or of floating-point code."""
        return self.error_band if integer else self.float_error_band

    def knows(self, instruction: Instruction) -> bool:
        """Whether the core's table has a row for it; others count one cycle, and are counted."""
        return instruction.kind is not Kind.UNKNOWN and instruction.kind in self.table.rows

    def edge(self, before: Sequence[Instruction], block: Sequence[Instruction]) -> EdgeCost:
        """The cost of `block` behind `before`, which is empty after a reset or an exception."""
        values = self.parameters.values
        flow = before[-1].flow if before else Flow.NONE
        taken = bool(before) and before[-1].end != block[0].address
        spent = tuple(self.table.pipeline(before, block, values, taken=taken))
        branch, mispredicted = 0, 0
        if taken:
            branch = round(values["taken_branch"])
        if self.table.predicts:
            mispredicted = round(values["mispredict"])
            if taken and flow is Flow.INDIRECT:
                branch = mispredicted
        return EdgeCost(
            spent,
            sum(map(sum, spent)),
            taken,
            self.table.predicts and flow is Flow.CONDITIONAL,
            branch,
            mispredicted,
        )

    def lines(self, address: int, size: int) -> tuple[FetchLine, ...]:
        """The lines of instruction memory that a block needs, in order; those that cost nothing are left out."""
        side = self.memory.fetch
        if side is None:
            return ()
        shift = side.geometry.line_shift
        found: list[FetchLine] = []
        for number in range(address >> shift, (address + size - 1 >> shift) + 1):
            place = _place(side.places, number << shift)
            if place is not None:
                first = not found
                found.append(FetchLine(number, place.miss if first else place.sequential, place.sequential))
        return tuple(found)


def _place(places: Sequence[Place], address: int) -> Place | None:
    return next((place for place in places if place.start <= address < place.end), None)
