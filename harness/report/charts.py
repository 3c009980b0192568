"""What is drawn of the results: latency by layer, footprint by class, what is not beaten, and history.

Rows that must not be compared are never in one chart: the caller groups them (frames.TERMS, frames.DATA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas

from harness.report import frames, svg, words
from harness.report.svg import INK, MUTED, SERIES, SURFACE, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More layers than there are colours that can be told apart: the costliest have one each, the rest share the last.
_MAX_PARTS = 7
_MAX_BARS = 40
_MAX_LINES = 12
# A class of bytes has one colour wherever it is shown.
_CLASS_COLORS = {
    "weights": SERIES[0],
    "kernels": SERIES[1],
    "activations": SERIES[2],
    "stack": SERIES[3],
    "platform": SERIES[7],
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))

_CLOCK_WORDS = {
    "instructions": "instructions, counted exactly: not a time",
    "silicon": "cycles of a real board",
    "modelled": "cycles of a model",
    "host": "nanoseconds of this machine, not of a board",
}


@dataclass(frozen=True)
class Palette:
    """Which colour a variant has, and which marker and line a board: the same in all charts of a page."""

    variants: tuple[str, ...]
    boards: tuple[str, ...]

    @classmethod
    def of(cls, frame: pandas.DataFrame) -> Palette:
        return cls(tuple(sorted(set(frame["variant"]))), tuple(sorted(set(frame["board"]))))

    def color(self, variant: str) -> str:
        return SERIES[self.variants.index(variant) % len(SERIES)]

    def marker(self, board: str) -> str:
        return _MARKERS[self.boards.index(board) % len(_MARKERS)]

    def dashes(self, board: str) -> Any:
        return _DASHES[self.boards.index(board) % len(_DASHES)]

    def key(self, rows: pandas.DataFrame, *, lines: bool) -> list[Any]:
        """A legend's handles for these rows: first the variants' colours, then the boards' markers or lines."""
        from matplotlib.lines import Line2D

        handles = []
        for variant in sorted(set(rows["variant"])):
            shape: dict[str, Any] = {} if lines else {"marker": "o", "linestyle": "none"}
            handles.append(Line2D([], [], color=self.color(variant), label=variant, **shape))
        for board in sorted(set(rows["board"])):
            shape = {"linestyle": self.dashes(board)} if lines else {"marker": self.marker(board), "linestyle": "none"}
            handles.append(Line2D([], [], color=MUTED, label=board, **shape))
        return handles


def latency(rows: pandas.DataFrame, *, name: str, terms: dict[str, Any], note: str = "") -> Chart:
    """One bar for each row, made of its layers where they were timed. The rows share a model and `terms`."""
    rows = rows.sort_values("latency.median", kind="stable").head(_MAX_BARS)
    labels = [frames.label(row, among=rows) for _, row in rows.iterrows()]
    totals = [float(value) for value in rows["latency.median"]]
    parts, widths = _layer_parts(rows, totals)
    unit, model = terms["latency.unit"], rows["model"].iloc[0]

    def draw(figure: Figure, axes: Axes) -> None:
        _stacked(axes, labels, parts, widths, [words.short(total) for total in totals])
        axes.set_xlabel(f"{unit} per inference")
        if len(parts) > 1:
            _legend(figure, len(parts))

    clock = terms["latency.clock"]
    return svg.chart(
        name,
        draw,
        height=_bars_height(len(labels), len(parts)),
        title=f"Latency by layer: {clock}",
        caption=f"Median of one inference in {_CLOCK_WORDS[clock]}.{note}",
        alt=f"Bar chart of {model}, {unit} per inference. "
        + "; ".join(f"{label}: {words.short(total)}" for label, total in zip(labels, totals, strict=True))
        + ".",
    )


