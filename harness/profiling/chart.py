"""The picture of a profile: one bar per layer, its cycles by cause."""

from __future__ import annotations

import io
from pathlib import Path

from harness.errors import InputError
from harness.files import write_whole
from harness.profiling.profile import CAUSES, Profile

_FORMATS = ("png", "svg", "pdf")
# Distinguishable for all, and in greys: Okabe and Ito's palette.
_COLOURS = dict(zip(CAUSES, ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#999999"), strict=True))
_LABELS = {
    "issue": "issue",
    "operands": "operands (data stalls inside the core)",
    "data": "memory (data stalls)",
    "fetch": "instruction fetch",
    "branch": "branches",
}


def save(profile: Profile, path: Path) -> None:
    """Writes the chart to `path`, whose suffix says how. InputError for a suffix that is none of png, svg, pdf."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise InputError(
            f"cannot draw to {path}", hint=f"a file that ends in {', '.join('.' + one for one in _FORMATS)}"
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = profile.layers
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = [0.0] * len(layers)
    names = [layer.name for layer in layers]
    for cause in CAUSES:
        widths = [getattr(layer.cycles, cause) / 1e3 for layer in layers]
        axes.barh(names, widths, left=left, color=_COLOURS[cause], label=_LABELS[cause])
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for index, layer in enumerate(layers):
        if layer.macs and layer.cycles.total:
            axes.text(left[index], index, f" {layer.macs / layer.cycles.total:.2f} MAC/cycle", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    band = profile.error_band
    quality = "uncalibrated" if band is None else f"±{band:.0%}"
    axes.set_xlabel(f"thousand modelled cycles ({quality}); the core's peak is {profile.peak:g} MAC/cycle")
    axes.set_title(f"{profile.network} on {profile.board} at {profile.clock_hz / 1e6:g} MHz", loc="left")
    axes.legend(fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    # No date, so that the same figures give the same file.
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_whole(path, buffer.getvalue())
