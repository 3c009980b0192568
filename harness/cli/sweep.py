"""`harness sweep`: the cross product of networks, boards and variants, in as many processes as there are cores."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import JsonOption, QuietOption, ResultsOption, complete_boards, complete_models
from harness.cli.terminal import err, out, print_json
from harness.errors import DeviceError, GateError, HarnessError, InputError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from harness.results.record import Result
    from harness.sweep.ledger import Entry
    from harness.sweep.plan import Job, Plan
    from harness.sweep.worker import Failed, Stage


def command(
    plan: Annotated[Path | None, typer.Argument(help="A plan (TOML); left out: the options below.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", "-m", help="Networks, separated by commas; may be repeated.", autocompletion=complete_models
        ),
    ] = None,
    boards: Annotated[
        list[str] | None,
        typer.Option("--boards", "-b", help="Boards, likewise.", autocompletion=complete_boards),
    ] = None,
    variants: Annotated[list[str] | None, typer.Option("--variants", help="Variants, likewise.")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="auto, hardware, simulator, qemu, renode, host.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Test samples to infer.")] = None,
    repeat: Annotated[int | None, typer.Option("--repeat", "-r", min=1, help="Timed inferences.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Runs at a time.")] = os.cpu_count() or 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Run on the workers of a dask scheduler: tcp://host:8786.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what was done before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, and what does not fit; run nothing.")
    ] = False,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run every network on every board in every variant that fits; started again, it goes on with what is left.

    What was done with the same options, files, sources and tools is not done again. Exit code 1 when a result is not
    what the reference says or a run failed (3 when that was boards alone).
    """
    from harness.results import store
    from harness.sweep import ledger, pool
    from harness.sweep.plan import Plan

    started = time.monotonic()
    axes = {"models": _split(models), "boards": _split(boards), "variants": _split(variants)}
    single = {"engine": engine, "samples": samples, "repeat": repeat}
    wanted = _plan(plan, {name: value for name, value in {**axes, **single}.items() if value})
    root = store.writable_results_dir(results)
    known = {} if fresh else {job.key: entry for job in wanted.jobs if (entry := ledger.find(job.key, root))}
    left = Plan(tuple(job for job in wanted.jobs if job.key not in known), wanted.unfit)
    told = _Told(wanted, known, root, quiet=quiet or json)
    if dry_run:
        _list(left, known, json=json)
        return
    told.start(len(left.jobs))
    try:
        if left.jobs and scheduler is not None:
            from harness.sweep import cluster

            cluster.run(left.jobs, scheduler=scheduler, root=root, listener=told)
        elif left.jobs:
            pool.run(left.jobs, processes=jobs, root=root, listener=told)
    except KeyboardInterrupt:
        told.stop()
        err.print(
            f"{len(told.entries)} of {len(wanted.jobs)} runs are done and kept; the same command goes on with the rest"
        )
        raise
    finally:
        told.stop()
    told.summarise(time.monotonic() - started, json=json)
    told.verdict()


def _split(values: list[str] | None) -> list[str]:
    return [name for value in values or () for name in value.split(",") if name]


def _plan(file: Path | None, options: dict[str, Any]) -> Plan:
    from harness.sweep import plan

    if file is None:
        if not options:
            raise InputError(
                "nothing to sweep over", hint="harness sweep plan.toml, or --models lenet5 --boards nucleo-f746"
            )
        return plan.make(options, where="the sweep")
    if options:
        raise InputError("a plan says what to run: --models, --boards and the like do not go with it")
    return plan.read(file)


def _list(left: Plan, known: dict[str, Entry], *, json: bool) -> None:
    from harness.sweep.specs import to_options

    if json:
        print_json(
            {
                "runs": [{"title": job.title, "spec": to_options(job.spec)} for job in left.jobs],
                "done_before": len(known),
                "unfit": [{"spec": to_options(unfit.spec), "reason": unfit.reason} for unfit in left.unfit],
            }
        )
        return
    for job in left.jobs:
        out.print(job.title, markup=False)
    for unfit in left.unfit:
        out.print(f"does not fit: {_name(unfit.spec)}: {unfit.reason}", markup=False)
    out.print(f"{len(left.jobs)} runs, {len(known)} done before, {len(left.unfit)} do not fit")


def _name(spec: Any) -> str:
    return f"{spec.model} {spec.variant} on {spec.board}"


