"""arXiv 2103.15972, Deep Compression for PyTorch Model Deployment on Microcontrollers: its table beside ours.

LeNet-5 in every variant and with every baseline on three boards, in one run: so that each ratio has both sides from the
same compiler, the same images and the same way of counting bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.progress import Reporter
from harness.reproduce import experiment, measured, plot
from harness.reproduce.document import Claim, Document, Table
from harness.reproduce.experiment import Accuracy, Case, Figures, Options
from harness.reproduce.measured import Kept
from harness.results.record import Result

PAPER = "2103.15972"
MODEL = "lenet5"
BOARDS = ("nucleo-f746", "mps2-an386", "mps2-an500")

# Figures of the abstract.
PUBLISHED_SMALLER = 12.45
PUBLISHED_FASTER = 2.57
# The denominator that others may have used: Unlu's weights and all of his activations, without fusion and without code.
NAIVE_BYTES = 246_824 + 36_472

# What weight entropy, a minimum of code and activations add up to, and the sparse MACs at two an instruction: an
# estimate, for the distance that is left.
FLOOR_BYTES = 6_600
FLOOR_INSTRUCTIONS = 91_000

UNLU = Case("unlu -O2", "fp32 as arXiv 2007.01348 prints it", "fp32", "unlu")
UNLU_O3 = Case("unlu -O3", "fp32 as arXiv 2007.01348 prints it", "fp32", "unlu", "-O3")
PLAIN = Case("plain fp32 -O3", "plain C with constant dimensions", "fp32", "plain", "-O3 -ffp-contract=fast")
FP32 = Case("fp32", "our float kernels", "fp32")
PAPER_A = Case("paper A -O2", "the paper's method run again", "paper-a", "paper-a")
PAPER_A_O3 = Case("paper A -O3", "the paper's method run again", "paper-a", "paper-a", "-O3")
CMSIS_NN = Case("CMSIS-NN s8", "Arm's CMSIS-NN on our int8 weights, as the user built it", "int8", "cmsis-nn")
# Of which figures are kept, by the level that the library was compiled at: nothing here compiles it.
CMSIS_NN_KEPT = tuple(
    Case(f"CMSIS-NN s8 {level}", "Arm's CMSIS-NN on our int8 weights (kept)", "int8", "cmsis-nn", level)
    for level in ("-O2", "-O3", "-Ofast")
)
PLAIN_INT8 = Case("plain int8 -O3", "plain C, 8-bit weights and activations", "int8", "plain", "-O3")
INT8 = Case("int8", "our 8-bit kernels", "int8")
_PREFERENCES = {"balanced": "bytes and instructions", "size": "bytes", "speed": "instructions"}
DEEP = (
    *(
        Case(label, f"pruned, few levels, exact storage forms chosen for {_PREFERENCES[prefer]}", "deep", prefer=prefer)
        for label, prefer in (("deep", "balanced"), ("deep, size", "size"), ("deep, speed", "speed"))
    ),
    # Between the preferences: small and fast enough at once for the ratios against paper A.
    Case(
        "deep, compact",
        "the same; conv1 is code, the others in their smallest form",
        "deep",
        forms=("conv1=lanes-code", "conv2=lanes-bytes", "fc1=rice", "fc2=rice", "fc3=rice"),
    ),
)

# Baselines that ratios are given against.
DENOMINATORS = (UNLU, UNLU_O3, PLAIN, PAPER_A, CMSIS_NN, CMSIS_NN_KEPT[0])


@dataclass(frozen=True)
class Run:
    """All that was measured, or kept from an earlier measurement.

    kept: CMSIS-NN's figures of another run, None without any among `figures`. built: what identifies the library that
    the user built, by the board that it was measured on.
    """

    figures: tuple[Figures, ...]
    accuracy: tuple[Accuracy, ...]
    kept: Kept | None = None
    built: Mapping[str, str] = field(default_factory=dict)


def ours() -> tuple[Case, ...]:
    """Our variants, the compressed one in each of its preferences."""
    return FP32, INT8, *DEEP


def cases() -> tuple[Case, ...]:
    """Everything that can be measured on any machine."""
    return (UNLU, UNLU_O3, PLAIN, PAPER_A, PAPER_A_O3, PLAIN_INT8, *ours())


def reproduce(options: Options, reporter: Reporter, save: Callable[[Result], object]) -> Document:
    """Runs everything; every record goes to `save`. HarnessErrors of the runs are the caller's."""
    boards = options.boards or BOARDS
    for board in boards:
        experiment.engine(board)  # an unknown one is found before the first run, not after many
    built = {board: measured.identity(board) for board in boards if measured.available(board)}
    kept = measured.load(options.folders, MODEL) if len(built) < len(boards) else None
    plan = [(case, board) for board in boards for case in (*cases(), *([CMSIS_NN] if board in built else ()))]
    counted = (FP32, PAPER_A, INT8, DEEP[0], *([CMSIS_NN] if built else ()))
    total = len(plan) + len(counted)
    if kept is None and len(built) < len(boards):
        reporter.say("CMSIS-NN is left out: neither the library nor kept figures are at hand")
    figures, accuracy = [], []
    for number, (case, board) in enumerate(plan, start=1):
        step = experiment.Step(reporter, f"[{number}/{total}] {case.label} on {board}")
        entry = experiment.measure(case, MODEL, board, step, save)
        figures.append(entry)
        reporter.say(
            f"[{number}/{total}] {case.label} on {board}: {entry.network:,} B, {entry.instructions:,} instructions"
        )
    for number, case in enumerate(counted, start=len(plan) + 1):
        step = experiment.Step(reporter, f"[{number}/{total}] accuracy of {case.label}")
        counted_accuracy = experiment.accuracy(case, MODEL, options.samples, step)
        accuracy.append(counted_accuracy)
        reporter.say(f"[{number}/{total}] accuracy of {case.label}: {counted_accuracy.top1:.2%}")
    if kept is not None:
        figures += [entry for entry in kept.figures if entry.board in boards and entry.board not in built]
        accuracy += [kept.accuracy] if kept.accuracy is not None else []
    return describe(Run(tuple(figures), tuple(accuracy), kept, built), boards)