def _layer_parts(rows: pandas.DataFrame, totals: Sequence[float]) -> tuple[list[str], list[list[float]]]:
    """The parts that bars are made of, in the network's order, and each one's width in each bar.

    The layers of a row need not add up to its latency (they are timed one by one): what is left is a part too.
    """
    table = frames.layers(rows)
    timed = table.dropna(subset=["ticks"])
    if timed.empty:
        return ["one inference"], [list(totals)]
    order = list(dict.fromkeys(timed["name"]))
    costly = timed.groupby("name")["ticks"].sum().sort_values(ascending=False, kind="stable")
    shown = [name for name in order if name in set(costly.index[:_MAX_PARTS])]
    by_id = {
        id_: dict(zip(group["name"], group["ticks"].astype(float), strict=True)) for id_, group in timed.groupby("id")
    }
    ticks = [by_id.get(id_, {}) for id_ in rows["id"]]
    widths = [[one.get(name, 0.0) for one in ticks] for name in shown]
    rest = [max(total - sum(column[index] for column in widths), 0.0) for index, total in enumerate(totals)]
    if any(left > 0.02 * total for left, total in zip(rest, totals, strict=True)):
        return [*shown, "others"], [*widths, rest]
    return shown, widths


def footprint(rows: pandas.DataFrame, *, name: str, memory: str, note: str = "") -> Chart:
    """One bar for each row of its bytes in `memory` (flash or ram), by class. The rows share a model."""
    classes = frames.FLASH if memory == "flash" else frames.RAM
    total = f"footprint.{memory}.total"
    rows = rows.sort_values(total, kind="stable").head(_MAX_BARS)
    labels = [frames.label(row, among=rows) for _, row in rows.iterrows()]
    widths = [[float(value) / 1000 for value in rows[f"footprint.{memory}.{class_}"]] for class_ in classes]
    totals = [words.size(value) for value in rows[total]]

    def draw(figure: Figure, axes: Axes) -> None:
        _stacked(axes, labels, classes, widths, totals)
        axes.set_xlabel("kB (1,000 bytes)")
        _legend(figure, len(classes))

    what = {"flash": "Flash", "ram": "RAM"}[memory]
    return svg.chart(
        name,
        draw,
        height=_bars_height(len(labels), len(classes)),
        title=f"{what} by class",
        caption=f"Every byte of the image is in exactly one class.{note}",
        alt=f"Bar chart of {rows['model'].iloc[0]}, bytes of {what}. "
        + "; ".join(f"{label}: {text}" for label, text in zip(labels, totals, strict=True))
        + ".",
    )


