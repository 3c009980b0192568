"""The papers that this project is measured against: their methods run again, and their tables beside ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import unknown_name

if TYPE_CHECKING:
    from harness.progress import Reporter
    from harness.reproduce.document import Document
    from harness.reproduce.experiment import Options
    from harness.results.record import Result

# arXiv numbers.
PAPERS = ("2103.15972", "2007.01348", "2008.05124")


def reproduce(paper: str, options: Options, reporter: Reporter, save: Callable[[Result], object]) -> Document:
    """Runs what a paper's page needs and describes it; every record goes to `save`.

    InputError for an unknown paper; HarnessErrors of the runs as they come.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    from harness.reproduce import deep_compression, efficient_deployment, mixed_precision

    pages = {
        deep_compression.PAPER: deep_compression.reproduce,
        efficient_deployment.PAPER: efficient_deployment.reproduce,
        mixed_precision.PAPER: mixed_precision.reproduce,
    }
    return pages[paper](options, reporter, save)