class _Told:
    """What the sweep tells on the way, and what it knows in the end. Results stream to stderr as they come."""

    def __init__(self, plan: Plan, known: dict[str, Entry], root: Path, *, quiet: bool) -> None:
        self._plan = plan
        self._root = root
        self._quiet = quiet
        self._before = len(known)
        self.entries: dict[str, Entry] = dict(known)
        self.failed: dict[str, Failed] = {}
        self._titles = {job.key: job.title for job in plan.jobs}
        self._progress: Progress | None = None
        self._rows: dict[int, TaskID] = {}
        self._whole: TaskID | None = None

    # ---- on the way

    def start(self, runs: int) -> None:
        if self._quiet:
            return
        for unfit in self._plan.unfit:
            err.print(
                f"does not fit: {_name(unfit.spec)}: {unfit.reason}", style="yellow", markup=False, soft_wrap=True
            )
        if self._before:
            err.print(f"{self._before} of {len(self._plan.jobs)} runs were done before", style="dim")
        if runs and err.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            )
            self._progress.start()
            self._whole = self._progress.add_task("sweep", total=len(self._plan.jobs), completed=self._before)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def stage(self, slot: int, job: Job, stage: Stage | None) -> None:
        if self._progress is None:
            return
        if slot not in self._rows:
            self._rows[slot] = self._progress.add_task("", total=None)
        what = f": {stage.title}" if stage else ""
        fraction = stage.fraction if stage else None
        self._progress.update(
            self._rows[slot],
            description=f"  {job.title}{what}",
            total=100 if fraction is not None else None,
            completed=round((fraction or 0) * 100),
            visible=True,
        )

    def idle(self, slot: int) -> None:
        if self._progress is not None and slot in self._rows:
            self._progress.update(self._rows[slot], visible=False)

    def said(self, job: Job, text: str) -> None:
        if not self._quiet and (text.startswith("note:") or "died" in text):
            err.print(f"{job.title}: {text}", style="yellow", markup=False, soft_wrap=True)

    def finished(self, job: Job, outcome: Entry | Failed) -> None:
        from harness.sweep.ledger import Entry

        if isinstance(outcome, Entry):
            self.entries[job.key] = outcome
        else:
            self.failed[job.key] = outcome
        if self._progress is not None and self._whole is not None:
            self._progress.update(self._whole, completed=len(self.entries) + len(self.failed))
        if self._quiet:
            return
        done = f"[{len(self.entries) + len(self.failed)}/{len(self._plan.jobs)}]"
        if not isinstance(outcome, Entry):
            err.print(f"{done} {job.title}: FAILED: {outcome.message}", style="red", markup=False, soft_wrap=True)
        elif outcome.unfit is not None:
            err.print(
                f"{done} {job.title}: does not fit: {outcome.unfit}", style="yellow", markup=False, soft_wrap=True
            )
        elif outcome.verdict is not None:
            err.print(f"{done} {job.title}: WRONG: {outcome.verdict}", style="bold red", markup=False, soft_wrap=True)
        else:
            figures = _figures(self._record(outcome))
            err.print(f"{done} {job.title}: {figures}, {outcome.seconds:.1f} s", markup=False, soft_wrap=True)

    # ---- in the end

    def _record(self, entry: Entry) -> Result:
        from harness.results import store

        assert entry.id is not None
        return store.get(entry.id, self._root)

    def summarise(self, seconds: float, *, json: bool) -> None:
        """The table of all runs of the plan, or all of it as JSON."""
        from harness.sweep.specs import to_options

        unfit = [(unfit.spec, unfit.reason) for unfit in self._plan.unfit]
        unfit += [
            (job.spec, reason)
            for job in self._plan.jobs
            if (entry := self.entries.get(job.key)) is not None and (reason := entry.unfit) is not None
        ]
        if json:
            specs = {job.key: to_options(job.spec) for job in self._plan.jobs}
            print_json(
                {
                    "seconds": seconds,
                    "done_before": self._before,
                    "runs": [
                        {"spec": specs[key], **entry.model_dump(exclude={"schema_version", "key", "unfit"})}
                        for key, entry in self.entries.items()
                        if entry.id is not None
                    ],
                    "unfit": [{"spec": to_options(spec), "reason": reason} for spec, reason in unfit],
                    "failed": [{"spec": specs[key], **dataclasses.asdict(why)} for key, why in self.failed.items()],
                }
            )
            return
        self._print_table()
        if not self._quiet:
            runs = [entry for entry in self.entries.values() if entry.id is not None]
            err.print(
                f"{len(runs)} runs ({self._before} done before), {len(unfit)} do not fit, {len(self.failed)} failed; "
                f"{seconds:.1f} s",
                style="dim",
            )

    def _print_table(self) -> None:
        from harness.report import frames, tables, text
        from harness.results import store

        records = [
            self._record(entry)
            for job in self._plan.jobs
            if (entry := self.entries.get(job.key)) is not None and entry.id is not None
        ]
        if not records:
            return
        columns = list(tables.SUMMARY[:-1] if out.width >= 130 else tables.NARROW)
        frame = store.frame(records)
        # What else varies tells the rows apart.
        columns[1:1] = [name for name in ("kernels", "seed") if frame[name].nunique() > 1]
        ordered = frame.sort_values([*frames.CONFIGURATION, "seed"], kind="stable")
        out.print(text.table(tables.table(ordered, ("model", *columns))))

    def verdict(self) -> None:
        """Raises what the exit code is to say."""
        wrong = [key for key, entry in self.entries.items() if entry.verdict is not None]
        if wrong:
            raise GateError(
                f"{len(wrong)} of {len(self._plan.jobs)} results are not what the reference says, the first: "
                f"{self._titles[wrong[0]]}: {self.entries[wrong[0]].verdict}"
            )
        if self.failed:
            key, first = next(iter(self.failed.items()))
            message = f"{len(self.failed)} of {len(self._plan.jobs)} runs failed, the first: {self._titles[key]}: "
            kind: type[HarnessError] = (
                DeviceError
                if all(why.exit_code == DeviceError.exit_code for why in self.failed.values())
                else GateError
            )
            raise kind(message + first.message, hint=first.hint or "the same command tries the failed ones again")
        if not any(entry.id for entry in self.entries.values()):
            raise InputError("none of the runs fits", hint="harness sweep --dry-run lists why")


def _figures(record: Result) -> str:
    parts = [f"{record.latency.median:,.0f} {record.latency.unit}"]
    if record.footprint is not None:
        parts.append(f"{record.footprint.network:,} B")
    if record.accuracy.device is not None:
        parts.append(f"{record.accuracy.device:.2%}")
    return ", ".join(parts)
