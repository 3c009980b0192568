"""`harness serve`: keeps a board up, and tells the tty of its serial line, for anybody's MLPerf Tiny client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    BoardOption,
    BudgetOption,
    DataOption,
    FormOption,
    JsonOption,
    PreferOption,
    QuietOption,
    SparsityOption,
    VariantOption,
    WeightsOption,
)
from harness.cli.terminal import err, out, print_json, reporter
from harness.errors import InputError


def command(
    model: Annotated[
        str,
        typer.Argument(help="A network (harness models), path/to/file.py:function, or a firmware file: .elf or .bin."),
    ],
    board: BoardOption,
    variant: VariantOption = "int8",
    engine: Annotated[str, typer.Option("--engine", "-e", help="auto, hardware, qemu, simulator or renode.")] = "auto",
    kernels: Annotated[str, typer.Option("--kernels", help="default, plain, or a baseline.")] = "default",
    accuracy_budget: BudgetOption = 0.3,
    sparsity: SparsityOption = None,
    prefer: PreferOption = "balanced",
    form: FormOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    probe: Annotated[str | None, typer.Option("--probe", help="Unique id of the debug probe (harness doctor).")] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="Serial port of a real board.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build and program a network, run the board, and print the tty of its serial line; until Ctrl-C.

    Any client of the MLPerf Tiny protocol may open that tty, one after the other, the benchmark's own runner included.
    Exit code 3, and a report on the core, when the firmware faults.
    """
    from harness import boards, engines
    from harness.pipeline import RunSpec, firmware
    from harness.serving import serve

    said = reporter(quiet=quiet or json)
    target = boards.load(board)
    choice = engines.choose(target, engine, probe)
    if choice.engine == "host":
        raise InputError("there is no board to serve on engine host", hint="harness boards lists what each board has")
    image = Path(model)
    if image.suffix.lower() not in (".elf", ".bin", ".axf"):
        spec = RunSpec(
            model=model,
            board=board,
            variant=variant,
            engine=choice.engine,
            kernels=kernels,
            accuracy_budget=accuracy_budget,
            sparsity=sparsity,
            prefer=prefer,
            forms=tuple(form or ()),
            weights=weights,
            data=data,
        )
        image = firmware(spec, said).elf
    with serve(image, target, choice, serial=serial, reporter=said) as served:
        try:
            if json:
                print_json(
                    {"tty": served.tty, "board": target.id, "engine": choice.engine, "firmware": str(image.absolute())}
                )
            else:
                out.print(served.tty, markup=False, highlight=False)
                if not quiet:
                    err.print(f"{target.name} runs on {choice.engine}; Ctrl-C ends it", style="dim", markup=False)
            out.file.flush()
            served.run()
        except KeyboardInterrupt:
            return