# ---- the page


def describe(run: Run, boards: Sequence[str]) -> Document:
    """The page of a run."""
    first = boards[0]
    drawn = plot.draw(points(run, first), title=f"LeNet-5 on {first}: bytes against instructions")
    files = {f"{PAPER}.{suffix}": content for suffix, content in drawn.items()}
    tables = [_board_table(run, board) for board in boards] + [_ratio_table(run, board) for board in boards]
    tables.append(_cases_table(run))
    compilers = sorted({entry.compiler for entry in run.figures if entry.compiler})
    return Document(
        paper=PAPER,
        title="arXiv 2103.15972: Deep Compression for PyTorch Model Deployment on Microcontrollers",
        introduction=(
            f"LeNet-5 on {', '.join(boards)}, all in one run of `harness reproduce {PAPER}`. Bytes are of the linked "
            "image: the network image is weights + kernels (the network's code) + activations (input and output "
            "included); the stack, as far as it was used, is not in it. Instructions are counted by an emulator: they "
            "are not a time."
        ),
        claims=tuple(_claims(run, boards)),
        tables=tuple(tables),
        notes=tuple(_notes(run, compilers)),
        plots=(
            (f"{PAPER}.png", f"Bytes against instructions on {first}, logarithmic, every variant a labelled point"),
        ),
        files=files,
        data={
            "paper": PAPER,
            "published": {"smaller": PUBLISHED_SMALLER, "faster": PUBLISHED_FASTER, "source": "abstract"},
            "naive_bytes": NAIVE_BYTES,
            "floor": {"bytes": FLOOR_BYTES, "instructions": FLOOR_INSTRUCTIONS},
            "figures": [entry.to_json() for entry in run.figures],
            "accuracy": [dataclasses.asdict(entry) for entry in run.accuracy],
            "ratios": {board: _ratios(run, board) for board in boards},
            "cmsis_nn": {
                "built": dict(run.built),
                "kept": run.kept.provenance if run.kept is not None else None,
            },
        },
    )


