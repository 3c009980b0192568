"""What was said to an emulator and what it answered: kept while it runs, shown when something went wrong."""

from __future__ import annotations

import time
from collections import deque

# Programming 300 kB takes some 2,500 packets; what matters is what came last.
_ENTRIES = 4000
_SHOWN_BYTES = 120


class Transcript:
    """The last packets and commands, with the time since it was made. Nothing is formatted before it is shown."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._entries: deque[tuple[float, str, bytes]] = deque(maxlen=_ENTRIES)

    def note(self, direction: str, data: bytes) -> None:
        """direction: ">" for what we sent, "<" for what came back."""
        self._entries.append((time.monotonic() - self._started, direction, data))

    def text(self) -> str:
        """One line per entry, oldest first; monitor commands and their output in clear."""
        return "".join(f"{when:9.4f} {direction} {_shown(data)}\n" for when, direction, data in self._entries)


def _shown(data: bytes) -> str:
    text = data[:_SHOWN_BYTES].decode("latin-1")
    line = "".join(character if " " <= character <= "~" else f"\\x{ord(character):02x}" for character in text)
    if len(data) > _SHOWN_BYTES:
        line += f"... ({len(data)} bytes)"
    clear = _monitor_text(data)
    return f"{line}   [{clear}]" if clear is not None else line


def _monitor_text(data: bytes) -> str | None:
    """The command of a qRcmd packet, or the console text of an O packet."""
    digits = data.removeprefix(b"qRcmd,") if data.startswith(b"qRcmd,") else data[1:] if data[:1] == b"O" else b""
    try:
        return bytes.fromhex(digits.decode("ascii")).decode("latin-1").strip() or None
    except ValueError:
        return None
