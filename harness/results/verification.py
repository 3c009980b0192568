"""Whether a run that was done again is the run that was recorded: from its inputs to its figures, in that order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.results import baseline
from harness.results.record import Result

# What a figure follows from, from the first cause on; the title is for people.
_STEPS = (
    ("weights", "fingerprint.weights_sha256"),
    ("data", "fingerprint.dataset_sha256"),
    ("board manifest", "fingerprint.board_manifest_sha256"),
    ("generated sources", "fingerprint.sources_sha256"),
    ("compiler", "fingerprint.compiler"),
    ("optimisation", "fingerprint.optimize"),
    ("firmware", "fingerprint.elf_sha256"),
    ("emulator", "fingerprint.emulator_version"),
)


@dataclass(frozen=True)
class Step:
    """One thing that was compared. field: dotted. before, after: equal where `same`; None where there is no such."""

    title: str
    field: str
    before: Any
    after: Any

    @property
    def same(self) -> bool:
        return bool(self.before == self.after)


def steps(recorded: Result, again: Result) -> Iterator[Step]:
    """Every cause that the recorded run has, then each figure that moved, or one step that none did.

    Times of silicon and host clocks are not compared: they are never the same twice.
    """
    before, after = recorded.plain(), again.plain()
    for title, field in _STEPS:
        name = field.partition(".")[2]
        if before["fingerprint"][name] is not None:
            yield Step(title, field, before["fingerprint"][name], after["fingerprint"][name])
    changes = baseline.compare(baseline.stable(recorded), again)
    for change in changes:
        yield Step("figure", change.field, change.before, change.after)
    if not changes:
        figures = "figures and checksums"
        yield Step(figures, "*", len(recorded.layers), len(again.layers))
