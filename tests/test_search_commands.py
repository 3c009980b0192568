"""`harness search` and `harness reproduce 2008.05124` as a user meets them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.reproduce import accuracy_plot, bit_widths, document, mixed_precision
from harness.reproduce.bit_widths import Experiment, Memory, Row, Ruled, Searched
from harness.search import policy
from harness.search.tensors import Limits

needs_mnist = pytest.mark.skipif("HARNESS_DATA" not in os.environ, reason="needs MNIST: HARNESS_DATA names no folder")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


@needs_mnist
def test_search_writes_a_policy_its_plots_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "my policies" / "p.json"
    arguments = ["search", "lenet5", "--flash", "20kB", "--ram", "1500", "--method", "random", "--episodes", "6"]
    code, out, err = run(*arguments, "--images", "200", "--output", str(file), "--json")
    assert code == 0, err
    told = json.loads(out)
    written = policy.read(file)
    assert (
        told["limits"] == {"flash": 20_000, "ram": 1_500}
        and told["evaluations"] == 7
        and told["images"] == 7 * (200 + 2 * 64)
    )
    assert written.to_json() == {name: told[name] for name in written.to_json()}
    assert written.network == "lenet5" and written.method == "random" and written.bytes <= 20_000
    assert {path.name for path in file.parent.iterdir()} == {"p.json", "p-bits.png", "p-curve.png"}


def test_the_golden_policy_comes_from_the_command(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    code, out, err = run(
        "search", "mobilenet-v1-1.0-224", "--flash", "2048kB", "--ram", "512kB", "--method", "memory-rule",
        "--no-fill", "--output", str(file),
    )  # fmt: skip
    assert code == 0, err
    written = policy.read(file)
    weights, activations = bit_widths.GOLDEN["mobilenet-v1-1.0-224"]
    assert "".join(map(str, written.weights.values())) == weights
    assert "".join(map(str, written.activations.values())) == activations.ljust(28, "8")
    assert written.score is None and "1,975,720 B" in out and "has no data here" in err
    limits = ["--flash", "2048kB", "--ram", "512kB"]
    code, out, err = run(
        "search", "mobilenet-v1-1.0-224", *limits, "--method", "memory-rule", "--output", str(file), "--quiet"
    )
    assert code == 0 and policy.read(file).method == "memory-rule-filled" and "99.7% of the limit" in out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet5"], "there is no limit to search under"),
        (["lenet5", "--flash", "many"], "'many' is not a size"),
        (["lenet5", "--flash", "10kB", "--method", "memory-rule"], "with 2 bits for every weight it takes 17,492"),
        (["mobilenet-v1-1.0-224", "--flash", "2MB", "--method", "rl"], "ships without weights"),
        (["lenet5", "--flash", "30kB", "--method", "luck"], "unknown method 'luck'"),
        (["lenet5", "--flash", "30kB", "--method", "ilp", "--no-fill"], "ilp always fills the flash"),
    ],
)
def test_what_cannot_be_searched_is_said_in_a_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    code, _, err = run("search", *arguments, "--output", str(tmp_path / "p.json"))
    assert code == 2 and words in " ".join(err.split())
    assert not list(tmp_path.iterdir())


# ---- the paper's page


def memory(golden: bool | None, filled: int = 2_041_256) -> Memory:
    return Memory(
        "mobilenet-v1-1.0-224", 4_209_088, 4_316_584, 1_204_224, Ruled(1_975_720, 401_408, "8" * 28, "884", 36_864),
        Ruled(filled, 401_408, "8" * 27 + "4", "888", 5_000), 3.99, golden,
    )  # fmt: skip


def row(method: str, seed: int | None, validation: float, images: int) -> Row:
    return Row(
        "resnet8",
        method,
        seed,
        33_800,
        24_576,
        "8448",
        "4448",
        validation,
        validation - 0.01,
        images // 2_000,
        images,
        5.0,
    )


def searched() -> Searched:
    rows = (
        row("memory-rule", None, 0.64, 2_000),
        row("memory-rule-filled", None, 0.66, 2_000),
        row("rl", 0, 0.75, 1_202_000),
        row("rl", 1, 0.76, 1_202_000),
        row("ilp", None, 0.754, 11_072),
        row("random", 0, 0.74, 1_202_000),
        row("random", 1, 0.75, 1_202_000),
    )
    return Searched(
        Experiment("resnet8", Limits(34_000, 27_000), 600),
        "cifar10-jpeg", "ab" * 32, 0.775, 0.77, 2_000, 10_000, rows,
        {"memory-rule": ((30_000, 0.6), (60_000, 0.75)), "ilp": ((30_000, 0.7), (60_000, 0.76))},
    )  # fmt: skip


def test_the_page_has_means_against_rl_and_says_what_is_not_reproduced() -> None:
    page = mixed_precision.describe(
        [memory(True), memory(None)], [memory(None, 2_090_000)], [searched()], ["ds-cnn (no data)"]
    )
    text = document.markdown(page)
    assert "1 of 1 the same, tensor by tensor" in text
    assert "rl 75.50%, random 74.50%, memory-rule 64.00% as published and 66.00% filled (rl +9.50 points" in text
    assert "ilp 75.40% with 0.92% of rl's images, 0.92% of those" in text
    assert "| as published | 1,975,720 | 96.5% |" in text and "| filled | 2,041,256 | 99.7% |" in text
    assert "smallest step" not in text
    short = document.markdown(mixed_precision.describe([memory(True, 2_020_000)], [], [searched()], []))
    assert "98.6%: 28,000 B are left, the smallest step is 5,000 B" in short
    assert (
        "| memory-rule | 64.00% | -11.50 |" in text
        and "| memory-rule-filled | 66.00% | -9.50 |" in text
        and "| ilp | 75.40% | -0.10 |" in text
    )
    assert "no accuracy on it is a CIFAR-10 accuracy" in text and "Left out: ds-cnn (no data)." in text
    assert "not reproduced" in text and "ImageNet top-1" in text
    for line in text.splitlines():
        if "68.4" in line or "8-bit networks that fit" in line:
            assert "published" in line
    assert set(page.files) == {"2008.05124-resnet8.png", "2008.05124-resnet8.svg"}
    assert page.to_json()["searched"][0]["rows"][2]["validation"] == 0.75
    assert mixed_precision._shortened("844888") == "844 then 8" and mixed_precision._shortened("888") == "all 8"


def test_the_plot_is_the_same_twice() -> None:
    assert accuracy_plot.draw(searched()) == accuracy_plot.draw(searched())


@pytest.mark.slow
@needs_mnist
def test_the_quick_page_runs(tmp_path: Path) -> None:
    code, out, err = run("reproduce", "2008.05124", "--quick", "--samples", "500", "--results", str(tmp_path), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert all(entry["golden"] for entry in told["limited"])
    assert all(entry["filled"]["flash"] >= 0.99 * 2_048_000 for entry in told["limited"] if "1.0" in entry["network"])
    rl, *ruled = (
        next(found for found in told["searched"][0]["rows"] if found["method"] == method)
        for method in ("rl", "memory-rule", "memory-rule-filled")
    )
    assert all(rl["validation"] >= found["validation"] for found in ruled)
    assert (tmp_path / "reproduce" / "2008.05124.md").exists()


@pytest.mark.slow
@needs_mnist
def test_a_policy_that_is_found_for_a_board_links(tmp_path: Path) -> None:
    import shutil

    from harness.assets import boards_dir

    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is needed")
    manifest = json.loads((boards_dir() / "nucleo-f746.json").read_text())
    for region in manifest["harness"]["memory"]:
        region["length"] = 28 * 1024 if region["kind"] == "flash" else 8 * 1024
    manifest["upload"] = {"maximum_size": 28 * 1024, "maximum_ram_size": 8 * 1024}
    board, file = tmp_path / "a-tiny-one.json", tmp_path / "p.json"
    board.write_text(json.dumps(manifest))
    found = ["--method", "ilp", "--output", str(file), "--json"]
    code, out, err = run("search", "lenet5", "--fit-board", str(board), *found)
    assert code == 0, err
    told = json.loads(out)
    # Without the limit all weights had 8 bits; what is left is less than one step of any layer but fc1.
    assert 0.9 * told["limits"]["flash"] <= told["bytes"] <= told["limits"]["flash"] < 61_470
    code, out, err = run(
        "run", "lenet5", "--board", str(board), "--variant", "mixed", "--policy", str(file), "--samples", "1",
        "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert record["bit_exact"] is True and record["footprint"]["flash"]["total"] <= 28 * 1024
    code, _, err = run("search", "lenet5", "--fit-board", str(board), "--flash", "16kB", *found)
    assert code == 2 and "with 2 bits for every weight" in " ".join(err.split())
