"""What a paper's table is made of: cases, the figures that one case takes on one board, and how they are measured.

Every figure comes from harness.pipeline, so it is built, run and checked like any other run. Emulators alone are used:
instructions are what is counted, and a connected board would count something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import boards, pipeline
from harness.codegen import baselines
from harness.errors import InputError
from harness.progress import Reporter
from harness.results.record import Result

# Images that a board infers and whose every layer is compared with the reference; timed inferences.
BOARD_SAMPLES = 5
REPEAT = 3

# Beside the flags of network.c, where it links a library.
_AS_BUILT = "; the library as the user built it"


@dataclass(frozen=True)
class Options:
    """boards: names; none: the paper's. samples: test images for the accuracy.

    folders: results folders, in which figures from earlier measurements are looked for. quick: for CI, as far as a page
    has less to offer.
    """

    boards: tuple[str, ...] = ()
    samples: int = 10_000
    folders: tuple[Path, ...] = ()
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """One way to run a network. label: in tables and plots, unique. what: the same in words.

    prefer: size, speed or balanced, where layers can be stored in several forms; forms: "layer=form", against it.
    """

    label: str
    what: str
    variant: str
    kernels: str = "default"
    optimize: str | None = None
    prefer: str = "balanced"
    forms: tuple[str, ...] = ()


# The columns of Figures.cells, all but the first of them numbers.
CELLS = ("case", "weights", "kernels", "activ.", "network", "stack", "instr.")


@dataclass(frozen=True)
class Figures:
    """What one case takes on one board: bytes and instructions of one inference.

    network: weights + kernels + activations. image: all flash and RAM of the image, stack reserved included.
    optimize: the kernels' compiler flags. origin: empty for what this run measured, else where it comes from.
    """

    label: str
    board: str
    engine: str
    instructions: int
    weights: int
    kernels: int
    activations: int
    stack_used: int
    image: int
    optimize: str
    compiler: str
    emulator: str
    origin: str = ""

    @property
    def network(self) -> int:
        return self.weights + self.kernels + self.activations

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row of a table whose columns begin with CELLS."""
        counts = (self.weights, self.kernels, self.activations, self.network, self.stack_used, self.instructions)
        return self.label + (" (kept)" if self.origin else ""), *(f"{count:,}" for count in counts)

    def to_json(self) -> dict[str, Any]:
        """As from_json reads it, with the sum beside its parts."""
        return {**asdict(self), "network": self.network}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], *, origin: str) -> Figures:
        """KeyError or TypeError for what to_json did not write."""
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name != "origin"}
        return cls(**known, origin=origin)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of a case's own arithmetic over `samples` test images (a fraction), and of the float network."""

    label: str
    top1: float
    fp32: float
    samples: int
    dataset: str


def engine(board: str) -> str:
    """The emulator that models a board; InputError when none does."""
    offered = boards.load(board).engines.model_dump(exclude_none=True)
    for name in ("simulator", "qemu"):
        if name in offered:
            return name
    raise InputError(f"no emulator models board {board}", hint="harness boards lists those that have one")


def measure(case: Case, model: str, board: str, reporter: Reporter, save: Callable[[Result], object]) -> Figures:
    """Builds and runs one case on one board; the record goes to `save`. The verdict's GateError when it is not good."""
    spec = pipeline.RunSpec(
        model=model,
        board=board,
        variant=case.variant,
        engine=engine(board),
        kernels=case.kernels,
        optimize=case.optimize,
        prefer=case.prefer,
        forms=case.forms,
        samples=BOARD_SAMPLES,
        repeat=REPEAT,
    )
    outcome = pipeline.run(spec, reporter)
    save(outcome.result)
    if outcome.verdict is not None:
        raise outcome.verdict
    return figures(case.label, outcome.result)


def figures(label: str, result: Result) -> Figures:
    """The figures of an emulator's record."""
    footprint, fingerprint = result.footprint, result.fingerprint
    assert footprint is not None and result.instructions is not None
    return Figures(
        label=label,
        board=result.board,
        engine=result.engine,
        instructions=round(result.instructions),
        weights=footprint.flash.weights,
        kernels=footprint.flash.kernels,
        activations=footprint.ram.activations,
        stack_used=footprint.stack_used or 0,
        image=footprint.flash.total + footprint.ram.total,
        optimize=f"{fingerprint.optimize or ''}{'' if baselines.runs_on_host(result.kernels) else _AS_BUILT}",
        compiler=fingerprint.compiler or "",
        emulator=fingerprint.emulator_version or "",
    )


def accuracy(case: Case, model: str, samples: int, reporter: Reporter) -> Accuracy:
    """The case over many test images, in C on this machine; every layer of every image is compared there too.

    Kernels that this machine cannot run are counted by the reference, which their layers on the board are held to.
    """
    spec = pipeline.RunSpec(
        model=model,
        board="mps2-an386",
        variant=case.variant,
        engine="host",
        kernels=case.kernels,
        samples=samples,
        repeat=1,
    )
    if not baselines.runs_on_host(case.kernels):
        counted = pipeline.reference_accuracy(spec, reporter)
        assert counted.host is not None and counted.fp32 is not None
        return Accuracy(case.label, counted.host, counted.fp32, counted.samples, counted.dataset)
    outcome = pipeline.run(spec, reporter)
    if outcome.verdict is not None:
        raise outcome.verdict
    measured = outcome.result.accuracy
    assert measured.device is not None and measured.fp32 is not None
    return Accuracy(case.label, measured.device, measured.fp32, measured.samples, measured.dataset)


class Step(Reporter):
    """The reporter of one run among many: its stages are shown under the run's name, its remarks are not."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self._reporter = reporter
        self._name = name

    def say(self, text: str) -> None:
        pass

    def stage(self, title: str) -> Any:
        return self._reporter.stage(f"{self._name}: {title}")


def find(figures: Sequence[Figures], label: str, board: str) -> Figures | None:
    """The figures of a case on a board, where there are any."""
    return next((entry for entry in figures if (entry.label, entry.board) == (label, board)), None)
