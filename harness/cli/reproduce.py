"""`harness reproduce`: a paper's table beside ours, every figure from one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import JsonOption, QuietOption, ResultsOption, complete_boards
from harness.cli.terminal import err, out, print_json, reporter

if TYPE_CHECKING:
    from harness.results.record import Result


def _complete_papers(incomplete: str) -> list[str]:
    from harness.reproduce import PAPERS

    return [paper for paper in PAPERS if paper.startswith(incomplete)]


def command(
    paper: Annotated[
        str,
        typer.Argument(help="An arXiv number: 2103.15972, 2007.01348 or 2008.05124.", autocompletion=_complete_papers),
    ],
    board: Annotated[
        list[str] | None,
        typer.Option("--board", "-b", help="Board, once for each; if left out, all.", autocompletion=complete_boards),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Test images for the accuracy.")] = 10_000,
    quick: Annotated[
        bool, typer.Option("--quick", help="2008.05124: few networks and episodes, for CI; minutes become seconds.")
    ] = False,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a paper's method and ours, print its table beside ours, and write both to results/reproduce/."""
    from harness.assets import firmware_dir
    from harness.reproduce import document, reproduce
    from harness.reproduce.experiment import Options
    from harness.results import store

    folder = store.writable_results_dir(results)

    def save(result: Result) -> None:
        store.save(result, folder)

    # A checkout's own results/ keeps the figures that not every machine can measure.
    options = Options(tuple(dict.fromkeys(board or ())), samples, (folder, firmware_dir().parent / "results"), quick)
    page = reproduce(paper, options, reporter(quiet=quiet or json), save)
    written = page.write(folder / "reproduce")
    if json:
        print_json(page.to_json())
        return
    out.print(document.terminal(page))
    if not quiet:
        for path in written:
            err.print(f"written to {path}", style="dim", markup=False, soft_wrap=True)
