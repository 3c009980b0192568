"""`harness profile`: where the modelled cycles of one inference go."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    BoardOption,
    ClockOption,
    CycleParametersOption,
    DataOption,
    FormOption,
    JsonOption,
    ModelArgument,
    PreferOption,
    QuietOption,
    VariantOption,
    WeightsOption,
    parse_clock,
)
from harness.cli.terminal import err, out, reporter


def command(
    model: ModelArgument,
    board: BoardOption,
    variant: VariantOption = "int8",
    kernels: Annotated[str, typer.Option("--kernels", help="default, plain, or a baseline; as for run.")] = "default",
    optimize: Annotated[str | None, typer.Option("--optimize", help="As for run.")] = None,
    prefer: PreferOption = "balanced",
    form: FormOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    clock: ClockOption = None,
    cycle_parameters: CycleParametersOption = None,
    annotate: Annotated[
        str | None, typer.Option("--annotate", help="A layer: its disassembly with cycles per instruction.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the layers to this .png, .svg or .pdf.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run one inference on the simulator and tell where its cycles go: layers, functions, stalls."""
    from harness import boards, engines
    from harness.emulators.simulator.cycles.model import CycleModel
    from harness.pipeline import RunSpec, build_firmware
    from harness.profiling import chart, text
    from harness.profiling.profile import profile

    found = boards.load(board)
    engines.choose(found, "simulator", None)
    cycle_model = CycleModel.of(found, clock_hz=parse_clock(clock), parameters_file=cycle_parameters)
    said = reporter(quiet=quiet or json)
    spec = RunSpec(
        model=model,
        board=board,
        variant=variant,
        engine="simulator",
        kernels=kernels,
        optimize=optimize,
        prefer=prefer,
        forms=tuple(form or ()),
        weights=weights,
        data=data,
    )
    built = build_firmware(spec, said)
    with said.stage("profiling"):
        result = profile(found, built.firmware.elf, built.generated, built.data, cycle_model)
    if plot is not None:
        chart.save(result, plot)
    if json:
        typer.echo(json_module.dumps(result.plain(), indent=2))
    elif annotate is not None:
        typer.echo(text.annotation(result, annotate))
    else:
        out.print(text.summary(result))
    if plot is not None and not quiet:
        err.print(f"drawn to {plot}", style="dim", markup=False, soft_wrap=True)
