"""The gate: equal runs pass, every deterministic figure that moves is named, and nothing else is."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from test_results_records import NOON, accuracy, fingerprint, footprint, latency, layers, on_host, result

from harness.errors import InputError
from harness.results.baseline import Change, causes, compare, read_baseline, stable, write_baseline
from harness.results.record import Flash, Mismatch, Result, classes_sha256

SPEC = {"model": "lenet5", "variant": "int8", "board": "mps2-an386", "engine": "qemu", "samples": 200, "seed": 0}


def written(path: Path, *records: Result) -> Path:
    write_baseline(path, [SPEC | {"seed": number} for number in range(len(records))], records)
    return path


def test_the_same_run_elsewhere_and_later_is_no_change(tmp_path: Path) -> None:
    baseline = read_baseline(written(tmp_path / "ci.json", result()))
    again = result(
        now=NOON + timedelta(days=9),
        fingerprint=fingerprint(git_commit="9" * 40, git_dirty=True, packages={"torch": "2.14.0"}, flags=("-I/home",)),
        accuracy=accuracy(fp32=0.9951),
    )
    assert baseline.specs == (SPEC,)
    assert compare(baseline.expected[0], again) == ()
    assert causes(baseline.expected[0], again) == ()


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"instructions": 621_001}, [Change("instructions", 621_000, 621_001)]),
        ({"latency": latency(median=621_001)}, [Change("latency.median", 621_000, 621_001)]),
        ({"latency": latency(overhead=10)}, [Change("latency.overhead", 9, 10)]),
        ({"footprint": footprint(stack_used=516)}, [Change("footprint.stack_used", 512, 516)]),
        ({"footprint": footprint(stack_used=None)}, [Change("footprint.stack_used", 512, None)]),
        (
            {
                "footprint": footprint(
                    flash=Flash(total=72_004, weights=62_000, kernels=5_004, platform=5_000), network=69_604
                )
            },
            [
                Change("footprint.flash.total", 72_000, 72_004),
                Change("footprint.flash.kernels", 5_000, 5_004),
                Change("footprint.network", 69_600, 69_604),
            ],
        ),
        ({"accuracy": accuracy(device=0.985)}, [Change("accuracy.device", 0.99, 0.985)]),
        ({"accuracy": accuracy(host=0.985)}, [Change("accuracy.host", 0.99, 0.985)]),
        ({"kernels": "portable"}, [Change("kernels", "smlad", "portable")]),
        (
            {
                "layers": layers("00000000", "bbbbbbbb"),
                "bit_exact": Mismatch(first_layer="conv1", expected="aaaaaaaa", got="00000000"),
            },
            [
                Change("layers.conv1.crc_device", "aaaaaaaa", "00000000"),
                Change("bit_exact.first_layer", None, "conv1"),
                Change("bit_exact.expected", None, "aaaaaaaa"),
                Change("bit_exact.got", None, "00000000"),
                Change("bit_exact", True, None),
            ],
        ),
    ],
)
def test_each_deterministic_figure_that_moves_is_named(
    tmp_path: Path, changes: dict[str, Any], moved: list[Change]
) -> None:
    expected = read_baseline(written(tmp_path / "ci.json", result())).expected[0]
    assert list(compare(expected, result(**changes))) == moved


def test_classes_are_compared_by_their_hash() -> None:
    other = classes_sha256([7, 2, 2])
    change = Change("accuracy.classes_sha256", classes_sha256([7, 2, 1]), other)
    assert compare(stable(result()), result(accuracy=accuracy(classes_sha256=other))) == (change,)


def test_layers_are_matched_by_name_and_their_shape_counts() -> None:
    fewer = result(layers=layers()[:1])
    fields = {change.field for change in compare(stable(result()), fewer)}
    assert fields == {
        f"layers.fc5.{name}" for name, value in result().plain()["layers"][1].items() if value is not None
    }
    assert Change("layers.fc5.shape", "10", None) in compare(stable(result()), fewer)


def test_another_compiler_is_a_cause_and_no_figure() -> None:
    other = result(fingerprint=fingerprint(compiler="arm-none-eabi-gcc 14.1"))
    assert compare(stable(result()), other) == ()
    assert causes(stable(result()), other) == (
        Change("fingerprint.compiler", "arm-none-eabi-gcc 12.2.1", "arm-none-eabi-gcc 14.1"),
    )


def test_host_times_are_not_gated_but_host_checksums_are() -> None:
    slower = latency(clock="host", unit="ns", median=30_000, min=29_000, max=40_000, hz=10**9, us=30.0)
    assert compare(stable(on_host()), on_host(latency=slower)) == ()
    wrong = on_host(
        layers=layers("aaaaaaaa", "00000000"),
        bit_exact=Mismatch(first_layer="fc5", expected="bbbbbbbb", got="00000000"),
    )
    assert "layers.fc5.crc_device" in {change.field for change in compare(stable(on_host()), wrong)}


def test_a_float_reference_is_not_gated_but_the_device_is() -> None:
    def fp32(device: str, reference_error: float) -> Result:
        return result(layers=layers(device, "bbbbbbbb"), bit_exact=None, max_abs_error=reference_error)

    assert compare(stable(fp32("aaaaaaaa", 1e-6)), fp32("aaaaaaaa", 2e-6)) == ()
    assert compare(stable(fp32("aaaaaaaa", 1e-6)), fp32("00000000", 1e-6)) == (
        Change("layers.conv1.crc_device", "aaaaaaaa", "00000000"),
    )


def test_the_file_is_the_same_for_the_same_figures_and_holds_nothing_volatile(tmp_path: Path) -> None:
    first = written(tmp_path / "a.json", result())
    second = written(tmp_path / "b.json", result(now=NOON + timedelta(days=1), fingerprint=fingerprint(git_dirty=True)))
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    for volatile in ('"id"', '"time"', "git_commit", "packages", "-I", "times"):
        assert volatile not in text


def test_update_keeps_the_specs_and_takes_the_new_figures(tmp_path: Path) -> None:
    path = tmp_path / "ci.json"
    path.write_text(json.dumps({"schema": 1, "specs": [SPEC], "expected": []}))
    specs = read_baseline(path).specs
    write_baseline(path, specs, [result(instructions=5)])
    assert read_baseline(path).specs == specs
    assert compare(read_baseline(path).expected[0], result(instructions=5)) == ()


def test_records_and_specs_must_pair_up(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_baseline(tmp_path / "ci.json", [SPEC, SPEC], [result()])
    assert not (tmp_path / "ci.json").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": 2, "specs": [], "expected": []}', "newer harness"),
        ('{"schema": true, "specs": [{}], "expected": []}', "schema"),
        ('{"specs": [{}], "expected": []}', "schema"),
        ('{"schema": 1, "specs": [], "expected": []}', "no specs"),
        ('{"schema": 1, "specs": {"a": 1}, "expected": []}', "no specs"),
        ('{"schema": 1, "specs": [1], "expected": []}', "specs[0]"),
        ('{"schema": 1, "specs": [{"model": []}], "expected": []}', "specs[0]"),
        ('{"schema": 1, "specs": [{"a": 1}, {"a": 1}], "expected": []}', "twice"),
        ('{"schema": 1, "specs": [{"a": 1}, {"a": 2}], "expected": [{}]}', "one record for each"),
        ('{"schema": 1, "specs": [{"a": 1}], "expected": [7]}', "expected[0]"),
        ('{"schema": 1, "specs": [{"a": 1}], "expected": [' + '{"a":' * 300 + "1" + "}" * 300 + "]}", "deep"),
        ('{"schema": 1, "specs": [{"a": 1}], "expected": [], "extra": 1}', "extra"),
        ('{"schema": 1, "specs": [{"a": NaN}], "expected": []}', "NaN"),
    ],
)
def test_a_file_that_is_no_baseline_is_an_input_error(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "ci.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_baseline(path)
    assert reason in caught.value.message


def test_a_missing_baseline_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_baseline(tmp_path / "none.json")
