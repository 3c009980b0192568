"""`harness report`: all results as tables and charts, for people, spreadsheets and notebooks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import JsonOption, QuietOption, ResultsOption, complete_boards
from harness.cli.terminal import err, out, print_json
from harness.errors import InputError

if TYPE_CHECKING:
    import pandas

# Columns of a terminal that the whole summary fits into.
_WIDE = 130


def command(
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained HTML page.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write every result as a row; - for stdout.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write every result as a row, typed.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the newest results as tables; - for stdout.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this network; may be repeated.")
    ] = None,
    board: Annotated[
        list[str] | None,
        typer.Option("--board", "-b", help="Only this board; may be repeated.", autocompletion=complete_boards),
    ] = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only this variant; may be repeated.")] = None,
    title: Annotated[str, typer.Option("--title", help="Headline of the page.")] = "Results",
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Summarise all results: tables here, and on request an HTML page with charts, CSV, Parquet and Markdown.

    Exit code 2 when a file of the results folder is damaged; what is good was reported then.
    """
    from harness.files import write_whole
    from harness.report import frames, tables

    if sum([json, str(csv) == "-", str(markdown) == "-"]) > 1:
        raise InputError("only one of --json, --csv - and --markdown - can have stdout")
    frame = _load(results)
    damaged: dict[str, str] = frame.attrs["damaged"]
    frame = frames.select(frame, models=model or (), boards=board or (), variants=variant or ())
    frame.attrs["damaged"] = damaged
    written: list[Path] = []

    def write(path: Path, content: str | bytes) -> None:
        if str(path) == "-":
            typer.echo(content, nl=False)
            return
        write_whole(path, content)
        written.append(path)

    if html is not None:
        from harness.report import page

        write(html, page.render(page.build(frame, title=title)))
    if csv is not None:
        write(csv, frames.flat(frame).to_csv(index=False))
    if parquet is not None:
        write(parquet, frames.flat(frame).to_parquet(index=False))
    newest = frames.latest(frame)
    if markdown is not None:
        write(markdown, _markdown(newest, title))
    if json:
        columns = ["id", "time", *frames.CONFIGURATION, "latency.median", "latency.clock", "latency.unit", "latency.us"]
        columns += ["footprint.network", "footprint.flash.total", "footprint.ram.total", "accuracy.device", "bit_exact"]
        kept = newest[[*columns, "runs"]].assign(time=newest["time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        print_json(
            {
                "results": len(frame),
                "damaged": damaged,
                "files": [str(path) for path in written],
                "latest": kept.astype(object).where(kept.notna(), None).to_dict(orient="records"),
            }
        )
    elif "-" not in (str(csv), str(markdown)) and not (quiet and written):
        from harness.report import text

        if frame.empty:
            err.print("no results yet: harness run lenet5 --board nucleo-f746")
        else:
            shown = tables.SUMMARY if out.width >= _WIDE else tables.NARROW
            out.print(text.table(tables.table(newest, ("model", *shown))))
    if not quiet and not json:
        for path in written:
            err.print(f"written to {path}", style="dim", markup=False, soft_wrap=True)
    if damaged:
        name, reason = next(iter(damaged.items()))
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise InputError(
            f"{len(damaged)} of {len(frame) + len(damaged)} results are damaged and left out: {name}: {reason}{more}",
            hint="delete them, and run again what they were",
        )


def _load(results: Path | None) -> pandas.DataFrame:
    """All results; what is damaged is told once, at the end."""
    from harness.results import store

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", store.DamagedRecordWarning)
        return store.load(results)


def _markdown(newest: pandas.DataFrame, title: str) -> str:
    from harness.report import tables

    if newest.empty:
        return f"# {title}\n\nThere are no results.\n"
    parts = [f"# {title}\n"]
    for model, rows in newest.groupby("model", sort=True):
        parts += [f"\n## {model}\n\n", tables.markdown(tables.table(rows, tables.SUMMARY))]
    return "".join(parts)
