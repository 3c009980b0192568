"""Bytes against instructions on logarithmic axes, every case a labelled point: as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

_INCHES = (9.0, 6.0)
_DPI = 130
# The salt makes the SVG's ids the same each time.
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "harness"}
# Where a label may stand, in points from its point: near ones first.
_PLACES = [
    (horizontal, vertical)
    for distance in (9, 18, 30, 44, 60)
    for horizontal, vertical in ((distance, 0), (0, distance), (0, -distance), (-distance, 0))
] + [(sx * d, sy * d) for d in (12, 24, 38, 54) for sx, sy in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
_COLORS = {"ours": "#1f6feb", "baseline": "#6e7781", "published": "#bf3989", "floor": "#9a6700"}
_MARKERS = {"ours": "o", "baseline": "s", "published": "D", "floor": "_"}
_WORDS = {
    "ours": "ours, measured",
    "baseline": "baselines, measured",
    "published": "published ratio applied to our fp32 baseline",
    "floor": "estimated floor",
}


@dataclass(frozen=True)
class Point:
    """kind: ours, baseline, published or floor."""

    label: str
    bytes: float
    instructions: float
    kind: str


def draw(points: Sequence[Point], *, title: str) -> dict[str, bytes]:
    """The plot's files by suffix: png and svg. The same points give the same bytes."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        drawn, _ = figure(points, title=title)
        files = {}
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = BytesIO()
            drawn.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
        return files


def figure(points: Sequence[Point], *, title: str) -> tuple[Figure, list[Annotation]]:
    """The figure, laid out, and its labels in the order of the points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    for kind in [kind for kind in _WORDS if any(point.kind == kind for point in points)]:
        chosen = [point for point in points if point.kind == kind]
        axes.scatter(
            [point.bytes for point in chosen],
            [point.instructions for point in chosen],
            s=90 if kind == "floor" else 36,
            marker=_MARKERS[kind],
            color=_COLORS[kind],
            label=_WORDS[kind],
            zorder=3,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.12)
    axes.set_xlabel("network image, bytes (weights + kernels + activations)")
    axes.set_ylabel("instructions of one inference")
    axes.set_title(title, loc="left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain)
        axis.set_minor_formatter(_plain_minor)
    axes.grid(True, which="major", color="#d0d7de", linewidth=0.6, zorder=0)
    axes.grid(True, which="minor", color="#eaeef2", linewidth=0.4, zorder=0)
    axes.tick_params(which="both", colors="#57606a", labelsize=8, pad=4)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    canvas.draw()  # type: ignore[no-untyped-call]
    return drawn, _label(axes, points)


def _plain(value: float, _position: object = None) -> str:
    """6 k, 20 k, 1 M."""
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _plain_minor(value: float, position: object = None) -> str:
    """Only 2 and 5 of a decade are written out."""
    leading = value / 10 ** (len(str(int(value))) - 1)
    return _plain(value, position) if round(leading, 6) in (2.0, 5.0) else ""


def _label(axes: Axes, points: Sequence[Point]) -> list[Annotation]:
    """Each label at the first place where it covers no point and no other label; a line leads to far ones."""
    renderer: Any = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    pixels = axes.transData.transform([(point.bytes, point.instructions) for point in points])
    legend = axes.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend is not None else []
    radius = 5 * _DPI / 72
    labels = []
    for point in points:
        annotation: Annotation | None = None
        for x, y in _PLACES:
            if annotation is not None:
                annotation.remove()
            annotation = _annotate(axes, point, x, y)
            box = text_box(annotation, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            free = not any(box.overlaps(other) for other in taken)
            clear = not any(
                box.x0 - radius <= px <= box.x1 + radius and box.y0 - radius / 2 <= py <= box.y1 + radius / 2
                for px, py in pixels
            )
            if inside and free and clear:
                break
        assert annotation is not None
        labels.append(annotation)
        taken.append(text_box(annotation, renderer))
    return labels


def text_box(annotation: Annotation, renderer: Any) -> Any:
    """Where the words are: an Annotation's own extent has its arrow in it."""
    from matplotlib.text import Text

    annotation.update_positions(renderer)
    return Text.get_window_extent(annotation, renderer)


def _annotate(axes: Axes, point: Point, x: int, y: int) -> Annotation:
    far = abs(x) + abs(y) > 30
    return axes.annotate(
        point.label,
        (point.bytes, point.instructions),
        xytext=(x, y),
        textcoords="offset points",
        ha="left" if x > 0 else "right" if x < 0 else "center",
        va="bottom" if y > 0 else "top" if y < 0 else "center",
        fontsize=8,
        color=_COLORS[point.kind],
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        arrowprops={"arrowstyle": "-", "color": "#d0d7de", "linewidth": 0.8, "shrinkB": 3} if far else None,
        zorder=4,
    )
