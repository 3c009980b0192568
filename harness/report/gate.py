"""What a gate found, written for people and for machines: Markdown for a pull request, JUnit XML for CI, JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from harness.report import tables, words
from harness.report.tables import Cell, Column, Table
from harness.results.baseline import Change
from harness.results.gate import Finding, counts
from harness.results.statistics import Shift

# A comment of a pull request holds 65,536 characters.
_MOST_ROWS = 40

_WORDS = {"equal": "no figure moved", "moved": "moved", "incomparable": "cannot be compared", "failed": "failed"}


def value(figure: object) -> str:
    """A figure as it is written in a table."""
    if figure is None:
        return "-"
    return f"{figure:,}" if isinstance(figure, int) and not isinstance(figure, bool) else str(figure)


def moved(changes: Sequence[Change]) -> Table:
    """The changes as a table."""
    columns = (Column("figure"), Column("baseline", True), Column("now", True), Column("change", True))
    return Table(
        columns,
        tuple(
            (
                Cell(change.field),
                Cell(value(change.before)),
                Cell(value(change.after)),
                Cell(_share(change.before, change.after)),
            )
            for change in changes
        ),
    )


def _share(before: object, after: object) -> str:
    numbers = [item for item in (before, after) if isinstance(item, int | float) and not isinstance(item, bool)]
    return words.change(*numbers) if len(numbers) == 2 else ""


def shift(found: Shift, unit: str) -> str:
    """A shift of times in a sentence."""
    return (
        f"median {found.before:,.0f} -> {found.after:,.0f} {unit}: {found.ratio - 1:+.2%} "
        f"(99 % interval {found.low - 1:+.2%} to {found.high - 1:+.2%}; "
        f"believed beyond {found.threshold:.2%}): {found.verdict}"
    )


def reasons(finding: Finding) -> list[str]:
    """What is to be said about a finding besides its table, one sentence each."""
    lines = [finding.error] if finding.error else []
    lines += [f"cannot be compared: {difference}" for difference in finding.refused]
    lines += [f"compared although not the same: {difference}" for difference in finding.allowed]
    if finding.verdict == "moved" or finding.tolerated:
        lines += [f"because: {cause.field}: {value(cause.before)} -> {value(cause.after)}" for cause in finding.causes]
    if finding.tolerated:
        lines.append(f"within its tolerance: {', '.join(change.field for change in finding.tolerated)}")
    if finding.times is not None:
        lines.append(shift(finding.times, finding.unit))
    return lines


def headline(findings: Sequence[Finding]) -> str:
    """All findings in a few words: 3 equal, 1 moved."""
    return ", ".join(f"{number} {_WORDS[verdict]}" for verdict, number in counts(findings).items() if number)


def markdown(findings: Sequence[Finding], *, baseline: str, commit: str | None) -> str:
    """A comment for a pull request: the verdict first, what moved in tables, what did not in one line each."""
    good = all(finding.verdict == "equal" for finding in findings)
    against = f"`{baseline}`" + (f" of commit {commit[:12]}" if commit else "")
    parts = [f"### harness regress: {'passed' if good else 'FAILED'}\n", f"{headline(findings)}, against {against}\n"]
    for finding in findings:
        title = tables.escape(finding.title)
        notes = [f"- {tables.escape(line)}" for line in reasons(finding)]
        if finding.verdict == "equal" and not notes:
            parts.append(f"- equal: {title}\n")
            continue
        parts.append(f"\n#### {_WORDS[finding.verdict]}: {title}\n")
        if finding.moved:
            parts.append("\n" + tables.markdown(moved(finding.moved[:_MOST_ROWS])))
            if len(finding.moved) > _MOST_ROWS:
                parts.append(f"\nand {len(finding.moved) - _MOST_ROWS} more\n")
        parts.append("\n" + "\n".join(notes) + "\n" if notes else "")
    return "\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def junit(findings: Sequence[Finding], *, baseline: str) -> str:
    """JUnit XML: a test case for each spec; moved is a failure, incomparable and failed are errors."""
    told = counts(findings)
    suite = ElementTree.Element(
        "testsuite",
        name=f"harness regress {baseline}",
        tests=str(len(findings)),
        failures=str(told["moved"]),
        errors=str(told["incomparable"] + told["failed"]),
        time=f"{sum(finding.seconds for finding in findings):.3f}",
    )
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname="harness.regress", name=finding.title, time=f"{finding.seconds:.3f}"
        )
        if finding.verdict == "equal":
            continue
        kind = "failure" if finding.verdict == "moved" else "error"
        body = [f"{change.field}: {value(change.before)} -> {value(change.after)}" for change in finding.moved]
        detail = ElementTree.SubElement(case, kind, message=_message(finding), type=finding.verdict)
        detail.text = "\n".join([*body, *reasons(finding)])
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _message(finding: Finding) -> str:
    if finding.verdict == "moved":
        return f"{len(finding.moved)} figures moved" if finding.moved else "slower"
    return (finding.error or "; ".join(map(str, finding.refused)))[:200]


def plain(finding: Finding) -> dict[str, Any]:
    """A finding as JSON's own types."""
    document = dataclasses.asdict(finding)
    if finding.times is not None:
        document["times"]["verdict"] = finding.times.verdict
    return {"spec": document.pop("title"), "verdict": finding.verdict, **document}
