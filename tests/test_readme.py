"""The README's figures are the measured ones, in benchmarks/; those of LeNet-5 are confirmed by the gate's baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES: dict[str, Any] = json.loads((ROOT / "benchmarks" / "figures.json").read_text())
NETWORKS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "whole_networks.json").read_text())


def test_the_table_shows_what_was_measured() -> None:
    for run in FIGURES["runs"]:
        names = ("network", "weights", "kernels", "activations", "platform")
        cycles = "-" if run["error_band"] is None else f"{run['cycles']:,} ±{run['error_band']:.0%}"
        cells = " | ".join([f"{run['instructions']:,}", cycles, *(f"{run[name]:,}" for name in names)])
        assert f"| {run['variant']} | {run['board']} | {cells} |" in README


def test_the_table_of_networks_shows_what_was_measured() -> None:
    for run in NETWORKS["networks"]:
        (line,) = [line for line in README.splitlines() if line.startswith(f"| {run['model']} | {run['board']} |")]
        assert f"| {run['microseconds'] / 1000:.2f} ±" in line and f"| {run['instructions']:,} |" in line
        assert run["bit_exact"] and (run["cmsis_nn"] is None or run["cmsis_nn"]["bit_exact"])


def test_accuracies_are_the_measured_ones() -> None:
    for variant, share in FIGURES["accuracy_10000"].items():
        assert f"{variant} {share:.2%}" in README
        assert share > 0.99  # of MNIST, not of the digits that stand in for it
    assert "20 test samples of mnist" in README


def test_the_searches_are_those_of_the_page() -> None:
    page = (ROOT / "results" / "reproduce" / "2008.05124.md").read_text(encoding="utf-8")
    table = page.split("## (b) resnet8: means over the seeds")[1].split("## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    validation = {row[0]: row[1].replace("%", " %") for row in rows}
    share = next(row[5].replace("%", " %") for row in rows if row[0] == "ilp")
    said = " ".join(README.split())
    assert f"reinforcement learning reaches {validation['rl']}, random search {validation['random']}" in said
    assert f"integer programming {validation['ilp']} with {share} of the images" in said
    assert f"the rule {validation['memory-rule']} as published and {validation['memory-rule-filled']} when" in said


def test_the_figures_are_those_that_the_gate_guards() -> None:
    baseline = json.loads((ROOT / "results" / "baselines" / "ci.json").read_text())
    measured = {(run["variant"], run["board"]): run for run in FIGURES["runs"]}
    for record in baseline["expected"]:
        run = measured[record["variant"], record["board"]]
        assert run["instructions"] == record["instructions"]
        assert run["network"] == record["footprint"]["network"]


def test_targets_are_kept() -> None:
    for run in FIGURES["runs"]:
        limits = {"int8": (700_000, 75_000), "fp32": (1_500_000, 257_000), "deep": (191_600, 8_900)}
        instructions, network = limits[run["variant"]]
        assert run["instructions"] <= instructions and run["network"] <= network
        assert run["platform"] <= 6_000
