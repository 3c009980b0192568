"""`harness compress`: writes a variant's integers to a file; the catalogue ships such files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    BudgetOption,
    DataOption,
    FinetuneOption,
    JsonOption,
    ModelArgument,
    PolicyOption,
    PreferOption,
    QuietOption,
    SparsityOption,
    VariantOption,
    WeightsOption,
)
from harness.cli.terminal import out, print_json, reporter
from harness.errors import InputError


def command(
    model: ModelArgument,
    variant: VariantOption = "int8",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; default ./MODEL-VARIANT.safetensors.")
    ] = None,
    accuracy_budget: BudgetOption = 0.3,
    sparsity: SparsityOption = None,
    prefer: PreferOption = "balanced",
    policy: PolicyOption = None,
    finetune: FinetuneOption = 0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of variant deep's search, or of variant mixed's fine-tuning.")
    ] = 0,
    weights: WeightsOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compress a network on validation data, report its test accuracy, and write the integers as safetensors."""
    from harness.graph import graph as graph_file
    from harness.preparation import Compression, compress
    from harness.search import policy as policies

    if variant == "fp32":
        raise InputError("variant fp32 is the network itself: there is nothing to compress")
    widths = None if policy is None else policies.read(policy)
    compression = Compression(variant, accuracy_budget, sparsity, prefer, seed, widths, finetune)
    tell = reporter(quiet=quiet or json)
    prepared, accuracy, fp32 = compress(model, compression, weights=weights, data=data, reporter=tell)
    path = output or Path(f"{prepared.graph.name}-{variant}.safetensors")
    metadata = {
        "variant": variant,
        "seed": str(seed),
        "weights_sha256": prepared.weights_sha256,
        "dataset": prepared.dataset.name,
        "test_accuracy": f"{accuracy:.4f}",
    }
    graph_file.save(prepared.graph, path, metadata)
    if json:
        print_json({"file": str(path), "graph_sha256": prepared.graph.sha256(), "fp32_accuracy": fp32, **metadata})
        return
    out.print(
        f"{path}: test accuracy {accuracy:.2%}, fp32 {fp32:.2%} ({len(prepared.dataset.test):,} images)", markup=False
    )
