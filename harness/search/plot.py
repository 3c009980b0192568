"""Two plots of a search: the bits of every layer, and the scores as the episodes went by."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.search.methods import learning_curve
from harness.search.policy import WIDTHS, Policy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 130
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "harness"}
_WEIGHTS, _ACTIVATIONS, _MUTED = "#1f6feb", "#9a6700", "#8c959f"


def bits(policy: Policy) -> bytes:
    """The widths of weights and activations, layer by layer, as PNG."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        layers = list(dict.fromkeys([*policy.weights, *policy.activations]))
        drawn = _figure(max(5.0, 1.5 + 0.28 * len(layers)), 4.6)
        for axes, widths, title, color in zip(
            drawn.subplots(2, 1, sharex=True),
            (policy.weights, policy.activations),
            ("weights", "activations"),
            (_WEIGHTS, _ACTIVATIONS),
            strict=True,
        ):
            places = [index for index, layer in enumerate(layers) if layer in widths]
            axes.bar(places, [widths[layers[index]] for index in places], color=color, width=0.7, zorder=3)
            axes.set_yticks(WIDTHS)
            axes.set_ylim(0, 8.8)
            axes.set_ylabel("bits")
            axes.set_title(title, loc="left", fontsize=9)
            axes.grid(True, axis="y", color="#d0d7de", linewidth=0.6, zorder=0)
            axes.set_xlim(-0.7, len(layers) - 0.3)
            axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        drawn.suptitle(f"{policy.network}, {policy.method}{_words(policy)}", x=0.01, ha="left", fontsize=10)
        return _png(drawn)


def curve(history: Sequence[float], policy: Policy) -> bytes:
    """Every episode's score and the best until then, as PNG."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        drawn = _figure(7.0, 4.0)
        axes = drawn.subplots()
        episodes = np.arange(1, len(history) + 1)
        scores = 100 * np.array(history)
        axes.scatter(episodes, scores, s=6, color=_MUTED, label="episode", zorder=2)
        best = 100 * np.array(learning_curve(history))
        axes.plot(episodes, best, color=_WEIGHTS, label="best so far", zorder=3)
        # Policies that break the network would squeeze all others into a line.
        axes.set_ylim(bottom=max(0.0, float(np.percentile(scores, 10)) - 1))
        axes.set_xlabel("episode")
        axes.set_ylabel("validation accuracy, %")
        axes.set_title(f"{policy.network}, {policy.method}", loc="left", fontsize=10)
        axes.grid(True, color="#d0d7de", linewidth=0.6, zorder=0)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        return _png(drawn)


def _words(policy: Policy) -> str:
    size = "" if policy.bytes is None else f", {policy.bytes:,} B"
    return size + ("" if policy.score is None else f", validation accuracy {policy.score:.2%}")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def _png(drawn: Figure) -> bytes:
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
