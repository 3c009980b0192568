"""Runs a plan's jobs in processes on this machine, so that nothing finished is ever lost.

What a worker finished is on disk before it says so. A worker that dies takes one unfinished run with it, which is
tried once more in a new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from harness.sweep import worker
from harness.sweep.ledger import Entry
from harness.sweep.plan import Job
from harness.sweep.worker import Failed, Message, Said, Stage

# How often a run is begun whose worker dies under it.
ATTEMPTS = 2

# How long workers have to end their emulators before they are killed.
_GRACE_SECONDS = 10.0

# The libraries that numpy and torch compute with; each takes every core unless it is told.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Listener(Protocol):
    """Is told, in the parent's process, what becomes of each job."""

    def stage(self, slot: int, job: Job, stage: Stage | None) -> None:
        """The worker in `slot` (0..) has come to a stage of `job`; None: it has just begun."""

    def said(self, job: Job, text: str) -> None:
        """The run has a line to tell."""

    def finished(self, job: Job, outcome: Entry | Failed) -> None:
        """The run is over; an Entry is on disk already."""

    def idle(self, slot: int) -> None:
        """The slot has nothing to do any more."""


@dataclass(eq=False)
class _Slot:
    """A worker and what it is at."""

    number: int
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


@dataclass
class _Queue:
    """What waits, how often each was begun, and which boards are in use."""

    waiting: deque[Job]
    begun: dict[str, int] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)

    def take(self) -> Job | None:
        """The first job whose board is free; None while there is none."""
        for job in self.waiting:
            if job.exclusive is None or job.exclusive not in self.busy:
                self.waiting.remove(job)
                self.begun[job.key] = self.begun.get(job.key, 0) + 1
                if job.exclusive is not None:
                    self.busy.add(job.exclusive)
                return job
        return None

    def release(self, job: Job) -> None:
        if job.exclusive is not None:
            self.busy.discard(job.exclusive)


def run(jobs: Sequence[Job], *, processes: int, root: Path, listener: Listener) -> None:
    """Runs `jobs` in up to `processes` workers; returns when each was told to `listener` as finished.

    root: the results folder. Whatever ends this early (Ctrl-C too), the workers are ended and waited for.
    """
    queue = _Queue(deque(jobs))
    count = min(processes, len(jobs))
    slots: list[_Slot] = []
    with _threads_for(count), _interrupts() as interrupted:
        try:
            slots += [_started(number, root) for number in range(count)]
            for slot in slots:
                _next(slot, queue, listener)
            while queue.waiting or any(slot.job for slot in slots):
                _turn(slots, queue, root, listener, interrupted)
        finally:
            _end(slots)


@contextlib.contextmanager
def _interrupts() -> Iterator[Connection]:
    """Ctrl-C as something that is waited for: it neither cuts a printed line in two nor an answer that is being read.

    A second one while the workers are ended changes nothing. Other threads than the main one cannot be interrupted.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    try:
        if threading.current_thread() is not threading.main_thread():
            yield ours
            return
        before = signal.signal(signal.SIGINT, lambda number, frame: theirs.send(number))
        try:
            yield ours
        finally:
            signal.signal(signal.SIGINT, before)
    finally:
        ours.close()
        theirs.close()


def _turn(slots: list[_Slot], queue: _Queue, root: Path, listener: Listener, interrupted: Connection) -> None:
    """Waits for the workers to tell something, and deals with it. KeyboardInterrupt at Ctrl-C."""
    active = {slot.pipe: slot for slot in slots if slot.job is not None}
    ready = multiprocessing.connection.wait([interrupted, *active])
    if interrupted in ready:
        raise KeyboardInterrupt
    for pipe in ready:
        assert isinstance(pipe, Connection)
        slot = active[pipe]
        job = slot.job
        assert job is not None
        try:
            message: Message = pipe.recv()
        except (EOFError, OSError):
            # Its process is gone. What it was at may be what killed it, or may not.
            slot.process.join(_GRACE_SECONDS)
            code = slot.process.exitcode
            slots[slots.index(slot)] = fresh = _replaced(slot, root)
            queue.release(job)
            if queue.begun[job.key] < ATTEMPTS:
                listener.said(job, f"its process died ({_death(code)}): trying once more")
                queue.waiting.appendleft(job)
            else:
                listener.finished(job, Failed(f"its process died {ATTEMPTS} times ({_death(code)})", None, 3))
            _next(fresh, queue, listener)
            continue
        if isinstance(message, Stage):
            listener.stage(slot.number, job, message)
        elif isinstance(message, Said):
            listener.said(job, message.text)
        else:
            slot.job = None
            queue.release(job)
            listener.finished(job, message)
            # A board that has become free may be what others wait for.
            for idle in [slot, *(other for other in slots if other.job is None and other is not slot)]:
                _next(idle, queue, listener)


def _next(slot: _Slot, queue: _Queue, listener: Listener) -> None:
    slot.job = queue.take()
    if slot.job is None:
        listener.idle(slot.number)
        return
    # A worker that died while it had nothing to do is noticed when its answer is waited for.
    with contextlib.suppress(OSError):
        slot.pipe.send(slot.job)
    listener.stage(slot.number, slot.job, None)


def _started(number: int, root: Path) -> _Slot:
    # spawn: a forked copy of a process in which torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker.serve, args=(theirs, root), name=f"harness-worker-{number}", daemon=False)
    # A worker that is still importing must not be hit by the terminal's Ctrl-C: it inherits the blocked signal.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Slot(number, process, ours)


def _replaced(slot: _Slot, root: Path) -> _Slot:
    slot.pipe.close()
    slot.process.close()
    return _started(slot.number, root)


def _death(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _end(slots: Sequence[_Slot]) -> None:
    """Ends the workers: those at work by SIGTERM, so that they end their emulators; the deaf ones by SIGKILL."""
    for slot in slots:
        slot.pipe.close()
        if slot.job is not None:
            slot.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for slot in slots:
        slot.process.join(max(deadline - time.monotonic(), 0.1))
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()
        slot.process.close()


@contextlib.contextmanager
def _threads_for(processes: int) -> Iterator[None]:
    """Workers that are started meanwhile share the cores: ten libraries with ten threads each only wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    for name, value in before.items():
        if value is None:
            os.environ[name] = str(max(1, cores // max(processes, 1)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
