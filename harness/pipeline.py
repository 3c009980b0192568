"""The way of one run, from a network's name to a Result. The only module that knows the order of the stages."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import statistics
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import numpy as np

from harness import boards, engines, fingerprint
from harness import data as datasets
from harness.boards import Board
from harness.codegen import baselines
from harness.codegen.choose import Prefer, Room
from harness.codegen.generate import Generated, generate, logical_bytes, parse_output, serialize_input
from harness.codegen.pace import Pace
from harness.data.base import Dataset
from harness.engines import Choice
from harness.errors import DoesNotFit, GateError, InputError, unknown_name
from harness.files import cache_dir, file_sha256
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.link.answers import Clock
from harness.measurement import Measured, measure
from harness.models import resolve
from harness.ops.base import Array
from harness.progress import Reporter, Silent
from harness.results import record
from harness.results.record import Result
from harness.search import policy as policies
from harness.search.policy import Policy
from harness.toolchain.footprint import Footprint
from harness.toolchain.platformio import BuildInputs, Firmware

if TYPE_CHECKING:
    from harness.emulators.simulator.cycles.model import CycleModel

VARIANTS = ("int8", "mixed", "fp32", "deep", "paper-a")
KERNELS = ("default", "plain", *baselines.names())

PREFERENCES: tuple[str, ...] = get_args(Prefer)

# Percentage points that variant deep may lose on validation data, unless asked otherwise.
ACCURACY_BUDGET = 0.3

# Images that calibrate the activations' scales; from the validation split, never from the test split.
CALIBRATION_IMAGES = 512

# Of firmware that keeps no copy of its input beside the network's own.
_UNSTAGED = {"HARNESS_STAGING": "0"}

# How often forms are chosen anew, each time for the room that the linker says there is.
_LINKS = 6

T = TypeVar("T")

# Elements of the largest activation over all of these: of large images, fewer are used.
_CALIBRATION_ELEMENTS = 2**24


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


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network ready for code generation, with the data it is measured on.

    trained: False for random weights. bias_corrected: of variant mixed without fine-tuning, what was decided.
    """

    graph: Graph
    float_graph: Graph
    dataset: Dataset
    weights_sha256: str
    trained: bool = True
    bias_corrected: bool | None = None


@dataclass(frozen=True, eq=False)
class _Observed:
    """What one execution returned for N samples: outputs (N, C), classes (N,), CRC-32s (N, layers) uint32.

    nanoseconds: of each inference, where this machine took the time.
    """

    outputs: Array
    classes: Array
    crcs: Array
    nanoseconds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record, and the verdict when the record is not good (exit code 1)."""

    result: Result
    verdict: GateError | None = None


@dataclass(frozen=True)
class Compression:
    """How a network becomes small. All but the variant, the policy and its fine-tuning is for `deep`.

    accuracy_budget: percentage points that may be lost on validation data. sparsity: prunes this share of every layer
    instead of searching. prefer: size, speed or balanced. seed: of the search, or of the fine-tuning. policy: for
    `mixed`, and needed there. finetune: epochs of training under the policy; 0 leaves it at post-training quantisation.
    """

    variant: str = "int8"
    accuracy_budget: float = ACCURACY_BUDGET
    sparsity: float | None = None
    prefer: str = "balanced"
    seed: int = 0
    policy: Policy | None = None
    finetune: int = 0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        if self.variant == "mixed" and self.policy is None:
            raise InputError(
                "variant mixed needs a policy", hint="--policy policy.json; harness search NETWORK finds one"
            )
        if self.variant != "mixed" and self.policy is not None:
            raise InputError(f"variant {self.variant} takes no policy", hint="add --variant mixed")
        if self.finetune < 0 or (self.finetune and self.variant != "mixed"):
            raise InputError(f"variant {self.variant} cannot be fine-tuned for {self.finetune} epochs")
        if self.prefer not in PREFERENCES:
            raise unknown_name("preference", self.prefer, PREFERENCES)

    @property
    def as_shipped(self) -> bool:
        """Whether these are the options that the catalogue's integers were made with."""
        if self.variant == "mixed":
            return False
        return self.variant != "deep" or self == Compression("deep", prefer=self.prefer)


