"""`harness regress`: runs a baseline's specs again and demands that no figure moved; or looks where it did."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import AllowOption, JsonOption, QuietOption, ResultsOption
from harness.cli.terminal import err, out, print_json, reporter
from harness.errors import GateError, HarnessError, InputError

if TYPE_CHECKING:
    from harness.pipeline import RunSpec
    from harness.progress import Reporter
    from harness.results.baseline import Times
    from harness.results.gate import Finding
    from harness.results.record import Result


def command(
    baseline: Annotated[Path | None, typer.Option("--baseline", help="The baseline file.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the figures of this run as the new baseline, and print what moved.")
    ] = False,
    allow: AllowOption = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance", help="How far a figure may move: 'layers.*.ticks=1%'; may be repeated. Default: not at all."
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", min=0, help="With --update: also keep the times of clocks that vary, of so many rounds."
        ),
    ] = 0,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write what moved as Markdown, for a pull request; - for stdout.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML, for CI.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Run nothing: find where latencies of the results so far changed.")
    ] = False,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a baseline's specs again; exit 1 with a table when instructions, bytes, checksums, classes or times moved.

    Exit code 2 when something cannot be compared: another clock, compiler, flags, board, machine or data.
    """
    if history:
        _history(results, json=json)
        return
    if baseline is None:
        raise InputError("--baseline is missing", hint="harness regress --baseline results/baselines/ci.json")
    from harness.report import gate as report
    from harness.results.baseline import read_baseline, write_baseline
    from harness.results.comparability import ALLOWANCES, check_allowances
    from harness.results.gate import Finding, judge

    known = read_baseline(baseline)
    if not known.expected and not update:
        raise InputError(f"baseline {baseline} expects nothing yet", hint="record it with --update")
    words = check_allowances(allow or ())
    tolerances = {**known.tolerances, **dict(_tolerance(text) for text in tolerance or ())}
    specs = [_spec(spec) for spec in known.specs]
    tell = reporter(quiet=quiet or json)
    commit = _commit_of(baseline)
    findings: list[Finding] = []
    errors: list[HarnessError] = []
    records: list[Result] = []
    times: list[Times | None] = []
    for index, spec in enumerate(specs):
        title = f"{spec.model} {spec.variant} on {spec.board} ({spec.engine})"
        tell.say(f"[{index + 1}/{len(specs)}] {title}")
        before = known.times[index] if known.times else None
        started = time.monotonic()
        try:
            record, taken = _run(spec, rounds if update else len(before.rounds) if before else 0, tell)
        except HarnessError as error:
            if update:
                raise  # what fails, or is wrong, must not become a baseline
            errors.append(error)
            findings.append(Finding(title, time.monotonic() - started, error=error.message))
        else:
            records.append(record)
            times.append(taken)
            if not known.expected:
                continue
            findings.append(
                judge(
                    title,
                    known.expected[index],
                    record,
                    seconds=time.monotonic() - started,
                    tolerances=tolerances,
                    # An update shows the difference, whatever it is.
                    allow=ALLOWANCES if update else words,
                    times=(before, taken) if before and taken else None,
                )
            )
        if not json and str(markdown) != "-":
            _print(findings[-1])
    _write(markdown, report.markdown(findings, baseline=baseline.name, commit=commit))
    _write(junit, report.junit(findings, baseline=baseline.name))
    if json:
        print_json(
            {
                "baseline": str(baseline),
                "commit": commit,
                "moved": sum(len(finding.moved) for finding in findings),
                "specs": [report.plain(finding) for finding in findings],
                "updated": update,
            }
        )
    if update:
        write_baseline(baseline, known.specs, records, tolerances=tolerances, times=times)
        tell.say(f"{baseline} holds the figures of this run")
        return
    _verdict(findings, errors, baseline, commit)
    if not json and str(markdown) != "-":
        out.print(f"{len(specs)} specs, no figure moved", style="green")