def _claims(run: Run, boards: Sequence[str]) -> list[Claim]:
    """Bytes are of the first board (they differ by a few on the others), instructions of each."""
    base, again = (experiment.find(run.figures, case.label, boards[0]) for case in (UNLU, PAPER_A))
    assert base is not None and again is not None
    abstract = f"{PUBLISHED_SMALLER}x smaller (published, abstract)"
    faster = f"{PUBLISHED_FASTER}x faster (published, abstract)"
    claims = [
        Claim(
            "memory footprint, the paper's method",
            abstract,
            f"{base.network / again.network:.2f}x smaller ({again.network:,} B)",
            f"Unlu fp32 -O2, network image of our ELF: {base.network:,} B",
            "The paper's denominator is not public. Ours has the network's code on both sides, activations after "
            "Unlu's fusion and ping-pong, and a sparsity found on validation images.",
        ),
        Claim(
            "the same, against Unlu's naive total",
            abstract,
            f"{NAIVE_BYTES / (again.weights + again.activations):.2f}x smaller "
            f"({again.weights + again.activations:,} B of weights and activations)",
            f"weights 246,824 B + unfused activations 36,472 B = {NAIVE_BYTES:,} B, no code",
            "Nothing is fused in this denominator, and neither side counts code: the kindest reading of the method.",
        ),
        Claim(
            "inference, the paper's method, -O2",
            faster,
            _fewer(run, UNLU, PAPER_A, boards),
            "Unlu fp32 -O2 on the same board",
            "Published as time on a board that the abstract does not name, with flags that are not public; "
            "instructions are no time.",
        ),
        Claim(
            "the same, -O3",
            faster,
            _fewer(run, UNLU_O3, PAPER_A_O3, boards),
            "Unlu fp32 -O3 on the same board",
            "At -O3 the compiler specialises both for their only padding, window and activation.",
        ),
    ]
    for case in ours()[1:]:
        entry = experiment.find(run.figures, case.label, boards[0])
        if entry is None:
            continue
        what = f"{case.label} (ours, another method)"
        claims += [
            Claim(
                f"memory footprint, {what}",
                abstract,
                f"{base.network / entry.network:.2f}x smaller ({entry.network:,} B)",
                f"Unlu fp32 -O2, network image of our ELF: {base.network:,} B",
                _METHOD_REASON[case.variant],
            ),
            Claim(
                f"inference, {what}",
                faster,
                _fewer(run, UNLU, case, boards),
                "Unlu fp32 -O2 on the same board",
                "Unlu's C is a weak baseline: see the ratios against plain C and CMSIS-NN below.",
            ),
        ]
    return claims


def _fewer(run: Run, base: Case, case: Case, boards: Sequence[str]) -> str:
    """How many times fewer instructions `case` takes than `base`, on each board."""
    parts = []
    for board in boards:
        one, other = (experiment.find(run.figures, case.label, board) for case in (base, case))
        if one is not None and other is not None:
            parts.append(f"{one.instructions / other.instructions:.2f}x on {board}")
    return f"fewer instructions: {', '.join(parts)}"


_METHOD_REASON = {
    "int8": "Not pruned: every weight is one byte. Integer arithmetic alone, kernels made for the shapes.",
    "deep": "Sparsity per layer, few levels, quantisation-aware training, the cheapest exact form per layer.",
}


def _board_table(run: Run, board: str) -> Table:
    accuracy = {entry.label: entry for entry in run.accuracy}
    of_variant = {case.variant: accuracy[case.label] for case in (FP32, PAPER_A, *ours()) if case.label in accuracy}
    library = accuracy.get(CMSIS_NN.label) or accuracy.get(CMSIS_NN_KEPT[0].label)
    known = {case.label: case for case in (*cases(), CMSIS_NN, *CMSIS_NN_KEPT)}
    rows = []
    entries = [entry for entry in run.figures if entry.board == board]
    for entry in sorted(entries, key=lambda entry: -entry.network):
        case = known[entry.label]
        measured_accuracy = library if case.kernels == "cmsis-nn" else of_variant.get(case.variant)
        rows.append((*entry.cells, f"{measured_accuracy.top1:.2%}" if measured_accuracy is not None else "-"))
    engine = f"{entries[0].engine} {entries[0].emulator}" if entries else "not run"
    return Table(
        f"{board} ({engine}): bytes, and instructions of one inference",
        (*experiment.CELLS, "top-1"),
        tuple(rows),
        frozenset(range(1, 8)),
    )


