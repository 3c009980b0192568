"""Cortex-M0: Arm DDI 0432C, table 3-1. Three stages; every access to memory holds the pipeline for a cycle."""

from __future__ import annotations

from harness.emulators.simulator.cycles.dynamic import MEMORY_PARAMETERS
from harness.emulators.simulator.cycles.instructions import Kind
from harness.emulators.simulator.cycles.pipeline import ScalarPipeline
from harness.emulators.simulator.cycles.tables import CoreTable, Parameter, Row, table

ROWS = table(
    Row(Kind.ALU, 1, "3-1: move, add, subtract, compare, logical, shift"),
    Row(Kind.SIMD, 1, "3-1: extend, reverse"),
    Row(Kind.MULTIPLY, 1, "3-1: MULS 1 or 32, by the chip's multiplier; here the fast one"),
    Row(Kind.LOAD, 2, "3-1: LDR 2"),
    Row(Kind.STORE, 2, "3-1: STR 2"),
    Row(Kind.LOAD_MULTIPLE, 1, "3-1: LDM, POP 1 + N", per_word=1),
    Row(Kind.STORE_MULTIPLE, 1, "3-1: STM, PUSH 1 + N", per_word=1),
    Row(Kind.BRANCH, 1, "3-1: B<cond> 1 or 3; see parameter taken_branch"),
    Row(Kind.NOP, 1, "3-1: NOP 1"),
    Row(Kind.SYSTEM, 4, "3-1: MRS, MSR, barriers 4"),
)

CORTEX_M0 = CoreTable(
    core="cortex-m0",
    manual="Arm DDI 0432C",
    rows=ROWS,
    parameters=(
        Parameter("taken_branch", 2, 1, 3, "3-1: a taken branch takes 3, BL 4: cycles that refill three stages"),
        *MEMORY_PARAMETERS,
    ),
    pipeline=ScalarPipeline(ROWS, extra={"bl": 1}),
    predicts=False,
    peak_macs=0.5,  # MULS, ADDS
)
