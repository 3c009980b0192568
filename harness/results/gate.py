"""What a gate found: one Finding for each spec of a baseline, and what all of them say together. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.results import baseline
from harness.results.baseline import Change, Expected, Times
from harness.results.comparability import ALLOWANCES, Difference, differences
from harness.results.record import Result
from harness.results.statistics import Shift, shift

Verdict = Literal["equal", "moved", "incomparable", "failed"]


@dataclass(frozen=True)
class Finding:
    """One spec, run again.

    moved: figures that are not the baseline's. tolerated: those that a tolerance covers. causes: what explains them.
    refused: what forbids the comparison; nothing was compared then. allowed: what would, and was let pass.
    times: how the times of a clock that varies moved, where the baseline has any. error: why there is no record.
    """

    title: str
    seconds: float
    moved: tuple[Change, ...] = ()
    tolerated: tuple[Change, ...] = ()
    causes: tuple[Change, ...] = ()
    refused: tuple[Difference, ...] = ()
    allowed: tuple[Difference, ...] = ()
    times: Shift | None = None
    unit: str = ""
    error: str | None = None

    @property
    def verdict(self) -> Verdict:
        if self.error is not None:
            return "failed"
        if self.refused:
            return "incomparable"
        return "moved" if self.moved or (self.times is not None and self.times.verdict == "slower") else "equal"


def judge(
    title: str,
    expected: Expected,
    record: Result,
    *,
    seconds: float,
    tolerances: Mapping[str, float],
    allow: Iterable[str] = (),
    times: tuple[Times, Times] | None = None,
) -> Finding:
    """Compares a record with what the baseline expects.

    times: the baseline's and this run's, of a clock that varies. allow: words of --allow.
    """
    fields = {field for word in allow for field in ALLOWANCES[word]}
    now: dict[str, Any] = baseline.stable(record)
    before: dict[str, Any] = dict(expected)
    if times is not None:
        before["machine"], now["machine"] = times[0].machine, times[1].machine
    found = differences(before, now)
    refused = tuple(difference for difference in found if difference.field not in fields)
    allowed = tuple(difference for difference in found if difference.field in fields)
    if refused:
        return Finding(title, seconds, refused=refused, allowed=allowed)
    passed = {difference.field for difference in allowed}
    changes = [change for change in baseline.compare(expected, record) if change.field not in passed]
    return Finding(
        title,
        seconds,
        moved=tuple(change for change in changes if not baseline.within(change, tolerances)),
        tolerated=tuple(change for change in changes if baseline.within(change, tolerances)),
        causes=baseline.causes(expected, record),
        allowed=allowed,
        times=shift(times[0].rounds, times[1].rounds) if times is not None else None,
        unit=record.latency.unit,
    )


def counts(findings: Sequence[Finding]) -> dict[Verdict, int]:
    """How many findings say what."""
    told: dict[Verdict, int] = {"equal": 0, "moved": 0, "incomparable": 0, "failed": 0}
    for finding in findings:
        told[finding.verdict] += 1
    return told
