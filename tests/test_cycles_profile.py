"""harness profile and harness calibrate on a real network: where cycles go, and parameters fitted to measured runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from report_cli import run as command

from harness import boards
from harness.cli.options import parse_clock
from harness.emulators.simulator.cycles import cores, parameters
from harness.emulators.simulator.cycles.model import CycleModel
from harness.errors import InputError
from harness.pipeline import Built, RunSpec, build_firmware, run
from harness.profiling import chart, silicon, text
from harness.profiling.bench import Bench
from harness.profiling.calibration import Measurement, fit
from harness.profiling.profile import CAUSES, Profile, profile
from harness.progress import Silent
from harness.results.record import Latency, Result

pytestmark = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")

F746 = boards.load("nucleo-f746")
SPEC = RunSpec("lenet5", "nucleo-f746", engine="simulator", samples=1, repeat=2)


@cache
def built() -> Built:
    return build_firmware(SPEC)


@cache
def profiled() -> Profile:
    made = built()
    return profile(F746, made.firmware.elf, made.generated, made.data, CycleModel.of(F746))


def test_a_profile_adds_up_to_what_the_firmware_measures() -> None:
    made = profiled()
    assert [layer.name for layer in made.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert sum(layer.cycles.total for layer in made.layers) == made.cycles.total
    assert sum(cycles.total for cycles in made.functions.values()) == made.cycles.total
    bench = Bench(F746, built().firmware.elf, CycleModel.of(F746))
    bench.client.load_input(built().data)
    ticks = bench.client.ticks(2)
    assert made.cycles.total == pytest.approx(ticks.ticks[-1] - ticks.empty, rel=0.01)
    layers = bench.client.layers(5)
    for layer, measured in zip(made.layers, layers.ticks, strict=True):
        assert layer.cycles.total == pytest.approx(measured - layers.empty, rel=0.02, abs=150)
    assert made.coverage.share == 0 and made.coverage.instructions > 300_000


def test_a_profile_tells_what_the_cycles_were_for() -> None:
    made = profiled()
    assert next(iter(made.functions)) == "run_conv2"
    assert "observe_time" not in made.functions
    # Its weights are read once, from flash, through a data cache that is far smaller.
    fc1 = made.layer("fc1").cycles
    assert fc1.data > 5 * (fc1.fetch + fc1.branch) and 0.1 < fc1.data / fc1.total < 0.6
    assert made.layer("conv2").macs / made.layer("conv2").cycles.total < made.peak == 2
    with pytest.raises(InputError, match="conv9"):
        made.layer("conv9")


def test_a_profile_as_json_text_and_picture(tmp_path: Path) -> None:
    made = profiled()
    plain = json.loads(json.dumps(made.plain()))
    assert plain["cycles"]["total"] == sum(plain["cycles"][cause] for cause in CAUSES)
    assert plain["us"] == pytest.approx(plain["cycles"]["total"] / 216)
    listing = text.annotation(made, "fc3")
    assert "run_fc3" in listing and "smlad" in listing and "push" in listing
    for name in ("layers.png", "layers.svg"):
        chart.save(made, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000
    with pytest.raises(InputError, match="cannot draw"):
        chart.save(made, tmp_path / "layers.txt")


def _silicon(record: Result, cycles: list[float]) -> Result:
    """`record` as a board would have measured it: whole inference, then layers."""
    whole, *layers = (round(one) for one in cycles)
    latency = Latency(
        clock="silicon", unit="cycles", median=whole, min=whole, max=whole, repeats=1, hz=216_000_000,
        us=whole / 216, overhead=0, times=(whole,),
    )  # fmt: skip
    timed = [layer.model_copy(update={"ticks": ticks}) for layer, ticks in zip(record.layers, layers, strict=True)]
    kept = set(type(record).model_fields) - {"schema_version", "id", "time"}
    values = {name: getattr(record, name) for name in kept}
    return Result.new(**(values | {"engine": "hardware", "latency": latency, "layers": timed, "instructions": None}))


def test_calibration_finds_what_a_board_is_like(tmp_path: Path) -> None:
    record = run(SPEC).result
    shipped = parameters.shipped(cores.table("cortex-m7"))
    truth = shipped.values | {"data_bus": shipped.values["data_bus"] + 6, "mispredict": 11.0}
    simulated = replace(silicon.rerun(record, Silent()), layers=tuple(range(5)))
    measured = _silicon(record, simulated.predict(F746, replace(shipped, values=truth), 216_000_000))
    path = tmp_path / "measured.json"
    path.write_text(json.dumps([measured.plain()]))
    reruns = [silicon.rerun(one, Silent()) for one in silicon.read(path, F746)]
    measurements = [measurement for one in reruns for measurement in one.measurements]
    assert measurements[0].cycles == measured.latency.median and len(measurements) >= 4
    result = fit(cores.table("cortex-m7"), shipped.values, measurements, silicon.predictor(reruns, F746, shipped))
    assert {"data_bus", "mispredict"} <= set(result.fitted)
    assert abs(result.values["data_bus"] - truth["data_bus"]) <= 1
    assert result.median_error < 0.01 and result.worst_error < 0.1
    assert all(row.left_out is not None for row in result.rows)
    with pytest.raises(InputError, match="not cycles of silicon"):
        path.write_text(json.dumps(record.plain()))
        silicon.read(path, F746)
    with pytest.raises(InputError, match="is of board nucleo-f746"):
        path.write_text(json.dumps(measured.plain()))
        silicon.read(path, boards.load("nucleo-h743"))
    with pytest.raises(InputError, match="holds no records"):
        path.write_text("{}")
        silicon.read(path, F746)


def test_a_fit_leaves_alone_what_the_measurements_say_nothing_about() -> None:
    table = cores.table("cortex-m4")
    start = table.defaults()

    def predict(values: Mapping[str, float]) -> list[float]:
        return [1000 + 100 * values["taken_branch"] + 10 * values["data_bus"], 2000 + 100 * values["taken_branch"]]

    result = fit(table, start, [Measurement("a", 1350.0), Measurement("b", 2300.0)], predict)
    assert result.values["taken_branch"] == 3 and result.values["data_bus"] == 5
    assert result.values["divide"] == start["divide"] and "divide" not in result.fitted
    with pytest.raises(InputError, match="nothing to calibrate"):
        fit(table, start, [], predict)


def test_commands_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    for arguments, words in (
        (("profile", "lenet5", "--board", "mps2-an386"), "has no engine simulator"),
        (("profile", "lenet5", "--board", "nucleo-f746", "--clock", "400MHz"), "400 MHz"),
        (("calibrate", "--board", "nucleo-f746", "--measured", str(tmp_path / "none.json")), "cannot be read"),
        (("run", "lenet5", "--board", "mps2-an386", "--clock", "25MHz"), "the engine is qemu"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr


def test_the_profile_command_prints_json_alone() -> None:
    done = command("profile", "lenet5", "--board", "nucleo-f746", "--json")
    assert done.returncode == 0
    assert [layer["name"] for layer in json.loads(done.stdout)["layers"]] == ["conv1", "conv2", "fc1", "fc2", "fc3"]


@pytest.mark.parametrize(("text", "hz"), [("120MHz", 120_000_000), ("80 mhz", 80_000_000), ("32768", 32_768)])
def test_clocks_are_read(text: str, hz: int) -> None:
    assert parse_clock(text) == hz


@pytest.mark.parametrize("text", ["", "fast", "-5MHz", "1THz", "nan"])
def test_what_is_no_clock_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no clock"):
        parse_clock(text)
