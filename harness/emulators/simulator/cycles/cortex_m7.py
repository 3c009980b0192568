"""Cortex-M7: in order, two instructions per cycle. Arm publishes no instruction timing for it.

Sources: Arm DDI 0489 (structure, 2.1), Arm's "Cortex-M7 processor" optimisation notes as LLVM's ARMScheduleM7.td
(Apache-2.0) gives them: the resource and latency of each class. A row's `result` is the latency at the end of the
second execute stage; operands that are wanted earlier or later than there are in _SLACK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.emulators.simulator.cycles.dynamic import MEMORY_PARAMETERS
from harness.emulators.simulator.cycles.instructions import SHIFTS, Instruction, Kind
from harness.emulators.simulator.cycles.tables import CoreTable, Parameter, Row, Spent, Values, table

ROWS = table(
    Row(Kind.ALU, 1, "ScheduleM7: M7UnitALU x2, 1"),
    Row(Kind.SIMD, 1, "ScheduleM7: M7UnitSIMD, slot 0, 1"),
    Row(Kind.MULTIPLY, 1, "ScheduleM7: M7UnitMAC, 2; 1 to an accumulator", result=2),
    Row(Kind.MULTIPLY_LONG, 1, "ScheduleM7: M7UnitMAC, 2; 1 to an accumulator", result=2),
    Row(Kind.DIVIDE, 7, "ScheduleM7: SDIV, UDIV issue alone, 7"),
    Row(Kind.LOAD, 1, "ScheduleM7: M7UnitLoad x2, word 2 from the address, so 1 here; sub-word one later"),
    Row(Kind.STORE, 1, "ScheduleM7: M7UnitStore, data one stage later than the address"),
    Row(Kind.LOAD_MULTIPLE, 0, "DDI 0489 2.1: 64-bit load; issues alone, two words a cycle", per_word=1),
    Row(Kind.STORE_MULTIPLE, 0, "DDI 0489 2.1: 64-bit store; issues alone, two words a cycle", per_word=1),
    Row(Kind.BRANCH, 1, "ScheduleM7: M7UnitBranch"),
    Row(Kind.IT, 0, "ScheduleM7: takes a slot, no unit"),
    Row(Kind.NOP, 1, "ScheduleM7: takes a slot, no unit"),
    Row(Kind.SYSTEM, 3, "DDI 0489: serialises; issues alone"),
    Row(Kind.FLOAT_LOAD, 1, "ScheduleM7: M7UnitLoad, M7UnitVPort"),
    Row(Kind.FLOAT_STORE, 1, "ScheduleM7: M7UnitStore, M7UnitVPort; data two stages later than the address"),
    Row(Kind.FLOAT_LOAD_MULTIPLE, 0, "ScheduleM7: issues alone, two words a cycle", per_word=1),
    Row(Kind.FLOAT_STORE_MULTIPLE, 0, "ScheduleM7: issues alone, two words a cycle", per_word=1),
    Row(Kind.FLOAT_MOVE, 1, "ScheduleM7: M7UnitVPort, 1"),
    Row(Kind.FLOAT_ALU, 1, "ScheduleM7: M7UnitVFP, 3", result=3),
    Row(Kind.FLOAT_MAC, 1, "ScheduleM7: M7UnitVFP, 3; see parameter float_accumulate", result=3),
    Row(Kind.FLOAT_DIVIDE, 1, "ScheduleM7: VDIV.F32 16", result=16),
)

# How many instructions of each resource start in one cycle (ScheduleM7, DDI 0489 2.1).
_UNITS = {"load": 2, "store": 1, "alu": 2, "shifter": 1, "mac": 1, "branch": 1, "vfp": 1, "vport": 2, "simd": 1}
_NEEDS: dict[Kind, tuple[str, ...]] = {
    Kind.ALU: ("alu",),
    Kind.SIMD: ("alu", "simd"),
    Kind.MULTIPLY: ("mac",),
    Kind.MULTIPLY_LONG: ("mac",),
    Kind.LOAD: ("load",),
    Kind.STORE: ("store",),
    Kind.BRANCH: ("branch",),
    Kind.FLOAT_LOAD: ("load", "vport"),
    Kind.FLOAT_STORE: ("store", "vport"),
    Kind.FLOAT_MOVE: ("vport",),
    Kind.FLOAT_ALU: ("vfp", "vport"),
    Kind.FLOAT_MAC: ("vfp", "vport"),
    Kind.FLOAT_DIVIDE: ("vfp", "vport"),
}
_MULTIPLE = (Kind.LOAD_MULTIPLE, Kind.STORE_MULTIPLE, Kind.FLOAT_LOAD_MULTIPLE, Kind.FLOAT_STORE_MULTIPLE)
_ALONE = frozenset({*_MULTIPLE, Kind.SYSTEM, Kind.DIVIDE})
# SIMD instructions whose second operand passes the shifter.
_SHIFTER = frozenset({"pkhbt", "pkhtb", "sxtab16", "ubfx", "sbfx", "ssat", "usat", "rev", "rev16", "rbit", "sxtab",
                      "uxtab", "bfi"})  # fmt: skip
_SATURATE = ("ssat", "usat")
_REVERSE = ("rev", "rev16", "rbit")
_EXTEND = ("xtb", "xth")
_COMPARE = ("cmp", "cmn", "tst", "teq")

# A block's first cycles depend on what the ones before it left in flight; this many instructions decide that.
_HISTORY = 12


@dataclass
class _Machine:
    """The issue stage. time: cycle. slots: taken in it. used: units taken in it. ready: cycle of each result."""

    time: int = 0
    slots: int = 0
    used: dict[str, int] = field(default_factory=dict)
    ready: dict[int, int] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The first cycle that nothing was issued in."""
        return self.time + (1 if self.slots else 0)

    def next_cycle(self) -> None:
        self.time += 1
        self.slots = 0
        self.used = {}

    def wait(self, until: int) -> None:
        """Let cycles pass up to `until`."""
        if until > self.time:
            self.time = until
            self.slots = 0
            self.used = {}

    def fits(self, instruction: Instruction, needs: Sequence[str]) -> bool:
        """Whether it can start in this cycle."""
        if self.slots >= 2:
            return False
        if self.slots and (instruction.kind in _ALONE or instruction.kind is Kind.SIMD):
            return False
        if instruction.kind in (Kind.LOAD, Kind.FLOAT_LOAD) and self.used.get("store"):
            return True
        return all(self.used.get(unit, 0) < _UNITS[unit] for unit in needs)


