"""Where the latencies of a project changed: the change points of each configuration's series of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from harness.report import frames, words
from harness.report.tables import Cell, Column, Table
from harness.results.statistics import change_points

_EXACT_CLOCKS = ("instructions", "modelled")


@dataclass(frozen=True)
class ChangePoint:
    """From `last` on, the result before, to `first` the latency has another level; before, after: medians of both.

    *_commit: what the two results were made from, None outside a repository. time: of `first`, UTC.
    """

    configuration: str
    unit: str
    before: float
    after: float
    last: str
    first: str
    last_commit: str | None
    first_commit: str | None
    time: str


def changes(frame: pandas.DataFrame) -> list[ChangePoint]:
    """The change points of all series, newest first. A series holds one configuration, clock, compiler and data."""
    found = []
    for values, rows in frames.groups(frame, [*frames.CONFIGURATION, *frames.TERMS, "fingerprint.dataset_sha256"]):
        rows = rows.sort_values("time", kind="stable").reset_index(drop=True)
        latencies = rows["latency.median"].astype(float)
        points = change_points(latencies.tolist(), exact=values["latency.clock"] in _EXACT_CLOCKS)
        edges = [0, *points, len(rows)]
        for number, point in enumerate(points, start=1):
            commits = rows["fingerprint.git_commit"].astype(object).where(rows["fingerprint.git_commit"].notna(), None)
            found.append(
                ChangePoint(
                    configuration=f"{values['model']} {values['variant']} {values['kernels']} on {values['board']} "
                    f"({values['engine']})",
                    unit=values["latency.unit"],
                    before=float(latencies[edges[number - 1] : point].median()),
                    after=float(latencies[point : edges[number + 1]].median()),
                    last=rows["id"][point - 1],
                    first=rows["id"][point],
                    last_commit=commits[point - 1],
                    first_commit=commits[point],
                    time=f"{rows['time'][point]:%Y-%m-%d %H:%M}",
                )
            )
    return sorted(found, key=lambda change: (change.time, change.configuration), reverse=True)


def table(found: Sequence[ChangePoint]) -> Table:
    """The change points as a table."""
    titles = ("configuration", "since (UTC)", "before", "after", "change", "unit", "between commits")
    columns = tuple(Column(title, number=title in ("before", "after", "change")) for title in titles)
    return Table(
        columns,
        tuple(
            (
                Cell(change.configuration),
                Cell(change.time),
                Cell(words.count(change.before), change.before),
                Cell(words.count(change.after), change.after),
                Cell(
                    words.change(change.before, change.after),
                    change.after - change.before,
                    "bad" if change.after > change.before else "good",
                ),
                Cell(change.unit),
                Cell(f"{_short(change.last_commit)}..{_short(change.first_commit)}"),
            )
            for change in found
        ),
    )


def _short(commit: str | None) -> str:
    return commit[:9] if commit else "?"
