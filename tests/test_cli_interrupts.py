"""Ctrl-C and SIGTERM at any point of a run: a short answer, no process left, no half-written result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest


def processes_with(mark: str) -> list[int]:
    """Processes whose environment holds `mark`: a run and all that it started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(int(entry.name))
    return found


# Fractions of a run's usual duration: imports, tracing, host build, firmware build, emulator, inference.
@pytest.mark.parametrize(("board", "number"), [("nucleo-f746", signal.SIGTERM), ("mps2-an386", signal.SIGINT)])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, board: str, number: signal.Signals) -> None:
    mark = f"HARNESS_TEST_MARK={tmp_path.name}-{board}-{number}"
    environment = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    name, _, value = mark.partition("=")
    environment[name] = value
    command = [str(Path(sys.executable).with_name("harness")), "run", "lenet5", "--board", board, "-n", "200"]
    command += ["--data", "digits8x8", "--results", str(tmp_path / "results")]
    interrupted = 0
    for delay in (0.8, 2.0, 3.5, 5.5):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            try:
                with suppress(subprocess.TimeoutExpired):
                    run.wait(delay)
                run.send_signal(number)
                out, err = run.communicate(timeout=20)
            finally:
                run.kill()
        deadline = time.monotonic() + 5
        while processes_with(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_with(mark) == [], f"after {delay} s"
        if run.returncode == 0:  # it had ended, or was just about to
            assert list((tmp_path / "results" / "runs").glob("*.json"))
            continue
        interrupted += 1
        assert run.returncode in (130, 128 + number, -number), (run.returncode, err.decode())
        assert b"Traceback" not in err, err.decode()
        assert out == b""
    assert interrupted
    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(".") and path.suffix == ".json"] == []
