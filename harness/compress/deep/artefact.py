"""How a shipped network of variant `deep` is made: several seeds, all of them reported, the median one kept.

    python -m harness.compress.deep.artefact lenet5 --output harness/models/weights/lenet5-deep.safetensors \
        --table benchmarks/deep_seeds.json

Only here, after all choices, is the test split looked at. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import fingerprint
from harness.compress.deep.report import DeepReport
from harness.compress.deep.search import accuracy, compress
from harness.data.base import Dataset
from harness.errors import HarnessError, InputError
from harness.files import cache_dir, write_whole
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.models import resolve
from harness.progress import Silent


@dataclass(frozen=True)
class SeedRow:
    """One seed's network. Accuracies in percent; bytes: the cost model's estimate of all constants; minutes: wall."""

    seed: int
    validation_accuracy: float
    test_accuracy: float
    test_loss: float
    nonzero: int
    bytes: int
    entropy_bytes: int
    instructions: int
    nonzero_per_layer: tuple[int, ...]
    outputs_per_layer: tuple[int, ...]
    bytes_per_layer: tuple[int, ...]
    minutes: float
    graph_sha256: str


def make(
    model: str,
    seeds: Sequence[int],
    *,
    accuracy_budget: float,
    output: Path,
    table: Path,
    cache: Path,
    threads: int,
    epochs_scale: float = 1.0,
) -> tuple[SeedRow, ...]:
    """Compresses `model` once per seed; writes the table of all of them and the network of the median seed.

    epochs_scale: lengthens all training.

    Both files are written anew after every seed. The median is taken by test loss, the worse one of an even number, so
    that the shipped network is neither the luckiest nor the unluckiest.
    """
    source = resolve.source(model, None)
    dataset = resolve.dataset(source, None, Silent())
    if source.entry is None or dataset.name != source.entry.dataset:
        raise InputError(f"{model} must be trained on its own dataset, not on {dataset.name}")
    float_graph, weights_sha256 = resolve.float_graph(source, dataset.input_shape)
    float_test = accuracy(float_graph, dataset, "test")
    made: list[tuple[SeedRow, Graph]] = []
    for seed in seeds:

        def progress(fraction: float, text: str, seed: int = seed) -> None:
            print(f"seed {seed}: {fraction:4.0%} {text}", file=sys.stderr, flush=True)

        report = compress(
            float_graph,
            dataset,
            accuracy_budget=accuracy_budget,
            seed=seed,
            cache_dir=cache,
            progress=progress,
            threads=threads,
            epochs_scale=epochs_scale,
        )
        made.append((_row(seed, report, dataset, float_test), report.graph))
        ranked = sorted(made, key=lambda pair: (pair[0].test_loss, pair[0].seed))
        row, graph = ranked[len(ranked) // 2]
        metadata = {
            "variant": "deep",
            "weights_sha256": weights_sha256,
            "dataset": dataset.name,
            "test_accuracy": f"{row.test_accuracy / 100:.4f}",
            "seed": str(row.seed),
        }
        graph_file.save(graph, output, metadata)
        rows = tuple(row for row, _ in made)
        note = {
            "made_by": "python -m harness.compress.deep.artefact " + model,
            "accuracy_budget": accuracy_budget,
            "threads": threads,
            "epochs_scale": epochs_scale,
            "weights_sha256": weights_sha256,
            "dataset": dataset.name,
            "dataset_sha256": dataset.sha256,
            "packages": {name: fingerprint.packages().get(name) for name in ("numpy", "torch")},
            "float_validation_accuracy": round(100 * report.float_validation_accuracy, 4),
            "float_test_accuracy": round(100 * float_test, 4),
            "median_seed": row.seed,
            "bytes_are": "estimates of the search's cost model, not measured in an ELF",
            "seeds": [asdict(each) for each in rows],
        }
        write_whole(table, json.dumps(note, indent=2) + "\n")
    return tuple(row for row, _ in made)


def _row(seed: int, report: DeepReport, dataset: Dataset, float_test: float) -> SeedRow:
    test = accuracy(report.graph, dataset, "test")
    return SeedRow(
        seed=seed,
        validation_accuracy=round(100 * report.validation_accuracy, 4),
        test_accuracy=round(100 * test, 4),
        test_loss=round(100 * (float_test - test), 4),
        nonzero=report.nonzero,
        bytes=report.bytes,
        entropy_bytes=sum(row.entropy_bytes for row in report.layers),
        instructions=sum(row.instructions for row in report.layers),
        nonzero_per_layer=tuple(row.nonzero for row in report.layers),
        outputs_per_layer=tuple(row.outputs for row in report.layers),
        bytes_per_layer=tuple(row.bytes for row in report.layers),
        minutes=round(report.seconds / 60, 2),
        graph_sha256=report.graph.sha256(),
    )


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.compress.deep.artefact", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--accuracy-budget", type=float, default=0.3, help="percentage points on validation")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="lengthens all training")
    arguments = parser.parse_args()
    try:
        rows = make(
            arguments.model,
            arguments.seeds,
            accuracy_budget=arguments.accuracy_budget,
            output=arguments.output,
            table=arguments.table,
            cache=arguments.cache or cache_dir(),
            threads=arguments.threads,
            epochs_scale=arguments.epochs_scale,
        )
    except HarnessError as error:
        print(f"error: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(f"seed {row.seed}: test {row.test_accuracy:.2f} %, loss {row.test_loss:.2f}, {row.bytes:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
