"""What lies in the cache folder: its entries by kind, when each was last used, and their removal."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What is made again from what is at hand, and so is pruned unless kinds are named.
REBUILT = ("firmware", "host", "graphs")

KINDS = {
    "firmware": "images that were built",
    "host": "networks compiled for this machine",
    "graphs": "networks that were traced",
    "platformio": "PlatformIO's toolchain",
    "locks": "boards in use",
    "files": "data and reports",
}

_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Entry:
    """One thing that can be removed by itself. used: when it was last read or written, seconds since 1970."""

    kind: str
    path: Path
    bytes: int
    used: float


def entries(root: Path) -> list[Entry]:
    """Everything in the cache. A folder at the top is a kind, what is in it its entries; locks are none."""
    found = []
    for top in sorted(_children(root)):
        if _is_folder(top):
            found += [_entry(top.name, path) for path in sorted(_children(top)) if path.suffix != ".lock"]
        else:
            found.append(_entry("files", top))
    return found


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _entry(kind: str, path: Path) -> Entry:
    size, used = 0, 0.0
    for part in [path, *(path.rglob("*") if _is_folder(path) else ())]:
        with suppress(OSError):
            status = part.lstat()
            # Reading a folder to list it is no use of it: only files tell.
            if not stat.S_ISDIR(status.st_mode):
                size += status.st_size
                used = max(used, status.st_atime, status.st_mtime)
    return Entry(kind, path, size, used)


def by_kind(found: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """For each kind the number of entries, their bytes, and when one was last used (ISO 8601, UTC)."""
    kinds: dict[str, dict[str, Any]] = {}
    for entry in found:
        told = kinds.setdefault(entry.kind, {"entries": 0, "bytes": 0, "last_used": ""})
        told["entries"] += 1
        told["bytes"] += entry.bytes
        told["last_used"] = max(
            told["last_used"], datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds")
        )
    return kinds


def unused(found: Iterable[Entry], *, days: float, kinds: Collection[str]) -> list[Entry]:
    """The entries of these kinds that were not used for so many days."""
    limit = time.time() - days * _SECONDS_PER_DAY
    return [entry for entry in found if entry.kind in kinds and entry.used <= limit]


def remove(found: Iterable[Entry]) -> list[Entry]:
    """Removes the entries and returns those that are still there: a build is using them, or they are not ours."""
    kept = []
    for entry in found:
        lock = entry.path.with_name(f"{entry.path.name}.lock")
        if not (_remove_locked(entry.path, lock) if lock.exists() else _remove(entry.path)):
            kept.append(entry)
    return kept


def _remove_locked(path: Path, lock: Path) -> bool:
    """Removes what a lock file guards; the file itself stays, since somebody may be waiting for it."""
    try:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _remove(path)
    except OSError:
        return False


def _remove(path: Path) -> bool:
    if _is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    return not os.path.lexists(path)
