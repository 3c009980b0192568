"""Tables of results for people, one description for the page, Markdown and the terminal: headings, cells, sort keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from harness.report import words


@dataclass(frozen=True)
class Cell:
    """What is shown, and what a column is sorted by (None sorts last)."""

    text: str
    key: float | str | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    title: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_Make = Callable[[Any], Cell]


def _text(name: str) -> _Make:
    return lambda row: Cell("-") if words.is_missing(row[name]) else Cell(str(row[name]), str(row[name]))


def _number(name: str, write: Callable[[Any], str] = words.count) -> _Make:
    return lambda row: Cell("-") if words.is_missing(row[name]) else Cell(write(row[name]), float(row[name]))


def _checked(row: Any) -> Cell:
    """Whether every layer was the reference's, bit for bit; of float variants, the largest error."""
    if words.is_missing(row["bit_exact"]):
        return Cell(f"error ≤ {row['max_abs_error']:.1g}", 0.5)
    if row["bit_exact"]:
        return Cell("bit-exact", 1.0, "good")
    return Cell(f"differs in {row['bit_exact.first_layer']}", 0.0, "bad")


def _commit(row: Any) -> Cell:
    commit = row["fingerprint.git_commit"]
    if words.is_missing(commit):
        return Cell("-")
    dirty = row["fingerprint.git_dirty"]
    return Cell(commit[:9] + ("+" if not words.is_missing(dirty) and dirty else ""), commit)


def _time(row: Any) -> Cell:
    return Cell(f"{row['time']:%Y-%m-%d %H:%M}", row["time"].timestamp())


_SHORT_UNITS = {"instructions": "instr."}

_COLUMNS: dict[str, tuple[Column, _Make]] = {
    "model": (Column("model"), _text("model")),
    "variant": (Column("variant"), _text("variant")),
    "kernels": (Column("kernels"), _text("kernels")),
    "seed": (Column("seed", number=True), _number("seed")),
    "board": (Column("board"), _text("board")),
    "engine": (Column("engine"), _text("engine")),
    "median": (Column("latency", number=True), _number("latency.median")),
    "unit": (Column("unit"), _text("latency.unit")),
    "unit_short": (Column("unit"), lambda row: Cell(_SHORT_UNITS.get(row["latency.unit"], row["latency.unit"]))),
    "us": (Column("µs", number=True), _number("latency.us", words.micros)),
    "network": (Column("network B", number=True), _number("footprint.network")),
    "flash": (Column("flash B", number=True), _number("footprint.flash.total")),
    "ram": (Column("RAM B", number=True), _number("footprint.ram.total")),
    "accuracy": (Column("accuracy", number=True), _number("accuracy.device", words.share)),
    "checked": (Column("checked", number=True), _checked),
    "front": (
        Column("not beaten", number=True),
        lambda row: Cell("yes", 1.0, "good") if row["front"] else Cell("", 0.0),
    ),
    "runs": (Column("runs", number=True), _number("runs")),
    "commit": (Column("commit"), _commit),
    "time": (Column("time (UTC)", number=True), _time),
    "id": (Column("id"), _text("id")),
}

SUMMARY = ("variant", "board", "engine", "median", "unit", "network", "flash", "ram", "accuracy", "checked", "runs")
# What of it fits into 80 columns.
NARROW = ("variant", "board", "median", "unit_short", "network", "accuracy")
HISTORY = ("time", "model", "variant", "board", "engine", "median", "unit", "network", "accuracy", "commit", "id")


def table(rows: pandas.DataFrame, columns: Sequence[str]) -> Table:
    """The rows as a table of these columns (names of SUMMARY, HISTORY or the like)."""
    chosen = [_COLUMNS[name] for name in columns]
    records = rows.to_dict(orient="records")
    return Table(
        tuple(column for column, _ in chosen), tuple(tuple(make(record) for _, make in chosen) for record in records)
    )


def markdown(content: Table) -> str:
    """The table as GitHub's Markdown, aligned so that it reads as text too. Ends with a line break."""
    lines = [[escape(column.title) for column in content.columns]]
    lines += [[escape(cell.text) for cell in row] for row in content.rows]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(content.columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(cells, widths, content.columns, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if column.number else "-" * width
        for width, column in zip(widths, content.columns, strict=True)
    ]
    return "\n".join([line(lines[0]), "| " + " | ".join(rule) + " |", *map(line, lines[1:])]) + "\n"


def escape(text: str) -> str:
    """Names of networks and boards are somebody's: nothing in them is Markdown or HTML."""
    for mark in "\\|`*_<>[]&":
        text = text.replace(mark, f"\\{mark}")
    return text
