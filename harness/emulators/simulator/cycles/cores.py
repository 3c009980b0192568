"""The cores that have a table, by the name that manifests use."""

from __future__ import annotations

from harness.emulators.simulator.cycles.cortex_m0 import CORTEX_M0
from harness.emulators.simulator.cycles.cortex_m0plus import CORTEX_M0PLUS
from harness.emulators.simulator.cycles.cortex_m3 import CORTEX_M3
from harness.emulators.simulator.cycles.cortex_m4 import CORTEX_M4
from harness.emulators.simulator.cycles.cortex_m7 import CORTEX_M7
from harness.emulators.simulator.cycles.cortex_m33 import CORTEX_M33
from harness.emulators.simulator.cycles.tables import CoreTable
from harness.errors import InputError

TABLES = {table.core: table for table in (CORTEX_M0, CORTEX_M0PLUS, CORTEX_M3, CORTEX_M4, CORTEX_M7, CORTEX_M33)}


def table(core: str) -> CoreTable:
    """InputError for a core that has none."""
    if core not in TABLES:
        raise InputError(f"there is no cycle model of a {core}", hint=f"there are {', '.join(TABLES)}")
    return TABLES[core]
