"""`harness train`: trains a network of the catalogue from scratch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DataOption, JsonOption, QuietOption, complete_models
from harness.cli.terminal import out, print_json, reporter
from harness.errors import InputError


def command(
    model: Annotated[str, typer.Argument(help="A network of the catalogue.", autocompletion=complete_models)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the weights go; default ./MODEL.safetensors.")
    ] = None,
    data: DataOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; the recipe's number if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = 0,
    threads: Annotated[
        int,
        typer.Option(min=1, help="Torch threads; equal bits need equal numbers (shipped weights: 2 or as noted)."),
    ] = 2,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network on its dataset and write the weights as safetensors."""
    from harness import data as datasets
    from harness.compress.train import save_weights, train
    from harness.models import catalogue

    entry = catalogue.entry(model)
    tell = reporter(quiet=quiet)
    source = str(data) if data else entry.dataset
    if source is None:
        raise InputError(f"{model} has no dataset here to train on", hint="--data my.npz")
    dataset = datasets.load(source, reporter=tell)
    tell.say(f"training {model} on {dataset.name} ({len(dataset.train.y):,} images; {dataset.origin})")
    with tell.stage("training") as advance:
        report = train(entry, dataset, seed=seed, epochs=epochs, threads=threads, progress=advance)
    path = output or Path(f"{model}.safetensors")
    save_weights(path, report.state_dict, report.metadata)
    if json:
        history = [dataclasses.asdict(epoch) for epoch in report.history]
        print_json({**report.metadata, "weights": str(path), "seconds": report.seconds, "history": history})
        return
    out.print(f"{path}: test accuracy {report.test_accuracy:.2%} after {len(report.history)} epochs", markup=False)
