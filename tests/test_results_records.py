"""The record checks itself, is kept whole, and comes back as it was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import harness.results
from harness.errors import InputError
from harness.results import store
from harness.results.record import (
    Accuracy,
    Fingerprint,
    Flash,
    Footprint,
    Latency,
    Layer,
    Mismatch,
    Ram,
    Result,
    classes_sha256,
    comparable,
    content_id,
)

NOON = datetime(2026, 1, 18, 12, 0, 0, 123_456, tzinfo=UTC)


def fingerprint(**changes: Any) -> Fingerprint:
    values: dict[str, Any] = {
        "git_commit": "0" * 40,
        "git_dirty": False,
        "sources_sha256": "1" * 64,
        "elf_sha256": "2" * 64,
        "build_id": "0123456789abcdef",
        "compiler": "arm-none-eabi-gcc 12.2.1",
        "flags": ("-O2", "-mcpu=cortex-m7"),
        "optimize": "O2",
        "board_manifest_sha256": "3" * 64,
        "emulator": "qemu",
        "emulator_version": "7.2.9",
        "packages": {"torch": "2.13.0"},
        "weights_sha256": "4" * 64,
        "dataset_sha256": "5" * 64,
        "seeds": {"run": 0},
    }
    return Fingerprint(**(values | changes))


def latency(**changes: Any) -> Latency:
    values: dict[str, Any] = {
        "clock": "instructions",
        "unit": "instructions",
        "median": 621_000,
        "min": 621_000,
        "max": 621_001,
        "repeats": 10,
        "hz": None,
        "us": None,
        "overhead": 9,
    }
    return Latency(**(values | changes))


def layers(*device: str) -> tuple[Layer, ...]:
    """Two layers whose reference checksums are all 'a' and all 'b'."""
    checksums = device or ("aaaaaaaa", "bbbbbbbb")
    return tuple(
        Layer(
            name=name,
            op=op,
            shape=shape,
            macs=macs,
            ticks=ticks,
            weight_bytes=156,
            activation_bytes=1176,
            crc_device=crc,
            crc_reference=reference,
        )
        for (name, op, shape, macs, ticks, reference), crc in zip(
            (
                ("conv1", "conv2d", (14, 14, 6), 117_600, 300_000, "aaaaaaaa"),
                ("fc5", "linear", (10,), 840, 2_000, "bbbbbbbb"),
            ),
            checksums,
            strict=True,
        )
    )


def footprint(**changes: Any) -> Footprint:
    values: dict[str, Any] = {
        "flash": Flash(total=72_000, weights=62_000, kernels=5_000, platform=5_000),
        "ram": Ram(total=7_000, activations=2_600, platform=304, stack=4_096),
        "network": 69_600,
        "stack_used": 512,
    }
    return Footprint(**(values | changes))


def accuracy(**changes: Any) -> Accuracy:
    values: dict[str, Any] = {
        "dataset": "mnist",
        "split": "test",
        "samples": 200,
        "metric": "top1",
        "device": 0.99,
        "host": 0.99,
        "fp32": 0.995,
        "classes_sha256": classes_sha256([7, 2, 1]),
    }
    return Accuracy(**(values | changes))


def result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "model": "lenet5",
        "variant": "int8",
        "board": "mps2-an386",
        "engine": "qemu",
        "kernels": "smlad",
        "seed": 0,
        "latency": latency(),
        "instructions": 621_000,
        "layers": layers(),
        "footprint": footprint(),
        "accuracy": accuracy(),
        "bit_exact": True,
        "max_abs_error": None,
        "fingerprint": fingerprint(),
        "now": NOON,
    }
    return Result.new(**(values | changes))


def on_host(**changes: Any) -> Result:
    clock = latency(clock="host", unit="ns", median=15_000, min=14_000, max=20_000, hz=10**9, us=15.0)
    values: dict[str, Any] = {"engine": "host", "latency": clock, "instructions": None, "footprint": None}
    return result(**(values | changes))


class TestRecord:
    def test_holds_exactly_the_documented_keys_in_order(self) -> None:
        plain = result().plain()
        assert " ".join(plain) == (
            "schema id time model variant board engine kernels seed weights forms latency instructions layers "
            "footprint accuracy bit_exact max_abs_error fingerprint"
        )
        assert " ".join(plain["latency"]) == (
            "clock unit median min max repeats hz us error_band model_version overhead times"
        )
        assert " ".join(plain["footprint"]) == "flash ram network stack_used"
        assert " ".join(plain["layers"][0]) == (
            "name op form shape macs ticks weight_bytes activation_bytes crc_device crc_reference"
        )

    def test_time_is_utc_in_milliseconds_and_starts_the_id(self) -> None:
        record = result(now=NOON.astimezone(datetime.now().astimezone().tzinfo))
        assert record.time == "2026-01-18T12:00:00.123Z"
        assert record.id.startswith("20260118-120000123-")

    def test_ids_sort_by_time_and_differ_by_content(self) -> None:
        later = result(now=NOON + timedelta(milliseconds=1))
        other = result(seed=1)
        assert result().id < later.id
        assert result().id == result().id != other.id
        assert result().id[:18] == other.id[:18]

    def test_numbers_stay_what_they_are(self) -> None:
        plain = json.loads(result().to_json())
        assert plain["latency"]["median"] == 621_000
        assert isinstance(plain["latency"]["median"], int)
        assert result(latency=latency(median=621_000.5)).plain()["latency"]["median"] == 621_000.5

    def test_is_frozen_and_takes_no_other_keys(self) -> None:
        record = result()
        with pytest.raises(ValidationError):
            record.model = "other"  # type: ignore[misc]
        with pytest.raises(ValidationError):
            latency(watts=3)

    @pytest.mark.parametrize(
        ("part", "changes"),
        [
            (latency, {"clock": "silicon"}),
            (latency, {"median": 1}),
            (latency, {"median": float("nan")}),
            (latency, {"min": -1}),
            (latency, {"repeats": 0}),
            (latency, {"us": 3.0, "hz": 25_000_000}),
            (latency, {"error_band": 0.1}),
            (latency, {"clock": "modelled", "unit": "cycles", "hz": 216_000_000, "us": 2875.0}),
            (latency, {"median": "621000"}),
            (latency, {"max": 2**63}),
            (footprint, {"network": 69_601}),
            (footprint, {"stack_used": 4_097}),
            (footprint, {"stack_used": True}),
            (accuracy, {"device": 1.01}),
            (accuracy, {"device": float("inf")}),
            (accuracy, {"metric": "top5"}),
            (accuracy, {"dataset": "mni\x1b[31mst"}),
            (fingerprint, {"elf_sha256": "abc"}),
            (fingerprint, {"build_id": "0123456789ABCDEF"}),
            (result, {"instructions": None}),
            (result, {"footprint": None}),
            (result, {"engine": "hardware", "instructions": None}),
            (result, {"engine": "host"}),
            (result, {"bit_exact": None}),
            (result, {"max_abs_error": 0.0}),
            (result, {"layers": layers()[:1] * 2}),
            (result, {"layers": layers("aaaaaaaa", "00000000")}),
            (result, {"bit_exact": Mismatch(first_layer="fc5", expected="bbbbbbbb", got="00000000")}),
            (result, {"bit_exact": False}),
        ],
    )
    def test_refuses_figures_that_cannot_be(self, part: Any, changes: dict[str, Any]) -> None:
        part()
        with pytest.raises(ValidationError):
            part(**changes)

    def test_footprint_classes_add_up(self) -> None:
        with pytest.raises(ValidationError, match="add up"):
            Flash(total=10, weights=3, kernels=3, platform=3)
        with pytest.raises(ValidationError, match="add up"):
            Ram(total=10, activations=3, platform=3, stack=3)
        with pytest.raises(ValidationError):
            Flash(total=2**32 + 1, weights=2**32 + 1, kernels=0, platform=0)

    @pytest.mark.parametrize("crc", ["AAAAAAAA", "aaaaaaa", "aaaaaaaaa", "0xaaaaaa", "aaaaaaa\n"])
    def test_checksums_are_eight_hex_digits(self, crc: str) -> None:
        with pytest.raises(ValidationError):
            layers(crc, "bbbbbbbb")

    def test_a_mismatch_names_the_first_layer_that_differs(self) -> None:
        broken = layers("aaaaaaaa", "00000000")
        record = result(layers=broken, bit_exact=Mismatch(first_layer="fc5", expected="bbbbbbbb", got="00000000"))
        assert record.bit_exact == Mismatch(first_layer="fc5", expected="bbbbbbbb", got="00000000")

    def test_a_modelled_latency_carries_its_model(self) -> None:
        modelled = latency(
            clock="modelled",
            unit="cycles",
            hz=216_000_000,
            us=2875.0,
            error_band=0.1,
            model_version="m7-1",
        )
        assert result(latency=modelled, engine="simulator").latency.error_band == 0.1


class TestComparable:
    def test_equal_terms_compare(self) -> None:
        assert comparable(result(), result(variant="fp32", bit_exact=None, max_abs_error=0.1)) == ()
        assert comparable(result(), result(board="mps2-an500")) == ()

    def test_clocks_are_never_mixed(self) -> None:
        assert comparable(result(), on_host()) == ("latency.clock", "latency.unit")

    def test_names_compiler_and_data(self) -> None:
        other = result(fingerprint=fingerprint(compiler="gcc 14"), accuracy=accuracy(samples=10))
        assert comparable(result(), other) == ("accuracy.samples", "fingerprint.compiler")

    def test_two_cycle_models_do_not_compare(self) -> None:
        def modelled(version: str) -> Result:
            clock = latency(
                clock="modelled",
                unit="cycles",
                hz=1_000_000,
                us=621_000.0,
                error_band=0.1,
                model_version=version,
            )
            return result(engine="simulator", latency=clock)

        assert comparable(modelled("1"), modelled("2")) == ("latency.model_version",)


class TestFolder:
    def test_option_then_variable_then_project_then_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = tmp_path / "project" / "a" / "b c"
        inner.mkdir(parents=True)
        monkeypatch.chdir(inner)
        monkeypatch.delenv("HARNESS_RESULTS", raising=False)
        assert store.results_dir() == inner / "results"
        (tmp_path / "project" / "harness.toml").touch()
        assert store.results_dir() == tmp_path / "project" / "results"
        monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "elsewhere"))
        assert store.results_dir() == tmp_path / "elsewhere"
        assert store.results_dir(Path("mine")) == inner / "mine"


class TestStore:
    @pytest.mark.parametrize(
        "record",
        [
            result(),
            on_host(),
            result(bit_exact=None, max_abs_error=1.5e-6, variant="fp32"),
            result(
                layers=layers("00000000", "bbbbbbbb"),
                bit_exact=Mismatch(first_layer="conv1", expected="aaaaaaaa", got="00000000"),
            ),
            result(accuracy=accuracy(device=1, dataset="digits, 8×8")),
        ],
    )
    def test_comes_back_as_it_was_written(self, tmp_path: Path, record: Result) -> None:
        path = store.save(record, tmp_path / "with space")
        assert path == tmp_path / "with space" / "runs" / f"{record.id}.json"
        assert path.read_text() == record.to_json()
        assert store.get(record.id, tmp_path / "with space") == record

    def test_leaves_nothing_else_behind(self, tmp_path: Path) -> None:
        path = store.save(result(), tmp_path)
        assert list(tmp_path.rglob("*")) == [tmp_path / "runs", path]

    def test_two_writers_of_one_record_both_succeed(self, tmp_path: Path) -> None:
        record, failures = result(), []

        def write() -> None:
            try:
                for _ in range(20):
                    store.save(record, tmp_path)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert store.get(record.id, tmp_path) == record

    def test_a_folder_that_cannot_be_written_to_is_an_input_error(self, tmp_path: Path) -> None:
        (tmp_path / "runs").touch()
        with pytest.raises(InputError) as caught:
            store.save(result(), tmp_path)
        assert "--results" in str(caught.value.hint)

    def test_a_read_only_folder_is_an_input_error(self, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs").chmod(0o500)
        try:
            if os.access(tmp_path / "runs", os.W_OK):
                pytest.skip("this user may write everywhere")
            with pytest.raises(InputError, match="cannot write"):
                store.save(result(), tmp_path)
            assert list((tmp_path / "runs").iterdir()) == []
        finally:
            (tmp_path / "runs").chmod(0o700)

    def test_get_takes_a_prefix_or_the_hash(self, tmp_path: Path) -> None:
        first, second = result(), result(now=NOON + timedelta(days=1))
        for record in (first, second):
            store.save(record, tmp_path)
        assert harness.results.get("20260118", tmp_path) == first
        assert harness.results.get(second.id[-8:], tmp_path) == second

    def test_get_says_what_is_near_what_is_ambiguous_and_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no results"):
            store.get("2026", tmp_path)
        for day in range(2):
            store.save(result(now=NOON + timedelta(days=day)), tmp_path)
        with pytest.raises(InputError, match="2 results"):
            store.get("2026", tmp_path)
        wrong = result().id.replace("2026", "2062")
        with pytest.raises(InputError) as caught:
            store.get(wrong, tmp_path)
        assert result().id in str(caught.value.hint)
        for nonsense in ("", "zzz", "../../etc/passwd", "*"):
            with pytest.raises(InputError, match="no result has"):
                store.get(nonsense, tmp_path)


class TestLoad:
    def test_no_folder_gives_the_columns_and_no_rows(self, tmp_path: Path) -> None:
        frame = harness.results.load(tmp_path / "missing")
        assert len(frame) == 0
        assert {"id", "latency.median", "footprint.network", "footprint.flash.total", "layers"} <= set(frame)
        assert frame.attrs["damaged"] == {}

    def test_columns_and_types_do_not_depend_on_the_rows(self, tmp_path: Path) -> None:
        empty = harness.results.load(tmp_path)
        store.save(on_host(), tmp_path)
        store.save(result(now=NOON - timedelta(days=1)), tmp_path)
        frame = harness.results.load(tmp_path)
        assert list(frame.columns) == list(empty.columns)
        assert list(frame.dtypes) == list(empty.dtypes)

    def test_every_figure_of_the_record_is_in_the_frame(self, tmp_path: Path) -> None:
        store.save(on_host(), tmp_path)
        store.save(result(now=NOON - timedelta(days=1)), tmp_path)
        frame = harness.results.load(tmp_path)
        assert list(frame["engine"]) == ["qemu", "host"]
        qemu, host = frame.iloc[0], frame.iloc[1]
        assert qemu["latency.median"] == 621_000
        assert qemu["footprint.flash.weights"] == 62_000
        assert qemu["layers"][1]["crc_device"] == "bbbbbbbb"
        assert qemu["fingerprint.packages"] == {"torch": "2.13.0"}
        assert pandas.isna(host["footprint.network"])
        assert frame["footprint.network"].sum() == 69_600
        assert frame["time"].iloc[1] == pandas.Timestamp("2026-01-18T12:00:00.123Z")

    def test_bit_exact_is_three_valued(self, tmp_path: Path) -> None:
        for day, changes in enumerate(
            [
                {},
                {
                    "layers": layers("00000000", "bbbbbbbb"),
                    "bit_exact": Mismatch(first_layer="conv1", expected="aaaaaaaa", got="00000000"),
                },
                {"bit_exact": None, "max_abs_error": 1e-6},
            ]
        ):
            store.save(result(now=NOON + timedelta(days=day), **changes), tmp_path)
        frame = harness.results.load(tmp_path)
        assert list(frame["bit_exact"].fillna(False)) == [True, False, False]
        assert list(frame["bit_exact"].isna()) == [False, False, True]
        assert frame["bit_exact.first_layer"].iloc[1] == "conv1"
        assert pandas.isna(frame["bit_exact.first_layer"].iloc[0])

    def test_damaged_files_are_named_and_left_out(self, tmp_path: Path) -> None:
        good = store.save(result(), tmp_path)
        runs = good.parent
        raw = result(now=NOON + timedelta(days=1)).plain()

        def put(name: str, content: str | bytes) -> None:
            (runs / name).write_bytes(content.encode() if isinstance(content, str) else content)

        put("a-empty.json", "")
        put("b-half.json", good.read_text()[:300])
        put("c-list.json", "[]")
        put("d-binary.json", b"\xff\xfe\x00")
        put("e-nan.json", good.read_text().replace("621000", "NaN"))
        put("f-newer.json", json.dumps(raw | {"schema": 2}))
        put(f"{raw['id']}.json", json.dumps(raw | {"model": "altered"}))
        put("h-renamed.json", json.dumps(raw))
        put("i-types.json", json.dumps(raw | {"layers": {"a": 1}}))
        put("j-deep.json", "[" * 100_000)
        put("k-huge.json", b" " * 4_000_001)
        put("l-digits.json", '{"schema": ' + "9" * 5_000 + "}")
        (runs / "m-link.json").symlink_to(good)
        (runs / "n-folder.json").mkdir()
        os.mkfifo(runs / "o-pipe.json")
        (runs / "p-loop.json").symlink_to(runs / "p-loop.json")
        (runs / "notes.txt").touch()
        (runs / ".unfinished.json").touch()

        with pytest.warns(store.DamagedRecordWarning, match="16 of the files"):
            frame = harness.results.load(tmp_path)
        assert list(frame["id"]) == [result().id]
        damaged = frame.attrs["damaged"]
        assert len(damaged) == 16
        for name, reason in {
            "c-list.json": "not a record",
            "d-binary.json": "UTF-8",
            "e-nan.json": "NaN",
            "f-newer.json": "newer harness",
            f"{raw['id']}.json": "altered",
            "h-renamed.json": "renamed",
            "i-types.json": "layers",
            "k-huge.json": "larger",
            "m-link.json": "symbolic link",
            "n-folder.json": "directory",
            "o-pipe.json": "not a regular file",
        }.items():
            assert reason in damaged[name], (name, damaged[name])

    def test_a_good_folder_gives_no_warning(self, tmp_path: Path) -> None:
        store.save(result(), tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            harness.results.load(tmp_path)

    def test_a_thousand_records_load_in_reasonable_time(self, tmp_path: Path) -> None:
        for number in range(1000):
            record = result(now=NOON + timedelta(seconds=number))
            (tmp_path / "runs").mkdir(exist_ok=True)
            (tmp_path / "runs" / f"{record.id}.json").write_text(record.to_json())
        assert harness.results.load(tmp_path)["id"].is_monotonic_increasing


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_to_a_file_is_ever_taken_for_a_record(tmp_path: Path, data: st.DataObject) -> None:
    """A changed byte either keeps the content (white space) or makes the file unusable: never another figure."""
    record = result()
    text = bytearray(record.to_json().encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "runs" / f"{record.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(text))
    try:
        assert store.get(record.id, tmp_path) == record
    except InputError as error:
        assert "cannot be used" in str(error)


def test_content_id_ignores_key_order_but_no_value() -> None:
    plain = result().plain()
    assert content_id(dict(reversed(plain.items()))) == plain["id"]
    assert content_id(plain | {"seed": None}) != plain["id"]


def test_pandas_is_imported_by_load_alone() -> None:
    code = (
        "import sys, harness.results, harness.results.store, harness.results.baseline; "
        "sys.exit(any(name in sys.modules for name in ('pandas', 'numpy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
