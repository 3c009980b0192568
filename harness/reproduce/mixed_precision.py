"""arXiv 2008.05124, Leveraging Automated Mixed-Low-Precision Quantization for tiny edge microcontrollers.

Its policies and memory on the exact architectures; its search, with three others at equal limits, on data that is here.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from harness.errors import InputError
from harness.models import catalogue
from harness.progress import Reporter
from harness.reproduce import bit_widths
from harness.reproduce.bit_widths import COMPARED, Experiment, Memory, Row, Ruled, Searched
from harness.reproduce.document import Claim, Document, Table
from harness.reproduce.experiment import Options
from harness.results.record import Result
from harness.search import memory_rule, methods
from harness.search.tensors import Limits

PAPER = "2008.05124"

# Figures of the abstract, on ImageNet.
PUBLISHED_TOP1 = 68.4
PUBLISHED_GAIN = 4.0

# The limits of the paper's second experiment, and of its first, of weights alone.
FLASH, RAM = 2_048_000, 512_000
WEIGHTS_ONLY_FLASH = 2 * 2**20
WEIGHTS_ONLY = ("mobilenet-v1-1.0-224", "mobilenet-v2-1.0-224", "mnasnet-b1-1.0-224")

EXPERIMENTS = (
    Experiment("lenet5", Limits(18_500, 1_500), 600),
    Experiment("resnet8", Limits(34_000, 27_000), 600),
    Experiment("mobilenet-v1-0.25-32", Limits(130_000, 4_600), 600),
)

# What `--quick` leaves: enough to see that everything works.
QUICK = (Experiment("lenet5", Limits(18_500, 1_500), 24),)
QUICK_NETWORKS = ("mobilenet-v1-0.5-224", "mobilenet-v1-1.0-224")


def reproduce(options: Options, reporter: Reporter, save: Callable[[Result], object]) -> Document:
    """Finds policies, searches, and describes both. Nothing is built or run on a board, so `save` gets no record."""
    names = QUICK_NETWORKS if options.quick else _mobilenets()
    limited = [bit_widths.memory(name, Limits(FLASH, RAM), reporter) for name in names]
    weights_only = [
        bit_widths.memory(name, Limits(WEIGHTS_ONLY_FLASH), reporter)
        for name in (QUICK_NETWORKS[-1:] if options.quick else WEIGHTS_ONLY)
    ]
    searched, left_out = [], []
    for experiment in QUICK if options.quick else EXPERIMENTS:
        if catalogue.entry(experiment.network).weights is None:
            left_out.append(f"{experiment.network}, which ships without weights")
            continue
        try:
            searched.append(bit_widths.searched(experiment, options, reporter))
        except InputError as error:
            left_out.append(f"{experiment.network} ({error.message})")
    return describe(limited, weights_only, searched, left_out, quick=options.quick)


def _mobilenets() -> list[str]:
    """MobileNetV1 at every width and resolution of the catalogue that is for ImageNet."""
    found = [name for name in catalogue.names() if name.startswith("mobilenet-v1-")]
    return [name for name in found if catalogue.entry(name).classes == 1000]


def mean(rows: Sequence[Row], method: str, field: str) -> float:
    """A figure's mean over the seeds of one method, as a fraction."""
    return statistics.fmean(getattr(row, field) for row in rows if row.method == method)


