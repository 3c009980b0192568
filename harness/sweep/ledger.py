"""What a results folder knows to be done: one small file for each finished run of a sweep, named after its key.

Written by the process that did the run, right after the record, whole or not at all: whatever dies afterwards, a sweep
that is started again finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.files import write_whole
from harness.json_file import Unusable, read_bounded
from harness.results import store

FOLDER = "sweeps"


class Entry(BaseModel):
    """A finished run. id: of its record; None where it does not fit, and `unfit` says why.

    final: whether that is so every time; another reason may be gone the next time, and is not kept.
    seconds, cpu_seconds: what it took, the processes that it started included. verdict: what is wrong with its figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    key: str
    id: str | None
    unfit: str | None = None
    final: bool = True
    verdict: str | None = None
    seconds: float
    cpu_seconds: float


def find(key: str, root: Path) -> Entry | None:
    """The entry of `key` in the results folder `root`, if its record is still there."""
    try:
        entry = Entry.model_validate_json(read_bounded(_path(key, root), follow_links=False))
    except (Unusable, ValidationError):
        return None
    if entry.key != key or (entry.id is not None and not (root / store.RUNS / f"{entry.id}.json").is_file()):
        return None
    return entry


def write(entry: Entry, root: Path) -> None:
    """Notes a finished run. InputError when the folder cannot be written to."""
    write_whole(_path(entry.key, root), entry.model_dump_json(indent=1) + "\n")


def _path(key: str, root: Path) -> Path:
    return root / FOLDER / f"{key[:32]}.json"
