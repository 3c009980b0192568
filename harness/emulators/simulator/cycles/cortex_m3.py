"""Cortex-M3: Arm DDI 0337H, table 18-1. Like a Cortex-M4 without the DSP extension; multiplies take longer."""

from __future__ import annotations

from harness.emulators.simulator.cycles.dynamic import MEMORY_PARAMETERS
from harness.emulators.simulator.cycles.instructions import Kind
from harness.emulators.simulator.cycles.pipeline import ScalarPipeline
from harness.emulators.simulator.cycles.tables import CoreTable, Parameter, Row, table

ROWS = table(
    Row(Kind.ALU, 1, "18-1: move, add, subtract, compare, logical, shift"),
    Row(Kind.SIMD, 1, "18-1: saturate, extend, bit field, reverse, count leading zeros"),
    Row(Kind.MULTIPLY, 1, "18-1: MUL 1; MLA, MLS 2"),
    Row(Kind.MULTIPLY_LONG, 4, "18-1: SMULL, UMULL 3 to 5; SMLAL, UMLAL 4 to 7"),
    Row(Kind.DIVIDE, 7, "18-1: SDIV, UDIV 2 to 12, ending early; see parameter divide"),
    Row(Kind.LOAD, 2, "18-1: LDR 2; 18.3: 1 where its address phase overlaps with the one before"),
    Row(Kind.STORE, 1, "18-1: STR 2, of which the store buffer hides one (18.3)"),
    Row(Kind.LOAD_MULTIPLE, 1, "18-1: LDM, POP, LDRD 1 + N", per_word=1),
    Row(Kind.STORE_MULTIPLE, 1, "18-1: STM, PUSH, STRD 1 + N", per_word=1),
    Row(Kind.BRANCH, 1, "18-1: B, BL, BX, CBZ, TBB 1 + P; see parameter taken_branch"),
    Row(Kind.IT, 1, "18-1: IT 1; 18.2: folded behind a 16-bit instruction"),
    Row(Kind.NOP, 1, "18-1: NOP 1"),
    Row(Kind.SYSTEM, 2, "18-1: MRS, MSR 1 or 2; barriers 1 + B"),
)

CORTEX_M3 = CoreTable(
    core="cortex-m3",
    manual="Arm DDI 0337H",
    rows=ROWS,
    parameters=(
        Parameter("taken_branch", 2, 1, 3, "P of table 18-1: cycles that refill the pipeline after a taken branch"),
        Parameter("divide", 7, 2, 12, "an average quotient's length: SDIV and UDIV end early"),
        Parameter("address_stall", 0, 0, 1, "see Cortex-M4"),
        Parameter("wide_fetch", 0, 0, 4, "see Cortex-M4", fitted=False),
        *MEMORY_PARAMETERS,
    ),
    pipeline=ScalarPipeline(
        ROWS, pipelined=frozenset({Kind.LOAD}), folds_it=True, extra={"mla": 1, "mls": 1, "smlal": 2, "umlal": 2}
    ),
    predicts=False,
    peak_macs=0.5,  # MLA 2: table 18-1
)
