"""`harness run`: the main job, from a network's name to a measured, checked result."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import (
    BoardOption,
    BudgetOption,
    ClockOption,
    CycleParametersOption,
    DataOption,
    FinetuneOption,
    FormOption,
    JsonOption,
    ModelArgument,
    PolicyOption,
    PreferOption,
    QuietOption,
    ResultsOption,
    SparsityOption,
    VariantOption,
    WeightsOption,
    parse_clock,
)
from harness.cli.terminal import err, fail, out, reporter


def command(
    model: ModelArgument,
    board: BoardOption,
    variant: VariantOption = "int8",
    engine: Annotated[
        str,
        typer.Option("--engine", "-e", help="auto, hardware, simulator, qemu, renode, or host (this machine)."),
    ] = "auto",
    kernels: Annotated[
        str,
        typer.Option(
            "--kernels",
            help="default, plain, or a baseline: unlu, paper-a, cmsis-nn (links the library that you built and that "
            "$HARNESS_CMSIS_NN names).",
        ),
    ] = "default",
    optimize: Annotated[
        str | None,
        typer.Option("--optimize", help="-O0 to -O3, -Os or -Ofast for the kernels, instead of their own level."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Test samples to infer.")] = 20,
    repeat: Annotated[int, typer.Option("--repeat", "-r", min=1, help="Timed inferences.")] = 5,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Chooses the samples; of variant deep, also the seed of its search.")
    ] = 0,
    accuracy_budget: BudgetOption = 0.3,
    sparsity: SparsityOption = None,
    prefer: PreferOption = "balanced",
    form: FormOption = None,
    policy: PolicyOption = None,
    finetune: FinetuneOption = 0,
    weights: WeightsOption = None,
    data: DataOption = None,
    probe: Annotated[
        str | None, typer.Option("--probe", help="Id of the debug probe (harness doctor), or remote:HOST[:PORT].")
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            "--serial", help="The board's serial port, rfc2217://HOST:PORT or socket://HOST:PORT; found if left out."
        ),
    ] = None,
    toolchain: Annotated[
        str, typer.Option("--toolchain", help="auto, path (arm-none-eabi-gcc on PATH) or registry (PlatformIO's).")
    ] = "auto",
    clock: ClockOption = None,
    cycle_parameters: CycleParametersOption = None,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compress a network, build it, run it on a board, check every layer, and record what it costs."""
    from harness.pipeline import RunSpec, run
    from harness.results import store

    folder = store.writable_results_dir(results)
    spec = RunSpec(
        model=model,
        board=board,
        variant=variant,
        engine=engine,
        kernels=kernels,
        optimize=optimize,
        samples=samples,
        repeat=repeat,
        seed=seed,
        accuracy_budget=accuracy_budget,
        sparsity=sparsity,
        prefer=prefer,
        forms=tuple(form or ()),
        policy=policy,
        finetune=finetune,
        weights=weights,
        data=data,
        probe=probe,
        serial=serial,
        toolchain=toolchain,
        clock_hz=parse_clock(clock),
        cycle_parameters=cycle_parameters,
    )
    outcome = run(spec, reporter(quiet=quiet or json))
    path = store.save(outcome.result, folder)
    if json:
        typer.echo(outcome.result.to_json(), nl=False)
    else:
        from harness.report import text

        out.print(text.result(outcome.result))
        if not quiet:
            err.print(f"written to {path}", style="dim", markup=False, soft_wrap=True)
    if outcome.verdict is not None:
        fail(outcome.verdict)
