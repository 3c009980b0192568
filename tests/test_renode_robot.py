"""Our image under Renode's own test runner, where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.emulators import renode

HERE = Path(__file__).parent / "renode"
NO_COMPILER = shutil.which("arm-none-eabi-gcc") is None


def runner() -> Path | None:
    """renode-test: it lies beside the program."""
    program = renode.find()
    beside = program.with_name("renode-test") if program is not None else None
    if beside is not None and beside.is_file():
        return beside
    found = shutil.which("renode-test")
    return Path(found) if found is not None else None


def prepare(folder: Path) -> None:
    subprocess.run([sys.executable, str(HERE / "prepare.py"), str(folder)], check=True, timeout=120)


@pytest.mark.skipif(NO_COMPILER, reason="arm-none-eabi-gcc is missing")
def test_what_the_robot_boots_can_be_made(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert (tmp_path / "firmware.elf").read_bytes()[:4] == b"\x7fELF"
    assert len((tmp_path / "build-id.txt").read_text()) == 16
    assert "sysbus" in (tmp_path / "board.repl").read_text()
    # The suite names the files that were made.
    suite = (HERE / "firmware.robot").read_text()
    for path in tmp_path.iterdir():
        assert f"${{FOLDER}}/{path.name}" in suite


@pytest.mark.skipif(NO_COMPILER, reason="arm-none-eabi-gcc is missing")
@pytest.mark.skipif(runner() is None, reason="renode-test is not installed: harness doctor --install renode")
def test_the_image_passes_under_renode_test(tmp_path: Path) -> None:
    program = runner()
    assert program is not None
    # It runs python3 of PATH, which needs robotframework: renode-test's own requirements, not this package's.
    python = shutil.which("python3")
    if python is None or subprocess.run([python, "-c", "import robot"], capture_output=True, check=False).returncode:
        pytest.skip("renode-test needs robotframework: pip install robotframework==6.1 psutil pyyaml telnetlib3")
    prepare(tmp_path)
    command = [str(program), "--variable", f"FOLDER:{tmp_path}", "-r", str(tmp_path), str(HERE / "firmware.robot")]
    environment = {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"} | os.environ
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