def prepare(
    model: str,
    compression: Compression,
    *,
    weights: Path | None = None,
    data: Path | None = None,
    afresh: bool = False,
    reporter: Reporter | None = None,
) -> Prepared:
    """Loads, traces and compresses a network.

    The catalogue's integers are used where they are shipped, so that figures are equal on every machine; `afresh`
    compresses again instead.
    """
    reporter = reporter or Silent()
    source = resolve.source(model, weights)
    if not source.trained:
        if compression.variant in ("deep", "paper-a") or compression.finetune:
            raise _untrained(source.name)
        reporter.say(f"note: {source.name} ships without weights: they are random, and no accuracy is reported")
    dataset = resolve.dataset(source, data, reporter)
    if source.entry is not None and dataset.input_shape != source.entry.input_shape:
        raise InputError(
            f"{source.name} wants images of {source.entry.input_shape}, but the data has {dataset.input_shape}"
        )
    with reporter.stage(f"tracing {source.name}"):
        float_graph, weights_sha256 = resolve.float_graph(source, dataset.input_shape)
    if int(np.prod(float_graph.output.shape)) < dataset.classes:
        raise InputError(
            f"{source.name} has {float_graph.output.shape[-1]} outputs, but the data has {dataset.classes} classes"
        )
    # A dataset of the catalogue may be named; the integers belong to the weights, not to what they are measured on.
    own_data = data is not None and str(data) not in datasets.names()
    graph, bias_corrected = None, None
    if compression.as_shipped and not (own_data or afresh):
        graph = artefact(source, compression.variant, weights_sha256)
    if graph is None:
        graph, bias_corrected = _compressed(source, float_graph, dataset, compression, reporter)
    return Prepared(graph, float_graph, dataset, weights_sha256, source.trained, bias_corrected)


def _untrained(model: str) -> InputError:
    return InputError(
        f"model {model} ships without weights, and what is chosen by accuracy cannot be chosen on random ones",
        hint=f"harness train {model}, then --weights",
    )


