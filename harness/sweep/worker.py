"""The process that does a sweep's runs, one after the other, and tells its parent what it is at.

A process of its own for each slot, because a run may take its process down (an emulator's native code, the kernel's
out-of-memory killer); one for many runs, because torch and the network are loaded once then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from harness.errors import DoesNotFit, HarnessError, InputError
from harness.files import cache_dir
from harness.progress import Advance, Reporter
from harness.sweep import ledger
from harness.sweep.ledger import Entry
from harness.sweep.plan import Job

# Progress is told this often at most.
_TELL_SECONDS = 0.2


@dataclass(frozen=True)
class Stage:
    """A run has come to a stage; fraction: how much of it is done, where that is known."""

    title: str
    fraction: float | None = None


@dataclass(frozen=True)
class Said:
    """A line that a run has to tell."""

    text: str


@dataclass(frozen=True)
class Failed:
    """A run ended with an error of ours, or of nobody's (exit_code 4)."""

    message: str
    hint: str | None
    exit_code: int


Message = Stage | Said | Failed | Entry


class _Teller:
    """A Reporter that sends what it is told through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, text: str) -> None:
        self._pipe.send(Said(text))

    @contextmanager
    def _stage(self, title: str) -> Iterator[Advance]:
        self._pipe.send(Stage(title))
        told = time.monotonic()

        def advance(fraction: float) -> None:
            nonlocal told
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                self._pipe.send(Stage(title, fraction))

        yield advance

    def stage(self, title: str) -> Any:
        return self._stage(title)


def serve(pipe: Connection, root: Path) -> None:
    """Takes Jobs from `pipe` until it closes; answers each with Stages, and then an Entry or a Failed.

    root: the results folder. Ends like Ctrl-C at SIGTERM, and when the parent is gone: emulators and builds with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and asks with SIGTERM
    signal.signal(signal.SIGTERM, _unwind)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see pool._started
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: Job = pipe.recv()
            pipe.send(done(job, root, _Teller(pipe)))


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _end_with(parent: int) -> None:
    """A parent that was killed cannot ask us to end."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def done(job: Job, root: Path, teller: Reporter) -> Entry | Failed:
    """Does one run, writes its record and its ledger entry, and returns that, or what went wrong."""
    from harness.pipeline import run
    from harness.results import store

    started, cpu = time.monotonic(), _cpu_seconds()
    try:
        with _reserved(job.exclusive):
            outcome = run(job.spec, teller)
        store.save(outcome.result, root)
        entry = Entry(
            key=job.key,
            id=outcome.result.id,
            verdict=outcome.verdict.message if outcome.verdict else None,
            seconds=time.monotonic() - started,
            cpu_seconds=_cpu_seconds() - cpu,
        )
        ledger.write(entry, root)
        return entry
    except (DoesNotFit, InputError) as error:
        # The plan's names and files were checked: what is left is a combination that cannot be.
        entry = Entry(
            key=job.key,
            id=None,
            unfit=error.message,
            final=isinstance(error, DoesNotFit),
            seconds=time.monotonic() - started,
            cpu_seconds=_cpu_seconds() - cpu,
        )
        if entry.final:
            ledger.write(entry, root)
        return entry
    except HarnessError as error:
        return Failed(error.message, error.hint, error.exit_code)
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}", "this is a bug in harness", 4)


@contextmanager
def _reserved(board: str | None) -> Iterator[None]:
    """Waits until no other sweep on this machine uses the board; None: nothing to wait for."""
    if board is None:
        yield
        return
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in board)
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it started and waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
