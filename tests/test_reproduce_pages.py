"""Papers' pages: the figures that are counted, the claims, the plot's labels, and figures kept from other machines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import reproduce
from harness.codegen.baselines import cmsis_nn
from harness.errors import InputError
from harness.models import resolve
from harness.progress import Silent
from harness.reproduce import (
    deep_compression,
    document,
    efficient_deployment,
    experiment,
    measured,
    mixed_precision,
    plot,
)
from harness.reproduce.experiment import Accuracy, Case, Figures, Options
from harness.reproduce.measured import Kept

PROVENANCE = {
    "sources_sha256": "5",
    "version": "v7.0.0",
    "commit": "22080c6",
    "requantization": "single",
    "date": "2026-01-01",
}


def figures(case: Case, instructions: int, sizes: tuple[int, int, int], board: str = "mps2-an386") -> Figures:
    return Figures(case.label, board, "qemu", instructions, *sizes, 300, sum(sizes) + 9_000, "-O2", "gcc 12", "7.2")


def a_run(*further: Figures, **options: object) -> deep_compression.Run:
    """A run with round numbers: Unlu 250,000 B and 16 M, paper A 20,000 B and 8 M, int8 50,000 B and 400 k."""
    measured_here = (
        figures(deep_compression.UNLU, 16_000_000, (240_000, 2_000, 8_000)),
        figures(deep_compression.UNLU_O3, 8_000_000, (240_000, 2_000, 8_000)),
        figures(deep_compression.PLAIN, 1_600_000, (240_000, 2_000, 8_000)),
        figures(deep_compression.PAPER_A, 8_000_000, (16_000, 2_000, 2_000)),
        figures(deep_compression.PAPER_A_O3, 4_000_000, (16_000, 2_000, 2_000)),
        figures(deep_compression.FP32, 800_000, (240_000, 2_000, 8_000)),
        figures(deep_compression.INT8, 400_000, (44_000, 3_000, 3_000)),
    )
    accuracy = (Accuracy("fp32", 0.995, 0.995, 1_000, "mnist"), Accuracy("int8", 0.994, 0.995, 1_000, "mnist"))
    return deep_compression.Run((*measured_here, *further), accuracy, **options)


def kept() -> Kept:
    """Figures of another run, at each level that some are kept of."""
    cases = deep_compression.CMSIS_NN_KEPT
    entries = (figures(case, 2_000_000 - i, (64_000, 10_000, 6_000)) for i, case in enumerate(cases))
    origin = "CMSIS-NN v7.0.0, measured 2026-01-01"
    return Kept(tuple(dataclasses.replace(entry, origin=origin) for entry in entries), None, PROVENANCE)


def kept_file(folder: Path, content: str) -> None:
    file = folder / "reproduce" / measured.name("lenet5")
    file.parent.mkdir(parents=True)
    file.write_text(content)


# ---- arXiv 2103.15972


def test_a_ratio_says_its_denominator_and_a_published_figure_that_it_is_published() -> None:
    page = deep_compression.describe(a_run(), ["mps2-an386"])
    claims = {claim.quantity: claim for claim in page.claims}
    memory = claims["memory footprint, the paper's method"]
    assert memory.published == "12.45x smaller (published, abstract)"
    assert memory.ours.startswith("12.50x smaller") and "250,000 B" in memory.denominator
    assert claims["inference, the paper's method, -O2"].ours == "fewer instructions: 2.00x on mps2-an386"
    # 283,296 / (16,000 + 2,000): neither side counts code.
    assert claims["the same, against Unlu's naive total"].ours.startswith("15.74x smaller")
    assert claims["inference, int8 (ours, another method)"].ours.endswith("40.00x on mps2-an386")
    assert all("published" in claim.published and claim.denominator and claim.reason for claim in page.claims)


def test_ratios_are_given_against_every_baseline_that_was_measured() -> None:
    built = figures(deep_compression.CMSIS_NN, 2_000_000, (64_000, 10_000, 6_000))
    data = deep_compression.describe(a_run(built, built={"mps2-an386": "5ha"}), ["mps2-an386"]).data
    assert data["ratios"]["mps2-an386"]["int8"] == {
        "unlu -O2": {"smaller": 5.0, "fewer": 40.0},
        "unlu -O3": {"smaller": 5.0, "fewer": 20.0},
        "plain fp32 -O3": {"smaller": 5.0, "fewer": 4.0},
        "paper A -O2": {"smaller": 0.4, "fewer": 20.0},
        "CMSIS-NN s8": {"smaller": 1.6, "fewer": 5.0},
    }
    without = deep_compression.describe(a_run(), ["mps2-an386"])
    assert "CMSIS-NN s8" not in without.data["ratios"]["mps2-an386"]["int8"]
    assert not any("CMSIS-NN yields" in note for note in without.notes)


def test_the_library_at_hand_is_one_row_and_kept_figures_are_marked() -> None:
    built = figures(deep_compression.CMSIS_NN, 2_000_000, (64_000, 10_000, 6_000))
    fresh = deep_compression.describe(a_run(built, built={"mps2-an386": "5ha"}), ["mps2-an386"])
    page = document.markdown(fresh)
    assert "| CMSIS-NN s8 | 64,000 |" in page and "(kept)" not in page
    assert "as its user built it (mps2-an386: SHA-256 5ha), measured in this run" in page
    earlier = deep_compression.describe(a_run(*kept().figures, kept=kept()), ["mps2-an386"])
    page = document.markdown(earlier)
    assert all(f"| CMSIS-NN s8 {level} (kept) | 64,000 |" in page for level in ("-O2", "-O3", "-Ofast"))
    assert "figures kept of 2026-01-01" in page and "measured in this run" not in page
    assert "CMSIS-NN s8 -O2" in earlier.data["ratios"]["mps2-an386"]["int8"]
    assert not any("measured/" in name for name in (*fresh.files, *earlier.files)), "kept figures are only read"


def test_a_page_is_written_with_its_plots(tmp_path: Path) -> None:
    page = deep_compression.describe(a_run(), ["mps2-an386"])
    written = page.write(tmp_path / "reproduce")
    assert {path.name for path in written} == {"2103.15972.md", "2103.15972.png", "2103.15972.svg"}
    text = (tmp_path / "reproduce" / "2103.15972.md").read_text()
    assert "](2103.15972.png)" in text and "| int8 |" in text
    assert json.loads(json.dumps(page.to_json()))["claims"][0]["ours"].startswith("12.50x")


# ---- arXiv 2007.01348


def test_activations_are_counted_as_unlu_counts_them() -> None:
    """36,472 B, and 11,256 B with the pooling fused: the paper's own figures, from our graph."""
    graph, _ = resolve.float_graph(resolve.source("lenet5", None), (32, 32, 1))
    counted = efficient_deployment.activations(graph, 4)
    assert counted.naive == efficient_deployment.PUBLISHED_NAIVE
    assert counted.fused == efficient_deployment.PUBLISHED_FUSED


