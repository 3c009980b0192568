"""arXiv 2007.01348, Efficient Neural Network Deployment for Microcontroller (Unlu 2020): its memory beside ours.

LeNet-5 in float32: activations without fusion, with it, and with two buffers that take turns. The CIFAR network in
8 bits against CMSIS-NN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import InputError
from harness.graph.graph import Graph
from harness.models import resolve
from harness.ops.conv2d import Conv2d
from harness.progress import Reporter
from harness.reproduce import experiment, measured, plot
from harness.reproduce.document import Claim, Document, Table
from harness.reproduce.experiment import Accuracy, Case, Figures, Options
from harness.reproduce.measured import Kept
from harness.results.record import Result

PAPER = "2007.01348"
# Bytes are all but the same on each board; the first that is asked for is the page's.
BOARDS = ("nucleo-f746",)

LENET5, CIFAR = "lenet5", "cifar-net"

# Figures of the paper, in bytes; those of the CIFAR network in kB as it prints them.
PUBLISHED_WEIGHTS = 246_824
PUBLISHED_NAIVE, PUBLISHED_FUSED, PUBLISHED_BOTH = 36_472, 11_256, 8_800
PUBLISHED_CIFAR_ROM, PUBLISHED_CIFAR_RAM, PUBLISHED_CIFAR_RAM_CMSIS = "36 kB", "11.2 kB", "44 kB"
PUBLISHED_ACCURACY = 0.9844

UNLU = Case("LeNet-5 unlu -O2", "fp32 as the paper prints it", "fp32", "unlu")
UNLU_O3 = Case("LeNet-5 unlu -O3", "fp32 as the paper prints it", "fp32", "unlu", "-O3")
CIFAR_PLAIN = Case("CIFAR int8, plain fused", "plain 8-bit C, pooling fused, buffers shared", "int8", "plain")
CIFAR_INT8 = Case("CIFAR int8", "our 8-bit kernels", "int8")
CIFAR_CMSIS = Case("CIFAR CMSIS-NN s8", "Arm's CMSIS-NN on the same weights, as the user built it", "int8", "cmsis-nn")


@dataclass(frozen=True)
class Activations:
    """Bytes that a network's activations take, input included, all kept at once. naive: unpooled maps too."""

    naive: int
    fused: int


@dataclass(frozen=True)
class Run:
    """What was measured. missing: why there is nothing of the CIFAR network, empty where there is.

    kept: CMSIS-NN's figures of another run, None without any among `figures`. built: what identifies the library that
    the user built; empty where there is none.
    """

    board: str
    figures: tuple[Figures, ...]
    accuracy: Accuracy
    lenet5: Activations
    cifar: Activations | None
    missing: str
    kept: Kept | None = None
    built: str = ""


def activations(graph: Graph, bytes_each: int) -> Activations:
    """Counted from the graph: every tensor once."""
    fused = sum(tensor.elements for tensor in graph.tensors.values())
    unpooled = 0
    for layer in graph.layers:
        if isinstance(layer, Conv2d) and layer.pool is not None:
            rows, columns = layer.convolved(*graph.input_shapes(layer))
            unpooled += rows * columns * len(layer.weight)
    return Activations((fused + unpooled) * bytes_each, fused * bytes_each)


