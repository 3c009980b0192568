"""Instructions per multiply-accumulate of each layer, ours beside CMSIS-NN, as horizontal bars."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from harness.errors import InputError
from harness.kernelbench.bench import CMSIS_NN, Measurement

_WIDTH, _LINE = 9.0, 0.34  # inches
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 8, "svg.hashsalt": "harness"}
_OURS, _THEIRS = "#1f6feb", "#6e7781"


def draw(found: Sequence[Measurement], *, title: str, suffix: str) -> bytes:
    """The file's content; suffix: .png or .svg. Layers without multiplications are left out. Same input, same bytes.

    InputError for another suffix.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if suffix not in (".png", ".svg"):
        raise InputError(
            f"a plot cannot be written as {suffix or 'a file without suffix'}", hint="name it .png or .svg"
        )
    keys = list(dict.fromkeys(_key(one) for one in found if one.macs))
    best = {_key(one): one for one in found if one.chosen}
    theirs = {_key(one): one for one in found if one.form == CMSIS_NN}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.2 + _LINE * len(keys)), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for values, offset, color, label in ((theirs, -0.2, _THEIRS, "CMSIS-NN"), (best, 0.2, _OURS, "ours")):
            places = [(index + offset, values[key]) for index, key in enumerate(keys) if key in values]
            if places:
                axes.barh(
                    [place for place, _ in places],
                    [one.per_mac or 0 for _, one in places],
                    height=0.38,
                    color=color,
                    label=label,
                )
        names = [f"{network}: {layer}" + (f", {bits}" if bits != "8x8" else "") for network, layer, bits in keys]
        axes.set_yticks(range(len(keys)), names)
        axes.invert_yaxis()
        axes.set_xlabel("instructions per multiply-accumulate")
        axes.set_title(title)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = BytesIO()
        metadata = {"Software": None} if suffix == ".png" else {"Date": None}
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
    return buffer.getvalue()


def _key(one: Measurement) -> tuple[str, str, str]:
    return one.network, one.layer, one.widths
