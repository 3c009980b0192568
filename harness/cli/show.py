"""`harness show`: one result, or the list of them."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import JsonOption, ResultsOption
from harness.cli.terminal import err, out, print_json


def command(
    id: Annotated[
        str | None, typer.Argument(help="A result's id, or the beginning of it or of its hash; lists all if left out.")
    ] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Show a result with everything it was made from, or list all results."""
    from harness.results import store

    if id is None:
        _list(results, json=json)
        return
    record = store.get(id, results)
    if json:
        typer.echo(record.to_json(), nl=False)
        return
    from rich.table import Table

    from harness.report import text

    out.print(text.result(record))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in record.fingerprint.model_dump(mode="json").items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            value = " ".join(value)
        table.add_row(key, "-" if value is None else str(value))
    out.print("\nmade from", style="bold")
    out.print(table)


def _list(results: object, *, json: bool) -> None:
    import warnings
    from pathlib import Path

    from harness.results import store

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", store.DamagedRecordWarning)
        frame = store.load(results if isinstance(results, Path) else None)
    for warning in caught:
        err.print(f"warning: {warning.message}", style="yellow", markup=False)
    columns = {
        "id": "id",
        "model": "model",
        "variant": "variant",
        "board": "board",
        "engine": "engine",
        "latency.median": "median",
        "latency.unit": "unit",
        "footprint.network": "network B",
        "accuracy.device": "accuracy",
    }
    chosen = frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None)
    if json:
        print_json(chosen.to_dict(orient="records"))
        return
    if frame.empty:
        err.print("no results yet: harness run lenet5 --board nucleo-f746")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column, title in columns.items():
        table.add_column(title, justify="right" if column.startswith(("latency.m", "foot", "acc")) else "left")
    for row in chosen.itertuples(index=False):
        table.add_row(*("-" if value is None else _cell(value) for value in row))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value > 1 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
