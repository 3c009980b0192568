"""Cores that issue one instruction per cycle, in order: M0, M0+, M3, M4, M33. What differs is in their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.emulators.simulator.cycles.instructions import Flow, Instruction, Kind
from harness.emulators.simulator.cycles.tables import Row, Spent, Values

_FLOAT_RESULTS = (Kind.FLOAT_ALU, Kind.FLOAT_MAC, Kind.FLOAT_DIVIDE)
_LOADS = (Kind.LOAD, Kind.FLOAT_LOAD)


@dataclass(frozen=True)
class ScalarPipeline:
    """rows: the core's table. pipelined: behind which kinds a single load costs one cycle less.

    folds_it: whether IT costs nothing behind a 16-bit instruction. extra: further cycles of instructions by name, where
    they differ from others of their kind. Parameters used, where the core has them:
    divide, address_stall, wide_fetch.
    """

    rows: dict[Kind, Row]
    pipelined: frozenset[Kind] = frozenset()
    folds_it: bool = False
    extra: Mapping[str, int] = field(default_factory=dict)

    def __call__(
        self, before: Sequence[Instruction], block: Sequence[Instruction], values: Values, *, taken: bool
    ) -> list[Spent]:
        """See Pipeline."""
        # A taken branch refills the pipeline: nothing before it overlaps with what follows.
        previous = before[-1] if before and not taken else None
        spent = []
        unaligned = 0
        for instruction in block:
            issue = self._issue(instruction, previous, values)
            stall = self._interlock(instruction, previous, values)
            if instruction.size == 4 and instruction.address & 2:
                unaligned += 1
                if unaligned == values.get("wide_fetch", 0):
                    stall += 1
            else:
                unaligned = 0
            spent.append(Spent(issue, stall))
            previous = instruction
        return spent

    def _issue(self, instruction: Instruction, previous: Instruction | None, values: Values) -> int:
        kind = instruction.kind
        row = self.rows.get(kind)
        if row is None:
            return 1
        if kind is Kind.DIVIDE:
            return round(values.get("divide", row.cycles))
        if kind is Kind.IT and self.folds_it and previous is not None and previous.size == 2:
            return 0
        cycles = row.cycles + row.per_word * instruction.words + self.extra.get(instruction.name, 0)
        if kind in _LOADS and self._pipelines(instruction, previous):
            cycles -= 1
        if instruction.flow is not Flow.NONE and kind is not Kind.BRANCH:
            cycles += 1  # LDR pc and POP {pc} are a load, then a branch
        return cycles

    def _pipelines(self, load: Instruction, previous: Instruction | None) -> bool:
        """Whether the address phase of a load overlaps with the data phase of what is before it."""
        if previous is None or previous.kind not in self.pipelined:
            return False
        loaded = previous.writes - ({previous.updated} if previous.updated is not None else set())
        return not loaded & load.base

    def _interlock(self, instruction: Instruction, previous: Instruction | None, values: Values) -> int:
        if previous is None:
            return 0
        stall = 0
        used = previous.writes & instruction.reads
        if previous.kind in _FLOAT_RESULTS and used and not used <= instruction.accumulators:
            stall += 1
        if previous.kind in (Kind.ALU, Kind.SIMD, Kind.MULTIPLY) and previous.writes & instruction.base:
            stall += round(values.get("address_stall", 0))
        return stall