def test_unlu_page_says_what_was_not_run() -> None:
    run = efficient_deployment.Run(
        board="mps2-an386",
        figures=(figures(efficient_deployment.UNLU, 15_000_000, (246_824, 1_700, 8_800)),),
        accuracy=Accuracy("LeNet-5 unlu -O2", 0.995, 0.995, 10_000, "mnist"),
        lenet5=efficient_deployment.Activations(36_472, 11_256),
        cifar=None,
        missing="there is no cifar10",
    )
    page = efficient_deployment.describe(run)
    claims = {claim.quantity: claim for claim in page.claims}
    assert claims["LeNet-5 activations, fused and ping-pong"].reason == "None: the same number."
    assert not any("CIFAR" in quantity for quantity in claims)
    assert "The CIFAR network was not run: there is no cifar10." in document.markdown(page)


# ---- the plot


def test_labels_cover_neither_each_other_nor_a_point() -> None:
    """Twelve points, most of them close together."""
    points = [
        plot.Point(f"case number {i}", 10_000 * 1.05**i, 2_000_000 * 1.1 ** (i % 4), "baseline") for i in range(9)
    ]
    points += [plot.Point("far", 250_000, 15e6, "ours"), plot.Point("floor", 6_600, 91_000, "floor")]
    figure, labels = plot.figure(points, title="t")
    renderer = figure.canvas.get_renderer()
    boxes = [plot.text_box(label, renderer) for label in labels]
    assert len(boxes) == len(points)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :]), labels[index].get_text()
        pixels = figure.axes[0].transData.transform([(point.bytes, point.instructions) for point in points])
        assert not any(box.contains(x, y) for x, y in pixels), labels[index].get_text()


