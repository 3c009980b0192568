"""Cortex-M4 with FPU: Arm DDI 0439B, tables 3-1 (instructions) and 7-1 (floating point)."""

from __future__ import annotations

from harness.emulators.simulator.cycles.dynamic import MEMORY_PARAMETERS
from harness.emulators.simulator.cycles.instructions import Kind
from harness.emulators.simulator.cycles.pipeline import ScalarPipeline
from harness.emulators.simulator.cycles.tables import CoreTable, Parameter, Row, table

ROWS = table(
    Row(Kind.ALU, 1, "3-1: move, add, subtract, compare, logical, shift"),
    Row(Kind.SIMD, 1, "3-1: saturate, extend, pack, parallel add and subtract, bit field, count leading zeros"),
    Row(Kind.MULTIPLY, 1, "3-1: MUL, MLA, MLS, SMLAxy, SMLAD, SMMUL"),
    Row(Kind.MULTIPLY_LONG, 1, "3-1: SMULL, UMULL, SMLAL, UMAAL, SMLALD"),
    Row(Kind.DIVIDE, 7, "3-1: SDIV, UDIV 2 to 12, ending early; see parameter divide"),
    Row(Kind.LOAD, 2, "3-1: LDR 2; 3.3.2: 1 where its address phase overlaps with the one before"),
    Row(Kind.STORE, 1, "3-1: STR 2, of which the store buffer hides one (3.3.2)"),
    Row(Kind.LOAD_MULTIPLE, 1, "3-1: LDM, POP, LDRD 1 + N", per_word=1),
    Row(Kind.STORE_MULTIPLE, 1, "3-1: STM, PUSH, STRD 1 + N", per_word=1),
    Row(Kind.BRANCH, 1, "3-1: B, BL, BX, CBZ, TBB 1 + P; see parameter taken_branch"),
    Row(Kind.IT, 1, "3-1: IT 1; 3.3.1: folded behind a 16-bit instruction"),
    Row(Kind.NOP, 1, "3-1: NOP 1"),
    Row(Kind.SYSTEM, 2, "3-1: MRS, MSR 1 or 2; barriers 1 + B"),
    Row(Kind.FLOAT_LOAD, 2, "7-1: VLDR.32 2"),
    Row(Kind.FLOAT_STORE, 1, "7-1: VSTR.32 2, of which the store buffer hides one"),
    Row(Kind.FLOAT_LOAD_MULTIPLE, 1, "7-1: VLDM, VPOP 1 + N; VLDR.64 3", per_word=1),
    Row(Kind.FLOAT_STORE_MULTIPLE, 1, "7-1: VSTM, VPUSH 1 + N; VSTR.64 3", per_word=1),
    Row(Kind.FLOAT_MOVE, 1, "7-1: VMOV 1"),
    Row(Kind.FLOAT_ALU, 1, "7-1: VADD, VSUB, VMUL, VCMP, VCVT 1; 7.2.3: +1 when the next one uses the result"),
    Row(Kind.FLOAT_MAC, 3, "7-1: VMLA, VFMA 3"),
    Row(Kind.FLOAT_DIVIDE, 14, "7-1: VDIV, VSQRT 14"),
)

CORTEX_M4 = CoreTable(
    core="cortex-m4",
    manual="Arm DDI 0439B",
    rows=ROWS,
    parameters=(
        Parameter("taken_branch", 2, 1, 3, "P of table 3-1: cycles that refill the pipeline after a taken branch"),
        Parameter("divide", 7, 2, 12, "an average quotient's length: SDIV and UDIV end early"),
        Parameter("address_stall", 0, 0, 1, "an ALU result that the next instruction uses as an address misses the "
                  "address adder's stage"),
        Parameter("wide_fetch", 0, 0, 4, "how many 32-bit instructions at odd halfwords drain the prefetch unit, which "
                  "reads aligned words; 0: never", fitted=False),
        *MEMORY_PARAMETERS,
    ),
    pipeline=ScalarPipeline(ROWS, pipelined=frozenset({Kind.LOAD, Kind.FLOAT_LOAD}), folds_it=True),
    predicts=False,
    peak_macs=2,  # SMLAD: table 3-1
    peak_float_macs=1 / 3,  # VMLA: table 7-1
)  # fmt: skip
