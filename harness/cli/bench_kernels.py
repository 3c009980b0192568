"""`harness bench-kernels`: what every kernel costs on the layers of published networks, beside CMSIS-NN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import BoardOption, JsonOption
from harness.cli.terminal import out, print_json, reporter

if TYPE_CHECKING:
    from rich.table import Table

    from harness.kernelbench.bench import Measurement


def command(
    board: BoardOption = "nucleo-f746",
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shapes", help="mobilenet, resnet8, ds-cnn or autoencoder; may be repeated. All when left out."),
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", help="Bits of the weights: 8, 4 or 2; may be repeated. 8 alone.")
    ] = None,
    activations: Annotated[
        list[int] | None,
        typer.Option("--activations", help="Bits of the activations: 8, 4 or 2; may be repeated. 8 alone."),
    ] = None,
    symmetric: Annotated[
        bool,
        typer.Option("--symmetric", help="Weights of 4 and 2 bits from -7 and -1 up: some faster kernels want that."),
    ] = False,
    every_form: Annotated[
        bool, typer.Option("--all", help="Every form that fits, not only the one of the fewest instructions.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it: a .png or .svg file.")] = None,
    json: JsonOption = False,
) -> None:
    """Count instructions, cycles and bytes of kernels on layers of MobileNetV1, ResNet-8, DS-CNN and an autoencoder.

    Each layer runs alone in the built-in simulator and is compared bit for bit with the reference. CMSIS-NN stands
    beside it where $HARNESS_CMSIS_NN names a folder with the library, built for the board's core.
    """
    from harness import boards
    from harness.errors import unknown_name
    from harness.files import write_whole
    from harness.kernelbench import bench
    from harness.kernelbench import shapes as layers

    chosen = shapes or list(layers.NETWORKS)
    for name in chosen:
        if name not in layers.NETWORKS:
            raise unknown_name("set of shapes", name, layers.NETWORKS)
    widths, active = bits or [8], activations or [8]
    for what, given in (("weights", widths), ("activations", active)):
        for width in given:
            if width not in (8, 4, 2):
                raise unknown_name(f"width of {what}", str(width), ("8", "4", "2"))
    target = boards.load(board)
    wanted = [shape for name in chosen for shape in layers.of(name)]
    with reporter(quiet=json).stage(f"Measuring {len(wanted)} layers on {target.id}") as advance:
        measured = bench.measure(
            target,
            wanted,
            widths=widths,
            activations=active,
            symmetric=symmetric,
            every_form=every_form,
            advance=advance,
        )
        found = list(measured)
    if plot is not None:
        from harness.kernelbench import plots

        write_whole(plot, plots.draw(found, title=f"Instructions per MAC on {target.id}", suffix=plot.suffix))
    if json:
        print_json({**bench.provenance(target), "measurements": [one.plain() for one in found]})
        return
    for name in chosen:
        out.print(_table(name, [one for one in found if one.network == name]))


def _table(network: str, found: list[Measurement]) -> Table:
    from rich.table import Table

    from harness.kernelbench import bench

    compared = any(one.form == bench.CMSIS_NN for one in found)
    table = Table(title=network, box=None, header_style="bold", title_justify="left")
    for column in (
        "layer",
        "times",
        "bits",
        "kernel",
        "instructions",
        "per MAC",
        "cycles",
        *(("to CMSIS-NN", "asked", "in cycles") if compared else ()),
        "code",
        "constants",
        "scratch",
        "bits agree",
    ):
        table.add_column(column, justify="left" if column in ("layer", "kernel", "bits agree") else "right")
    ratios, in_cycles = bench.ratios(found), bench.ratios(found, "cycles")
    for one, ratio, by_cycles in zip(found, ratios, in_cycles, strict=True):
        asked = bench.ASKED.get(one.kind) if one.form != bench.CMSIS_NN and one.widths == "8x8" else None
        style = None if ratio is None or asked is None or not one.chosen else "green" if ratio >= asked else "yellow"
        table.add_row(
            one.layer,
            str(one.count),
            one.widths,
            one.form + ("*" if one.chosen else ""),
            f"{one.instructions:,}",
            "-" if one.per_mac is None else f"{one.per_mac:.3f}",
            f"{one.cycles:,}",
            *((_times(ratio, style), "-" if asked is None else f"{asked:g}x", _times(by_cycles)) if compared else ()),
            f"{one.code:,}",
            f"{one.constants:,}",
            f"{one.scratch:,}",
            {True: "yes", False: "NO", None: "-"}[one.exact],
        )
    table.caption = (
        "* the fewest instructions; bits: activations x weights (s: symmetric) > outputs; "
        "bytes: code with everything it calls, constants, scratch"
    )
    return table


def _times(ratio: float | None, style: str | None = None) -> str:
    if ratio is None:
        return "-"
    return f"[{style}]{ratio:.2f}x[/]" if style else f"{ratio:.2f}x"
