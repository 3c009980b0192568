"""Opens, programs, runs, checks and closes a board again and again, and counts what is left behind.

    python benchmarks/soak.py [--board nucleo-f746] [--engine simulator] [--cycles 1000] [--minutes 60]

Each cycle is what `harness run` does with a board: start the emulator, open a session, program and verify LeNet-5,
infer, time, close. Every CRC of every layer is compared with the reference. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from networks import lenet5

from harness import boards
from harness.codegen.generate import generate, logical_bytes, serialize_input
from harness.engines import Choice
from harness.errors import DeviceError
from harness.files import cache_dir
from harness.measurement import measure
from harness.progress import Silent
from harness.toolchain.platformio import BuildInputs, build


@dataclass(frozen=True)
class Held:
    """What this process holds: child processes, open descriptors, listening and connected sockets, threads, and the
    files in the folder for temporary ones that it made."""

    processes: int
    descriptors: int
    sockets: int
    threads: int
    temporary_files: int


def held(temporary: Path) -> Held:
    descriptors = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            descriptors.append(str(descriptor.readlink()))
    return Held(
        processes=len(_descendants()),
        descriptors=len(descriptors),
        sockets=sum(target.startswith("socket:") for target in descriptors),
        threads=threading.active_count(),
        temporary_files=sum(1 for _ in temporary.rglob("*")),
    )


def _descendants() -> set[int]:
    """Processes that this one started, and those that they did; also what has ended and was not waited for."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {os.getpid()}} - found:
        found |= more
    return found


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for: what a cycle costs whatever else the machine does."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def soak(board_name: str, engine: str, most_cycles: int, minutes: float) -> dict[str, object]:
    """As many cycles as are wanted, or as fit into the time."""
    board = boards.load(board_name)
    graph = lenet5(integer=True)
    generated = generate(graph, variant="int8", core=board.core)
    firmware = build(BuildInputs(name="soak", files=generated.contents), board, cache_dir=cache_dir())
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1)).astype(np.uint8)
    expected = tuple(
        zlib.crc32(logical_bytes(graph, layer, value[0], generated.layers[index].layout))
        for index, (layer, value) in enumerate(graph.run(image))
    )
    inputs = [serialize_input(graph, image[0])]
    right, seconds, failures = 0, [], []
    before, cpu_before = None, _cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="harness-soak-") as name:
        tempfile.tempdir = name  # where measure() puts its own
        end = time.monotonic() + 60 * minutes
        for cycle in range(most_cycles):
            started = time.monotonic()
            if cycle and started > end:
                break
            try:
                measured = measure(
                    firmware,
                    board,
                    Choice(engine, "soak"),  # type: ignore[arg-type]  # the parser knows them
                    inputs,
                    layers=len(generated.layers),
                    repeat=1,
                    serial=None,
                    reporter=Silent(),
                )
                right += measured.inferences[0].crcs == expected
            except DeviceError as error:
                failures.append(f"cycle {cycle}: {error.message}")
            seconds.append(time.monotonic() - started)
            if cycle == 0:  # pyOCD and the toolchain have been imported by now
                before = held(Path(name))
        after = held(Path(name))
        tempfile.tempdir = None
    assert before is not None
    cycles = len(seconds)
    return {
        "board": board_name,
        "engine": engine,
        "cycles": cycles,
        "right": right,
        "failures": failures,
        "seconds": {
            "median": round(statistics.median(seconds), 3),
            "p95": round(sorted(seconds)[int(0.95 * (cycles - 1))], 3),
            "max": round(max(seconds), 3),
            "mean": round(statistics.mean(seconds), 3),
        },
        "cpu_seconds_per_cycle": round((_cpu_seconds() - cpu_before) / cycles, 3),
        "load_average": round(os.getloadavg()[1], 1),
        "held_after_first_cycle": asdict(before),
        "held_after_last_cycle": asdict(after),
        "leaked": {key: value - getattr(before, key) for key, value in asdict(after).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", default="nucleo-f746", choices=boards.names())
    parser.add_argument("--engine", default="simulator", choices=("simulator", "qemu", "renode"))
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long, with fewer cycles")
    arguments = parser.parse_args()
    print(json.dumps(soak(arguments.board, arguments.engine, arguments.cycles, arguments.minutes), indent=2))


if __name__ == "__main__":
    main()
