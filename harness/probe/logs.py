"""pyOCD's log, kept for error messages instead of printed on the terminal."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pyocd", "usb", "pylink")
_TAIL_LINES = 200

# Sessions may overlap in one process: the first one silences the loggers, the last one restores them.
_lock = threading.Lock()
_open_captures: list[LogTail] = []
_saved_propagation: dict[str, bool] = {}


class LogTail(logging.Handler):
    """The last lines that were logged, informational ones included."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines: deque[tuple[int, str]] = deque(maxlen=_TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.levelno, self.format(record)))

    def tail(self, count: int, level: int = logging.INFO) -> tuple[str, ...]:
        """The last `count` lines of at least that level, oldest first."""
        return tuple(line for severity, line in self._lines if severity >= level)[-count:]


@contextmanager
def captured() -> Iterator[LogTail]:
    """Collect what pyOCD and the USB libraries log, and keep it off the terminal."""
    tail = LogTail()
    with _lock:
        if not _open_captures:
            for name in _LOGGERS:
                logger = logging.getLogger(name)
                _saved_propagation[name] = logger.propagate
                logger.propagate = False
        _open_captures.append(tail)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(tail)
    try:
        yield tail
    finally:
        with _lock:
            _open_captures.remove(tail)
            for name in _LOGGERS:
                logger = logging.getLogger(name)
                logger.removeHandler(tail)
                if not _open_captures:
                    logger.propagate = _saved_propagation[name]