def _run(spec: RunSpec, rounds: int, tell: Reporter) -> tuple[Result, Times | None]:
    """The record of a run, and the times of `rounds` of them where the clock varies."""
    from harness.pipeline import run
    from harness.results.baseline import Times

    outcome = run(spec, tell)
    if outcome.verdict is not None:
        raise outcome.verdict
    record = outcome.result
    if not rounds or record.latency.times is None:
        return record, None
    taken = [record.latency.times]
    for number in range(1, rounds):
        with tell.stage(f"round {number + 1} of {rounds}"):
            taken.append(run(spec).result.latency.times or ())
    machine = _machine() if record.latency.clock == "host" else None
    return record, Times(machine, tuple(taken))


def _machine() -> str:
    """Whose nanoseconds these are: the processor's name, and how many of them."""
    import os

    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def _verdict(findings: list[Finding], errors: list[HarnessError], baseline: Path, commit: str | None) -> None:
    """Raises what the exit code is to say: a figure that moved before a comparison that was refused."""
    against = f"{baseline}" + (f" of commit {commit[:12]}" if commit else "")
    moved = sum(len(finding.moved) for finding in findings)
    slower = sum(finding.times is not None and finding.times.verdict == "slower" for finding in findings)
    if errors:
        failed = [finding.title for finding in findings if finding.error is not None]
        raise type(errors[0])(
            f"{len(failed)} of {len(findings)} specs failed, the first: {failed[0]}: {errors[0].message}",
            hint=errors[0].hint,
        )
    if moved or slower:
        parts = ([f"{moved} figures moved"] if moved else []) + ([f"{slower} specs became slower"] if slower else [])
        raise GateError(
            f"{' and '.join(parts)} against {against}",
            hint="if that is meant, record it: harness regress --baseline FILE --update",
        )
    refused = [finding for finding in findings if finding.verdict == "incomparable"]
    if refused:
        from harness.results.comparability import require

        require(refused[0].refused, (), what=f"{refused[0].title} and {against}")


def _spec(options: Mapping[str, Any]) -> RunSpec:
    from harness.sweep.specs import from_options

    return from_options(options, where="a spec of the baseline")


def _tolerance(text: str) -> tuple[str, float]:
    """FIGURE=1% or FIGURE=0.01."""
    name, _, share = text.rpartition("=")
    try:
        value = float(share.rstrip("% ")) / (100 if share.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise InputError(f"--tolerance {text} is not of the form FIGURE=1%", hint="--tolerance 'layers.*.ticks=1%'")
    return name, value


def _commit_of(file: Path) -> str | None:
    """The commit that the baseline is from: the last one that changed the file; None outside a repository."""
    command = ["git", "-C", str(file.absolute().parent), "log", "-1", "--format=%H", "--", file.name]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _write(path: Path | None, content: str) -> None:
    from harness.files import write_whole

    if path is not None and str(path) == "-":
        typer.echo(content, nl=False)
    elif path is not None:
        write_whole(path, content)


def _print(finding: Finding) -> None:
    from harness.report import gate as report
    from harness.report import text

    style, word = {
        "equal": ("green", "equal"),
        "moved": ("bold red", "moved"),
        "incomparable": ("yellow", "refused"),
        "failed": ("bold red", "failed"),
    }[finding.verdict]
    out.print(f"[{style}]{word}[/]  ", end="")
    out.print(finding.title, markup=False)
    if finding.moved:
        out.print(text.table(report.moved(finding.moved)))
    for line in report.reasons(finding):
        out.print(f"  {line}", markup=False)


def _history(results: Path | None, *, json: bool) -> None:
    """Where the latency of each configuration changed, between which results and commits."""
    import warnings

    from harness.report import history, text
    from harness.results import store

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", store.DamagedRecordWarning)
        frame = store.load(results)
    for warning in caught:
        err.print(f"warning: {warning.message}", style="yellow", markup=False)
    found = history.changes(frame)
    if json:
        print_json([dataclasses.asdict(change) for change in found])
    elif not found:
        out.print(f"no latency changed in {len(frame):,} results")
    else:
        out.print(text.table(history.table(found)))
