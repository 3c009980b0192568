"""`harness verify`: makes a result again, from its fingerprint, and says whether it is the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DataOption, JsonOption, PolicyOption, QuietOption, ResultsOption, WeightsOption
from harness.cli.terminal import out, print_json, reporter
from harness.errors import GateError, InputError

if TYPE_CHECKING:
    from harness.pipeline import RunSpec
    from harness.results.record import Result

# What a build leaves in the cache; the rest is downloaded or traced, and checked by its content.
_BUILT = ("firmware", "host")


def command(
    id: Annotated[str, typer.Argument(help="A result's id, or the beginning of it or of its hash.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="path/to/file.py:function, for a network of your own.")
    ] = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    policy: PolicyOption = None,
    probe: Annotated[str | None, typer.Option("--probe", help="Unique id of the debug probe.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="Serial port of the board.")] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build a result's firmware afresh and run it again: the same ELF and figures, or exit 1 with what differs first.

    Times of real boards and of this machine are not compared; nothing is added to the results.
    """
    from harness.pipeline import run
    from harness.results import store
    from harness.results.verification import steps

    recorded = store.get(id, results)
    named = {"weights": weights, "data": data, "policy": policy, "probe": probe, "serial": serial}
    spec = _spec(recorded, model, named)
    with _nothing_built():
        outcome = run(spec, reporter(quiet=quiet or json))
    compared = list(steps(recorded, outcome.result))
    first = next((step for step in compared if not step.same), None)
    if json:
        print_json(
            {
                "id": recorded.id,
                "same": first is None,
                "first_difference": first.field if first else None,
                "steps": [
                    {"field": step.field, "same": step.same, "before": step.before, "after": step.after}
                    for step in compared
                ],
            }
        )
    else:
        for step in compared:
            out.print("[green]same    [/]" if step.same else "[bold red]differs [/]", end="  ")
            detail = _short(step.before) if step.same else f"{_short(step.before)} -> {_short(step.after)}"
            name = step.field if step.title == "figure" else step.title
            out.print(f"{name}: {detail}" if step.field != "*" else name, markup=False, soft_wrap=True)
    if first is not None:
        raise GateError(
            f"{recorded.id} is not the same again: the first difference is {first.field}",
            hint=_hint(recorded, outcome.result),
        )


def _spec(recorded: Result, model: str | None, named: Mapping[str, Path | str | None]) -> RunSpec:
    """The run to repeat. named: what belongs to this machine, and files that a record holds only the checksum of."""
    from harness.files import file_sha256
    from harness.models import catalogue
    from harness.sweep.specs import from_options

    if model is None and recorded.model not in catalogue.names():
        raise InputError(
            f"{recorded.id} is of a network of your own, {recorded.model}",
            hint="name its files: --model path/to/file.py:function --weights FILE --data FILE",
        )
    recorded_options = dict(recorded.fingerprint.options or {})
    widths, policy = recorded_options.pop("policy_sha256", None), named["policy"]
    if widths is not None and (policy is None or file_sha256(Path(policy)) != widths):
        raise InputError(
            f"{recorded.id} was made under a policy with SHA-256 {widths}"
            + ("" if policy is None else ", which is another one"),
            hint="name its file: --policy FILE",
        )
    options = {
        **recorded_options,
        "model": model or recorded.model,
        "board": recorded.board,
        "variant": recorded.variant,
        "engine": recorded.engine,
        "kernels": recorded.kernels,
        "samples": recorded.accuracy.samples,
        "repeat": recorded.latency.repeats,
        "seed": recorded.seed or 0,
        **{name: value for name, value in named.items() if value is not None},
    }
    return from_options(options, where=f"result {recorded.id}")


@contextmanager
def _nothing_built() -> Iterator[None]:
    """A cache without anything that was compiled, so that it is compiled again; what was fetched stays at hand."""
    from harness.files import cache_dir

    before, cache = os.environ.get("HARNESS_CACHE"), cache_dir()
    with tempfile.TemporaryDirectory(prefix="harness-verify-") as folder:
        for path in cache.iterdir() if cache.is_dir() else ():
            if path.name not in _BUILT:
                (Path(folder) / path.name).symlink_to(path)
        os.environ["HARNESS_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["HARNESS_CACHE"]
            else:
                os.environ["HARNESS_CACHE"] = before


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return f"{text[:16]}..." if len(text) == 64 and text.isalnum() else text


def _hint(recorded: Result, again: Result) -> str | None:
    """Where the difference may come from: another commit, or other packages."""
    before, after = recorded.fingerprint, again.fingerprint
    if before.git_commit and before.git_commit != after.git_commit:
        dirty = " with changes that were not committed" if before.git_dirty else ""
        return f"it was made from commit {before.git_commit[:12]}{dirty}: git checkout it, and verify again"
    if before.git_dirty:
        return "it was made from a checkout with changes that were not committed"
    moved = [
        f"{name} {version} -> {after.packages.get(name, 'none')}"
        for name, version in before.packages.items()
        if after.packages.get(name) != version
    ]
    return f"these packages differ: {', '.join(moved)}" if moved else None
