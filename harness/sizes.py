"""Sizes as people write them: kB = 1,000 bytes, KiB = 1,024."""

from __future__ import annotations

import re

from harness.errors import InputError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "kib": 1_024,
    "mib": 1_048_576,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse(text: str) -> int:
    """Bytes of "2048kB", "512 KiB", "1.5MB" or "65536"; InputError for anything else, and for less than a byte."""
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise InputError(f"'{text}' is not a size", hint="2048kB (of 1,000 bytes), 512KiB (of 1,024), or bytes: 65536")
    size = round(float(found[1]) * unit)
    if size < 1:
        raise InputError(f"the size {text} is less than a byte")
    return size
