"""Cycles of a Cortex-M without the silicon: what each basic block costs, and what its memories add. No emulation here.

    model = CycleModel.of(board)          # the core's tables, its fitted parameters, the board's memories
    counter = make_counter(uc, model, …)  # attached to a Unicorn engine: counts instructions and cycles

instructions.py decodes; one file per core holds its instruction table; pipeline.py and cortex_m7.py say how a block
flows through; dynamic.py holds what depends on the past: branch prediction, flash, caches. docs/cycle-model.md tells
what the figures are worth.
"""