def reproduce(options: Options, reporter: Reporter, save: Callable[[Result], object]) -> Document:
    """Runs everything; every record goes to `save`. HarnessErrors of the runs are the caller's.

    Without the CIFAR network's data, its part is left out, and the page says why.
    """
    board = (options.boards or BOARDS)[0]
    experiment.engine(board)
    figures = []
    built = measured.identity(board) if measured.available(board) else ""
    kept = None if built else measured.load(options.folders, CIFAR)
    plan = [(LENET5, UNLU), (LENET5, UNLU_O3), (CIFAR, CIFAR_PLAIN), (CIFAR, CIFAR_INT8)]
    plan += [(CIFAR, CIFAR_CMSIS)] if built else []
    graphs = {LENET5: _traced(LENET5, reporter)}
    missing = ""
    try:
        graphs[CIFAR] = _traced(CIFAR, reporter)
    except InputError as error:
        missing = f"{error.message}{f' ({error.hint})' if error.hint else ''}"
        reporter.say(f"the CIFAR network is left out: {missing}")
        plan = [(model, case) for model, case in plan if model == LENET5]
        kept, built = None, ""
    total = len(plan) + 1
    for number, (model, case) in enumerate(plan, start=1):
        step = experiment.Step(reporter, f"[{number}/{total}] {case.label} on {board}")
        entry = experiment.measure(case, model, board, step, save)
        figures.append(entry)
        reporter.say(
            f"[{number}/{total}] {case.label} on {board}: {entry.network:,} B, {entry.instructions:,} instructions"
        )
    step = experiment.Step(reporter, f"[{total}/{total}] accuracy of LeNet-5")
    accuracy = experiment.accuracy(UNLU, LENET5, options.samples, step)
    reporter.say(f"[{total}/{total}] accuracy of LeNet-5: {accuracy.top1:.2%}")
    if kept is not None:
        figures += [entry for entry in kept.figures if entry.board == board]
    run = Run(
        board=board,
        figures=tuple(figures),
        accuracy=accuracy,
        lenet5=activations(graphs[LENET5], 4),
        cifar=activations(graphs[CIFAR], 1) if CIFAR in graphs else None,
        missing=missing,
        kept=kept,
        built=built,
    )
    return describe(run)


def _traced(model: str, reporter: Reporter) -> Graph:
    """A catalogue network as a float Graph; InputError where its data or its weights are missing."""
    source = resolve.source(model, None)
    dataset = resolve.dataset(source, None, reporter)
    return resolve.float_graph(source, dataset.input_shape)[0]


def describe(run: Run) -> Document:
    """The page of a run."""
    compilers = sorted({entry.compiler for entry in run.figures if entry.compiler})
    drawn = plot.draw(points(run), title=f"Unlu's networks on {run.board}: bytes against instructions")
    files = {f"{PAPER}.{suffix}": content for suffix, content in drawn.items()}
    return Document(
        paper=PAPER,
        title="arXiv 2007.01348: Efficient Neural Network Deployment for Microcontroller (Unlu 2020)",
        introduction=(
            f"LeNet-5 and the CIFAR network on {run.board}, by `harness reproduce {PAPER}`. Measured bytes are of the "
            "linked image (activations: the arena, input and output included); counted bytes are of the traced graph."
        ),
        claims=tuple(_claims(run)),
        tables=(_figures_table(run),),
        notes=tuple(_notes(run, compilers)),
        plots=((f"{PAPER}.png", f"Bytes against instructions on {run.board}, logarithmic"),),
        files=files,
        data={
            "paper": PAPER,
            "published": {
                "weights": PUBLISHED_WEIGHTS,
                "activations": {"naive": PUBLISHED_NAIVE, "fused": PUBLISHED_FUSED, "both": PUBLISHED_BOTH},
                "cifar": {
                    "rom": PUBLISHED_CIFAR_ROM,
                    "ram": PUBLISHED_CIFAR_RAM,
                    "ram_cmsis_nn": PUBLISHED_CIFAR_RAM_CMSIS,
                },
                "accuracy": PUBLISHED_ACCURACY,
            },
            "activations": {
                LENET5: dataclasses.asdict(run.lenet5),
                CIFAR: dataclasses.asdict(run.cifar) if run.cifar is not None else None,
            },
            "figures": [entry.to_json() for entry in run.figures],
            "accuracy": dataclasses.asdict(run.accuracy),
            "cmsis_nn": {"built": run.built or None, "kept": run.kept.provenance if run.kept is not None else None},
            "missing": run.missing or None,
        },
    )


