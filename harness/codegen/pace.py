"""What the instructions of a storage form cost on the board at hand: its cycles, for choosing between forms.

An estimate from an estimate: cycles per instruction of each family of forms were measured on the cycle model, for each
kind of operator (benchmarks/form_rates.py, pace.json); what instruction fetches add follows from the board's caches.
Straight-line code that does not fit the instruction cache is fetched again and again, which a slow flash makes dear.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.ops.lowering import Cost

if TYPE_CHECKING:
    from harness.boards import Board

# Bytes of an instruction of generated straight-line code, most of which have 32 bits.
_CODE_BYTES = 3.6


@dataclass(frozen=True)
class Pace:
    """rates: cycles per instruction without waiting for memory, by kind of operator and family of forms.

    What nobody measured gets the median of its kind's families, or of all rates where the kind has none (see rate()).
    cache_bytes: of the cache that instructions pass; line_bytes, line_cycles: of one of its lines, and what a missing
    one costs; 0 where instructions never wait.
    """

    rates: Mapping[str, Mapping[str, float]]
    cache_bytes: int
    line_bytes: int
    line_cycles: int

    @staticmethod
    def of(board: Board) -> Pace | None:
        """None where instructions are all that is known of the board: no timing in its manifest, or no rates."""
        rates = _measured().get(board.core)
        if board.timing is None or not rates:
            return None
        from harness.emulators.simulator.cycles.model import CycleModel

        fetch = CycleModel.of(board).memory.fetch
        if fetch is None:
            return Pace(rates, 0, 1, 0)
        geometry = fetch.geometry
        line_bytes = 1 << geometry.line_shift
        missing = max(place.miss for place in fetch.places)
        return Pace(rates, line_bytes * geometry.sets * geometry.ways, line_bytes, missing)

    def rate(self, kind: str, form: str) -> float:
        """Cycles per instruction of a form of an operator's kind."""
        known = self.rates.get(kind, {})
        if family(form) in known:
            return known[family(form)]
        return statistics.median(
            known.values() if known else [rate for one in self.rates.values() for rate in one.values()]
        )

    def cycles(self, kind: str, form: str, cost: Cost) -> int:
        """What `cost.instructions` of a form become."""
        cycles = cost.instructions * self.rate(kind, form)
        # Constants and code pass the cache once in each inference: a network is larger than that.
        cycles += cost.flash / self.line_bytes * self.line_cycles
        if "code" in form and cost.flash + cost.code > self.cache_bytes:
            cycles += cost.instructions * _CODE_BYTES / self.line_bytes * self.line_cycles
        return round(cycles)


def family(form: str) -> str:
    """A form's name without its numbers, bytes of bytes-5.3, and without the pool behind it, tile of tile-pool."""
    return re.sub(r"-[0-9.]+|-pool", "", form)


@cache
def _measured() -> dict[str, dict[str, dict[str, float]]]:
    """By core, kind of operator and family."""
    plain = json.loads(Path(__file__).with_name("pace.json").read_text(encoding="utf-8"))
    rates: dict[str, dict[str, dict[str, float]]] = plain["cycles_per_instruction"]
    return rates
