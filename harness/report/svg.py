"""One matplotlib figure as inline SVG that takes its colours and its typeface from the page around it.

A figure is drawn in stand-in colours; in the SVG they become CSS variables, so that one drawing is right on a light and
on a dark page. Text stays text: it can be searched, selected and read aloud.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in -> CSS variable. No drawing uses these near-blacks for themselves.
INK, MUTED, GRID, SURFACE = "#010203", "#020304", "#030405", "#040506"
SERIES = tuple(f"#0506{number:02x}" for number in range(7, 15))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)
}

# Narrow enough to be read on a phone without scaling; a wide page puts two side by side.
WIDTH_INCHES = 4.6

# matplotlib types its settings as a dict of literals.
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Chart:
    """A drawn figure. alt: what it shows, in words, for those who cannot see it. svg: an <svg> element."""

    title: str
    caption: str
    alt: str
    svg: str


def chart(
    name: str, draw: Callable[[Figure, Axes], None], *, height: float, title: str, caption: str, alt: str
) -> Chart:
    """Draws a figure of WIDTH_INCHES x `height` inches. name: unique on the page, of letters, digits and hyphens."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, figure.add_subplot())
        buffer = io.StringIO()
        # No date: the same figures give the same bytes.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(title, caption, alt, _inline(buffer.getvalue(), name, title, alt))


def _inline(document: str, name: str, title: str, alt: str) -> str:
    """matplotlib's SVG document as an element of a page: own ids, the page's colours, a title and a description."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    assert view_box is not None
    head = (
        f'<svg viewBox="{view_box[1]}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(alt)}</desc>'
    )
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name), body)
    return head + re.sub(r">\s+<", "><", body).strip()


def _tag(tag: str, name: str) -> str:
    """One tag of the document, as it is in the page. Text between tags is left alone."""
    tag = tag.replace(' id="', f' id="{name}-').replace("xlink:href", "href").replace('href="#', f'href="#{name}-')
    tag = tag.replace("url(#", f"url(#{name}-")
    tag = re.sub("|".join(_VARIABLES), lambda found: f"var({_VARIABLES[found[0]]})", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    # A hundredth of a point is finer than any screen.
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)
