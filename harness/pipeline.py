"""The way of one run, from a network's name to a Result. The only module that knows the order of the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from harness import boards, engines, observation, run_record
from harness.boards import Board
from harness.building import build_image, build_inputs, linked, optimized, room_of, unstaged
from harness.codegen import baselines
from harness.codegen.choose import Prefer, Room
from harness.codegen.generate import Generated, generate, serialize_input
from harness.codegen.pace import Pace
from harness.data.base import Dataset
from harness.engines import Choice
from harness.errors import GateError, InputError, unknown_name
from harness.files import cache_dir
from harness.graph.graph import Graph
from harness.measurement import measure
from harness.ops.base import Array
from harness.preparation import (
    ACCURACY_BUDGET,
    CALIBRATION_IMAGES,
    Compression,
    Prepared,
    prepare,
    quantize_input,
    top1,
)
from harness.progress import Reporter, Silent
from harness.results import record
from harness.results.record import Result
from harness.search import policy as policies
from harness.toolchain.footprint import Footprint
from harness.toolchain.platformio import Firmware

if TYPE_CHECKING:
    from harness.emulators.simulator.cycles.model import CycleModel

KERNELS = ("default", "plain", *baselines.names())


@dataclass(frozen=True)
class RunSpec:
    """What to run. samples: test images sent to the board; repeat: timed inferences; seed: which test images.

    accuracy_budget, sparsity, prefer, forms: of variant deep, see Compression; forms: "layer=form", against `prefer`.
    policy: of variant mixed, the file that says how many bits each tensor has. finetune: epochs of training under it.
    optimize: -O0 to -O3, -Os or -Ofast instead of the level that the kernels were measured with; -f flags may follow.
    clock_hz, cycle_parameters: of the simulator's cycle model: another core clock than the manifest's, and a file of
    `harness calibrate` instead of the shipped parameters.
    probe: a debug probe's unique id. serial: pyserial device or URL; both for hardware, found by themselves otherwise.
    """

    model: str
    board: str
    variant: str = "int8"
    engine: str = "auto"
    kernels: str = "default"
    optimize: str | None = None
    samples: int = 20
    repeat: int = 5
    seed: int = 0
    accuracy_budget: float = ACCURACY_BUDGET
    sparsity: float | None = None
    prefer: str = "balanced"
    forms: tuple[str, ...] = ()
    policy: Path | None = None
    finetune: int = 0
    weights: Path | None = None
    data: Path | None = None
    probe: str | None = None
    serial: str | None = None
    toolchain: str = "auto"
    clock_hz: int | None = None
    cycle_parameters: Path | None = None

    @property
    def compression(self) -> Compression:
        """How the network becomes small. InputError for a policy that cannot be read."""
        policy = None if self.policy is None else policies.read(self.policy)
        return Compression(
            self.variant, self.accuracy_budget, self.sparsity, self.prefer, self.seed, policy, self.finetune
        )


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record, and the verdict when the record is not good (exit code 1)."""

    result: Result
    verdict: GateError | None = None


def parse_forms(forms: Sequence[str]) -> dict[str, str]:
    """("conv1=lanes-code", ...) as {"conv1": "lanes-code"}."""
    parsed = {}
    for text in forms:
        layer, _, form = text.partition("=")
        if not layer or not form:
            raise InputError(f"--form {text} is not LAYER=FORM", hint="--form conv1=dense, for instance")
        parsed[layer] = form
    return parsed


