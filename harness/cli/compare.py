"""`harness compare`: results side by side, refused where they cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import AllowOption, JsonOption, ResultsOption
from harness.cli.terminal import err, out, print_json
from harness.errors import InputError

# One letter each in the tables' headings; a terminal is full long before.
_MOST = 8


def command(
    ids: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Ids of results (or their beginnings); the first is the base.")
    ],
    allow: AllowOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained HTML page.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables as Markdown; - for stdout.")
    ] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Compare results with the first of them: latency, bytes, accuracy, and each layer."""
    from harness.files import write_whole
    from harness.report import comparison, tables
    from harness.results import store

    if not 2 <= len(ids) <= _MOST:
        raise InputError(
            f"{len(ids)} results were named; a comparison takes 2 to {_MOST}", hint="harness show lists all"
        )
    records = [store.get(id_, results) for id_ in ids]
    compared = comparison.compare(records, allow=allow or ())
    figures = comparison.table(compared, compared.lines, first="figure")
    layers = comparison.table(compared, compared.layers, first=f"layer, {records[0].latency.unit}")
    allowed = [f"not the same: {difference}" for difference in compared.allowed]
    if html is not None:
        from harness.report import page

        write_whole(html, page.render(page.of_comparison(records, (("Figures", figures), ("Layers", layers)), allowed)))
    if markdown is not None:
        notes = "".join(f"\n{note}\n" for note in allowed)
        text = f"{tables.markdown(figures)}\n{tables.markdown(layers) if layers.rows else ''}{notes}"
        if str(markdown) == "-":
            typer.echo(text, nl=False)
        else:
            write_whole(markdown, text)
    if json:
        print_json(comparison.plain(compared))
    elif str(markdown) != "-":
        from harness.report import text as terminal_text

        out.print(terminal_text.table(figures))
        if layers.rows:
            out.print(terminal_text.table(layers))
    for note in allowed:
        err.print(note, style="yellow", markup=False)
