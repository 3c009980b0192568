"""`harness worker`: lends this machine and its boards to sweeps that are started elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import QuietOption, complete_boards
from harness.cli.terminal import err


def command(
    scheduler: Annotated[str, typer.Argument(help="The dask scheduler: tcp://host:8786.")],
    board: Annotated[
        list[str] | None,
        typer.Option(
            "--board",
            "-b",
            help="A board that this machine has, or emulates; may be repeated. Left out: all that it emulates.",
            autocompletion=complete_boards,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Runs at a time.")] = 1,
    quiet: QuietOption = False,
) -> None:
    """Do runs for `harness sweep --scheduler` until interrupted; a real board does one run at a time.

    Start `dask scheduler` first. Whoever reaches it can run code here: use it in networks that you trust.
    """
    from harness import boards
    from harness.sweep import cluster

    names = board or [name for name in boards.names() if _emulated(name)]
    for name in names:
        boards.load(name)
    if not quiet:
        err.print(f"{jobs} at a time for {scheduler}: {', '.join(names)}", markup=False)
    cluster.work(scheduler, names, processes=jobs)


def _emulated(name: str) -> bool:
    from harness import boards

    return bool(boards.load(name).engines.model_dump(exclude_none=True).keys() - {"hardware"})
