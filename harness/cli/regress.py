"""`harness regress`: runs a baseline's specs again and demands that no deterministic figure moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import JsonOption, QuietOption
from harness.cli.terminal import out, print_json, reporter
from harness.errors import GateError, InputError, unknown_name

if TYPE_CHECKING:
    from harness.pipeline import RunSpec
    from harness.results.baseline import Change


def command(
    baseline: Annotated[Path, typer.Option("--baseline", help="The baseline file.")],
    update: Annotated[
        bool, typer.Option("--update", help="Write the figures of this run as the new baseline, and print what moved.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a baseline's specs again; exit 1 with a table when instructions, bytes, checksums or classes moved."""
    from harness.pipeline import run
    from harness.results.baseline import causes, compare, read_baseline, write_baseline

    known = read_baseline(baseline)
    if not known.expected and not update:
        raise InputError(f"baseline {baseline} expects nothing yet", hint="record it with --update")
    specs = [_spec(spec) for spec in known.specs]
    tell = reporter(quiet=quiet or json)
    records = []
    reports: list[dict[str, Any]] = []
    moved_in_total = 0
    for index, spec in enumerate(specs):
        title = f"{spec.model} {spec.variant} on {spec.board} ({spec.engine})"
        tell.say(f"[{index + 1}/{len(specs)}] {title}")
        outcome = run(spec, tell)
        if outcome.verdict is not None:
            raise outcome.verdict
        records.append(outcome.result)
        if not known.expected:
            continue
        moved = compare(known.expected[index], outcome.result)
        explained = causes(known.expected[index], outcome.result)
        moved_in_total += len(moved)
        reports.append(
            {
                "spec": title,
                "moved": [dataclasses.asdict(change) for change in moved],
                "causes": [dataclasses.asdict(change) for change in explained],
            }
        )
        if not json:
            _print(title, moved, explained)
    if json:
        print_json({"baseline": str(baseline), "moved": moved_in_total, "specs": reports, "updated": update})
    if update:
        write_baseline(baseline, known.specs, records)
        tell.say(f"{baseline} holds the figures of this run")
    elif moved_in_total:
        raise GateError(
            f"{moved_in_total} figures moved against {baseline}",
            hint="if that is meant, record it: harness regress --baseline FILE --update",
        )
    elif not json:
        out.print(f"{len(specs)} specs, no figure moved", style="green")


def _spec(options: Mapping[str, Any]) -> RunSpec:
    """A baseline's spec as a RunSpec. InputError names an option that does not exist or has the wrong type."""
    from harness.pipeline import RunSpec

    types = {field.name: field.type for field in dataclasses.fields(RunSpec)}
    allowed = {name: int if str(type_) == "int" else str for name, type_ in types.items()}
    for name, value in options.items():
        if name not in allowed:
            raise unknown_name("spec option", name, allowed)
        if not isinstance(value, allowed[name]) or isinstance(value, bool):
            raise InputError(f"spec option {name} is {value!r}, which is not of type {allowed[name].__name__}")
    for name in ("model", "board"):
        if name not in options:
            raise InputError(f"a spec of the baseline lacks its {name}")
    paths = {name: Path(str(options[name])) for name in ("weights", "data") if name in options}
    return RunSpec(**{**options, **paths})


def _print(title: str, moved: tuple[Change, ...], explained: tuple[Change, ...]) -> None:
    if not moved:
        out.print(f"[green]equal[/]  {title}")
        return
    from rich.table import Table

    table = Table(title=f"moved: {title}", title_justify="left", box=None, header_style="bold")
    for column in ("figure", "baseline", "now", "change"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for change in moved:
        table.add_row(change.field, _text(change.before), _text(change.after), _difference(change))
    out.print(table)
    for cause in explained:
        out.print(f"  because: {cause.field}: {_text(cause.before)} -> {_text(cause.after)}", markup=False)


def _text(value: object) -> str:
    return (
        "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )


def _difference(change: Change) -> str:
    before, after = change.before, change.after
    if isinstance(before, int | float) and isinstance(after, int | float) and before and not isinstance(before, bool):
        return f"{(after - before) / before:+.2%}"
    return ""
