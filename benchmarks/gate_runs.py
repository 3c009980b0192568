"""How often the gate is wrong: unchanged runs that it would stop, and runs slowed by 1 % that it would let pass.

    python benchmarks/gate_runs.py --runs 20

Runs lenet5 on QEMU, compares every run with the first as `harness regress` does, and prints JSON. The slow image is the
same network with a loop of about 1 % of its instructions in front of the first layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from harness import pipeline
from harness.boards import Board
from harness.codegen.choose import Room
from harness.codegen.generate import Generated
from harness.graph.graph import Graph
from harness.pipeline import RunSpec
from harness.results import baseline
from harness.results.record import Result

# Instructions of one round, as a Cortex-M4 runs it at -O1 to -O3: load, compare or subtract, store, load, branch.
ROUND_INSTRUCTIONS = 5
HEAD = "void network_infer(nn_observer observer)\n{\n"


@contextmanager
def slowed(instructions: int) -> Iterator[None]:
    """Networks generated meanwhile take about so many instructions more."""
    generate = pipeline._generated

    def with_loop(spec: RunSpec, graph: Graph, board: Board, room: Room) -> Generated:
        made = generate(spec, graph, board, room)
        source = made.files["network.c"]
        if source.count(HEAD) != 1:
            raise RuntimeError("network_infer() begins in another way than this benchmark knows")
        rounds = max(1, instructions // ROUND_INSTRUCTIONS)
        loop = f"    for (volatile uint32_t rounds = {rounds}u; rounds; rounds--) {{\n    }}\n"
        return dataclasses.replace(made, files={**made.files, "network.c": source.replace(HEAD, HEAD + loop)})

    with mock.patch.object(pipeline, "_generated", with_loop):
        yield


def moved(reference: Result, record: Result) -> bool:
    """Whether the gate stops this run."""
    return bool(baseline.compare(baseline.stable(reference), record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each kind; 5 if left out")
    parser.add_argument("--board", default="mps2-an386")
    parser.add_argument("--samples", type=int, default=5)
    arguments = parser.parse_args()
    spec = RunSpec(model="lenet5", board=arguments.board, engine="qemu", samples=arguments.samples)

    started = time.perf_counter()
    reference = pipeline.run(spec).result
    unchanged = [pipeline.run(spec).result for _ in range(arguments.runs)]
    with slowed(round(reference.latency.median / 100)):
        slow = [pipeline.run(spec).result for _ in range(arguments.runs)]
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "board": arguments.board,
                "runs": arguments.runs,
                "false_alarms": sum(moved(reference, record) for record in unchanged),
                "slowed_by": round(slow[0].latency.median / reference.latency.median - 1, 5),
                "caught": sum(moved(reference, record) for record in slow),
                "seconds": round(seconds, 1),
                "seconds_per_run": round(seconds / (1 + 2 * arguments.runs), 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