def _ratios(run: Run, board: str) -> dict[str, dict[str, dict[str, float]]]:
    """{our case: {denominator: {smaller, fewer}}} of what was measured on a board."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for case in ours():
        entry = experiment.find(run.figures, case.label, board)
        bases = [experiment.find(run.figures, base.label, board) for base in DENOMINATORS]
        if entry is not None:
            found[case.label] = {
                base.label: {
                    "smaller": round(base.network / entry.network, 3),
                    "fewer": round(base.instructions / entry.instructions, 3),
                }
                for base in bases
                if base is not None
            }
    return found


def _ratio_table(run: Run, board: str) -> Table:
    ratios = _ratios(run, board)
    labels = [case.label for case in DENOMINATORS if any(case.label in row for row in ratios.values())]
    rows = [
        (
            label,
            *(f"{row[base]['smaller']:.1f} / {row[base]['fewer']:.1f}" for base in labels),
            _weights_alone(run, label, board),
            _floors(run, label, board),
        )
        for label, row in ratios.items()
    ]
    return Table(
        f"{board}: how many times smaller / fewer instructions than",
        ("ours", *labels, "weights alone", "times the floor"),
        tuple(rows),
        frozenset(range(1, 3 + len(labels))),
    )


def _weights_alone(run: Run, label: str, board: str) -> str:
    """How many times smaller the constants are than those of the float network: weights, biases, scales; no code but
    that which stands for weights."""
    entry, dense = (experiment.find(run.figures, each, board) for each in (label, UNLU.label))
    assert entry is not None and dense is not None
    return f"{dense.weights / entry.weights:.1f}"


def _floors(run: Run, label: str, board: str) -> str:
    """How many times the floor a case takes."""
    entry = experiment.find(run.figures, label, board)
    assert entry is not None
    return f"{entry.network / FLOOR_BYTES:.2f} / {entry.instructions / FLOOR_INSTRUCTIONS:.2f}"


def _cases_table(run: Run) -> Table:
    flags = {entry.label: entry.optimize for entry in run.figures}
    known = (*cases(), CMSIS_NN, *CMSIS_NN_KEPT)
    rows = [(case.label, case.what, flags[case.label]) for case in known if case.label in flags]
    return Table("The cases", ("case", "what it is", "compiler flags of the network's code"), tuple(rows))


def _notes(run: Run, compilers: Sequence[str]) -> list[str]:
    notes = [
        f"Compiler: {', '.join(compilers)}.",
        "Every run was checked: integers bit for bit, layer by layer, against the reference; floats by class.",
        "Paper A: trained and pruned as the paper's published code does (4 epochs, Adam, one sparsity for all layers, "
        "magnitude, weights truncated on their grid, float scales and sums, one stream of values and distances per "
        "layer, convolutions expanded into RAM); but its sparsity is chosen on validation images, not on the test set.",
        "Unlu's C works with run-time dimensions, so it is a weak baseline; plain C with constant dimensions and "
        "CMSIS-NN are the ratios that count. CMSIS-NN suits LeNet-5 badly (1 and 6 channels): its ratio does not "
        "carry over to other networks.",
        f"The floor is an estimate ({FLOOR_BYTES:,} B, {FLOOR_INSTRUCTIONS:,} instructions) for a network pruned as "
        "far as variant deep: weight entropy, a kilobyte of code, the activations; and its nonzero products.",
    ]
    if run.accuracy:
        one = run.accuracy[0]
        notes.append(
            f"Accuracy: top-1 over {one.samples:,} test images of {one.dataset}, by the generated C on this machine"
            + (" (CMSIS-NN: by the reference that its layers equal on the board)" if run.built else "")
            + "; paper A begins with a training of its own, the others with the shipped fp32 weights."
        )
    about = measured.notes(run.kept, run.built)
    if about:
        about.append("CMSIS-NN yields 8-bit scores, our int8 32-bit ones; max-pools are layers of their own there.")
    return notes + about


def points(run: Run, board: str) -> list[plot.Point]:
    """What the plot of a board shows. CMSIS-NN once: the levels that are kept of it differ by 2 %."""
    mine = {case.label for case in ours()}
    left_out = {case.label for case in CMSIS_NN_KEPT[1:]}
    shown = [entry for entry in run.figures if entry.board == board and entry.label not in left_out]
    found = [
        plot.Point(entry.label, entry.network, entry.instructions, "ours" if entry.label in mine else "baseline")
        for entry in shown
    ]
    base = experiment.find(run.figures, UNLU.label, board)
    if base is not None:
        found.append(
            plot.Point(
                f"paper A, published: {PUBLISHED_SMALLER}x, {PUBLISHED_FASTER}x",
                base.network / PUBLISHED_SMALLER,
                base.instructions / PUBLISHED_FASTER,
                "published",
            )
        )
    found.append(plot.Point("floor", FLOOR_BYTES, FLOOR_INSTRUCTIONS, "floor"))
    return found
