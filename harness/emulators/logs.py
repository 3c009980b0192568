"""Logs that outlive a failed run, in the user's cache: only the latest are kept."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from harness.errors import DeviceError, InputError
from harness.files import cache_dir, write_whole

_KEPT = 20


def folder() -> Path:
    """Where they are."""
    return cache_dir() / "logs"


def keep(error: DeviceError, name: str, text: str) -> None:
    """Write `text` to a file there, and add its path to the error's hint; leaves both alone where it cannot."""
    moment = time.strftime("%Y%m%d-%H%M%S")
    path = folder() / f"{name}-{moment}-{os.getpid()}.log"
    with contextlib.suppress(InputError):
        write_whole(path, text)
        where = f"every exchange with it is in {path}"
        error.hint = f"{error.hint}; {where}" if error.hint else where
        _drop_oldest()


def _drop_oldest() -> None:
    with contextlib.suppress(OSError):
        logs = sorted(folder().glob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[:-_KEPT]:
            path.unlink()
