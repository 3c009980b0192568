"""The parts of a run's record (harness.results.record), each from what the stages of the run returned."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from harness import data as datasets
from harness import fingerprint as provenance
from harness.files import file_sha256
from harness.results import record

if TYPE_CHECKING:
    from harness.boards import Board
    from harness.codegen.generate import Generated
    from harness.emulators.simulator.cycles.model import CycleModel
    from harness.engines import Choice
    from harness.graph.graph import Graph
    from harness.link.answers import Clock
    from harness.measurement import Measured
    from harness.observation import Observed
    from harness.pipeline import RunSpec
    from harness.preparation import Prepared
    from harness.toolchain.platformio import Firmware


def latency(
    choice: Choice, measured: Measured | None, host: Observed | None, model: CycleModel | None, *, integer: bool
) -> record.Latency:
    """Of one inference. measured: None where this machine ran the network, as `host` says; model: of the simulator."""
    clock: record.Clock
    if measured is None:
        assert host is not None
        clock, times, overhead, hz = "host", host.nanoseconds, 0, 1_000_000_000
    else:
        clock = "silicon" if choice.engine == "hardware" else "modelled" if model is not None else "instructions"
        times, overhead, hz = measured.times, measured.overhead, model.clock_hz if model else measured.hz
    median = statistics.median(times)
    timed = clock != "instructions"
    return record.Latency(
        clock=clock,
        unit=record.UNIT_OF[clock],
        median=int(median) if median == int(median) else median,
        min=min(times),
        max=max(times),
        repeats=len(times),
        hz=hz if timed else None,
        us=median / hz * 1e6 if timed else None,
        error_band=model.band(integer=integer) if model else None,
        model_version=model.version if model else None,
        overhead=overhead,
        times=times if clock in ("silicon", "host") else None,
    )


def layers(
    graph: Graph,
    generated: Generated,
    firmware: Firmware | None,
    measured: Measured | None,
    reference: Observed,
    observed: Observed,
) -> list[record.Layer]:
    """One for each layer of the generated C. firmware, measured: None where this machine ran the network."""
    return [
        record.Layer(
            name=layer.name,
            op=layer.op,
            form=layer.form,
            shape=layer.shape,
            macs=layer.macs,
            ticks=measured.layer_times[index] if measured else None,
            weight_bytes=firmware.footprint.layers.get(layer.symbol, 0) if firmware else layer.weight_bytes,
            activation_bytes=layer.activation_bytes,
            crc_device=observed.crc(index),
            crc_reference=reference.crc(index) if graph.integer else None,
        )
        for index, layer in enumerate(generated.layers)
    ]


def footprint(firmware: Firmware | None, measured: Measured | None) -> record.Footprint | None:
    """What the image takes; None where there is none."""
    if firmware is None or measured is None:
        return None
    flash, ram = firmware.footprint.flash, firmware.footprint.ram
    return record.Footprint(
        flash=record.Flash(total=flash.total, weights=flash.weights, kernels=flash.kernels, platform=flash.platform),
        ram=record.Ram(total=ram.total, activations=ram.activations, platform=ram.platform, stack=ram.stack),
        network=flash.weights + flash.kernels + ram.activations,
        stack_used=measured.stack_used,
    )


def fingerprint(
    spec: RunSpec,
    board: Board,
    choice: Choice,
    prepared: Prepared,
    generated: Generated,
    firmware: Firmware | None,
    measured: Measured | None,
) -> record.Fingerprint:
    """What the figures follow from."""
    commit, dirty = provenance.git()
    sources = hashlib.sha256(repr(sorted(generated.contents.items())).encode()).hexdigest()
    built = firmware.fingerprint if firmware else None
    return record.Fingerprint(
        git_commit=commit,
        git_dirty=dirty,
        sources_sha256=sources,
        elf_sha256=built["elf_sha256"] if built else None,
        build_id=firmware.build_id if firmware else None,
        compiler=built["compiler"] if built else None,
        flags=tuple(built["flags"]) if built else (),
        optimize=generated.optimize,
        board_manifest_sha256=board.manifest_sha256,
        emulator=choice.engine if choice.engine not in ("hardware", "host") else None,
        emulator_version=measured.emulator_version if measured else None,
        packages=provenance.packages(),
        weights_sha256=prepared.weights_sha256,
        dataset_sha256=prepared.dataset.sha256,
        seeds={"run": spec.seed},
        bias_correction=prepared.bias_corrected,
        options=_options(spec),
        clock=_clock_tree(measured.clock) if measured else None,
    )


def _clock_tree(clock: Clock) -> record.ClockTree:
    return record.ClockTree(
        source=clock.source,
        core_hz=clock.core_hz,
        wait_states=clock.wait_states,
        caches=clock.caches,
        registers={f"{address:#010x}": f"{value:#010x}" for address, value in clock.registers},
    )


def _options(spec: RunSpec) -> dict[str, str | int | float | bool | tuple[str, ...]]:
    """The options that are not their defaults: without those that the record holds and those of this machine."""
    recorded = {"model", "board", "variant", "engine", "kernels", "samples", "repeat", "seed"}
    named_here = {"weights", "policy", "probe", "serial", "cycle_parameters"}
    if str(spec.data) not in datasets.names():
        named_here.add("data")
    options = {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in recorded | named_here and getattr(spec, field.name) != field.default
    }
    recorded_options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return recorded_options | ({} if spec.policy is None else {"policy_sha256": file_sha256(spec.policy)})
