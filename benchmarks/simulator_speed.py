"""How many instructions a second the simulator executes while it counts cycles, by what counts and what is watched.

    python benchmarks/simulator_speed.py [--board nucleo-f746 --board nucleo-h743] [--seconds 1] [--rounds 5]

The firmware is LeNet-5 with random weights; only inferences are timed. All ways take turns, `--rounds` times, and the
median of each counts: where a machine is busy with other things, the ratios still hold. Prints one JSON object; speeds
in million instructions per second of this process's time.

    blocks    a cycle model whose data memory never waits: the counter in C sees blocks of code only
    watched   the board's model; the counter in C sees the accesses that may wait
    hooked    the same figures from hooks on every access, as it is done where Unicorn does not let the others be told
    python    the same figures from the counter in Python
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

from engine_times import firmware

from harness import boards
from harness.boards import Board
from harness.emulators.simulator.cycles import accelerator
from harness.emulators.simulator.cycles.model import CycleModel
from harness.profiling.bench import Bench

WAYS = ("blocks", "watched", "hooked", "python")


def _replaced(way: str) -> AbstractContextManager[object]:
    """Machines that are made meanwhile count that way."""
    match way:
        case "hooked":
            return mock.patch.object(accelerator, "split_size_offset", lambda _: None)
        case "python":
            return mock.patch.object(accelerator, "library", lambda: None)
    return nullcontext()


def bench(board: Board, elf: Path, data: bytes, way: str) -> Bench:
    """A machine that counts that way, warm and with its input loaded."""
    model = CycleModel.of(board)
    if way == "blocks":
        model = dataclasses.replace(model, memory=dataclasses.replace(model.memory, data=None))
    with _replaced(way):
        made = Bench(board, elf, model)
    made.client.load_input(data)
    made.client.ticks(1)
    return made


def speed(made: Bench, seconds: float) -> float:
    """Million instructions per second of CPU."""
    before, begun, spent = made.machine.instructions, time.process_time(), 0.0
    while spent < seconds:
        made.client.ticks(4)
        spent = time.process_time() - begun
    return (made.machine.instructions - before) / spent / 1e6


def measure(board: Board, seconds: float, rounds: int) -> dict[str, object]:
    """The speeds of all ways and, of the accelerated ones, the share of `blocks`' speed that is left."""
    built, data, _ = firmware(board)
    made = {way: bench(board, built.elf, data, way) for way in WAYS}
    seen: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            seen[way].append(speed(made[way], seconds))
    medians = {way: statistics.median(speeds) for way, speeds in seen.items()}
    return {
        "million_instructions_per_second": {way: round(median, 1) for way, median in medians.items()},
        "of_blocks": {way: round(medians[way] / medians["blocks"], 2) for way in ("watched", "hooked")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", action="append", choices=boards.names())
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if accelerator.library() is None:
        parser.error("this machine has no compiler for the counter in C")
    names = arguments.board or ["nucleo-f746", "nucleo-l4r5", "nucleo-h743"]
    found = {name: measure(boards.load(name), arguments.seconds, arguments.rounds) for name in names}
    print(json.dumps({"boards": found, "load_average": round(os.getloadavg()[0], 1)}, indent=2))


if __name__ == "__main__":
    main()
