"""The wheel carries all that a run needs: installed elsewhere, harness works outside the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the built wheel was installed, without its dependencies (this environment has them)."""
    folder = tmp_path_factory.mktemp("installed harness")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(folder / "site"), str(wheel)], check=True, capture_output=True, timeout=120)
    return folder


def test_a_wheel_holds_no_more_than_the_product(installed: Path) -> None:
    (wheel,) = (installed / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "harness/_assets/boards/nucleo-f746.json" in names
    assert "harness/_assets/firmware/src/main.c" in names
    assert not [name for name in names if ".pio" in name or "__pycache__" in name or name.startswith("tests/")]
    assert wheel.stat().st_size < 4_000_000


def test_an_installed_harness_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed / "site"), "HARNESS_CACHE": str(tmp_path / "a cache")}
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import harness; print(harness.__file__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert where.stdout.startswith(str(installed / "site"))
    command = [sys.executable, "-P", "-m", "harness", "run", "lenet5", "--board", "nucleo-f746", "-n", "1", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["engine"] == "simulator" and record["bit_exact"] is True
    assert record["fingerprint"]["git_commit"] is None
    assert [path.suffix for path in (tmp_path / "results" / "runs").iterdir()] == [".json"]
