"""The way of one run, from a network's name to a Result. The only module that knows the order of the stages."""

from __future__ import annotations

import importlib.metadata
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from harness import boards, engines
from harness.boards import Board
from harness.codegen.generate import Generated, generate, logical_bytes, parse_output, serialize_input
from harness.data.base import Dataset
from harness.engines import Choice
from harness.errors import DeviceError, GateError, InputError, unknown_name
from harness.files import cache_dir
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.models import resolve
from harness.ops.base import Array
from harness.progress import Reporter, Silent
from harness.results import record
from harness.results.record import Result
from harness.toolchain.firmware import Firmware

if TYPE_CHECKING:
    from harness.emulators.base import Emulator
    from harness.link.client import BoardClient
    from harness.probe.session import BoardSession

VARIANTS = ("int8", "fp32")
KERNELS = ("default",)

# Images that calibrate the activations' scales; from the validation split, never from the test split.
CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class RunSpec:
    """What to run. samples: test images sent to the board; repeat: timed inferences; seed: which test images.

    probe: a debug probe's unique id. serial: pyserial device or URL; both for hardware, found by themselves otherwise.
    """

    model: str
    board: str
    variant: str = "int8"
    engine: str = "auto"
    kernels: str = "default"
    samples: int = 20
    repeat: int = 5
    seed: int = 0
    weights: Path | None = None
    data: Path | None = None
    probe: str | None = None
    serial: str | None = None
    toolchain: str = "auto"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network ready for code generation, with the data it is measured on."""

    graph: Graph
    float_graph: Graph
    dataset: Dataset
    weights_sha256: str


@dataclass(frozen=True, eq=False)
class _Observed:
    """What one execution (board or host C) returned for every sample: (N, C) outputs, classes, (N, layers) CRC-32s."""

    outputs: Array
    classes: Array
    crcs: Array


@dataclass(frozen=True, eq=False)
class _Measured:
    """Everything a board returned. ticks are the engine's; overhead is the empty region, not yet subtracted."""

    observed: _Observed
    ticks: tuple[int, ...]
    overhead: int
    tick_hz: int
    layer_ticks: tuple[int, ...]
    stack_used: int | None
    emulator_version: str | None = None
    retries: int = 0


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record, and the verdict when the record is not good (exit code 1)."""

    result: Result
    verdict: GateError | None = field(default=None)


def prepare(
    model: str, variant: str, *, weights: Path | None = None, data: Path | None = None, reporter: Reporter | None = None
) -> Prepared:
    """Loads, traces and compresses a network. The catalogue's quantised integers are used where they are shipped."""
    reporter = reporter or Silent()
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    source = resolve.source(model, weights)
    with reporter.stage("data"):
        dataset = resolve.dataset(source, data)
    if source.entry is not None and dataset.input_shape != source.entry.input_shape:
        raise InputError(
            f"{source.name} wants images of {source.entry.input_shape}, but the data has {dataset.input_shape}"
        )
    if source.entry is not None and dataset.name != source.entry.dataset:
        reporter.say(f"data: {dataset.name} ({dataset.origin})")
    with reporter.stage(f"tracing {source.name}"):
        float_graph, weights_sha256 = resolve.float_graph(source, dataset.input_shape)
    if int(np.prod(float_graph.output.shape)) < dataset.classes:
        raise InputError(
            f"{source.name} has {float_graph.output.shape[-1]} outputs, but the data has {dataset.classes} classes"
        )
    if variant == "fp32":
        return Prepared(float_graph, float_graph, dataset, weights_sha256)
    shipped = artefact(source, variant, weights_sha256) if data is None else None
    if shipped is not None:
        return Prepared(shipped, float_graph, dataset, weights_sha256)
    from harness.compress.quantize import quantize

    with reporter.stage(f"quantising {source.name}") as advance:
        images = dataset.network_input(dataset.validation.x[:CALIBRATION_IMAGES])
        graph = quantize(
            float_graph, images, dataset.input_scale, dataset.input_zero_point or 0, progress=advance
        )
    return Prepared(graph, float_graph, dataset, weights_sha256)


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
    reporter.say(f"engine: {choice.engine} - {choice.reason}")
    prepared = prepare(spec.model, spec.variant, weights=spec.weights, data=spec.data, reporter=reporter)
    graph, dataset = prepared.graph, prepared.dataset
    generated = generate(graph, variant=spec.variant, core=board.core, kernels=spec.kernels)
    chosen = _sample(dataset, spec)
    images = _quantize_input(graph, dataset, dataset.test.x[chosen])
    labels = dataset.test.y[chosen]

    with reporter.stage("reference"):
        reference = _reference(graph, images)
        baseline = prepared.float_graph.infer(dataset.network_input(dataset.test.x[chosen])).argmax(axis=1)
    inputs = [serialize_input(graph, image) for image in images]
    host, host_seconds = _on_host(generated, graph, inputs, spec, choice, reporter)

    if choice.engine == "host":
        assert host is not None
        firmware, measured = None, None
        observed = host
    else:
        from harness.toolchain.platformio import BuildInputs, build

        with reporter.stage(f"building for {board.id}"):
            firmware = build(
                BuildInputs.of(generated, name=graph.name), board, cache_dir=cache_dir(), toolchain=spec.toolchain
            )
        measured = _measure(spec, board, choice, firmware, graph, inputs, reporter)
        observed = measured.observed
    return _outcome(
        spec=spec,
        board=board,
        choice=choice,
        prepared=prepared,
        generated=generated,
        firmware=firmware,
        measured=measured,
        observed=observed,
        reference=reference,
        host=host,
        host_seconds=host_seconds,
        labels=labels,
        baseline=baseline,
    )


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


def _reference(graph: Graph, images: Array) -> _Observed:
    """What every execution must return, from the Graph's own exact arithmetic."""
    crcs = np.zeros((len(images), len(graph.layers)), np.uint32)
    outputs = []
    for start in range(0, len(images), 256):
        values: Array | None = None
        for index, (layer, values) in enumerate(graph.run(images[start : start + 256])):  # noqa: B007
            for sample, value in enumerate(values):
                crcs[start + sample, index] = zlib.crc32(logical_bytes(graph, layer, value))
        assert values is not None
        outputs.append(values.reshape(len(values), -1))
    output = np.concatenate(outputs)
    return _Observed(output, output.argmax(axis=1), crcs)


def _on_host(
    generated: Generated, graph: Graph, inputs: list[bytes], spec: RunSpec, choice: Choice, reporter: Reporter
) -> tuple[_Observed | None, tuple[float, ...]]:
    """The same C, compiled for this machine. None where there is no host compiler (and the board is not `host`)."""
    from harness.toolchain import compiler
    from harness.toolchain.host import HostNetwork

    if choice.engine != "host" and compiler.find_host() is None:
        reporter.say("note: no host C compiler: the comparison with the same C on this machine is left out")
        return None, ()
    with reporter.stage("host C"):
        ran = HostNetwork(generated, cache_dir=cache_dir()).infer(inputs)
    outputs = np.stack([parse_output(graph, output).reshape(-1) for output in ran.outputs])
    return _Observed(outputs, outputs.argmax(axis=1), ran.crcs), ran.seconds