def _slack(instruction: Instruction, register: int, values: Values) -> int:
    """How many stages after the usual one it wants `register`; negative for earlier."""
    kind = instruction.kind
    if register in instruction.base:
        return -1
    if register in instruction.stored:
        return 2 if kind is Kind.FLOAT_STORE else 1
    if register in instruction.accumulators:
        return round(values["float_accumulate"]) if kind is Kind.FLOAT_MAC else 1
    extends = kind is Kind.SIMD and any(part in instruction.name for part in _EXTEND)
    if register in instruction.early and not extends:
        return -1
    if instruction.shifted and kind is Kind.ALU and instruction.name not in SHIFTS:
        return -1
    return -1 if instruction.name in _SATURATE else 0


def _latency(instruction: Instruction) -> int:
    name, kind = instruction.name, instruction.kind
    if kind in _MULTIPLE:
        return (instruction.words + 1) // 2
    if kind is Kind.LOAD:
        return 1 if name.startswith("ldr") and name in ("ldr", "ldrex", "ldrt") else 2
    if name in _REVERSE:
        return 0
    if name in _SATURATE or (name in _COMPARE and instruction.shifted):
        return 2
    row = ROWS.get(kind)
    return row.result if row is not None else 1


def _needs(instruction: Instruction) -> tuple[str, ...]:
    needs = _NEEDS.get(instruction.kind, ())
    shifts = instruction.shifted or (instruction.kind is Kind.SIMD and instruction.name in _SHIFTER)
    return (*needs, "shifter") if shifts else needs


def _busy(instruction: Instruction, values: Values) -> int:
    """Cycles that an instruction which issues alone keeps the others waiting, beyond its first."""
    if instruction.kind is Kind.DIVIDE:
        return round(values["divide"]) - 1
    if instruction.kind is Kind.SYSTEM:
        return ROWS[Kind.SYSTEM].cycles - 1
    if instruction.kind in _MULTIPLE:
        return max(0, (instruction.words + 1) // 2 - 1)
    return 1 if instruction.name in ("tbb", "tbh") else 0


def _issue(machine: _Machine, instruction: Instruction, values: Values) -> Spent:
    before = machine.end
    wanted = max(
        (
            machine.ready[register] - _slack(instruction, register, values)
            for register in instruction.reads
            if register in machine.ready
        ),
        default=0,
    )
    machine.wait(wanted)
    needs = _needs(instruction)
    while not machine.fits(instruction, needs):
        machine.next_cycle()
    machine.slots += 1
    if instruction.kind is Kind.IT:
        return Spent(machine.end - before, 0)
    for unit in needs:
        machine.used[unit] = machine.used.get(unit, 0) + 1
    started = machine.time
    busy = _busy(instruction, values)
    machine.time += busy
    if busy or instruction.kind in _ALONE:
        machine.slots = 2
    done = machine.time if instruction.kind is Kind.DIVIDE else started
    for register in instruction.writes:
        machine.ready[register] = done + _latency(instruction)
    if instruction.updated is not None:
        machine.ready[instruction.updated] = started - 1  # the address adder's result, forwarded to the next address
    spent = machine.end - before
    issue = min(spent, 1 + busy)
    return Spent(issue, spent - issue)


def pipeline(
    before: Sequence[Instruction], block: Sequence[Instruction], values: Values, *, taken: bool
) -> list[Spent]:
    """See tables.Pipeline. A predicted branch costs nothing but its slot: `taken` changes nothing here."""
    machine = _Machine()
    for instruction in before[-_HISTORY:]:
        _issue(machine, instruction, values)
    if machine.slots:
        machine.next_cycle()
    return [_issue(machine, instruction, values) for instruction in block]


CORTEX_M7 = CoreTable(
    core="cortex-m7",
    manual="Arm DDI 0489F, ARMScheduleM7.td",
    rows=ROWS,
    parameters=(
        Parameter("mispredict", 7, 4, 12, "stages that are refilled after a branch that was predicted wrongly, or "
                  "whose target is in a register"),
        Parameter("taken_branch", 0, 0, 2, "a bubble behind a taken branch whose target the BTAC knows"),
        Parameter("divide", 7, 3, 20, "an average quotient's length: SDIV and UDIV end early"),
        Parameter("float_accumulate", 3, 0, 3, "stages between the multiplier's inputs and the accumulator's in VMLA "
                  "and VFMA"),
        *MEMORY_PARAMETERS,
    ),
    pipeline=pipeline,
    predicts=True,
    peak_macs=2,  # one SMLAD per cycle
    peak_float_macs=1,  # one VMLA per cycle
)  # fmt: skip
