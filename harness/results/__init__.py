"""Results: one frozen record per run, kept as one JSON file each, read back as one pandas DataFrame, gated in CI.

`harness.results.load()` is the way in for notebooks and reports. Nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from harness.results.record import Result


def load(root: Path | None = None) -> pandas.DataFrame:
    """All records of a results folder, oldest first: see harness.results.store.load."""
    from harness.results import store

    return store.load(root)


def get(id_prefix: str, root: Path | None = None) -> Result:
    """The one record whose id begins so: see harness.results.store.get."""
    from harness.results import store

    return store.get(id_prefix, root)