def describe(
    limited: Sequence[Memory],
    weights_only: Sequence[Memory],
    searched: Sequence[Searched],
    left_out: Sequence[str],
    *,
    quick: bool = False,
) -> Document:
    """The page of a run."""
    from harness.reproduce import accuracy_plot

    files: dict[str, bytes] = {}
    plots = []
    for one in searched:
        name = f"{PAPER}-{one.experiment.network}"
        files |= {f"{name}.{suffix}": content for suffix, content in accuracy_plot.draw(one).items()}
        plots.append(
            (f"{name}.png", f"Validation accuracy against bytes of weights, {one.experiment.network} on {one.dataset}")
        )
    notes = [
        "Bytes are packed weights plus 9 bytes for each output channel (multiplier 32 bit, shift 8, bias 32), and the "
        "largest sum of a layer's input, output and live skip tensors. kB is 1,000 bytes.",
        "Validation accuracy is of the exact integers, on the images that rl's and random's policies were "
        "chosen on; test accuracy is of images that no choice saw, by the searches' own float32 evaluation.",
        "Whether biases make up for what few bits lose is decided for every policy on 64 validation images, without "
        "their labels, by the divergence from the float network; they count as images.",
        "ilp's second measuring, its comparison of candidates and the order of filling were designed on the validation "
        "images of these networks, at other limits too; its last few candidates are chosen by their scores, as rl's "
        "are. Test images decided nothing: their column is the independent one.",
        "memory-rule is the rule as published, memory-rule-filled what `harness search` makes of it, which is not in "
        "the paper: weights get bits back until 99 % of the flash is used, and activations as long as the RAM lasts. "
        "Where that takes bits from other layers, bytes say how many, and the divergence from the float network on "
        "256 calibration images from which; what would raise it is not filled.",
        "rl's first episodes ask for the memory-driven rule's policies, filled by bytes alone and as published; their "
        "evaluations and all others count, repeated policies included. Images are what was inferred in all, for "
        "sensitivities as well.",
        "Seconds are the wall clock of one thread, beside whatever else the machine did; a search that is repeated "
        "tells those of its first time.",
        "All accuracies are after post-training quantisation, without any training. HAQ trains one epoch per episode.",
        *(f"Left out: {reason}." for reason in left_out),
    ]
    if any(one.dataset == "cifar10-jpeg" for one in searched):
        notes.append(
            "cifar10-jpeg holds CIFAR-10's images after lossy compression: no accuracy on it is a CIFAR-10 accuracy."
        )
    if quick:
        notes.append("Made with --quick: few networks, episodes and images. Its accuracies mean little.")
    tables = [_memory_table(limited), _weights_table(weights_only)]
    for one in searched:
        tables += [_search_table(one), _mean_table(one)]
    tables.append(_not_reproduced())
    return Document(
        paper=PAPER,
        title="arXiv 2008.05124: Leveraging Automated Mixed-Low-Precision Quantization for tiny edge microcontrollers",
        introduction=(
            f"Policies of 2, 4 or 8 bits per tensor. Made by `harness reproduce {PAPER}{' --quick' if quick else ''}`: "
            "the memory-driven rule (arXiv 1905.13082) on the exact architectures, and four searches at equal limits "
            "on networks whose data is here."
        ),
        claims=tuple(_claims(limited, weights_only, searched)),
        tables=tuple(tables),
        notes=tuple(notes),
        plots=tuple(plots),
        files=files,
        data={
            "paper": PAPER,
            "quick": quick,
            "published": {"top1": PUBLISHED_TOP1, "gain": PUBLISHED_GAIN, "source": "abstract"},
            "limited": [dataclasses.asdict(entry) for entry in limited],
            "weights_only": [dataclasses.asdict(entry) for entry in weights_only],
            "searched": [dataclasses.asdict(entry) for entry in searched],
        },
    )


