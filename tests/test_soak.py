"""Opening, programming, running and closing a board again and again leaves nothing behind.

$HARNESS_SOAK_CYCLES says how often; 1,000 is what the figure in docs/real-boards.md is about.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"
CYCLES = int(os.environ.get("HARNESS_SOAK_CYCLES", "25"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is missing")
@pytest.mark.parametrize(("board", "engine"), [("nucleo-f746", "simulator"), ("mps2-an500", "qemu")])
def test_nothing_is_left_behind(board: str, engine: str) -> None:
    if engine == "qemu" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    command = [sys.executable, str(SCRIPT), "--board", board, "--engine", engine, "--cycles", str(CYCLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["right"] == found["cycles"] == CYCLES, found
    assert found["failures"] == []
    assert found["leaked"] == dict.fromkeys(found["leaked"], 0)
    assert found["cpu_seconds_per_cycle"] < 1.5
