"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def complete_models(incomplete: str) -> list[str]:
    """Catalogue names that start with what was typed."""
    from harness.models import catalogue

    return [name for name in catalogue.names() if name.startswith(incomplete)]


def parse_clock(text: str | None) -> int | None:
    """ "120MHz", "80 mhz", "32768 Hz" or "120000000" in Hz."""
    from harness.errors import InputError

    if text is None:
        return None
    number = text.strip().lower().removesuffix("hz").strip()
    scale = {"g": 10**9, "m": 10**6, "k": 10**3}.get(number[-1:], 1)
    try:
        hz = round(float(number.rstrip("gmk")) * scale)
    except (ValueError, OverflowError):
        hz = 0
    if not 0 < hz < 2**32:
        raise InputError(f"--clock {text} is no clock", hint="120MHz, for instance")
    return hz


def complete_boards(incomplete: str) -> list[str]:
    """Board names that start with what was typed."""
    from harness import boards

    return [name for name in boards.names() if name.startswith(incomplete)]


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A network of the catalogue (harness models), or path/to/file.py:function that returns a torch.nn.Module.",
        autocompletion=complete_models,
    ),
]
BoardOption = Annotated[
    str, typer.Option("--board", "-b", help="Board name (harness boards).", autocompletion=complete_boards)
]
VariantOption = Annotated[
    str,
    typer.Option(
        "--variant",
        help="How the network is compressed: int8, mixed (2, 4 or 8 bits by --policy), deep (pruned, few levels, "
        "sparse), or fp32.",
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", help="Variant mixed: the bit widths of all tensors, as harness search writes them."),
]
BudgetOption = Annotated[
    float,
    typer.Option("--accuracy-budget", help="Variant deep: percentage points that may be lost on validation data."),
]
SparsityOption = Annotated[
    float | None, typer.Option("--sparsity", help="Variant deep: prune this share of every layer instead of searching.")
]
PreferOption = Annotated[
    str, typer.Option("--prefer", help="Where layers can be stored in several forms: size, speed or balanced.")
]
FormOption = Annotated[
    list[str] | None, typer.Option("--form", help="LAYER=FORM: one layer's form, against --prefer; may be repeated.")
]
FinetuneOption = Annotated[
    int, typer.Option("--finetune", min=0, help="Variant mixed: epochs of training under the policy; 0 for none.")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Weights as safetensors (or a torch state_dict, loaded safely).")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Your data: an .npz with x, y and optionally layout, mean, std.")
]
ClockOption = Annotated[
    str | None,
    typer.Option("--clock", help="Simulator: another core clock, 120MHz for instance; wait states follow from it."),
]
CycleParametersOption = Annotated[
    Path | None,
    typer.Option("--cycle-parameters", help="Simulator: cycle parameters that harness calibrate has written."),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--results", help="Folder for results; else $HARNESS_RESULTS, beside harness.toml, or ./results."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on the way.")]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Compare although this differs: clock, compiler, flags, board or data. Is recorded; may be repeated.",
    ),
]