def _claims(limited: Sequence[Memory], weights_only: Sequence[Memory], searched: Sequence[Searched]) -> list[Claim]:
    golden = [entry for entry in limited if entry.golden is not None]
    same = sum(bool(entry.golden) for entry in golden)
    claims = [
        Claim(
            "policies of the memory-driven rule",
            f"{len(golden)} policies (published code of arXiv 1905.13082, run again)",
            f"{same} of {len(golden)} the same, tensor by tensor",
            f"MobileNetV1 under {FLASH:,} B of flash and {RAM:,} B of RAM",
            "Reproduced: the architectures are exact and the rule looks at nothing but bytes.",
        ),
        Claim(
            "weights alone under 2 MiB",
            "as accurate as non-uniform quantisation (published, abstract)",
            ", ".join(f"{entry.network}: {entry.filled.flash:,} B" for entry in weights_only),
            ", ".join(f"{entry.mean_bits:.2f} bits per weight" for entry in weights_only)
            + " on the average may be had",
            "The footprint is reproduced; the accuracy is ImageNet's, which is not here.",
        ),
        Claim(
            "best MobileNetV1 under 2 MB and 512 kB",
            f"{PUBLISHED_TOP1} % top-1, {PUBLISHED_GAIN:g} % over 8-bit networks that fit (published, abstract)",
            "not reproduced",
            "ImageNet top-1",
            "Neither ImageNet nor weights trained on it are here; nothing is claimed.",
        ),
    ]
    for one in searched:
        rows, network = one.rows, one.experiment.network
        rl = mean(rows, "rl", "validation")
        published, filled = (mean(rows, name, "validation") for name in (memory_rule.PUBLISHED, memory_rule.FILLED))
        drawn, solved = mean(rows, "random", "validation"), mean(rows, "ilp", "validation")
        solving = mean(rows, "ilp", "images")
        share, full = solving / mean(rows, "rl", "images"), solving / _full_search(one)
        claims.append(
            Claim(
                f"the search, {network}",
                "policies found by reinforcement learning, on ImageNet (published, no figure for this network)",
                f"rl {rl:.2%}, random {drawn:.2%}, memory-rule {published:.2%} as published and {filled:.2%} filled "
                f"(rl {100 * (rl - max(published, filled)):+.2f} points against the better of the two), ilp "
                f"{solved:.2%} with {share:.2%} of rl's images, {full:.2%} of those of HAQ's {methods.EPISODES} "
                "episodes",
                f"{one.dataset}, {one.images:,} validation images, mean of {_seeds(rows)} seeds, "
                f"{one.experiment.limits.flash:,} B of flash and {one.experiment.limits.ram:,} B of RAM, "
                f"{one.experiment.episodes} episodes",
                "Re-implemented on different data, without training; the float network has "
                f"{one.float_validation:.2%}.",
            )
        )
    return claims


def _full_search(one: Searched) -> int:
    """Images that a search of as many episodes as HAQ's infers, its last, exact evaluation included."""
    return round((methods.EPISODES + 1) * mean(one.rows, "rl", "images") / mean(one.rows, "rl", "evaluations"))


def _seeds(rows: Sequence[Row]) -> int:
    return sum(row.method == "rl" for row in rows)


def _memory_table(entries: Sequence[Memory]) -> Table:
    rows = []
    for entry in entries:
        for name, ruled in _policies(entry):
            golden = {None: "-", True: "the same", False: "differs"}[entry.golden]
            rows.append(
                (
                    entry.network,
                    f"{entry.wide_flash:,}",
                    f"{entry.wide_ram:,}",
                    name,
                    f"{ruled.flash:,}",
                    _used(entry, ruled, FLASH),
                    f"{ruled.ram:,}",
                    _shortened(ruled.weights),
                    _shortened(ruled.activations),
                    golden if ruled is entry.published else "-",
                )
            )
    return Table(
        f"(a) The memory-driven rule under {FLASH:,} B of flash and {RAM:,} B of RAM",
        (
            "network",
            "8-bit flash",
            "8-bit peak RAM",
            "rule",
            "flash",
            "of the limit",
            "RAM",
            "weights",
            "activations",
            "golden",
        ),
        tuple(rows),
        frozenset({1, 2, 4, 5, 6}),
    )


def _policies(entry: Memory) -> list[tuple[str, Ruled]]:
    """The rule's policies that differ."""
    found = [("as published", entry.published)]
    return found if entry.filled == entry.published else [*found, ("filled", entry.filled)]


def _used(entry: Memory, ruled: Ruled, limit: int) -> str:
    """The share of the limit; with the reason where a filled policy should use more of it."""
    share = f"{ruled.flash / limit:.1%}"
    if ruled is entry.published or entry.wide_flash <= limit or ruled.flash >= memory_rule.UTILISATION * limit:
        return share
    return f"{share}: {limit - ruled.flash:,} B are left, the smallest step is {ruled.step or 0:,} B"


