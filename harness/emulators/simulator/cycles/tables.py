"""What a core's file says about it: instruction table, parameters, and the function that sends a block through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.emulators.simulator.cycles.instructions import Instruction, Kind


@dataclass(frozen=True)
class Row:
    """One row of a core's table. cycles: to issue, the first word included; per_word: for each that it moves.

    result: how many cycles later another instruction may use its result, where the core's pipeline shows that.
    source: the manual's table that says so.
    """

    kind: Kind
    cycles: int
    source: str
    per_word: int = 0
    result: int = 1


@dataclass(frozen=True)
class Parameter:
    """A number that the manuals leave open, fitted to measured silicon. reason: what it is physically.

    low, high: what is physically possible. fitted: whether calibration may move it; cycles are not linear in the
    others. default: for a core without measurements, from its manual.
    """

    name: str
    default: float
    low: float
    high: float
    reason: str
    fitted: bool = True


# A parameter set by name.
Values = Mapping[str, float]


class Spent(NamedTuple):
    """The cycles of one instruction: to issue it, and waiting for operands or units before."""

    issue: int
    stall: int


class Pipeline(Protocol):
    """How a block's instructions flow through a core."""

    def __call__(
        self, before: Sequence[Instruction], block: Sequence[Instruction], values: Values, *, taken: bool
    ) -> list[Spent]:
        """Cycles of each instruction of `block` when it follows `before`. taken: by a branch, not by falling through.

        Branches and memories beyond the core are not in it: dynamic.py has those.
        """
        ...


@dataclass(frozen=True)
class CoreTable:
    """One core. calibrated_on: what its parameters were fitted to; None means straight from the manual.

    predicts: whether it has a branch predictor; else every taken branch costs `taken_branch`.
    peak_macs: multiply-accumulates of 8-bit operands that it can do per cycle, at best. peak_float_macs: of floats.
    """

    core: str
    manual: str
    rows: Mapping[Kind, Row]
    parameters: tuple[Parameter, ...]
    pipeline: Pipeline
    predicts: bool
    peak_macs: float
    peak_float_macs: float = 0.0

    def defaults(self) -> dict[str, float]:
        """Every parameter at its default."""
        return {parameter.name: parameter.default for parameter in self.parameters}


def table(*rows: Row) -> dict[Kind, Row]:
    """Rows by kind; each kind but UNKNOWN has to have one, or the core lacks it."""
    found = {row.kind: row for row in rows}
    assert len(found) == len(rows), "two rows for one kind"
    return found
