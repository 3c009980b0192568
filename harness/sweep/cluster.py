"""Runs a plan's jobs on other machines, through a dask scheduler: the same runs, the same records, the same ledger.

A worker declares the boards that it has as resources, and a job asks for its board, so that a real board does one job
at a time. Records come back and are kept where the sweep was started. A job whose worker dies is given to another.
Whoever reaches the scheduler can run code on the workers: use it in networks that you trust, or with dask's TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import boards, engines
from harness.errors import DeviceError, InputError
from harness.files import cache_dir, write_whole
from harness.progress import Silent
from harness.sweep import ledger, plan, worker
from harness.sweep.ledger import Entry
from harness.sweep.plan import Job
from harness.sweep.pool import Listener
from harness.sweep.worker import Failed

# How long a scheduler may take to answer.
_CONNECT_SECONDS = 10

_MISSING = InputError("--scheduler needs dask, which is not installed", hint="pip install 'harness[cluster]'")


@dataclass(frozen=True)
class Parcel:
    """A job with all that another machine needs for it.

    files: the user's files by the option that names them: name and content. tools: plan.tools() of the sender.
    """

    job: Job
    files: dict[str, tuple[str, bytes]]
    tools: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a parcel. record: the record's JSON text, None where there is none. where: the worker's name."""

    outcome: Entry | Failed
    record: str | None
    where: str


def run(jobs: Sequence[Job], *, scheduler: str, root: Path, listener: Listener) -> None:
    """Runs `jobs` on the workers of `scheduler` (tcp://host:8786); returns when each was told to `listener`.

    root: the results folder on this machine. DeviceError when the scheduler does not answer; InputError without dask.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise _MISSING from error
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise DeviceError(
            f"the scheduler {scheduler} does not answer: {error}",
            hint="start one with `dask scheduler`, and workers with `harness worker tcp://HOST:8786`",
        ) from error
    with client:
        futures = {
            client.submit(execute, _packed(job), key=f"harness-{job.key}", resources=needs(job), retries=0): job
            for job in jobs
        }
        try:
            _say_what_waits(client, jobs, listener)
            for future in as_completed(futures, loop=client.loop):
                listener.finished(futures[future], _received(future, root))
                future.release()
        except BaseException:
            # Not cancelled, jobs would go on although nobody keeps their results.
            with contextlib.suppress(Exception):
                client.cancel(list(futures))
            raise


def _say_what_waits(client: Any, jobs: Sequence[Job], listener: Listener) -> None:
    """Tells which jobs no worker can do now: they wait until one joins that can."""
    offered: set[str] = set()
    for told in client.scheduler_info(n_workers=-1)["workers"].values():
        offered |= set(told["resources"])
    told_of: set[str] = set()
    for job in jobs:
        for name in needs(job):
            if name not in offered and name not in told_of:
                told_of.add(name)
                listener.said(job, f"note: no worker has {name}; its jobs wait for one")


def _received(future: Any, root: Path) -> Entry | Failed:
    """What a finished future holds; its record and its ledger entry are on this machine's disk then."""
    from harness.results import store

    error = future.exception()
    if error is not None:  # killed too often, or cancelled by somebody else
        return Failed(f"no worker could finish it: {type(error).__name__}: {error}", None, DeviceError.exit_code)
    answer: Answer = future.result()
    if isinstance(answer.outcome, Entry):
        if answer.record is not None and answer.outcome.id is not None:
            write_whole(root / store.RUNS / f"{answer.outcome.id}.json", answer.record)
        if answer.outcome.id is not None or answer.outcome.final:
            ledger.write(answer.outcome, root)
    return answer.outcome


def needs(job: Job) -> dict[str, float]:
    """The resources that a job asks for. Engine host needs no board, only a C compiler."""
    if job.spec.engine == "host":
        return {}
    kind = "hardware" if job.spec.engine == "hardware" else "board"
    return {f"{kind}:{job.spec.board}": 1}


def offers(names: Sequence[str], *, first: bool) -> dict[str, float]:
    """The resources of one worker process for these boards. first: whether it has this machine's real boards.

    An emulated board is never used up; a real one is there once for the machine.
    """
    found: dict[str, float] = {}
    for name in names:
        board = boards.load(name)
        emulated = board.engines.model_dump(exclude_none=True).keys() - {"hardware"}
        if emulated:
            found[f"board:{name}"] = 1
        if first and board.engines.hardware is not None and engines.choose(board, "auto", None).engine == "hardware":
            found[f"hardware:{name}"] = 1
    return found


def _packed(job: Job) -> Parcel:
    files = {name: (path.name, path.read_bytes()) for name, path in plan.files(job.spec).items()}
    return Parcel(job, files, plan.tools())


def execute(parcel: Parcel) -> Answer:
    """Does a parcel's run, on the machine of the worker that calls it."""
    from distributed import get_worker

    where = str(get_worker().name)
    if parcel.tools != plan.tools():
        different = [item for item in plan.tools() if item not in parcel.tools]
        message = f"worker {where} has other sources, packages or another compiler: {', '.join(different)[:200]}"
        return Answer(Failed(message, "install the same harness there", InputError.exit_code), None, where)
    with tempfile.TemporaryDirectory(prefix="harness-worker-") as folder:
        root = Path(folder)
        outcome = worker.done(_unpacked(parcel), root, Silent())
        record = None
        if isinstance(outcome, Entry) and outcome.id is not None:
            record = (root / "runs" / f"{outcome.id}.json").read_text(encoding="utf-8")
        return Answer(outcome, record, where)


def _unpacked(parcel: Parcel) -> Job:
    """The job, with its files in this machine's cache: by content, under the names that they had."""
    spec = parcel.job.spec
    changes: dict[str, Any] = {}
    for option, (name, content) in parcel.files.items():
        path = cache_dir() / "parcels" / hashlib.sha256(content).hexdigest()[:32] / Path(name).name
        if not path.is_file():
            write_whole(path, content)
        changes[option] = f"{path}:{spec.model.rpartition(':')[2]}" if option == "model" else path
    return dataclasses.replace(parcel.job, spec=dataclasses.replace(spec, **changes))


def work(scheduler: str, names: Sequence[str], *, processes: int) -> None:
    """Serves `scheduler` with the boards `names` in `processes` processes of one job each, until it is interrupted.

    A process that dies is started again. DeviceError when the scheduler does not answer; InputError without dask.
    """
    try:
        from distributed import Nanny
    except ImportError as error:
        raise _MISSING from error

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            nannies = [
                await stack.enter_async_context(
                    Nanny(
                        scheduler,
                        nthreads=1,
                        name=f"{_machine()}-{number}",
                        resources=offers(names, first=number == 0),
                        memory_limit=0,
                        dashboard=False,
                        death_timeout=_CONNECT_SECONDS,
                    )
                )
                for number in range(processes)
            ]
            await asyncio.gather(*(nanny.finished() for nanny in nannies))

    try:
        asyncio.run(serve())
    except (OSError, ValueError, TimeoutError, RuntimeError) as error:
        raise DeviceError(
            f"the scheduler {scheduler} does not answer: {error}", hint="start one with `dask scheduler`"
        ) from error


def _machine() -> str:
    """This machine's name and this process, so that two workers on one machine differ."""
    import os
    import platform

    return f"{platform.node()}-{os.getpid()}"
