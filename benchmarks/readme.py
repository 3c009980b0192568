"""Puts measured blocks into README.md: tables and sentences of figures.json and whole_networks.json, a run's output.

    python benchmarks/figures.py && python benchmarks/whole_networks.py ... && python benchmarks/readme.py

A block stands between `<!-- name -->` and `<!-- end -->`. tests/test_readme.py holds the README to the same figures.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HARNESS = str(Path(sys.executable).with_name("harness"))

BYTES = ("network", "weights", "kernels", "activations", "platform")


def lenet5(figures: dict[str, Any]) -> str:
    """LeNet-5: every variant on every board that was measured."""
    lines = [
        "| variant | board | instructions | cycles (modelled) | network | weights | kernels | activations | platform |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in figures["runs"]:
        # Without an error band the model is uncalibrated for this code: such cycles are not worth printing.
        cycles = f"{run['cycles']:,} ±{run['error_band']:.0%}" if run["error_band"] is not None else "-"
        cells = [f"{run['instructions']:,}", cycles, *(f"{run[name]:,}" for name in BYTES)]
        lines.append(f"| {run['variant']} | {run['board']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def networks(measured: dict[str, Any]) -> str:
    """The other networks, int8, with the modelled time beside that of CMSIS-NN and the best published one."""
    lines = [
        "| network | board | ms, modelled | CMSIS-NN, ms | times as fast | published, ms | instructions | image "
        "| weights | kernels | activations |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in measured["networks"]:
        library, published = run["cmsis_nn"], run["published_per_second"]
        cells = [
            f"{run['microseconds'] / 1000:.2f} ± {run['error_band']:.0%}",
            f"{library['microseconds'] / 1000:.2f}" if library else "-",
            f"{library['microseconds'] / run['microseconds']:.2f}" if library else "-",
            f"{1000 / published:.2f}" if published else "-",
            f"{run['instructions']:,}",
            *(f"{run[name]:,}" for name in BYTES[:-1]),
        ]
        lines.append(f"| {run['model']} | {run['board']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sentences(figures: dict[str, Any]) -> str:
    """Accuracy on all test images, and how long commands take."""
    accuracies = ", ".join(f"{variant} {share:.2%}" for variant, share in figures["accuracy_10000"].items())
    seconds = figures["seconds"]
    return (
        f"Accuracy on all 10,000 test images: {accuracies}. Seconds on {figures['machine']}: `harness --help` "
        f"{seconds['help']:.2f}, a first run without any cache {seconds['cold']:.1f}, a warm run {seconds['warm']:.1f}."
    )


def output() -> str:
    """What `make run` prints, on a terminal of 100 columns."""
    with tempfile.TemporaryDirectory() as folder:
        command = [HARNESS, "run", "lenet5", "--board", "nucleo-f746", "--results", folder]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=600)
    said = [line for line in done.stderr.splitlines() if line.startswith("engine:")]
    printed = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("written to")]
    return "\n".join(["```", *said, *printed, "```"])


def main() -> None:
    figures, measured = (
        json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))
        for name in ("figures.json", "whole_networks.json")
    )
    blocks = {
        "output:run": output(),
        "table:figures": lenet5(figures),
        "table:networks": networks(measured),
        "sentences:figures": sentences(figures),
    }
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, block in blocks.items():
        opening = f"<!-- {name} -->"
        pattern = re.escape(opening) + r".*?<!-- end -->"
        text, found = re.subn(pattern, lambda _: f"{opening}\n{block}\n<!-- end -->", text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise SystemExit(f"README.md must hold the block {opening} once, not {found} times")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