def run(spec: RunSpec, reporter: Reporter | None = None) -> Outcome:
    """One run, from the network's name to its record. Errors are HarnessErrors; nothing is left running."""
    reporter = reporter or Silent()
    if spec.kernels not in KERNELS:
        raise unknown_name("kernels", spec.kernels, KERNELS)
    board = boards.load(spec.board)
    choice = engines.choose(board, spec.engine, spec.probe)
    if choice.engine == "host" and not baselines.runs_on_host(spec.kernels):
        raise InputError(
            f"kernels {spec.kernels} link a library that is built for {board.core}: this machine cannot run it",
            hint="leave --engine out: the board's every layer is compared with the reference",
        )
    reporter.say(f"engine: {choice.engine} - {choice.reason}")
    model = _cycle_model(spec, board, choice, reporter)
    prepared = prepare(spec.model, spec.compression, weights=spec.weights, data=spec.data, reporter=reporter)
    dataset = prepared.dataset
    graph = _adapted(prepared, spec.kernels)
    chosen = _sample(dataset, spec)
    images = quantize_input(graph, dataset, dataset.test.x[chosen])
    labels = dataset.test.y[chosen]
    firmware, staged = None, True
    if choice.engine == "host":
        generated = _generated(spec, graph, board, room_of(board))
    else:
        generated, (firmware, staged) = _fitted(spec, graph, board, reporter)

    with reporter.stage("reference"):
        reference = observation.of_reference(graph, images, generated)
        fp32 = prepared.float_graph.infer(dataset.network_input(dataset.test.x[chosen])).argmax(axis=1)
    inputs = [serialize_input(graph, image) for image in images]
    host = observation.of_host(generated, graph, inputs, choice, reporter)
    measured = None
    if firmware is not None:
        measured = measure(
            firmware,
            board,
            choice,
            inputs,
            layers=len(generated.layers),
            repeat=spec.repeat,
            serial=spec.serial,
            reporter=reporter,
            macs=sum(layer.macs for layer in generated.layers),
            staged=staged,
            clock_hz=spec.clock_hz,
            cycle_parameters=spec.cycle_parameters,
        )
        observed = observation.of_board(graph, measured)
    else:
        assert host is not None
        observed = host

    accuracy = record.Accuracy(
        dataset=dataset.name,
        split="test",
        samples=len(labels),
        metric="top1",
        device=top1(observed.classes, labels) if prepared.trained else None,
        host=top1(reference.classes, labels) if prepared.trained else None,
        fp32=top1(fp32, labels) if prepared.trained else None,
        classes_sha256=record.classes_sha256(observed.classes.tolist()),
    )
    bit_exact = observation.first_mismatch(graph, reference, observed) if graph.integer else None
    result = Result.new(
        model=graph.name,
        variant=spec.variant,
        board=board.id,
        engine=choice.engine,
        kernels=spec.kernels,
        seed=spec.seed,
        weights=None if prepared.trained else "random",
        latency=run_record.latency(choice, measured, host, model, integer=graph.integer),
        instructions=measured.instructions if measured else None,
        forms="leaner" if generated.leaner else None,
        layers=run_record.layers(graph, generated, firmware, measured, reference, observed),
        footprint=run_record.footprint(firmware, measured),
        accuracy=accuracy,
        bit_exact=bit_exact,
        max_abs_error=None if graph.integer else float(np.abs(observed.outputs - reference.outputs).max()),
        fingerprint=run_record.fingerprint(spec, board, choice, prepared, generated, firmware, measured),
    )
    return Outcome(result, observation.verdict(graph, reference, host, observed, bit_exact))


@dataclass(frozen=True, eq=False)
class Built:
    """A network's firmware and the first of its inputs, as the serial line carries it."""

    board: Board
    generated: Generated
    firmware: Firmware
    data: bytes


def build_firmware(spec: RunSpec, reporter: Reporter | None = None) -> Built:
    """The firmware that run() would measure. Nothing is executed."""
    reporter = reporter or Silent()
    if spec.kernels not in KERNELS:
        raise unknown_name("kernels", spec.kernels, KERNELS)
    board = boards.load(spec.board)
    prepared = prepare(spec.model, spec.compression, weights=spec.weights, data=spec.data, reporter=reporter)
    graph = _adapted(prepared, spec.kernels)
    generated, (image_file, _) = _fitted(spec, graph, board, reporter)
    image = quantize_input(graph, prepared.dataset, prepared.dataset.test.x[_sample(prepared.dataset, spec)[:1]])[0]
    return Built(board, generated, image_file, serialize_input(graph, image))


def firmware(spec: RunSpec, reporter: Reporter | None = None) -> Firmware:
    """The image that run() would measure, built or taken from the cache; nothing is started."""
    reporter = reporter or Silent()
    board = boards.load(spec.board)
    prepared = prepare(spec.model, spec.compression, weights=spec.weights, data=spec.data, reporter=reporter)
    return _fitted(spec, _adapted(prepared, spec.kernels), board, reporter)[1][0]


