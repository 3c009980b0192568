"""`harness report` and `harness compare` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas
import pytest
from report_cli import run
from report_records import START, fleet, keep, made_up
from test_cli_commands import HARNESS, refused

from harness.errors import InputError
from harness.report.comparison import compare


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep(fleet(30), tmp_path_factory.mktemp("re sults"))


def test_every_form_at_once(results: Path, tmp_path: Path) -> None:
    names = {form: tmp_path / f"r.{form}" for form in ("html", "csv", "parquet", "markdown")}
    options = [part for form, path in names.items() for part in (f"--{form}", str(path))]
    done = run("report", "--results", str(results), "--json", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["results"] == 30 and len(told["files"]) == 4 and told["damaged"] == {}
    assert {entry["model"] for entry in told["latest"]} == {"lenet5", "cifar-net"}
    assert len(pandas.read_csv(names["csv"])) == len(pandas.read_parquet(names["parquet"])) == 30
    assert names["html"].read_text().startswith("<!doctype html>")
    assert "## lenet5" in names["markdown"].read_text()


def test_a_selection_to_stdout(results: Path) -> None:
    done = run("report", "--results", str(results), "--csv", "-", "--model", "lenet5", "--variant", "int8")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("schema,id,time,model") and len(lines) == 7
    assert "mps2-an386" in refused(run("report", "--results", str(results), "--board", "mps2-an38"))


def test_no_results_are_no_error(tmp_path: Path) -> None:
    done = run("report", "--results", str(tmp_path / "none"), "--html", str(tmp_path / "r.html"))
    assert done.returncode == 0 and "no results yet" in done.stderr
    assert "no results yet" in (tmp_path / "r.html").read_text()
    assert run("report", "--results", str(tmp_path / "none"), "--markdown", "-").stdout.endswith("no results.\n")


def test_a_damaged_record_among_good_ones_is_named_and_in_the_exit_code(tmp_path: Path) -> None:
    keep(fleet(5), tmp_path)
    (tmp_path / "runs" / "20990101-000000000-00000000.json").write_text("{")
    done = run("report", "--results", str(tmp_path), "--csv", "-")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 6
    assert "1 of 6 results" in done.stderr and "20990101-000000000-00000000.json" in done.stderr


def test_a_page_that_cannot_be_written_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in run("report", "--results", str(results), "--html", str(tmp_path / "file/r.html")).stderr


def test_a_pipe_gets_whole_lines_without_colours(results: Path) -> None:
    command = [*HARNESS, "report", "--results", str(results)]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    # A heading, and a line for each of 24 configurations.
    assert len(done.stdout.splitlines()) == 25


def test_a_full_disk_leaves_nothing_half_written(results: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the middle, as it does there."""
    page = tmp_path / "report.html"
    page.write_text("the one of yesterday")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from harness.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "report", "--results", str(results), "--html", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "cannot write" in done.stderr, done.stderr
    assert page.read_text() == "the one of yesterday"
    assert list(tmp_path.iterdir()) == [page]


class TestCompare:
    def test_figures_side_by_side(self, tmp_path: Path) -> None:
        first, second = made_up(), made_up(variant="deep", now=START + timedelta(days=1))
        keep([first, second], tmp_path)
        done = run("compare", first.id, second.id, "--results", str(tmp_path), "--json")
        assert done.returncode == 0, done.stderr
        figures = {figure["field"]: figure for figure in json.loads(done.stdout)["figures"]}
        assert figures["latency.median"]["values"] == [first.latency.median, second.latency.median]
        assert figures["latency.median"]["changes"][0] == pytest.approx(
            second.latency.median / first.latency.median - 1
        )
        assert figures["layers.conv1.ticks"]["values"][0] == first.layers[0].ticks
        shown = run("compare", first.id, second.id, "--results", str(tmp_path), "--markdown", "-")
        assert "| conv1" in shown.stdout and "A int8 nucleo-f746" in shown.stdout

    def test_clocks_are_refused_and_the_allowance_is_recorded(self, tmp_path: Path) -> None:
        first, second = made_up(), made_up(host=True, now=START + timedelta(days=1))
        keep([first, second], tmp_path)
        said = refused(run("compare", first.id, second.id, "--results", str(tmp_path)))
        assert "latency.clock: instructions and host" in said and "--allow clock" in said
        page = tmp_path / "c.html"
        allowed = run(
            *("compare", first.id, second.id, "--results", str(tmp_path), "--allow", "clock", "--json"),
            *("--html", str(page)),
        )
        assert allowed.returncode == 0, allowed.stderr
        assert [item["field"] for item in json.loads(allowed.stdout)["allowed"]] == ["latency.clock", "latency.unit"]
        assert "latency.clock: instructions and host" in page.read_text()
        assert "did you mean clock" in refused(
            run("compare", first.id, second.id, "--results", str(tmp_path), "--allow", "clok")
        )

    def test_one_result_is_nothing_to_compare(self, tmp_path: Path) -> None:
        assert "2 to 8" in refused(run("compare", "x", "--results", str(tmp_path)))

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"compiler": "arm-none-eabi-gcc 14.1"}, "compiler"),
            ({"flags": ("-std=c11", "-flto", "-mcpu=cortex-m4")}, "flags"),
            ({"dataset_sha256": "6" * 64}, "data"),
        ],
    )
    def test_what_was_built_or_measured_otherwise_is_refused(self, changes: dict[str, object], word: str) -> None:
        first = made_up()
        other = first.model_copy(update={"fingerprint": first.fingerprint.model_copy(update=changes)})
        with pytest.raises(InputError) as caught:
            compare([first, other])
        assert caught.value.hint is not None and caught.value.hint.endswith(f"--allow {word}")
        assert [item.field.split(".")[1] for item in compare([first, other], allow=[word]).allowed] == [*changes]

    def test_a_manifest_counts_for_clocks_that_see_caches(self) -> None:
        def timed(manifest: str, hz: int) -> object:
            record = made_up()
            clock = record.latency.model_copy(
                update={"clock": "silicon", "unit": "cycles", "hz": hz, "us": record.latency.median / hz * 1e6}
            )
            made_from = record.fingerprint.model_copy(update={"board_manifest_sha256": manifest})
            return record.model_copy(update={"latency": clock, "fingerprint": made_from})

        with pytest.raises(InputError) as caught:
            compare([timed("3" * 64, 216_000_000), timed("7" * 64, 80_000_000)])  # type: ignore[list-item]
        assert "--allow clock --allow board" in str(caught.value.hint)
        counted = made_up()
        other = counted.fingerprint.model_copy(update={"board_manifest_sha256": "7" * 64})
        assert compare([counted, counted.model_copy(update={"fingerprint": other})]).allowed == ()

    def test_optimisation_and_the_board_are_what_comparisons_are_about(self) -> None:
        first = made_up()
        flags = first.fingerprint.model_copy(
            update={"flags": ("-O3", "-std=c11", "-mcpu=cortex-m4"), "optimize": "-O3"}
        )
        assert compare([first, first.model_copy(update={"fingerprint": flags, "board": "mps2-an386"})]).allowed == ()
