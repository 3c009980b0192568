"""The command line as a user meets it: a process, its two streams, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HARNESS = [str(Path(sys.executable).with_name("harness"))]


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`harness ARGUMENTS`, with a deadline; NO_COLOR and a wide terminal so that sentences stay in one piece."""
    return subprocess.run(
        [*HARNESS, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """What a refused command says; it must be a sentence on stderr, not a traceback, and nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("run", "export", "train", "compress", "regress", "sweep", "report", "verify", "show", "doctor"):
        assert f" {command} " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, harness.cli; print([m for m in ('torch','numpy','pandas','pyocd','unicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["boards", "models", "doctor"])
def test_lists_come_as_json_too(command: str) -> None:
    assert "nucleo" in run("boards").stdout
    data = json.loads(run(command, "--json").stdout)
    assert data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet", "--board", "nucleo-f746"], ["unknown model 'lenet'", "lenet5"]),
        (["lenet5", "--board", "nucleo-f747"], ["unknown board", "nucleo-f746"]),
        (["lenet5", "--board", "nucleo-f746", "--variant", "int7"], ["unknown variant", "int8"]),
        (["lenet5", "--board", "nucleo-f746", "--engine", "qemo"], ["unknown engine", "qemu"]),
        (["lenet5", "--board", "nucleo-f746", "--engine", "qemu"], ["has no engine qemu", "simulator"]),
        (["lenet5", "--board", "nucleo-f746", "--kernels", "fast"], ["unknown kernels"]),
        (["missing.py:net", "--board", "nucleo-f746"], ["missing.py does not exist"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    said = refused(run("run", *arguments, "--results", str(tmp_path)))
    for word in words:
        assert word in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_hold_results_is_refused_before_the_run(tmp_path: Path) -> None:
    # A file where the folder should be: also refused for root, whom permissions do not stop.
    (tmp_path / "results").write_text("")
    done = run("run", "lenet5", "--board", "nucleo-f746", "--engine", "host", "--results", str(tmp_path / "results"))
    assert "cannot be written" in refused(done)


NETWORK = """
import torch
from torch import nn

def make_model():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 5 * 5, 4))

def unsupported():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 5 * 5, 4))

def miscounted():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(3 * 5 * 5, 4))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with a space in its name: a network, its weights, data."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("my project")
    (folder / "net work.py").write_text(NETWORK)
    torch.manual_seed(0)
    shapes = {"0.weight": (3, 1, 3, 3), "0.bias": (3,), "4.weight": (4, 75), "4.bias": (4,)}
    weights = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    weights["0.weight"][1] = 0  # a channel without weights is legal
    save_file(weights, folder / "w.safetensors")
    weights["4.weight"][2, 2] = float("nan")
    save_file(weights, folder / "nan.safetensors")
    (folder / "corrupt.safetensors").write_bytes(b"\x00" * 64)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 12, 12, 1)).astype(np.uint8)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 4, 120))
    bad = x.astype(np.float32)
    bad[3, 3, 3] = np.nan
    np.savez(folder / "nan.npz", x=bad, y=np.zeros(120, np.int64))
    return folder


def test_a_network_of_ones_own_without_weights_is_refused(own: Path) -> None:
    for model, words in {"make_model": "needs weights", "make_modle": "unknown function"}.items():
        assert words in refused(run("run", f"{own / 'net work.py'}:{model}", "--board", "nucleo-f746"))


def own_run(
    folder: Path, *, model: str = "make_model", weights: str = "w", data: str = "data", **extra: str
) -> subprocess.CompletedProcess[str]:
    options = [part for name, value in extra.items() for part in (f"--{name}", value)]
    return run(
        "run",
        f"{folder / 'net work.py'}:{model}",
        "--weights",
        str(folder / f"{weights}.safetensors"),
        "--data",
        str(folder / f"{data}.npz"),
        "--board",
        "nucleo-f746",
        "--engine",
        "host",
        "--results",
        str(folder / "results"),
        *options,
    )


def test_a_network_that_cannot_be_traced_is_told_in_a_sentence_alone(own: Path) -> None:
    said = refused(own_run(own, model="miscounted"))
    assert "cannot be traced with an input of (1, 1, 12, 12)" in said
    assert "Traceback" not in said and "torch/" not in said, said


def test_a_network_of_ones_own_runs_bit_exact(own: Path) -> None:
    done = own_run(own, samples="12")
    assert done.returncode == 0, done.stderr
    assert "bit-exact" in done.stdout
    shown = run("show", "--results", str(own / "results"), "--json")
    assert [entry["model"] for entry in json.loads(shown.stdout)] == ["net work"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "unsupported"}, "sigmoid"),
        ({"model": "nothing"}, "nothing"),
        ({"weights": "nan"}, "NaN"),
        ({"weights": "corrupt"}, "corrupt.safetensors"),
        ({"weights": "missing"}, "missing.safetensors"),
        ({"data": "nan"}, "NaN"),
        ({"data": "missing"}, "missing.npz"),
    ],
)
def test_what_is_wrong_with_ones_own_files_is_named(own: Path, changes: dict[str, str], words: str) -> None:
    assert words in refused(own_run(own, **changes))


def test_a_run_prints_its_record_alone_with_json(tmp_path: Path) -> None:
    done = run(
        "run", "lenet5", "--board", "nucleo-f746", "--engine", "host", "-n", "3", "--json", "--results", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["bit_exact"] is True and record["engine"] == "host" and len(record["layers"]) == 5
    assert json.loads(run("show", record["id"], "--json", "--results", str(tmp_path)).stdout) == record


def test_an_unknown_result_is_answered_with_what_there_is(tmp_path: Path) -> None:
    assert "no results" in refused(run("show", "2026", "--results", str(tmp_path)))


def test_export_compiles_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "ex port"
    done = run("export", "lenet5", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    sources = [str(path) for path in folder.glob("*.c")]
    for compiler in (
        ["gcc"],
        ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb"],
        ["arm-none-eabi-gcc", "-mcpu=cortex-m0"],
    ):
        subprocess.run(
            [*compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-c", *sources, "-o", str(tmp_path / "n.o")],
            check=True,
            timeout=60,
        )
    assert "not an empty folder" in refused(run("export", "lenet5", "--output", str(folder)))


def test_a_baseline_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text('{"schema": 99}')
    assert "newer harness" in refused(run("regress", "--baseline", str(path)))
    path.write_text('{"schema": 1, "specs": [{"model": "lenet5", "bord": "x"}], "expected": []}')
    assert "board" in refused(run("regress", "--baseline", str(path), "--update"))


def test_a_gate_lets_equal_figures_pass_and_names_those_that_moved(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    spec = {"model": "lenet5", "board": "nucleo-f746", "engine": "host", "samples": 2}
    path.write_text(json.dumps({"schema": 1, "specs": [spec], "expected": []}))
    assert "nothing yet" in refused(run("regress", "--baseline", str(path)))
    assert run("regress", "--baseline", str(path), "--update").returncode == 0
    same = run("regress", "--baseline", str(path))
    assert same.returncode == 0 and "no figure moved" in same.stdout
    recorded = json.loads(path.read_text())
    recorded["expected"][0]["layers"][2]["crc_device"] = "00000000"
    path.write_text(json.dumps(recorded))
    moved = run("regress", "--baseline", str(path))
    assert moved.returncode == 1
    assert "layers.fc1.crc_device" in moved.stdout and "1 figures moved" in moved.stderr
