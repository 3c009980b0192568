"""Validation accuracy against bytes of weights: the searches of one network as points and curves, PNG and SVG."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.reproduce.bit_widths import Searched

_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "harness"}
_COLORS = {
    "memory-rule": "#9a6700",
    "memory-rule-filled": "#cf7c00",
    "ilp": "#1a7f37",
    "rl": "#1f6feb",
    "random": "#6e7781",
}
_MARKERS = {"memory-rule": "s", "memory-rule-filled": "P", "ilp": "D", "rl": "o", "random": "x"}


def draw(one: Searched) -> dict[str, bytes]:
    """The plot's files by suffix: png and svg. The same figures give the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(7.5, 4.8), dpi=130, layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.subplots()
        axes.axhline(100 * one.float_validation, color="#57606a", linewidth=0.8, linestyle=":", label="float")
        for method, points in one.curves.items():
            axes.plot(
                [size / 1000 for size, _ in points],
                [100 * accuracy for _, accuracy in points],
                color=_COLORS[method],
                linewidth=1,
                marker=".",
                label=f"{method}, other limits",
            )
        for method, marker in _MARKERS.items():
            rows = [row for row in one.rows if row.method == method]
            axes.scatter(
                [row.flash / 1000 for row in rows],
                [100 * row.validation for row in rows],
                s=42,
                marker=marker,
                color=_COLORS[method],
                label=method,
                zorder=3,
            )
        flash = one.experiment.limits.flash
        if flash is not None:
            axes.axvline(flash / 1000, color="#cf222e", linewidth=0.8, label="limit")
        # Networks that 2 bits break would squeeze all others into a line.
        floor = min(row.validation for row in one.rows)
        axes.set_ylim(bottom=100 * max(0.0, floor - (one.float_validation - floor)))
        axes.set_xlabel("weights and parameters, kB")
        axes.set_ylabel(f"validation accuracy on {one.dataset}, %")
        axes.set_title(f"{one.experiment.network}: searches at equal limits", loc="left")
        axes.grid(True, color="#d0d7de", linewidth=0.6, zorder=0)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        files = {}
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = BytesIO()
            drawn.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
        return files
