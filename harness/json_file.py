"""Reading JSON that anyone may have written: bounded in size, regular files only, a clear reason when it is no use."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

# A record of a hundred layers is about 50 kB.
MAX_FILE_BYTES = 4_000_000


class Unusable(ValueError):
    """The file cannot be used; str() says why, without its name."""


def load(path: Path) -> Any:
    """The JSON value in a file that a user names. Unusable when there is none."""
    return parse_json(read_bounded(path, follow_links=True))


def read_bounded(path: Path, *, follow_links: bool) -> bytes:
    """What is in `path`. Unusable when it is missing, no regular file, or too large.

    With `follow_links` false a symbolic link is refused: for folders whose files we wrote ourselves.
    """
    if not follow_links and path.is_symlink():
        raise Unusable("it is a symbolic link")
    # O_NONBLOCK: opening a named pipe must not wait for a writer. O_NOFOLLOW: the link may have come since we asked.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unusable("it is not a regular file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unusable((error.strerror or str(error)).lower()) from error
    if len(content) > MAX_FILE_BYTES:
        raise Unusable(f"it is larger than {MAX_FILE_BYTES:,} bytes")
    return content


def parse_json(content: bytes) -> Any:
    """The JSON value in `content`. Unusable when it is not UTF-8, not JSON, or holds a number that is not finite."""
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise Unusable("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise Unusable(f"it is not JSON ({error.msg}, line {error.lineno})") from error
    except RecursionError as error:
        raise Unusable("its JSON is nested too deeply") from error
    except ValueError as error:
        raise Unusable(f"it holds a number that cannot be kept ({error})") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a figure")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:20])