def _bars_height(bars: int, parts: int) -> float:
    return 0.8 + 0.28 * bars + (0.2 * ((parts + 3) // 4) if parts > 1 else 0)


def _stacked(
    axes: Axes, labels: Sequence[str], parts: Sequence[str], widths: Sequence[Sequence[float]], ends: Sequence[str]
) -> None:
    positions = range(len(labels))
    left = [0.0] * len(labels)
    for index, (part, width) in enumerate(zip(parts, widths, strict=True)):
        color = SERIES[7] if part == "others" else _CLASS_COLORS.get(part, SERIES[index % len(SERIES)])
        axes.barh(positions, width, left=left, height=0.68, color=color, edgecolor=SURFACE, linewidth=0.6, label=part)
        left = [start + more for start, more in zip(left, width, strict=True)]
    for position, end, text in zip(positions, left, ends, strict=True):
        axes.annotate(text, (end, position), xytext=(4, 0), textcoords="offset points", va="center", color=INK, size=9)
    axes.set_yticks(positions, labels)
    axes.invert_yaxis()
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xlim(0, max(left, default=1.0) * 1.17 or 1.0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.locator_params(axis="x", nbins=5)
    _short_ticks(axes)


def _short_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.short(value)))


def _legend(figure: Figure, entries: int) -> None:
    figure.legend(loc="outside upper left", ncols=min(entries, 4), handlelength=0.9, columnspacing=1.2)


def trade_off(
    rows: pandas.DataFrame, palette: Palette, *, name: str, figure_of: str, title: str, unit: str, note: str = ""
) -> Chart:
    """Bytes of the network image against another figure, a point for each row; what no other row beats is joined.

    figure_of: latency.median (less is better) or accuracy.device (more is). The rows may be compared in it.
    """
    more_is_better = figure_of.startswith("accuracy")
    front = frames.pareto(
        rows, ["footprint.network"] + ([] if more_is_better else [figure_of]), [figure_of] if more_is_better else []
    )
    rows = rows.assign(front=front, x=rows["footprint.network"].astype(float) / 1000, y=rows[figure_of].astype(float))

    def draw(figure: Figure, axes: Axes) -> None:
        best = rows[rows["front"]].sort_values("x")
        axes.plot(best["x"], best["y"], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        for _, row in rows.iterrows():
            axes.plot(
                [row["x"]],
                [row["y"]],
                marker=palette.marker(row["board"]),
                markersize=7,
                color=palette.color(row["variant"]),
                markeredgecolor=SURFACE,
                markeredgewidth=0.8,
                linestyle="none",
                zorder=2,
            )
        _spread_axis(axes.xaxis, rows["x"], words.short)
        if more_is_better:
            axes.margins(y=0.15)
            axes.yaxis.set_major_formatter(lambda value, _: words.share(value))
        else:
            _spread_axis(axes.yaxis, rows["y"], words.short)
        axes.grid(True)
        axes.set_xlabel("network image, kB (weights + kernels + activations)")
        axes.set_ylabel(unit)
        figure.legend(
            handles=palette.key(rows, lines=False),
            loc="outside upper left",
            ncols=4,
            handlelength=0.8,
            columnspacing=1.0,
        )

    winners = [frames.label(row, among=rows) for _, row in rows[rows["front"]].iterrows()]
    return svg.chart(
        name,
        draw,
        height=3.3,
        title=title,
        caption=f"The dashed line joins what no other result beats in both figures.{note}",
        alt=f"Scatter plot of {rows['model'].iloc[0]}: bytes of the network image against {unit}, {len(rows)} results. "
        f"Not beaten: {', '.join(winners) or 'none'}.",
    )


def _spread_axis(axis: Any, values: pandas.Series[float], text: Any) -> None:
    """A logarithmic axis where figures differ by more than a factor of three, with a few round labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 3 * low:
        axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(nbins=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.axes.margins(0.1)


def history(rows: pandas.DataFrame, palette: Palette, *, name: str, terms: dict[str, Any]) -> Chart | None:
    """How the latency of each configuration moved since its first result. The rows share a model and `terms`.

    None where nothing was measured twice.
    """
    series = [
        (values, group)
        for values, group in frames.groups(rows.sort_values("time", kind="stable"), frames.CONFIGURATION)
        if len(group) > 1
    ]
    if not series:
        return None
    # Those with the most results tell the most.
    series = sorted(series, key=lambda item: -len(item[1]))[:_MAX_LINES]
    shown = pandas.concat([group for _, group in series])

    def draw(figure: Figure, axes: Axes) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        for values, group in series:
            axes.plot(
                group["time"],
                _relative(group),
                color=palette.color(values["variant"]),
                linestyle=palette.dashes(values["board"]),
                marker=".",
                markersize=4,
                linewidth=1.3,
            )
        axes.axhline(100, color=MUTED, linewidth=0.8)
        axes.grid(True)
        axes.set_ylabel("latency, % of the first result")
        locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        figure.legend(
            handles=palette.key(shown, lines=True),
            loc="outside upper left",
            ncols=4,
            handlelength=2.2,
            columnspacing=1.0,
        )

    moved = [f"{frames.label(group.iloc[-1], among=shown)}: {_relative(group).iloc[-1]:.1f} %" for _, group in series]
    clock = terms["latency.clock"]
    return svg.chart(
        name,
        draw,
        height=3.2,
        title=f"History: {clock}",
        caption="Median latency of every result; a result is never set against one of another clock or compiler.",
        alt=f"Line chart of {rows['model'].iloc[0]}, latency since the first result. Now at {'; '.join(moved)}.",
    )


def _relative(group: pandas.DataFrame) -> pandas.Series[float]:
    values = group["latency.median"].astype(float)
    return values / (values.iloc[0] or 1.0) * 100
