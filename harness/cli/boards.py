"""`harness boards`: which boards there are and how each can be run."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import JsonOption
from harness.cli.terminal import out, print_json


def command(
    json: JsonOption = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of board manifests and stop.")
    ] = False,
) -> None:
    """List the boards: core, clock, memory, engines.

    A board of your own is a manifest: every command takes its path for --board.
    """
    from harness import boards

    if schema:
        print_json(boards.schema())
        return
    known = [boards.load(name) for name in boards.names()]
    if json:
        print_json([board.model_dump(mode="json") for board in known])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("board", "core", "fpu", "MHz", "flash kB", "RAM kB", "engines"):
        table.add_column(column, justify="right" if column in ("MHz", "flash kB", "RAM kB") else "left")
    for board in sorted(known, key=lambda board: (not board.engines.hardware, board.core, board.id)):
        table.add_row(
            board.id,
            board.core.removeprefix("cortex-").upper().replace("PLUS", "+"),
            "-" if board.fpu is None else "MVE" if board.fpu == "auto" else board.fpu.partition("-")[0],
            f"{board.clock_hz / 1e6:g}",
            f"{board.region('flash').length / 1000:,.0f}",
            f"{board.region('ram').length / 1000:,.0f}",
            ", ".join(board.engines.model_dump(exclude_none=True)),
        )
    out.print(table)
