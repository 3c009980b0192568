"""The gate as a command and as arithmetic: what moved, what may not be compared, and how both are written down."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_cli import run
from report_records import START, keep, made_up
from test_cli_commands import refused

from harness.report import gate as report
from harness.report import history
from harness.results import store
from harness.results.baseline import Times, read_baseline, stable, write_baseline
from harness.results.gate import Finding, judge
from harness.results.record import Result

SPEC = {"model": "lenet5", "board": "nucleo-f746", "engine": "host", "samples": 2}


def judged(expected: Result, record: Result, **options: Any) -> Finding:
    return judge("a spec", stable(expected), record, **{"seconds": 1.0, "tolerances": {}, **options})


def slower(percent: float) -> Result:
    record = made_up()
    layers = tuple(
        layer.model_copy(update={"ticks": round((layer.ticks or 0) * (1 + percent / 100))}) for layer in record.layers
    )
    median = round(record.latency.median * (1 + percent / 100))
    latency = record.latency.model_copy(update={"median": median, "min": median, "max": median})
    return record.model_copy(update={"layers": layers, "latency": latency, "instructions": median})


class TestExactFigures:
    def test_two_hundred_equal_runs_and_no_alarm(self) -> None:
        expected = stable(made_up())
        for number in range(200):
            again = made_up(now=START + timedelta(hours=number), commit=f"{number:040x}")
            finding = judge("x", expected, again, seconds=0.0, tolerances={})
            assert finding.verdict == "equal"

    @pytest.mark.parametrize("percent", [1, -1, 0.01])
    def test_every_injected_change_is_caught(self, percent: float) -> None:
        finding = judged(made_up(), slower(percent))
        assert finding.verdict == "moved"
        assert {"latency.median", "instructions", "layers.conv1.ticks"} <= {change.field for change in finding.moved}

    def test_a_tolerance_covers_what_it_names_and_no_more(self) -> None:
        wide = {"latency.*": 0.02, "instructions": 0.02, "layers.*.ticks": 0.02}
        assert judged(made_up(), slower(1), tolerances=wide).verdict == "equal"
        assert len(judged(made_up(), slower(1), tolerances=wide).tolerated) > 5
        assert judged(made_up(), slower(3), tolerances=wide).verdict == "moved"
        narrow = judged(made_up(), slower(1), tolerances={**wide, "layers.conv1.ticks": 0})
        assert [change.field for change in narrow.moved] == ["layers.conv1.ticks"]

    def test_a_checksum_has_no_tolerance(self) -> None:
        wrong = made_up()
        layers = (wrong.layers[0].model_copy(update={"crc_device": "ffffffff"}), *wrong.layers[1:])
        assert judged(made_up(), wrong.model_copy(update={"layers": layers}), tolerances={"*": 1}).verdict == "moved"


class TestWhatCannotBeCompared:
    @pytest.mark.parametrize(
        ("change", "field", "word"),
        [
            ({"compiler": "arm-none-eabi-gcc 14.1"}, "fingerprint.compiler", "compiler"),
            ({"flags": ("-std=c11", "-flto")}, "fingerprint.flags", "flags"),
            ({"dataset_sha256": "6" * 64}, "fingerprint.dataset_sha256", "data"),
        ],
    )
    def test_is_refused_and_the_allowance_is_kept(self, change: dict[str, Any], field: str, word: str) -> None:
        other = made_up().model_copy(update={"fingerprint": made_up().fingerprint.model_copy(update=change)})
        finding = judged(made_up(), other)
        assert finding.verdict == "incomparable" and finding.moved == ()
        assert [difference.field for difference in finding.refused] == [field]
        allowed = judged(made_up(), other, allow=[word])
        assert allowed.verdict == "equal" and [difference.field for difference in allowed.allowed] == [field]
        assert any("compared although not the same" in line for line in report.reasons(allowed))

    def test_another_clock_is_refused(self) -> None:
        fields = {difference.field for difference in judged(made_up(), made_up(host=True)).refused}
        assert {"latency.clock", "latency.unit"} <= fields

    def test_optimisation_is_a_cause_and_not_refused(self) -> None:
        other = made_up().fingerprint.model_copy(update={"optimize": "-O3", "flags": ("-std=c11", "-O3", "-I/x")})
        finding = judged(made_up(), made_up().model_copy(update={"fingerprint": other}))
        assert finding.verdict == "equal" and [cause.field for cause in finding.causes] == ["fingerprint.optimize"]

    def test_a_baseline_older_than_a_field_is_not_held_against_it(self) -> None:
        expected = stable(made_up())
        del expected["fingerprint"]["flags"]
        finding = judge("x", expected, slower(1), seconds=1.0, tolerances={})
        assert finding.refused == () and finding.causes == ()

    def test_a_cause_is_told_where_it_explains_something(self) -> None:
        moved = slower(1)
        other = moved.model_copy(update={"fingerprint": moved.fingerprint.model_copy(update={"optimize": "-O3"})})
        assert "because: fingerprint.optimize: -O2 -> -O3" in report.reasons(judged(made_up(), other))

    def test_host_times_of_two_machines_are_refused(self) -> None:
        mine, yours = Times("a", ((100, 101),)), Times("b", ((100, 101),))
        record = made_up(host=True)
        assert judged(record, record, times=(mine, yours)).verdict == "incomparable"
        finding = judged(record, record, times=(mine, yours), allow=["machine"])
        assert finding.verdict == "equal" and finding.times is not None

    def test_slower_times_fail_and_faster_ones_are_told(self) -> None:
        record = made_up(host=True)
        before = Times("a", tuple((1000 + k, 1002 + k, 1001 + k) for k in range(3)))
        for factor, verdict, word in ((2, "moved", "slower"), (0.5, "equal", "faster")):
            after = Times("a", tuple(tuple(int(time * factor) for time in times) for times in before.rounds))
            finding = judged(record, record, times=(before, after))
            assert finding.verdict == verdict
            assert any(line.endswith(f": {word}") for line in report.reasons(finding))


class TestWrittenDown:
    FINDINGS = (
        judged(made_up(), made_up()),
        judged(made_up(), slower(1)),
        judged(made_up(), made_up(compiler="gcc <14> & more")),
        Finding("lost", 0.5, error="the board is silent"),
    )

    def test_junit_can_be_read_and_counts_what_it_holds(self) -> None:
        text = report.junit(self.FINDINGS, baseline="b & <c>.json")
        suite = ElementTree.fromstring(text)[0]
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "2")
        failure = suite.find("testcase/failure")
        assert failure is not None and failure.text is not None
        assert "latency.median: 1,916,110 -> 1,935,271" in failure.text
        assert len(suite.findall("testcase/error")) == 2

    def test_markdown_has_the_verdict_first_and_one_table(self) -> None:
        text = report.markdown(self.FINDINGS, baseline="ci.json", commit="a" * 40)
        assert text.startswith("### harness regress: FAILED\n")
        assert (
            "1 no figure moved, 1 moved, 1 cannot be compared, 1 failed, against `ci.json` of commit aaaaaaaaaaaa"
            in text
        )
        assert "| latency.median" in text and "+1.00 %" in text
        assert "gcc \\<14\\>" in text and "the board is silent" in text
        assert report.markdown(self.FINDINGS[:1], baseline="ci.json", commit=None).startswith(
            "### harness regress: passed"
        )

    def test_json_holds_everything(self) -> None:
        document = json.loads(json.dumps([report.plain(finding) for finding in self.FINDINGS]))
        assert [entry["verdict"] for entry in document] == ["equal", "moved", "incomparable", "failed"]


class TestFile:
    def test_tolerances_and_times_come_back(self, tmp_path: Path) -> None:
        path = tmp_path / "b.json"
        times = (Times("cpu", ((1, 2), (3,))),)
        write_baseline(path, [SPEC], [made_up(host=True)], tolerances={"latency.*": 0.01}, times=times)
        known = read_baseline(path)
        assert known.times == times and known.tolerances == {"latency.*": 0.01}

    @pytest.mark.parametrize(
        ("extra", "reason"),
        [
            ({"tolerances": {"x": -1}}, "not a fraction"),
            ({"tolerances": {"x": True}}, "not a fraction"),
            ({"tolerances": []}, "not an object"),
            ({"times": [None, None]}, "one entry for each"),
            ({"times": [{"machine": "x", "rounds": []}]}, "rounds"),
            ({"times": [{"machine": "x", "rounds": [[0]]}]}, "rounds"),
            ({"times": [{"machine": 1, "rounds": [[1]]}]}, "machine"),
            ({"times": [[1]]}, "machine and rounds"),
        ],
    )
    def test_damaged_ones_are_named(self, tmp_path: Path, extra: dict[str, Any], reason: str) -> None:
        path = tmp_path / "b.json"
        path.write_text(json.dumps({"schema": 1, "specs": [SPEC], "expected": [], **extra}))
        assert reason in refused(run("regress", "--baseline", str(path)))


def test_history_names_the_commits_between_which_it_changed(tmp_path: Path) -> None:
    speeds = [1.0, 1.0, 0.9, 0.9, 0.9]
    records = [
        made_up(speed=speed, now=START + timedelta(days=day), commit=f"{day:040x}") for day, speed in enumerate(speeds)
    ]
    records.append(made_up(speed=0.5, now=START + timedelta(days=9), compiler="another: a series of its own"))
    found = history.changes(store.frame(records))
    assert [(change.first, change.last_commit, change.first_commit) for change in found] == [
        (records[2].id, f"{1:040x}", f"{2:040x}")
    ]
    keep(records, tmp_path)
    done = run("regress", "--history", "--results", str(tmp_path), "--json")
    assert [entry["first"] for entry in json.loads(done.stdout)] == [records[2].id]


def test_the_gate_as_a_command(tmp_path: Path) -> None:
    """Recorded, passed with a report, refused for other data, and moved: with one network, on this machine."""
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"schema": 1, "specs": [SPEC], "expected": []}))
    assert run("regress", "--baseline", str(path), "--update", "--rounds", "2").returncode == 0
    recorded = json.loads(path.read_text())
    assert len(recorded["times"][0]["rounds"]) == 2
    # Times of this machine, now under another load, are none of this test's business.
    recorded.pop("times")
    recorded["expected"][0]["fingerprint"]["dataset_sha256"] = "0" * 64
    path.write_text(json.dumps(recorded))
    junit = tmp_path / "junit.xml"
    said = run("regress", "--baseline", str(path), "--junit", str(junit), "--json")
    assert said.returncode == 2 and "--allow data" in said.stderr
    assert json.loads(said.stdout)["specs"][0]["verdict"] == "incomparable"
    assert 'errors="1"' in junit.read_text()
    recorded["expected"][0]["layers"][1]["macs"] += 1
    path.write_text(json.dumps(recorded))
    moved = run("regress", "--baseline", str(path), "--allow", "data", "--markdown", "-")
    assert moved.returncode == 1 and "1 figures moved" in moved.stderr
    assert "| layers.conv2.macs | " in moved.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--baseline is missing"),
        (["--baseline", "none.json"], "no such file"),
        (["--baseline", "B", "--allow", "clok"], "did you mean clock"),
        (["--baseline", "B", "--tolerance", "x"], "not of the form"),
        (["--baseline", "B", "--tolerance", "x=-1%"], "not of the form"),
    ],
)
def test_bad_options(tmp_path: Path, options: list[str], words: str) -> None:
    path = tmp_path / "b.json"
    write_baseline(path, [SPEC], [made_up(host=True)])
    assert words in refused(run("regress", *[str(path) if option == "B" else option for option in options]))