def reference_accuracy(spec: RunSpec, reporter: Reporter | None = None) -> record.Accuracy:
    """The accuracy of the run's network by the reference alone: of kernels that this machine cannot run.

    Every layer that a board computes is held to this reference, so it is theirs too. Nothing is built or run.
    """
    reporter = reporter or Silent()
    prepared = prepare(spec.model, spec.compression, weights=spec.weights, data=spec.data, reporter=reporter)
    dataset, graph = prepared.dataset, _adapted(prepared, spec.kernels)
    chosen = _sample(dataset, spec)
    x, labels = dataset.test.x[chosen], dataset.test.y[chosen]
    with reporter.stage("reference"):
        classes = graph.infer(quantize_input(graph, dataset, x)).argmax(axis=1)
        fp32 = prepared.float_graph.infer(dataset.network_input(x)).argmax(axis=1)
    return record.Accuracy(
        dataset=dataset.name,
        split="test",
        samples=len(labels),
        metric="top1",
        device=None,
        host=top1(classes, labels) if prepared.trained else None,
        fp32=top1(fp32, labels) if prepared.trained else None,
    )


def link(graph: Graph, variant: str, board: Board, reporter: Reporter, *, smallest: bool = False) -> Footprint:
    """What the network takes on a board, as the linker has it: without a second copy of its input.

    In the forms that run() would take; smallest: in those that need the least RAM, wherever they fit.
    DoesNotFit with by how much it is too large in its smallest forms.
    """
    from harness.toolchain.platformio import build

    def make(room: Room) -> Generated:
        return generate(graph, variant=variant, core=board.core, pace=Pace.of(board), room=room)

    def attempt(generated: Generated) -> Footprint:
        inputs = unstaged(build_inputs(variant, generated))
        with reporter.stage(f"linking for {board.id}"):
            return build(inputs, board, cache_dir=cache_dir()).footprint

    if smallest:
        return linked(make, attempt, board, Room(ram=0), Silent())[1]
    return linked(make, attempt, board, room_of(board), reporter)[1]


def _adapted(prepared: Prepared, kernels: str) -> Graph:
    """The graph that `kernels` run, calibrated on validation images where they need that."""
    images = prepared.dataset.validation.x[:CALIBRATION_IMAGES]
    return baselines.adapt(prepared.graph, kernels, quantize_input(prepared.graph, prepared.dataset, images))


def _sample(dataset: Dataset, spec: RunSpec) -> Array:
    """Which test samples are used: a seeded choice, the same on every machine, in the data's order when it is all."""
    total = len(dataset.test.y)
    if spec.samples < 1 or spec.repeat < 1:
        raise InputError("--samples and --repeat must be at least 1")
    if spec.samples >= total:
        return np.arange(total)
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    chosen: Array = np.random.RandomState(spec.seed).permutation(total)[: spec.samples]
    return chosen


def _generated(spec: RunSpec, graph: Graph, board: Board, room: Room) -> Generated:
    """The network in C, in the best forms that `room` has room for by estimate."""
    generated = generate(
        graph,
        variant=spec.variant,
        core=board.core,
        kernels=spec.kernels,
        prefer=cast("Prefer", spec.prefer),
        forms=parse_forms(spec.forms),
        pace=Pace.of(board),
        room=room,
    )
    if spec.optimize is not None:
        generated = dataclasses.replace(generated, optimize=optimized(generated.optimize, spec.optimize))
    return generated


def _fitted(spec: RunSpec, graph: Graph, board: Board, reporter: Reporter) -> tuple[Generated, tuple[Firmware, bool]]:
    """The network in forms that the board has room for, and what build_image() makes of it."""
    return linked(
        lambda room: _generated(spec, graph, board, room),
        lambda generated: build_image(spec.variant, generated, board, spec.toolchain, reporter),
        board,
        room_of(board),
        reporter,
    )


def _cycle_model(spec: RunSpec, board: Board, choice: Choice, reporter: Reporter) -> CycleModel | None:
    """The simulator's model of the board's cycles; None for other engines. Says what it is not calibrated for."""
    if choice.engine != "simulator":
        if spec.clock_hz is not None or spec.cycle_parameters is not None:
            raise InputError(
                f"--clock and --cycle-parameters are for the simulator's cycle model, but the engine is {choice.engine}"
            )
        return None
    from harness.emulators.simulator.cycles.model import CycleModel

    model = CycleModel.of(board, clock_hz=spec.clock_hz, parameters_file=spec.cycle_parameters)
    for note in model.notes:
        reporter.say(f"note: {note}")
    return model