def _shortened(widths: str) -> str:
    """844888888 as 844 then 8."""
    head = widths.rstrip("8")
    if not head:
        return "all 8"
    return f"{head} then 8" if len(head) < len(widths) else head


def _weights_table(entries: Sequence[Memory]) -> Table:
    rows = []
    for entry in entries:
        for name, ruled in _policies(entry):
            rows.append(
                (
                    entry.network,
                    f"{entry.wide_weights:,}",
                    f"{entry.mean_bits:.2f}",
                    name,
                    f"{ruled.flash:,}",
                    _used(entry, ruled, WEIGHTS_ONLY_FLASH),
                    f"{ruled.ram:,}",
                )
            )
    return Table(
        f"(a) Weights alone under 2 MiB ({WEIGHTS_ONLY_FLASH:,} B), activations at 8 bits",
        ("network", "8-bit weights", "mean bits at 2 MiB", "rule", "flash", "of the limit", "peak RAM"),
        tuple(rows),
        frozenset({1, 2, 4, 5, 6}),
    )


def _search_table(one: Searched) -> Table:
    limits = one.experiment.limits
    assert limits.flash is not None
    rows: list[tuple[str, ...]] = [
        ("float", "-", "-", "-", "-", "-", f"{one.float_validation:.2%}", f"{one.float_test:.2%}", "-", "-", "-")
    ]
    for row in one.rows:
        rows.append(
            (
                row.method,
                "-" if row.seed is None else str(row.seed),
                f"{row.flash:,}",
                f"{row.flash / limits.flash:.1%}",
                row.weights,
                row.activations,
                f"{row.validation:.2%}",
                f"{row.test:.2%}",
                f"{row.evaluations:,}",
                f"{row.images:,}",
                f"{row.seconds:,.0f}",
            )
        )
    return Table(
        f"(b) {one.experiment.network} on {one.dataset}: {limits.flash:,} B of flash, {limits.ram:,} B of RAM",
        (
            "method",
            "seed",
            "flash",
            "of the limit",
            "weights",
            "activations",
            "validation",
            "test",
            "evaluations",
            "images",
            "seconds",
        ),
        tuple(rows),
        frozenset({2, 3, 6, 7, 8, 9, 10}),
    )


def _mean_table(one: Searched) -> Table:
    reference = {field: mean(one.rows, "rl", field) for field in ("validation", "test", "images")}
    rows = []
    for method in COMPARED:
        validation, test, images = (mean(one.rows, method, field) for field in ("validation", "test", "images"))
        rows.append(
            (
                method,
                f"{validation:.2%}",
                f"{100 * (validation - reference['validation']):+.2f}",
                f"{test:.2%}",
                f"{100 * (test - reference['test']):+.2f}",
                f"{images / reference['images']:.2%}",
                f"{images / _full_search(one):.2%}",
            )
        )
    return Table(
        f"(b) {one.experiment.network}: means over the seeds, and percentage points against rl",
        (
            "method",
            "validation",
            "against rl",
            f"test ({one.test_images:,} images)",
            "against rl",
            "of rl's images",
            f"of {methods.EPISODES} episodes'",
        ),
        tuple(rows),
        frozenset(range(1, 7)),
    )


def _not_reproduced() -> Table:
    return Table(
        "(c) What is not reproduced, and why",
        ("what", "why"),
        (
            ("ImageNet top-1 of any policy", "neither the images nor trained weights can be had where this runs"),
            (
                "the rl policies of the paper",
                "they are not in the abstract, and the reward is an accuracy on ImageNet",
            ),
            (
                "training within the search",
                "HAQ trains an epoch per episode; here policies are scored after post-training quantisation, which is "
                "hundreds of times less work, and the chosen one can be fine-tuned",
            ),
            (
                "non-uniform quantisation, the first experiment's rival",
                "its codebooks need a table look-up for every weight; no kernel here has one",
            ),
        ),
    )
