"""A sweep on a dask scheduler with two local workers: the same records, also when one of them is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cli_commands import HARNESS, run
from test_sweep_pool import project  # noqa: F401 - a fixture

from harness.errors import DeviceError
from harness.sweep import cluster, plan

pytest.importorskip("distributed", reason="dask is not installed")


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=20)


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        ended(process)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    told = tmp_path / "scheduler.json"
    command = [str(Path(sys.executable).with_name("dask")), "scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--scheduler-file", str(told)]
    with started(command, tmp_path / "scheduler.log"):
        deadline = time.monotonic() + 30
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield json.loads(told.read_text())["address"]


def worker(scheduler: str, *more: str) -> list[str]:
    return [*HARNESS, "worker", scheduler, *more]


def test_a_job_asks_for_its_board_and_a_worker_offers_what_it_has() -> None:
    made = plan.make({"model": "lenet5", "board": "mps2-an386", "engine": ["qemu", "host"]})
    assert [cluster.needs(job) for job in made.jobs] == [{"board:mps2-an386": 1}, {}]
    real = plan.make({"model": "lenet5", "board": "nucleo-f746", "engine": "hardware", "probe": "066A"})
    assert cluster.needs(real.jobs[0]) == {"hardware:nucleo-f746": 1}
    # No probe is connected here.
    assert cluster.offers(["mps2-an386", "nucleo-f746"], first=True) == {"board:mps2-an386": 1, "board:nucleo-f746": 1}


def test_a_scheduler_that_is_not_there_is_an_error_of_a_device(tmp_path: Path) -> None:
    job = plan.make({"model": "lenet5", "board": "mps2-an386", "engine": "host"}).jobs[0]
    cluster_timeout = pytest.MonkeyPatch()
    cluster_timeout.setattr(cluster, "_CONNECT_SECONDS", 1)
    try:
        with pytest.raises(DeviceError, match="does not answer"):
            cluster.run([job], scheduler="tcp://127.0.0.1:9", root=tmp_path, listener=None)  # type: ignore[arg-type]
    finally:
        cluster_timeout.undo()


@pytest.mark.slow
def test_two_workers_one_of_them_killed_in_mid_run(
    project: Path,  # noqa: F811
    scheduler: str,
    tmp_path: Path,
) -> None:
    import psutil

    results, many = tmp_path / "results", project / "sixteen.toml"
    seeds = ", ".join(map(str, range(16)))
    many.write_text((project / "plan.toml").read_text().replace("[0, 1, 2, 3]", f"[{seeds}]"))
    sweep = [
        *HARNESS,
        "sweep",
        str(many),
        "--results",
        str(results),
        "--scheduler",
        scheduler,
        "--json",
    ]
    with (
        started(worker(scheduler), tmp_path / "first.log") as first,
        started(worker(scheduler), tmp_path / "second.log"),
        (tmp_path / "out.json").open("w") as out,
        subprocess.Popen(sweep, stdout=out, stderr=subprocess.PIPE, text=True) as running,
    ):
        # Fifteen runs are left then, one of them under way in the first worker.
        deadline = time.monotonic() + 60
        while not list(results.glob("runs/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert psutil.Process(first.pid).children()
        ended(first)
        _, said = running.communicate(timeout=150)
    assert running.returncode == 0, said
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(document["runs"]) == 16 and document["failed"] == []
    assert len(list((results / "runs").iterdir())) == 16
    # What was done there is known here.
    again = json.loads(run("sweep", str(many), "--results", str(results), "--json").stdout)
    assert again["done_before"] == 16
