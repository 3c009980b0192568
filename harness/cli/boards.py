"""`harness boards`: which boards there are and how each can be run."""

from __future__ import annotations

from harness.cli.options import JsonOption
from harness.cli.terminal import out, print_json


def command(json: JsonOption = False) -> None:
    """List the boards: core, clock, memory, engines."""
    from harness import boards

    known = [boards.load(name) for name in boards.names()]
    if json:
        print_json([board.model_dump(mode="json") for board in known])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("board", "core", "fpu", "clock", "flash", "ram", "engines", "name"):
        table.add_column(column, justify="right" if column in ("clock", "flash", "ram") else "left")
    for board in known:
        table.add_row(
            board.id,
            board.core,
            board.fpu or "-",
            f"{board.clock_hz / 1e6:g} MHz",
            f"{board.region('flash').length // 1024} KiB",
            f"{board.region('ram').length // 1024} KiB",
            ", ".join(board.engines.model_dump(exclude_none=True)),
            board.name,
        )
    out.print(table)