def _compressed(
    source: resolve.Source, float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter
) -> tuple[Graph, bool | None]:
    """The network, and of a quantised policy whether its biases are corrected."""
    if compression.variant == "fp32":
        return float_graph, None
    if compression.variant == "paper-a":
        from harness.reproduce import paper_a

        return paper_a.compress(float_graph, dataset, reporter=reporter).graph, None
    if compression.variant == "deep":
        return _searched(float_graph, dataset, compression, reporter), None
    if compression.finetune:
        return _finetuned(source, float_graph, dataset, compression, reporter), None
    from harness.compress.quantize import Quantizer

    with reporter.stage(f"quantising {float_graph.name}") as advance:
        largest = max(tensor.elements for tensor in float_graph.tensors.values())
        count = min(CALIBRATION_IMAGES, max(1, _CALIBRATION_ELEMENTS // largest))
        images = dataset.network_input(dataset.validation.x[:count])
        quantizer = Quantizer(float_graph, images, dataset.input_scale, dataset.input_zero_point or 0, progress=advance)
        corrected = quantizer.corrects(compression.policy)
        graph = quantizer.quantize(compression.policy, corrected=corrected)
    return graph, None if compression.policy is None else corrected


def _finetuned(
    source: resolve.Source, float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter
) -> Graph:
    from harness.compress.finetune import finetune

    assert compression.policy is not None
    reporter.say(
        f"fine-tuning {float_graph.name} for {compression.finetune} epochs on {dataset.name}; minutes, and an "
        "interrupted training goes on where it stopped"
    )
    with reporter.stage(f"fine-tuning {float_graph.name}") as advance:
        result = finetune(
            float_graph,
            dataset,
            compression.policy,
            epochs=compression.finetune,
            seed=compression.seed,
            norms=resolve.batch_norms(source, dataset.input_shape),
            recipe=None if source.entry is None else source.entry.recipe,
            cache_dir=cache_dir(),
            progress=advance,
        )
    for note in result.notes:
        reporter.say(f"note: {note}")
    start, best = result.history[0], result.best
    reporter.say(
        f"validation accuracy {start.validation_accuracy:.2%} before, {best.validation_accuracy:.2%} after epoch "
        f"{best.number}"
    )
    return result.graph


def _searched(float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter) -> Graph:
    from harness.compress.deep import search

    reporter.say(
        f"deep: searching sparsity and levels of {float_graph.name} on {dataset.name}'s validation split; "
        "minutes, and an interrupted search goes on where it stopped"
    )
    with reporter.stage(f"compressing {float_graph.name}") as advance:
        report = search.compress(
            float_graph,
            dataset,
            accuracy_budget=compression.accuracy_budget,
            sparsity=compression.sparsity,
            seed=compression.seed,
            prefer=cast("Prefer", compression.prefer),
            cache_dir=cache_dir(),
            progress=lambda fraction, text: advance(fraction),
        )
    return report.graph


def parse_forms(forms: Sequence[str]) -> dict[str, str]:
    """("conv1=lanes-code", ...) as {"conv1": "lanes-code"}."""
    parsed = {}
    for text in forms:
        layer, _, form = text.partition("=")
        if not layer or not form:
            raise InputError(f"--form {text} is not LAYER=FORM", hint="--form conv1=dense, for instance")
        parsed[layer] = form
    return parsed


def compress(
    model: str, compression: Compression, *, weights: Path | None, data: Path | None, reporter: Reporter
) -> tuple[Prepared, float, float]:
    """Compresses afresh; returns the network and the test accuracy of its integers and of the float network."""
    prepared = prepare(model, compression, weights=weights, data=data, afresh=True, reporter=reporter)
    if not prepared.trained:
        raise _untrained(model)
    test = prepared.dataset.test
    with reporter.stage("test accuracy"):
        integers = prepared.graph.infer(_quantize_input(prepared.graph, prepared.dataset, test.x)).argmax(axis=1)
        floats = prepared.float_graph.infer(prepared.dataset.network_input(test.x)).argmax(axis=1)
    return prepared, _share(integers, test.y), _share(floats, test.y)


def artefact_path(model: str, variant: str) -> Path:
    """Where the catalogue's integers of a variant lie (whether or not they are shipped)."""
    return Path(resolve.__file__).parent / "weights" / f"{model}-{variant}.safetensors"


def artefact(source: resolve.Source, variant: str, weights_sha256: str) -> Graph | None:
    """The shipped integers, when they were made from exactly these weights."""
    if source.entry is None or not artefact_path(source.name, variant).exists():
        return None
    graph, metadata = graph_file.load(artefact_path(source.name, variant))
    return graph if metadata.get("weights_sha256") == weights_sha256 else None


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
    images = _quantize_input(graph, dataset, dataset.test.x[chosen])
    labels = dataset.test.y[chosen]
    firmware, staged = None, True
    if choice.engine == "host":
        generated = _generated(spec, graph, board, _room(board))
    else:
        generated, (firmware, staged) = _fitted(spec, graph, board, reporter)

    with reporter.stage("reference"):
        reference = _reference(graph, images, generated)
        fp32 = prepared.float_graph.infer(dataset.network_input(dataset.test.x[chosen])).argmax(axis=1)
    inputs = [serialize_input(graph, image) for image in images]
    host = _on_host(generated, graph, inputs, choice, reporter)
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
        observed = _from_board(graph, measured)
    else:
        assert host is not None
        observed = host

    accuracy = record.Accuracy(
        dataset=dataset.name,
        split="test",
        samples=len(labels),
        metric="top1",
        device=_share(observed.classes, labels) if prepared.trained else None,
        host=_share(reference.classes, labels) if prepared.trained else None,
        fp32=_share(fp32, labels) if prepared.trained else None,
        classes_sha256=record.classes_sha256(observed.classes.tolist()),
    )
    bit_exact = _first_mismatch(graph, reference, observed) if graph.integer else None
    result = Result.new(
        model=graph.name,
        variant=spec.variant,
        board=board.id,
        engine=choice.engine,
        kernels=spec.kernels,
        seed=spec.seed,
        weights=None if prepared.trained else "random",
        latency=_latency(choice, measured, host, model, integer=graph.integer),
        instructions=measured.instructions if measured else None,
        forms="leaner" if generated.leaner else None,
        layers=_layers(graph, generated, firmware, measured, reference, observed),
        footprint=_footprint(firmware, measured),
        accuracy=accuracy,
        bit_exact=bit_exact,
        max_abs_error=None if graph.integer else float(np.abs(observed.outputs - reference.outputs).max()),
        fingerprint=_fingerprint(spec, board, choice, prepared, generated, firmware, measured),
    )
    return Outcome(result, _verdict(graph, reference, host, observed, bit_exact))


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
    image = _quantize_input(graph, prepared.dataset, prepared.dataset.test.x[_sample(prepared.dataset, spec)[:1]])[0]
    return Built(board, generated, image_file, serialize_input(graph, image))


def _room(board: Board) -> Room:
    """What memory there is at most: without what the firmware's own code and data take, which the linker knows."""
    return Room(ram=board.region("ram").length - board.stack_bytes)


def _generated(spec: RunSpec, graph: Graph, board: Board, room: Room) -> Generated:
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
        generated = dataclasses.replace(generated, optimize=_optimize(generated.optimize, spec.optimize))
    return generated


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
        classes = graph.infer(_quantize_input(graph, dataset, x)).argmax(axis=1)
        fp32 = prepared.float_graph.infer(dataset.network_input(x)).argmax(axis=1)
    return record.Accuracy(
        dataset=dataset.name,
        split="test",
        samples=len(labels),
        metric="top1",
        device=None,
        host=_share(classes, labels) if prepared.trained else None,
        fp32=_share(fp32, labels) if prepared.trained else None,
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
        inputs = dataclasses.replace(_build_inputs(variant, generated), defines=_UNSTAGED)
        with reporter.stage(f"linking for {board.id}"):
            return build(inputs, board, cache_dir=cache_dir()).footprint

    if smallest:
        return _linked(make, attempt, board, Room(ram=0), Silent())[1]
    return _linked(make, attempt, board, _room(board), reporter)[1]


def _linked(
    make: Callable[[Room], Generated], attempt: Callable[[Generated], T], board: Board, room: Room, reporter: Reporter
) -> tuple[Generated, T]:
    """The network in the best forms that `attempt`, which links it, has room for, and what that returned.

    attempt: raises DoesNotFit, which the next choice of forms goes by. The last one is of the smallest forms.
    """
    generated = make(room)
    for _ in range(_LINKS):
        try:
            made = attempt(generated)
        except DoesNotFit as error:
            failure = error
        else:
            if generated.leaner:
                reporter.say(f"note: {board.id} has no room for the best forms of all layers: leaner ones were taken")
            return generated, made
        flash, ram = room.flash, room.ram
        if generated.flash_bytes is not None and "flash" in failure.overflows:
            flash = generated.flash_bytes - failure.overflows["flash"]
        if "ram" in failure.overflows:
            ram = generated.activation_bytes - failure.overflows["ram"]
        room = Room(flash, ram)
        leaner = make(room)
        if leaner.files == generated.files:
            break
        generated = leaner
    needed = " and ".join(
        f"{board.region(kind).length + failure.overflows[kind]:,} bytes of {kind}"
        for kind in ("flash", "ram")
        if kind in failure.overflows
    )
    raise DoesNotFit(
        f"{failure.message}; its smallest forms need {needed.replace('ram', 'RAM')}",
        overflows=failure.overflows,
        hint=failure.hint,
    ) from failure


def _adapted(prepared: Prepared, kernels: str) -> Graph:
    """The graph that `kernels` run, calibrated on validation images where they need that."""
    images = prepared.dataset.validation.x[:CALIBRATION_IMAGES]
    return baselines.adapt(prepared.graph, kernels, _quantize_input(prepared.graph, prepared.dataset, images))


def _optimize(flags: str, wanted: str) -> str:
    """The kernels' compiler flags with another level of optimisation, and further -f flags where some are wanted."""
    level, *others = wanted.split() or [""]
    if not re.fullmatch(r"-O([0-3sgz]|fast)", level) or not all(re.fullmatch(r"-f[\w=-]+", word) for word in others):
        raise InputError(
            f"'{wanted}' is no level of optimisation",
            hint="-O0 to -O3, -Os or -Ofast; flags that start with -f may follow",
        )
    return " ".join([level, *(word for word in flags.split() if not word.startswith("-O")), *others])


# ---- inputs and reference


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


def _quantize_input(graph: Graph, dataset: Dataset, x: Array) -> Array:
    """The samples as the graph reads them: float32, or uint8 under the input tensor's scale."""
    tensor = graph.input_tensor
    if tensor.dtype == "float32":
        return dataset.network_input(x)
    if x.dtype == np.uint8:
        return x
    assert tensor.scale is not None
    quantized: Array = np.clip(np.rint(x / tensor.scale) + tensor.zero_point, 0, 2**tensor.bits - 1).astype(np.uint8)
    return quantized


def _reference(graph: Graph, images: Array, generated: Generated) -> _Observed:
    """What every execution must return, from the Graph's own exact arithmetic, in the layouts of the generated C."""
    crcs = np.zeros((len(images), len(graph.layers)), np.uint32)
    outputs = []
    for start in range(0, len(images), 256):
        values: Array | None = None
        for index, (layer, values) in enumerate(graph.run(images[start : start + 256])):
            for sample, value in enumerate(values):
                crcs[start + sample, index] = zlib.crc32(
                    logical_bytes(graph, layer, value, generated.layers[index].layout)
                )
        assert values is not None
        outputs.append(values.reshape(len(values), -1))
    output = np.concatenate(outputs)
    return _Observed(output, output.argmax(axis=1), crcs)


def _on_host(
    generated: Generated, graph: Graph, inputs: list[bytes], choice: Choice, reporter: Reporter
) -> _Observed | None:
    """The same C, compiled for this machine. None without a host compiler, and where a library for the core is linked.

    Only another engine than host gets None.
    """
    from harness.toolchain import compiler
    from harness.toolchain.host import HostNetwork

    if generated.libraries:
        reporter.say(
            f"note: kernels {generated.kernels} link a library for {generated.core}: the comparison with the same C on "
            "this machine is left out; every layer on the board is still compared with the reference"
        )
        return None
    if choice.engine != "host" and compiler.find_host() is None:
        reporter.say("note: no host C compiler: the comparison with the same C on this machine is left out")
        return None
    with reporter.stage("host C"):
        ran = HostNetwork(generated, cache_dir=cache_dir()).infer(inputs)
    outputs = np.stack([parse_output(graph, output).reshape(-1) for output in ran.outputs])
    return _Observed(outputs, outputs.argmax(axis=1), ran.crcs, ran.nanoseconds)


def firmware(spec: RunSpec, reporter: Reporter | None = None) -> Firmware:
    """The image that run() would measure, built or taken from the cache; nothing is started."""
    reporter = reporter or Silent()
    board = boards.load(spec.board)
    prepared = prepare(spec.model, spec.compression, weights=spec.weights, data=spec.data, reporter=reporter)
    return _fitted(spec, _adapted(prepared, spec.kernels), board, reporter)[1][0]


def _fitted(spec: RunSpec, graph: Graph, board: Board, reporter: Reporter) -> tuple[Generated, tuple[Firmware, bool]]:
    """The network in forms that the board has room for, and what _build() makes of it."""
    return _linked(
        lambda room: _generated(spec, graph, board, room),
        lambda generated: _build(spec, generated, board, reporter),
        board,
        _room(board),
        reporter,
    )


def _build(spec: RunSpec, generated: Generated, board: Board, reporter: Reporter) -> tuple[Firmware, bool]:
    """The image, and whether it keeps the input that it was sent beside the network's own, which an inference consumes.

    It does where RAM has room for both. Forms of layers are not chosen for that: the input is sent between inferences.
    DoesNotFit: not even without the copy.
    """
    from harness.toolchain.platformio import build

    inputs = _build_inputs(spec.variant, generated)
    both = generated.activation_bytes + generated.input_bytes + board.stack_bytes
    with reporter.stage(f"building for {board.id}"):
        if both <= board.region("ram").length:
            with suppress(DoesNotFit):
                return build(inputs, board, cache_dir=cache_dir(), toolchain=spec.toolchain), True
        alone = dataclasses.replace(inputs, defines=_UNSTAGED)
        built = build(alone, board, cache_dir=cache_dir(), toolchain=spec.toolchain)
    reporter.say("note: RAM has no room for a second copy of the input: it is sent anew for each inference")
    return built, False


def _build_inputs(variant: str, generated: Generated) -> BuildInputs:
    optimize, *extra_flags = generated.optimize.split()
    return BuildInputs(
        name=f"{generated.name}-{variant}",
        files=generated.contents,
        optimize=optimize,
        extra_flags=tuple(extra_flags),
    )


def _from_board(graph: Graph, measured: Measured) -> _Observed:
    outputs = np.stack([parse_output(graph, answer.output).reshape(-1) for answer in measured.inferences])
    classes = np.array([answer.label for answer in measured.inferences])
    return _Observed(outputs, classes, np.array([answer.crcs for answer in measured.inferences], np.uint32))


# ---- the record


def _share(classes: Array, labels: Array) -> float:
    return float((classes == labels).mean())


def _combined(crcs: Array) -> str:
    """One checksum for a layer over all samples: of one sample its own CRC-32, of several the CRC-32 of theirs."""
    value = int(crcs[0]) if len(crcs) == 1 else zlib.crc32(crcs.astype("<u4").tobytes())
    return f"{value:08x}"


def _first_mismatch(graph: Graph, expected: _Observed, got: _Observed) -> Literal[True] | record.Mismatch:
    for index, layer in enumerate(graph.layers):
        if (expected.crcs[:, index] != got.crcs[:, index]).any():
            return record.Mismatch(
                first_layer=layer.name,
                expected=_combined(expected.crcs[:, index]),
                got=_combined(got.crcs[:, index]),
            )
    return True


def _verdict(
    graph: Graph,
    reference: _Observed,
    host: _Observed | None,
    observed: _Observed,
    bit_exact: Literal[True] | record.Mismatch | None,
) -> GateError | None:
    """What is wrong with a finished run, if anything: the first layer that differs, or a class."""
    if isinstance(bit_exact, record.Mismatch):
        return GateError(
            f"layer {bit_exact.first_layer} differs from the reference: CRC-32 {bit_exact.got}, "
            f"expected {bit_exact.expected}",
            hint="the result was written with this mismatch; please report it with that file",
        )
    if graph.integer and host is not None:
        on_host = _first_mismatch(graph, reference, host)
        if isinstance(on_host, record.Mismatch):
            return GateError(f"layer {on_host.first_layer} of the same C on this machine differs from the reference")
    wrong = np.flatnonzero(observed.classes != reference.classes)
    if len(wrong):
        return GateError(
            f"sample {wrong[0]}: the board says class {observed.classes[wrong[0]]}, "
            f"the reference {reference.classes[wrong[0]]} ({len(wrong)} such samples)"
        )
    return None


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


def _latency(
    choice: Choice, measured: Measured | None, host: _Observed | None, model: CycleModel | None, *, integer: bool
) -> record.Latency:
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


def _layers(
    graph: Graph,
    generated: Generated,
    firmware: Firmware | None,
    measured: Measured | None,
    reference: _Observed,
    observed: _Observed,
) -> list[record.Layer]:
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
            crc_device=_combined(observed.crcs[:, index]),
            crc_reference=_combined(reference.crcs[:, index]) if graph.integer else None,
        )
        for index, layer in enumerate(generated.layers)
    ]


def _footprint(firmware: Firmware | None, measured: Measured | None) -> record.Footprint | None:
    if firmware is None or measured is None:
        return None
    flash, ram = firmware.footprint.flash, firmware.footprint.ram
    return record.Footprint(
        flash=record.Flash(total=flash.total, weights=flash.weights, kernels=flash.kernels, platform=flash.platform),
        ram=record.Ram(total=ram.total, activations=ram.activations, platform=ram.platform, stack=ram.stack),
        network=flash.weights + flash.kernels + ram.activations,
        stack_used=measured.stack_used,
    )


def _fingerprint(
    spec: RunSpec,
    board: Board,
    choice: Choice,
    prepared: Prepared,
    generated: Generated,
    firmware: Firmware | None,
    measured: Measured | None,
) -> record.Fingerprint:
    commit, dirty = fingerprint.git()
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
        packages=fingerprint.packages(),
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
