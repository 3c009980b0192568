"""Names and texts of a network, made safe for C: whatever a model's author called a layer, the C compiles."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

_PLAIN = (string.ascii_letters + string.digits + " .,:;+-_=()[]/<>@#").encode()


def identifiers(names: Iterable[str]) -> tuple[str, ...]:
    """One C identifier stem per name, distinct and in order: [A-Za-z0-9_] only, and no reserved beginning.

    Stems are only used with an affix (`run_conv1`, `conv1_weights`), so that keywords and library names need no care.
    """
    used: set[str] = set()
    result = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:48]
        if not stem or stem[0].isdigit() or stem.lower().startswith(("nn", "network", "arena")):
            stem = f"layer_{stem}".rstrip("_")
        unique, count = stem, 2
        while unique.lower() in used:
            unique, count = f"{stem}_{count}", count + 1
        used.add(unique.lower())
        result.append(unique)
    return tuple(result)


def comment(text: str) -> str:
    """`text` on one line of a C comment: it can neither end the comment nor open another."""
    printable = "".join(char if char.isprintable() and char.isascii() else "?" for char in text)
    return printable.replace("*/", "* /").replace("/*", "/ *")[:100]


def literal(text: str) -> str:
    """`text` inside a C string literal. Question marks are escaped too: C11 still knows trigraphs."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in text.encode(errors="replace"))
