"""A sweep in real processes: what is finished is never lost, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from report_cli import run
from test_cli_commands import HARNESS, NETWORK

from harness.sweep import ledger, plan, pool
from harness.sweep.ledger import Entry
from harness.sweep.plan import Job, Plan
from harness.sweep.worker import Failed, Stage


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a network that takes no time, and a plan of four runs of it."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("my sweep")
    (folder / "net.py").write_text(NETWORK)
    torch.manual_seed(0)
    shapes = {"0.weight": (3, 1, 3, 3), "0.bias": (3,), "4.weight": (4, 75), "4.bias": (4,)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "w.safetensors")
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=rng.integers(0, 256, (60, 12, 12, 1)).astype(np.uint8), y=rng.integers(0, 4, 60))
    (folder / "plan.toml").write_text(
        'model = "net.py:make_model"\nweights = "w.safetensors"\ndata = "d.npz"\nboard = "nucleo-f746"\n'
        'engine = "host"\nsamples = 3\nseed = [0, 1, 2, 3]\n'
    )
    return folder


def sweep(project: Path, results: Path, *more: str) -> tuple[int, dict[str, object], str]:
    """`harness sweep` of the plan: exit code, what it printed, what it said."""
    done = run("sweep", str(project / "plan.toml"), "--results", str(results), "--json", *more)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


class _Listener:
    """Remembers what it is told; may kill the process that has just begun its first run."""

    def __init__(self, kill: str | None = None) -> None:
        self.outcomes: list[tuple[Job, Entry | Failed]] = []
        self.texts: list[str] = []
        self._kill = kill
        self.killed = False

    def stage(self, slot: int, job: Job, stage: Stage | None) -> None:
        if stage is not None and self._kill is not None and (self._kill == "always" or not self.killed):
            self.killed = True
            for process in pool.multiprocessing.active_children():
                if process.name == f"harness-worker-{slot}" and process.pid:
                    os.kill(process.pid, signal.SIGKILL)

    def said(self, job: Job, text: str) -> None:
        self.texts.append(text)

    def idle(self, slot: int) -> None:
        pass

    def finished(self, job: Job, outcome: Entry | Failed) -> None:
        self.outcomes.append((job, outcome))


def made(project: Path, count: int) -> Plan:
    whole = plan.read(project / "plan.toml")
    return Plan(whole.jobs[:count], ())


def test_a_killed_worker_loses_nothing_and_its_run_is_done_again(project: Path, tmp_path: Path) -> None:
    listener = _Listener(kill="once")
    jobs = made(project, 2).jobs
    pool.run(jobs, processes=1, root=tmp_path, listener=listener)
    assert any("signal 9" in text for text in listener.texts)
    assert {job.key for job, outcome in listener.outcomes if isinstance(outcome, Entry)} == {job.key for job in jobs}
    assert all(ledger.find(job.key, tmp_path) for job in jobs)
    assert pool.multiprocessing.active_children() == []


def test_a_run_that_always_kills_its_worker_is_given_up(project: Path, tmp_path: Path) -> None:
    listener = _Listener(kill="always")
    pool.run(made(project, 1).jobs, processes=1, root=tmp_path, listener=listener)
    [(_, outcome)] = listener.outcomes
    assert isinstance(outcome, Failed) and "died 2 times (signal 9)" in outcome.message and outcome.exit_code == 3


def test_one_board_does_one_run_at_a_time() -> None:
    jobs = [
        Job(job.spec, job.key, exclusive)
        for job, exclusive in zip(
            plan.make({"model": "lenet5", "board": "nucleo-f746", "engine": "host", "seed": [0, 1, 2]}).jobs,
            ("a", "a", "b"),
            strict=True,
        )
    ]
    queue = pool._Queue(pool.deque(jobs))
    assert [queue.take(), queue.take(), queue.take()] == [jobs[0], jobs[2], None]
    queue.release(jobs[0])
    assert queue.take() is jobs[1]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(project: Path, tmp_path: Path) -> None:
    command = [*HARNESS, "sweep", str(project / "plan.toml"), "--results", str(tmp_path), "-j", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("[1/4]"):
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
    told = "".join(said)
    assert "the same command goes on with the rest" in told and "Traceback" not in told
    finished = len(list((tmp_path / "runs").iterdir()))
    assert 1 <= finished < 4
    code, document, _ = sweep(project, tmp_path, "-j", "1")
    assert code == 0
    assert document["done_before"] == finished and len(document["runs"]) == 4  # type: ignore[arg-type]
    assert len(list((tmp_path / "runs").iterdir())) == 4
    assert all(ledger.find(job.key, tmp_path) for job in made(project, 4).jobs)


def test_workers_end_when_their_parent_is_killed(project: Path, tmp_path: Path) -> None:
    import psutil

    command = [*HARNESS, "sweep", str(project / "plan.toml"), "--results", str(tmp_path), "-j", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (workers := psutil.Process(process.pid).children(recursive=True)) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


@pytest.mark.slow
def test_two_workers_cost_little_more_than_the_runs_themselves(project: Path, tmp_path: Path) -> None:
    """24 runs in two processes: less than 1.3 times half of their CPU time, where there are two free cores."""
    seeds = ", ".join(map(str, range(24)))
    text = (
        (project / "plan.toml").read_text().replace("[0, 1, 2, 3]", f"[{seeds}]").replace("samples = 3", "samples = 60")
    )
    (project / "many.toml").write_text(text)
    cold = run("sweep", str(project / "many.toml"), "--results", str(tmp_path), "-j", "2", "--json")
    document = json.loads(cold.stdout)
    assert len(document["runs"]) == 24
    started = time.monotonic()
    warm = json.loads(run("sweep", str(project / "many.toml"), "--results", str(tmp_path), "-j", "2", "--json").stdout)
    assert warm["done_before"] == 24 and time.monotonic() - started < 10


@pytest.mark.slow
def test_what_fails_is_told_and_tried_again_the_next_time(project: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    text = (project / "plan.toml").read_text().replace("net.py", str(project / "net.py")).replace("[0, 1, 2, 3]", "[0]")
    text = text.replace('"w.safe', f'"{project}/w.safe').replace('"d.npz', f'"{project}/d.npz')
    bad.write_text(text.replace(":make_model", ":unsupported"))
    done = run("sweep", str(bad), "--results", str(tmp_path / "r"), "-j", "1")
    assert done.returncode == 2
    assert "does not fit: " in done.stderr and "sigmoid" in done.stderr.lower()
    assert not (tmp_path / "r" / "sweeps").exists()


def test_a_plan_and_options_do_not_go_together(project: Path) -> None:
    done = run("sweep", str(project / "plan.toml"), "--models", "lenet5")
    assert done.returncode == 2 and "do not go with it" in done.stderr
    assert "nothing to sweep" in run("sweep").stderr


def test_a_dry_run_lists_and_runs_nothing(tmp_path: Path) -> None:
    done = run(
        *("sweep", "--models", "lenet5", "--boards", "nucleo-f746,mps2-an386", "--engine", "qemu"),
        *("--dry-run", "--json", "--results", str(tmp_path)),
    )
    listed = json.loads(done.stdout)
    assert [entry["title"] for entry in listed["runs"]] == ["lenet5 int8 on mps2-an386 (qemu)"]
    assert listed["unfit"][0]["reason"] == "board nucleo-f746 has no engine qemu"
    assert list(tmp_path.iterdir()) == []