def _claims(run: Run) -> list[Claim]:
    found = {entry.label: entry for entry in run.figures}
    unlu = found[UNLU.label]
    equal = "None: the same number."
    claims = [
        Claim(
            "LeNet-5 weights",
            f"{PUBLISHED_WEIGHTS:,} B (published)",
            f"{unlu.weights:,} B, measured",
            "61,706 parameters of 4 B",
            equal if unlu.weights == PUBLISHED_WEIGHTS else "The linker's alignment.",
        ),
        Claim(
            "LeNet-5 activations, nothing fused",
            f"{PUBLISHED_NAIVE:,} B (published)",
            f"{run.lenet5.naive:,} B, counted",
            "every tensor of the network once, float32",
            equal if run.lenet5.naive == PUBLISHED_NAIVE else "Another network.",
        ),
        Claim(
            "LeNet-5 activations, pooling fused",
            f"{PUBLISHED_FUSED:,} B (published)",
            f"{run.lenet5.fused:,} B, counted",
            "the same without unpooled maps",
            equal if run.lenet5.fused == PUBLISHED_FUSED else "Another network.",
        ),
        Claim(
            "LeNet-5 activations, fused and ping-pong",
            f"{PUBLISHED_BOTH:,} B (published)",
            f"{unlu.activations:,} B, measured",
            "the two largest neighbours of the above",
            equal if unlu.activations == PUBLISHED_BOTH else "The arena's alignment.",
        ),
        Claim(
            "LeNet-5 accuracy",
            f"{PUBLISHED_ACCURACY:.4f} (published)",
            f"{run.accuracy.top1:.4f} over {run.accuracy.samples:,} test images of {run.accuracy.dataset}",
            "test images",
            "Our weights are trained for 60 epochs on shifted and turned images; the paper's training was short.",
        ),
    ]
    plain, ours, library = (found.get(case.label) for case in (CIFAR_PLAIN, CIFAR_INT8, CIFAR_CMSIS))
    if plain is not None and ours is not None:
        claims += [
            Claim(
                "CIFAR network, ROM, Unlu",
                f"{PUBLISHED_CIFAR_ROM} (published)",
                f"{_flash(plain):,} B plain, {_flash(ours):,} B our kernels",
                "33,210 parameters in 8 bits, with the network's code",
                "Ours stores a bias and a factor of 32 bits for each channel.",
            ),
            Claim(
                "CIFAR network, RAM, Unlu",
                f"{PUBLISHED_CIFAR_RAM} (published)",
                f"{plain.activations:,} B plain, {ours.activations:,} B our kernels",
                "input 3,072 B + the largest output 8,192 B = 11,264 B",
                "Plain C needs just the two tensors; faster kernels trade RAM for instructions."
                if ours.activations > plain.activations
                else "None beyond rounding.",
            ),
        ]
    if library is not None:
        claims += [
            Claim(
                "CIFAR network, ROM, CMSIS-NN",
                f"{PUBLISHED_CIFAR_ROM} (published)",
                f"{_flash(library):,} B",
                "the same network",
                "The paper's is the library of 2018 with one scale per layer; today's has one per channel, "
                "and more code.",
            ),
            Claim(
                "CIFAR network, RAM, CMSIS-NN",
                f"{PUBLISHED_CIFAR_RAM_CMSIS} (published)",
                f"{library.activations:,} B",
                "unpooled map 32,768 B + its pooled copy 8,192 B",
                "The 2018 example added 3,200 B of column buffer to these; ours shares that memory.",
            ),
        ]
    return claims


def _flash(entry: Figures) -> int:
    return entry.weights + entry.kernels


def _figures_table(run: Run) -> Table:
    rows = tuple((*entry.cells, entry.optimize) for entry in run.figures)
    columns = (*experiment.CELLS, "flags")
    return Table(f"{run.board}: bytes, and instructions of one inference", columns, rows, frozenset(range(1, 7)))


def _notes(run: Run, compilers: Sequence[str]) -> list[str]:
    notes = [
        f"Compiler: {', '.join(compilers)}.",
        "The paper's CIFAR figures are of 8-bit arithmetic: its ROM is the parameters' bytes and code, its RAM the two "
        "largest neighbours. kB are 1,000 bytes here.",
    ]
    if run.missing:
        notes.append(f"The CIFAR network was not run: {run.missing}.")
    else:
        about = measured.notes(run.kept, {run.board: run.built} if run.built else {})
        notes += about or ["CMSIS-NN was not at hand, and no figures of it are kept."]
    return notes


def points(run: Run) -> list[plot.Point]:
    """What the plot shows."""
    return [
        plot.Point(
            entry.label, entry.network, entry.instructions, "ours" if entry.label == CIFAR_INT8.label else "baseline"
        )
        for entry in run.figures
    ]
