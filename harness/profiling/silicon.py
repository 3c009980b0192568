"""Measured runs that a cycle model can be calibrated with: records of hardware, run again on the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness import json_file
from harness.boards import Board
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.cycles.parameters import ParameterSet
from harness.errors import InputError
from harness.pipeline import Built, RunSpec, build_firmware
from harness.profiling.bench import Bench
from harness.profiling.calibration import Measurement
from harness.progress import Reporter
from harness.results.record import Result

# Layers that take less are left out: what their timing costs is not small against them.
_LEAST_CYCLES = 2_000
_INFERENCE_SECONDS = 300.0


def read(path: Path, board: Board) -> list[Result]:
    """The records in `path`: one, or a list of them. InputError unless all are of silicon, and of this board."""
    try:
        plain = json_file.load(path)
        records = [
            Result.model_validate_json(json.dumps(one)) for one in (plain if isinstance(plain, list) else [plain])
        ]
    except json_file.Unusable as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(
            f"{path} holds no records of harness run: {str(error).splitlines()[0]}",
            hint="collect them with: harness run ... --engine hardware --json",
        ) from error
    if not records:
        raise InputError(f"{path} holds no record")
    for record in records:
        if record.latency.clock != "silicon":
            raise InputError(
                f"record {record.id} counts {record.latency.clock}, not cycles of silicon",
                hint="a cycle model can only be calibrated with what a real board has measured",
            )
        if record.board != board.id:
            raise InputError(f"record {record.id} is of board {record.board}, not {board.id}")
    return records


@dataclass(frozen=True, eq=False)
class Rerun:
    """One record and the firmware that it measured, built again. layers: the indices of those that are compared."""

    record: Result
    built: Built
    layers: tuple[int, ...]

    @property
    def measurements(self) -> list[Measurement]:
        """The whole inference, and its layers."""
        name = f"{self.record.model} {self.record.variant} {self.record.kernels}"
        found = [Measurement(name, float(self.record.latency.median))]
        for index in self.layers:
            layer = self.record.layers[index]
            assert layer.ticks is not None
            found.append(Measurement(f"{name} {layer.name}", float(layer.ticks)))
        return found

    def predict(self, board: Board, parameters: ParameterSet, clock_hz: int) -> list[float]:
        """The same in modelled cycles."""
        bench = Bench(board, self.built.firmware.elf, CycleModel.of(board, clock_hz=clock_hz, parameters=parameters))
        for _ in range(2):  # the first fills caches and trains the predictor
            bench.client.load_input(self.built.data, timeout=_INFERENCE_SECONDS)
            ticks = bench.client.ticks(1, timeout=_INFERENCE_SECONDS)
        bench.client.load_input(self.built.data, timeout=_INFERENCE_SECONDS)  # which an inference may have consumed
        layers = bench.client.layers(len(self.record.layers), timeout=_INFERENCE_SECONDS)
        return [
            float(ticks.ticks[0] - ticks.empty),
            *(float(max(layers.ticks[index] - layers.empty, 1)) for index in self.layers),
        ]


def rerun(record: Result, reporter: Reporter) -> Rerun:
    """Builds what a record measured. InputError when this machine gives another firmware than the one it measured."""
    built = build_firmware(_spec(record), reporter)
    measured = record.fingerprint.elf_sha256
    if measured is not None and built.firmware.fingerprint["elf_sha256"] != measured:
        reporter.say(
            f"warning: record {record.id} measured another ELF than this machine builds now (compiler, version or "
            "weights differ): what is fitted to it is as good as the two are alike"
        )
    layers = tuple(index for index, layer in enumerate(record.layers) if (layer.ticks or 0) >= _LEAST_CYCLES)
    return Rerun(record, built, layers)


def _spec(record: Result) -> RunSpec:
    """What was asked for, as far as it changes the firmware."""
    known = {one.name for one in fields(RunSpec)}
    options: dict[str, Any] = {
        name: value for name, value in (record.fingerprint.options or {}).items() if name in known
    }
    if isinstance(options.get("data"), str):
        options["data"] = Path(options["data"])
    return replace(
        RunSpec(record.model, record.board, variant=record.variant, kernels=record.kernels, seed=record.seed or 0),
        **options,
    )


def predictor(
    reruns: Sequence[Rerun], board: Board, like: ParameterSet
) -> Callable[[Mapping[str, float]], list[float]]:
    """Predicts all measurements of `reruns` under other values than those of `like`."""

    def predict(values: Mapping[str, float]) -> list[float]:
        parameters = replace(like, values=dict(values))
        found: list[float] = []
        for one in reruns:
            found += one.predict(board, parameters, one.record.latency.hz or board.clock_hz)
        return found

    return predict
