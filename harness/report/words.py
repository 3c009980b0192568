"""Figures in words: sizes, counts and shares as people read them. kB is 1,000 bytes."""

from __future__ import annotations

from typing import Any


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, <NA> or NaN."""
    return value is None or (not isinstance(value, str | list | tuple | dict) and bool(_pandas().isna(value)))


def _pandas() -> Any:
    import pandas

    return pandas


def count(value: Any) -> str:
    """A whole number with separators: 1,916,214."""
    return "-" if is_missing(value) else f"{value:,.0f}"


def short(value: float) -> str:
    """A number in three digits: 1.92 M, 63.4 k, 850."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def micros(value: Any) -> str:
    """Microseconds with one decimal: 1,234.5."""
    return "-" if is_missing(value) else f"{value:,.1f}"


def size(value: Any) -> str:
    """Bytes in three digits: 63.4 kB."""
    if is_missing(value):
        return "-"
    return f"{value / 1e6:.3g} MB" if value >= 1e6 else f"{value / 1e3:.3g} kB" if value >= 1e3 else f"{value:.0f} B"


def share(value: Any) -> str:
    """A fraction in per cent: 98.90 %."""
    return "-" if is_missing(value) else f"{value:.2%}".replace("%", " %")


def change(before: Any, after: Any) -> str:
    """By how much a figure moved, of its former value: +1.25 %, or x 12.5. Nothing where there is no such share."""
    if is_missing(before) or is_missing(after) or not before:
        return ""
    if after >= 10 * before:
        return f"x {after / before:.3g}"
    return f"{(after - before) / before:+.2%}".replace("%", " %")
