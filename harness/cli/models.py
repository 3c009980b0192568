"""`harness models`: the networks of the catalogue."""

from __future__ import annotations

import dataclasses

from harness.cli.options import JsonOption
from harness.cli.terminal import out, print_json


def command(json: JsonOption = False) -> None:
    """List the networks that ship with harness."""
    from harness.models import catalogue

    entries = [catalogue.entry(name) for name in catalogue.names()]
    if json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("model", "input", "classes", "data", "weights", "description"):
        table.add_column(column)
    for entry in entries:
        table.add_row(
            entry.name,
            "x".join(map(str, entry.input_shape)),
            str(entry.classes),
            entry.dataset or "your own",
            "shipped" if entry.weights else "random",
            entry.description,
        )
    out.print(table)
