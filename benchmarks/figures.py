"""Measures LeNet-5's figures of the README, and times; writes benchmarks/figures.json for benchmarks/readme.py.

    python benchmarks/figures.py

Instructions and bytes are exact and equal on every machine with the same compiler; seconds are of this machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HARNESS = str(Path(sys.executable).with_name("harness"))
BOARDS = ("nucleo-f746", "mps2-an386", "mps2-an500")
HERE = Path(__file__).resolve().parent


def seconds(*arguments: str, cache: Path | None = None) -> float:
    """Wall time of one `harness ARGUMENTS`, which must succeed."""
    environment = {**os.environ, **({"HARNESS_CACHE": str(cache)} if cache else {})}
    started = time.perf_counter()
    subprocess.run([HARNESS, *arguments], check=True, capture_output=True, env=environment, timeout=600)
    return time.perf_counter() - started


def record(results: Path, *arguments: str, cmsis_nn: str | None = None) -> dict[str, Any]:
    """The record of one run. cmsis_nn: the folder with that library."""
    command = [HARNESS, "run", *arguments, "--json", "--results", str(results)]
    environment = {**os.environ, **({"HARNESS_CMSIS_NN": cmsis_nn} if cmsis_nn else {})}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=600)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def times(folder: Path) -> dict[str, float]:
    """Seconds: the help page, a first run without any cache, and a run with warm caches."""
    run = ("run", "lenet5", "--board", "nucleo-f746", "--results", str(folder / "results"))
    cache = folder / "cache"
    return {
        "help": min(seconds("--help") for _ in range(5)),
        "cold": seconds(*run, cache=cache),
        "warm": min(seconds(*run, cache=cache) for _ in range(3)),
    }


def row(found: dict[str, Any]) -> dict[str, Any]:
    """What the README shows of one record."""
    flash, ram = found["footprint"]["flash"], found["footprint"]["ram"]
    return {
        "model": found["model"],
        "variant": found["variant"],
        "board": found["board"],
        "engine": found["engine"],
        "instructions": found["instructions"],
        "cycles": found["latency"]["median"] if found["latency"]["clock"] == "modelled" else None,
        "microseconds": found["latency"]["us"] if found["latency"]["clock"] == "modelled" else None,
        "error_band": found["latency"]["error_band"],
        "network": found["footprint"]["network"],
        "weights": flash["weights"],
        "kernels": flash["kernels"],
        "activations": ram["activations"],
        "platform": flash["platform"],
        "stack_used": found["footprint"]["stack_used"],
        "samples": found["accuracy"]["samples"],
        "bit_exact": found["bit_exact"],
        "max_abs_error": found["max_abs_error"],
        "layers": {layer["name"]: layer["ticks"] for layer in found["layers"]},
    }


def check_data(folder: Path) -> None:
    """SystemExit where LeNet-5 would run on something else than MNIST."""
    found = record(folder, "lenet5", "-b", "nucleo-f746", "--engine", "host", "-n", "1")["accuracy"]["dataset"]
    if found != "mnist":
        raise SystemExit(f"these figures are of MNIST, but the data is {found}: set HARNESS_DATA")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_data(folder)
        rows = []
        for board in BOARDS:
            for variant, samples in (("int8", 200), ("deep", 200), ("fp32", 20)):
                rows.append(row(record(folder, "lenet5", "-b", board, "--variant", variant, "-n", str(samples))))
                print(f"measured {variant} on {board}", file=sys.stderr)
        everything = ("lenet5", "-b", "nucleo-f746", "--engine", "host", "-n", "10000")
        host = record(folder, *everything)
        deep = record(folder, *everything, "--variant", "deep")
        figures = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "compiler": subprocess.run(
                ["arm-none-eabi-gcc", "--version"], check=True, capture_output=True, text=True, timeout=20
            ).stdout.splitlines()[0],
            "seconds": {key: round(value, 2) for key, value in times(folder).items()},
            "accuracy_10000": {
                "int8": host["accuracy"]["host"],
                "deep": deep["accuracy"]["host"],
                "fp32": host["accuracy"]["fp32"],
            },
            "runs": rows,
        }
    (HERE / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures["seconds"]), json.dumps(figures["accuracy_10000"]))


if __name__ == "__main__":
    main()
