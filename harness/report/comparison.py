"""Two or more results side by side, figure by figure: what each costs, and by how much it differs from the first.

Refuses what cannot be compared (harness.results.comparability); what was allowed all the same stays with the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import words
from harness.report.tables import Cell, Column, Table
from harness.results.comparability import Difference, differences, require
from harness.results.record import Mismatch, Result

Value = int | float | str | None


@dataclass(frozen=True)
class Line:
    """One figure. field: as in the record, a layer by its name (layers.conv1.ticks). values: of each result, in order.

    less_is_better: None for what is neither better nor worse.
    """

    field: str
    title: str
    values: tuple[Value, ...]
    less_is_better: bool | None
    write: Callable[[Any], str]

    def change(self, index: int) -> str:
        """By how much result `index` differs from the first: +1.25 %. For shares: in percentage points."""
        before, after = self.values[0], self.values[index]
        if isinstance(before, str | None) or isinstance(after, str | None):
            return "" if before == after else "differs"
        if self.write is words.share:
            return f"{(after - before) * 100:+.2f} pp"
        return words.change(before, after)

    def tone(self, index: int) -> str:
        """good or bad where result `index` is better or worse than the first."""
        before, after = self.values[0], self.values[index]
        if self.less_is_better is None or isinstance(before, str | None) or isinstance(after, str | None):
            return ""
        return "" if before == after else "good" if (after < before) == self.less_is_better else "bad"


@dataclass(frozen=True)
class Comparison:
    """results: the first is what the others are compared with. allowed: what differs and was let pass."""

    results: tuple[Result, ...]
    lines: tuple[Line, ...]
    layers: tuple[Line, ...]
    allowed: tuple[Difference, ...]


def compare(results: Sequence[Result], *, allow: Iterable[str] = ()) -> Comparison:
    """The comparison of `results` with the first of them. InputError when they cannot be compared: see `require`."""
    allow = tuple(allow)
    first, *others = results
    allowed: list[Difference] = []
    for other in others:
        found = differences(first.plain(), other.plain())
        allowed += require(found, allow, what=f"{first.id} and {other.id}")
    return Comparison(tuple(results), _lines(results), _layer_lines(results), tuple(dict.fromkeys(allowed)))


def _lines(results: Sequence[Result]) -> tuple[Line, ...]:
    unit = results[0].latency.unit

    def line(field: str, title: str, get: Callable[[Result], Value], write: Callable[[Any], str], less: bool) -> Line:
        return Line(field, title, tuple(get(result) for result in results), less, write)

    lines = [
        line("latency.median", f"latency, {unit}", lambda result: result.latency.median, words.count, True),
        line("latency.us", "latency, µs", lambda result: result.latency.us, words.micros, True),
        *(
            [line("instructions", "instructions", lambda result: result.instructions, words.count, True)]
            if unit != "instructions"
            else []
        ),
        *(
            line(f"footprint.{path}", title, lambda result, path=path: _bytes(result, path), words.count, True)  # type: ignore[misc]
            for path, title in (
                ("network", "network image, B"),
                ("flash.total", "flash, B"),
                ("flash.weights", "  weights"),
                ("flash.kernels", "  kernels"),
                ("flash.platform", "  platform"),
                ("ram.total", "RAM, B"),
                ("ram.activations", "  activations"),
                ("stack_used", "stack used, B"),
            )
        ),
        line("accuracy.device", "accuracy", lambda result: result.accuracy.device, words.share, False),
        Line("bit_exact", "checked", tuple(_verdict(result) for result in results), None, str),
    ]
    return tuple(line for line in lines if any(value is not None for value in line.values))


def _bytes(result: Result, path: str) -> int | None:
    value: Any = result.footprint
    for name in path.split("."):
        value = getattr(value, name, None)
    assert value is None or isinstance(value, int)
    return value


def _verdict(result: Result) -> str:
    if isinstance(result.bit_exact, Mismatch):
        return f"differs in {result.bit_exact.first_layer}"
    return "bit-exact" if result.bit_exact else "float"


def _layer_lines(results: Sequence[Result]) -> tuple[Line, ...]:
    """Ticks of each layer that any of them has, by its name, in the order of the first."""
    ticks = [{layer.name: layer.ticks for layer in result.layers} for result in results]
    names = dict.fromkeys(name for one in ticks for name in one)
    lines = (
        Line(f"layers.{name}.ticks", name, tuple(one.get(name) for one in ticks), True, words.count) for name in names
    )
    return tuple(line for line in lines if any(value is not None for value in line.values))


def table(comparison: Comparison, lines: Sequence[Line], *, first: str) -> Table:
    """The lines as a table: first column, the first result, then each other one and by how much it differs."""
    columns = [Column(first)]
    for index, result in enumerate(comparison.results):
        columns.append(Column(f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[index]} {result.variant} {result.board}", number=True))
        if index:
            columns.append(Column("change", number=True))
    rows = []
    for line in lines:
        cells = [Cell(line.title)]
        for index, value in enumerate(line.values):
            text = "-" if value is None else line.write(value)
            cells.append(Cell(text, None if isinstance(value, str) else value))
            if index:
                cells.append(Cell(line.change(index), None, line.tone(index)))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON's own types."""
    return {
        "results": [result.id for result in comparison.results],
        "figures": [
            {"field": line.field, "values": list(line.values), "changes": _shares(line)}
            for line in (*comparison.lines, *comparison.layers)
        ],
        "allowed": [
            {"field": item.field, "before": item.before, "after": item.after, "aspect": item.aspect}
            for item in comparison.allowed
        ],
    }


def _shares(line: Line) -> list[float | None]:
    before = line.values[0]
    return [
        (after - before) / before
        if isinstance(after, int | float) and isinstance(before, int | float) and before
        else None
        for after in line.values[1:]
    ]