def test_the_same_points_give_the_same_files() -> None:
    points = [plot.Point("one", 1_000, 2_000, "ours"), plot.Point("two", 9_000, 70_000, "published")]
    first, second = plot.draw(points, title="t"), plot.draw(points, title="t")
    assert first == second
    assert first["png"].startswith(b"\x89PNG") and b"<svg" in first["svg"]


# ---- figures kept from other machines


def test_kept_figures_are_read_with_their_origin(tmp_path: Path) -> None:
    entries = [entry.to_json() for entry in kept().figures]
    kept_file(tmp_path, json.dumps({"schema": 1, "provenance": PROVENANCE, "figures": entries, "accuracy": None}))
    assert measured.load((tmp_path / "elsewhere", tmp_path), "lenet5") == kept()
    assert measured.load((tmp_path,), "another") is None


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 2}', '{"schema": 1, "provenance": {}}'])
def test_damaged_measured_figures_are_refused(tmp_path: Path, content: str) -> None:
    kept_file(tmp_path, content)
    with pytest.raises(InputError, match="does not hold kept figures"):
        measured.load((tmp_path,), "lenet5")


def test_the_committed_cmsis_nn_figures_cover_every_board_and_level() -> None:
    root = Path(__file__).resolve().parent.parent / "results"
    found = measured.load((root,), deep_compression.MODEL)
    assert found is not None and len(found.provenance["commit"]) == 40
    wanted = {(case.label, board) for case in deep_compression.CMSIS_NN_KEPT for board in deep_compression.BOARDS}
    assert {(entry.label, entry.board) for entry in found.figures} == wanted
    for entry in found.figures:
        assert entry.instructions > 1_000_000 and entry.weights > 60_000
    cifar = measured.load((root,), efficient_deployment.CIFAR)
    assert cifar is not None and cifar.figures[0].label == efficient_deployment.CIFAR_CMSIS.label


def test_the_users_library_is_known_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    assert not measured.available("mps2-an386")
    (tmp_path / "Include").mkdir()
    (tmp_path / "Include" / "arm_nnfunctions.h").write_text("")
    (tmp_path / "lib" / "cortex-m4").mkdir(parents=True)
    (tmp_path / "lib" / "cortex-m4" / "libcmsis-nn.a").write_bytes(b"!<arch>\n")
    assert measured.available("mps2-an386") and not measured.available("mps2-an500")
    assert measured.identity("mps2-an386") == hashlib.sha256(b"!<arch>\n").hexdigest()[:16]


# ---- the command


def test_papers_are_the_modules() -> None:
    assert reproduce.PAPERS == (deep_compression.PAPER, efficient_deployment.PAPER, mixed_precision.PAPER)


def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown paper"):
        reproduce.reproduce("2103.15971", Options(), Silent(), print)
    with pytest.raises(InputError, match="nucleo-f747"):
        reproduce.reproduce("2103.15972", Options(boards=("mps2-an386", "nucleo-f747")), Silent(), print)
    environment = {**os.environ, "HARNESS_RESULTS": str(tmp_path / "results"), "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from harness.cli import main; main()", "reproduce", "2103.15971"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2 and "did you mean 2103.15972" in ran.stderr
    assert not (tmp_path / "results").exists()


def test_an_emulator_is_used_even_where_a_board_is_connected() -> None:
    assert [experiment.engine(board) for board in deep_compression.BOARDS] == ["simulator", "qemu", "qemu"]
