"""The report as one HTML page that needs nothing beside itself: no network, no fonts, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pandas

from harness.report import charts, frames, tables
from harness.report.charts import Palette
from harness.report.svg import Chart
from harness.report.tables import Table
from harness.results.record import Result


@dataclass(frozen=True)
class Section:
    """One network: its newest results and what is drawn of them. anchor: unique on the page."""

    title: str
    anchor: str
    summary: Table
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Note:
    """Something that a reader must not miss. tone: good, bad or plain."""

    text: str
    tone: str = "plain"
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """What the template shows."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[Note, ...] = ()
    sections: tuple[Section, ...] = ()
    everything: Table | None = None
    tables: tuple[tuple[str, Table], ...] = ()


def build(frame: pandas.DataFrame, *, title: str = "Results", lead: str | None = None, everything: bool = True) -> Page:
    """The page about `frame` (harness.results.load()), which may have no rows."""
    damaged: dict[str, str] = frame.attrs.get("damaged", {})
    notes = []
    if damaged:
        notes.append(
            Note(
                f"{len(damaged)} of the files are no usable results and are left out:",
                "bad",
                tuple(f"{name}: {reason}" for name, reason in list(damaged.items())[:20]),
            )
        )
    if frame.empty:
        notes.append(Note("There are no results yet. Make one: harness run lenet5 --board nucleo-f746"))
        return Page(title, lead or "Nothing was measured yet.", notes=tuple(notes))
    newest = frames.latest(frame)
    wrong = newest[newest["bit_exact"].eq(False).fillna(False).astype(bool)]
    if len(wrong):
        notes.append(
            Note(
                f"{len(wrong)} of the newest results differ from the reference:",
                "bad",
                tuple(f"{row['model']} {frames.label(row, among=newest)}: {row['id']}" for _, row in wrong.iterrows()),
            )
        )
    palette = Palette.of(frame)
    sections = tuple(
        _section(index, str(model), rows, frame[frame["model"] == model], palette)
        for index, (model, rows) in enumerate(newest.groupby("model", sort=True))
    )
    first, last = frame["time"].min(), frame["time"].max()
    day = f"{first:%Y-%m-%d}"
    when = f"on {day}" if day == f"{last:%Y-%m-%d}" else f"from {day} to {last:%Y-%m-%d}"
    facts = (
        ("results", f"{len(frame):,}"),
        ("configurations", f"{len(newest):,}"),
        ("networks", f"{frame['model'].nunique():,}"),
        ("boards", f"{frame['board'].nunique():,}"),
        ("newest", f"{last:%Y-%m-%d}"),
    )
    return Page(
        title,
        lead
        or f"Measured {when}. Tables and charts by network show the newest "
        "result of each configuration; figures of different clocks or compilers are never in one chart.",
        facts,
        tuple(notes),
        sections,
        tables.table(frame.iloc[::-1], tables.HISTORY) if everything else None,
    )


def of_comparison(records: Sequence[Result], compared: Sequence[tuple[str, Table]], allowed: Sequence[str]) -> Page:
    """The page about a comparison: its tables, then the results themselves."""
    from harness.results import store

    whole = build(store.frame(records), title="Comparison", everything=False)
    notes = (Note("These results differ in more than what is compared:", "bad", tuple(allowed)),) if allowed else ()
    return replace(
        whole,
        lead=f"{', '.join(record.id for record in records)}, each against the first.",
        facts=(),
        notes=(*notes, *whole.notes),
        tables=tuple((title, content) for title, content in compared if content.rows),
    )


def _section(number: int, model: str, rows: pandas.DataFrame, all_rows: pandas.DataFrame, palette: Palette) -> Section:
    columns = ["unit_short" if name == "unit" else name for name in tables.SUMMARY]
    if rows["kernels"].nunique() > 1:
        columns.insert(1, "kernels")
    if rows["latency.clock"].isin(["silicon", "modelled"]).any():
        columns.insert(columns.index("unit_short") + 1, "us")
    fronts = frames.front(rows)
    if fronts.sum() < fronts.size and fronts.any():
        rows = rows.assign(front=fronts)
        columns.insert(columns.index("checked"), "front")
    drawn: list[Chart] = []
    several = rows.dropna(subset=["fingerprint.compiler"])["fingerprint.compiler"].nunique() > 1

    def note(terms: dict[str, Any]) -> str:
        """Which compiler, where the model has figures of several."""
        compiler = terms["fingerprint.compiler"]
        return f" {compiler}." if several and compiler else ""

    by_terms = sorted(frames.groups(rows, frames.TERMS), key=lambda item: _order_of(item[0]))
    for index, (terms, group) in enumerate(by_terms):
        drawn.append(charts.latency(group, name=f"m{number}-latency-{index}", terms=terms, note=note(terms)))
    for index, (terms, group) in enumerate(frames.groups(rows.dropna(subset=["footprint.network"]), frames.TERMS[3:])):
        # One image may have been timed by several clocks: its bytes are the same.
        images = group.drop_duplicates(["variant", "kernels", "board"], keep="last")
        for memory in ("flash", "ram"):
            name = f"m{number}-{memory}-{index}"
            drawn.append(charts.footprint(images, name=name, memory=memory, note=note(terms)))
    sized = rows.dropna(subset=["footprint.network"])
    for index, (terms, group) in enumerate(frames.groups(sized, frames.TERMS)):
        if len(group) > 1:
            drawn.append(
                charts.trade_off(
                    group,
                    palette,
                    name=f"m{number}-speed-{index}",
                    figure_of="latency.median",
                    title=f"Bytes and latency: {terms['latency.clock']}",
                    unit=f"{terms['latency.unit']} per inference",
                    note=note(terms),
                )
            )
    judged = sized.dropna(subset=["accuracy.device"])
    for index, (terms, group) in enumerate(frames.groups(judged, [*frames.DATA, *frames.TERMS[3:]])):
        if len(group) > 1:
            samples = f"{terms['accuracy.samples']:,} {terms['accuracy.split']} samples of {terms['accuracy.dataset']}"
            drawn.append(
                charts.trade_off(
                    group,
                    palette,
                    name=f"m{number}-accuracy-{index}",
                    figure_of="accuracy.device",
                    title="Bytes and accuracy",
                    unit=f"accuracy ({terms['accuracy.metric']})",
                    note=f" {samples}.{note(terms)}",
                )
            )
    in_time = sorted(frames.groups(all_rows, frames.TERMS), key=lambda item: _order_of(item[0]))
    for index, (terms, group) in enumerate(in_time):
        line = charts.history(group, palette, name=f"m{number}-history-{index}", terms=terms)
        if line is not None:
            drawn.append(line)
    return Section(model, f"model-{number}", tables.table(rows, columns), tuple(drawn))


def _order_of(terms: dict[str, Any]) -> int:
    """Clocks of boards before this machine's."""
    return ("silicon", "modelled", "instructions", "host").index(terms["latency.clock"])


def render(page: Page, *, now: datetime | None = None) -> str:
    """The page as HTML. Whatever comes from records is escaped; a policy in the page forbids it to load anything."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return environment.get_template("report.html.j2").render(page=page, written=f"{moment:%Y-%m-%d %H:%M} UTC")
