"""Cortex-M33 with DSP and FPU: Arm 100230 (technical reference manual), which gives no timing table.

Rows follow Arm's statement that a simple instruction takes one cycle, and Cortex-M4's tables elsewhere (DDI 0439B,
3-1 and 7-1); two adjacent 16-bit instructions that may issue together (100230, section 2.1) are not modelled.
"""

from __future__ import annotations

from harness.emulators.simulator.cycles.dynamic import MEMORY_PARAMETERS
from harness.emulators.simulator.cycles.instructions import Kind
from harness.emulators.simulator.cycles.pipeline import ScalarPipeline
from harness.emulators.simulator.cycles.tables import CoreTable, Parameter, Row, table

ROWS = table(
    Row(Kind.ALU, 1, "100230 2.1: one cycle"),
    Row(Kind.SIMD, 1, "DDI 0439B 3-1, as on Cortex-M4"),
    Row(Kind.MULTIPLY, 1, "DDI 0439B 3-1, as on Cortex-M4"),
    Row(Kind.MULTIPLY_LONG, 1, "DDI 0439B 3-1, as on Cortex-M4"),
    Row(Kind.DIVIDE, 7, "DDI 0439B 3-1: 2 to 12; see parameter divide"),
    Row(Kind.LOAD, 2, "DDI 0439B 3-1: LDR 2, 1 behind another load"),
    Row(Kind.STORE, 1, "DDI 0439B 3-1, as on Cortex-M4"),
    Row(Kind.LOAD_MULTIPLE, 1, "DDI 0439B 3-1: 1 + N", per_word=1),
    Row(Kind.STORE_MULTIPLE, 1, "DDI 0439B 3-1: 1 + N", per_word=1),
    Row(Kind.BRANCH, 1, "DDI 0439B 3-1: 1 + P; see parameter taken_branch"),
    Row(Kind.IT, 1, "DDI 0439B 3-1: folded behind a 16-bit instruction"),
    Row(Kind.NOP, 1, "DDI 0439B 3-1"),
    Row(Kind.SYSTEM, 2, "DDI 0439B 3-1"),
    Row(Kind.FLOAT_LOAD, 2, "DDI 0439B 7-1"),
    Row(Kind.FLOAT_STORE, 1, "DDI 0439B 7-1"),
    Row(Kind.FLOAT_LOAD_MULTIPLE, 1, "DDI 0439B 7-1: 1 + N", per_word=1),
    Row(Kind.FLOAT_STORE_MULTIPLE, 1, "DDI 0439B 7-1: 1 + N", per_word=1),
    Row(Kind.FLOAT_MOVE, 1, "DDI 0439B 7-1"),
    Row(Kind.FLOAT_ALU, 1, "DDI 0439B 7-1"),
    Row(Kind.FLOAT_MAC, 3, "DDI 0439B 7-1"),
    Row(Kind.FLOAT_DIVIDE, 14, "DDI 0439B 7-1"),
)

CORTEX_M33 = CoreTable(
    core="cortex-m33",
    manual="Arm 100230, DDI 0439B",
    rows=ROWS,
    parameters=(
        Parameter("taken_branch", 2, 1, 3, "cycles that refill the pipeline after a taken branch"),
        Parameter("divide", 7, 2, 12, "an average quotient's length: SDIV and UDIV end early"),
        Parameter("address_stall", 0, 0, 1, "see Cortex-M4"),
        Parameter("wide_fetch", 0, 0, 4, "see Cortex-M4", fitted=False),
        *MEMORY_PARAMETERS,
    ),
    pipeline=ScalarPipeline(ROWS, pipelined=frozenset({Kind.LOAD, Kind.FLOAT_LOAD}), folds_it=True),
    predicts=False,
    peak_macs=2,  # SMLAD
    peak_float_macs=1 / 3,  # VMLA
)
