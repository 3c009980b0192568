"""The list of commands. Importing it must stay cheap: `harness --help` is to answer in under 0.3 s."""

from __future__ import annotations

from typing import Annotated

import typer

import harness
from harness.cli import (
    bench_kernels,
    boards,
    cache,
    calibrate,
    compare,
    compress,
    doctor,
    export,
    measure,
    models,
    profile,
    regress,
    report,
    reproduce,
    run,
    search,
    serve,
    show,
    sweep,
    train,
    verify,
    worker,
)
from harness.cli.terminal import guarded, unwind_on_signals

app = typer.Typer(
    name="harness",
    help="Compress a PyTorch network, generate C, build firmware, and measure it on a real or emulated Cortex-M board.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for name, command in (
    ("run", run.command),
    ("export", export.command),
    ("measure", measure.command),
    ("serve", serve.command),
    ("train", train.command),
    ("compress", compress.command),
    ("search", search.command),
    ("profile", profile.command),
    ("calibrate", calibrate.command),
    ("reproduce", reproduce.command),
    ("regress", regress.command),
    ("show", show.command),
    ("sweep", sweep.command),
    ("worker", worker.command),
    ("verify", verify.command),
    ("compare", compare.command),
    ("report", report.command),
    ("bench-kernels", bench_kernels.command),
    ("boards", boards.command),
    ("models", models.command),
    ("doctor", doctor.command),
    ("cache", cache.command),
):
    app.command(name)(guarded(command))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `harness` command."""
    unwind_on_signals()
    app()
