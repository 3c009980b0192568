"""`harness export`: the network as C for a project of one's own, without our firmware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from harness.cli.options import (
    DataOption,
    FinetuneOption,
    FormOption,
    JsonOption,
    ModelArgument,
    PolicyOption,
    PreferOption,
    QuietOption,
    VariantOption,
    WeightsOption,
    complete_boards,
)
from harness.cli.terminal import out, print_json, reporter

if TYPE_CHECKING:
    from harness.codegen.choose import Prefer


def command(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must be new or empty.")],
    variant: VariantOption = "int8",
    board: Annotated[
        str, typer.Option("--board", "-b", help="Board whose core the C is made for.", autocompletion=complete_boards)
    ] = "nucleo-f746",
    prefer: PreferOption = "balanced",
    form: FormOption = None,
    policy: PolicyOption = None,
    finetune: FinetuneOption = 0,
    weights: WeightsOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write network.c, network.h, the kernels it needs and a README on how to call it."""
    from harness import boards
    from harness.codegen.generate import export
    from harness.pipeline import parse_forms
    from harness.preparation import Compression, prepare
    from harness.search import policy as policies

    core = boards.load(board).core
    widths = None if policy is None else policies.read(policy)
    compression = Compression(variant, prefer=prefer, policy=widths, finetune=finetune)
    prepared = prepare(model, compression, weights=weights, data=data, reporter=reporter(quiet=quiet or json))
    files = export(
        prepared.graph,
        variant=variant,
        core=core,
        directory=output,
        prefer=cast("Prefer", prefer),
        forms=parse_forms(form or ()),
    )
    if json:
        print_json({"directory": str(output), "files": [path.name for path in files]})
        return
    for path in files if not quiet else ():
        out.print(f"{path}  {path.stat().st_size:,} B", markup=False, soft_wrap=True)
