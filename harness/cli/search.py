"""`harness search`: finds how many bits each tensor gets under limits of flash and RAM, and writes the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    DataOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    WeightsOption,
    complete_boards,
)
from harness.cli.terminal import err, out, print_json, reporter
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.search.methods import Found


def _complete_methods(incomplete: str) -> list[str]:
    from harness.search.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def command(
    model: ModelArgument,
    flash: Annotated[
        str | None, typer.Option("--flash", help="Limit of weights and their parameters: 2048kB, 512KiB or bytes.")
    ] = None,
    ram: Annotated[
        str | None,
        typer.Option("--ram", help="Limit of the activations that are alive at once: 512kB, 64KiB or bytes."),
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", help="memory-rule, rl, ilp or random.", autocompletion=_complete_methods),
    ] = "rl",
    episodes: Annotated[
        int, typer.Option("--episodes", min=1, help="Policies that rl and random try; HAQ's number if left out.")
    ] = 600,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The policy; default ./MODEL-policy.json. Plots are put beside it."),
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Activations keep 8 bits: the paper's first experiment.")
    ] = False,
    fill: Annotated[
        bool,
        typer.Option(
            "--fill/--no-fill", help="memory-rule: use what the rule leaves, or the rule as it was published."
        ),
    ] = True,
    fit_board: Annotated[
        str | None,
        typer.Option(
            "--fit-board",
            help="Take the limits from this board: a policy that is found is linked for it.",
            autocompletion=complete_boards,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of rl and random.")] = 0,
    images: Annotated[int, typer.Option("--images", min=1, help="Validation images that score a policy.")] = 2_000,
    weights: WeightsOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose 2, 4 or 8 bits for every weight and activation tensor, and write the policy for --variant mixed.

    Policies are scored on validation data after post-training quantisation. An interrupted search goes on.
    """
    from harness import sizes
    from harness.files import cache_dir, write_whole
    from harness.search import loading
    from harness.search.methods import search
    from harness.search.tensors import Limits

    limits = Limits(sizes.parse(flash) if flash else None, sizes.parse(ram) if ram else None)
    if flash is None and ram is None and fit_board is None:
        raise InputError("there is no limit to search under", hint="--flash 2048kB --ram 512kB, or --fit-board BOARD")
    if not fill and method != "memory-rule":
        raise InputError(f"--no-fill is for --method memory-rule: {method} always fills the flash")
    tell = reporter(quiet=quiet or json)
    loaded = loading.load(model, weights=weights, data=data, need_data=method != "memory-rule", reporter=tell)
    if loaded.dataset is None:
        tell.say(f"{loaded.graph.name} has no data here: the policy gets no score")

    def find(within: Limits) -> Found:
        return search(
            loaded.graph,
            loaded.dataset,
            within,
            method,
            episodes=episodes,
            seed=seed,
            weights_only=weights_only,
            fill=fill,
            images=images,
            cache_dir=cache_dir(),
            reporter=tell,
        )

    if fit_board is None:
        found = find(limits)
    else:
        from harness.search import fitting

        found, limits = fitting.fit(loaded, fit_board, limits, find, reporter=tell)
    path = output or Path(f"{loaded.graph.name}-policy.json")
    found.policy.write(path)
    written = [path]
    from harness.search import plot

    for suffix, content in (
        ("bits", plot.bits(found.policy)),
        ("curve", plot.curve(found.history, found.policy) if found.history else None),
    ):
        if content is not None:
            written.append(path.with_name(f"{path.stem}-{suffix}.png"))
            write_whole(written[-1], content)
    if json:
        print_json(
            {
                **found.policy.to_json(),
                "file": str(path),
                "limits": {"flash": limits.flash, "ram": limits.ram},
                "evaluations": found.evaluations,
                "images": found.images,
                "float_score": found.float_score,
                "seconds": round(found.seconds, 1),
            }
        )
        return
    policy = found.policy
    used = f" ({policy.bytes / limits.flash:.1%} of the limit)" if policy.bytes and limits.flash else ""
    out.print(f"{path}: {policy.bytes:,} B of weights{used}, {policy.peak_ram:,} B of activations", markup=False)
    for name, widths in (("weights", policy.weights), ("activations", policy.activations)):
        out.print(f"  {name:<11} {' '.join(str(bits) for bits in widths.values())}", markup=False)
    if policy.score is not None and found.float_score is not None:
        out.print(
            f"  validation accuracy {policy.score:.2%}, float {found.float_score:.2%}; {found.evaluations} evaluations "
            f"in {found.seconds:.0f} s",
            markup=False,
        )
    if not quiet:
        for file in written[1:]:
            err.print(f"written to {file}", style="dim", markup=False, soft_wrap=True)
