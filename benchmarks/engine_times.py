"""How long an engine takes from its start to the first inference, and to program and verify 300 kB.

    python benchmarks/engine_times.py [--board nucleo-f746] [--engine simulator] [--repeat 5]

The first inference is LeNet-5's, with random weights; the 300 kB are random bytes, which no erased page equals. Prints
one JSON object; times in seconds. On a busy machine the wall clock tells how busy it is: the seconds of CPU, of this
process and of the emulator together, tell what the work is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from networks import lenet5

from harness import boards
from harness.boards import Board
from harness.codegen.generate import generate, serialize_input
from harness.emulators.base import Emulator
from harness.emulators.qemu import start_qemu
from harness.emulators.renode import start_renode
from harness.emulators.simulator.launch import start_simulator
from harness.files import cache_dir
from harness.link.client import BoardClient
from harness.link.serial_port import open_port
from harness.probe.session import open_session
from harness.toolchain.platformio import BuildInputs, Firmware, build


def _simulator(board: Board, folder: Path) -> Emulator:
    """With its cycle model, as runs use it."""
    return start_simulator(board, folder, clock_hz=board.clock_hz)


START: dict[str, Callable[[Board, Path], Emulator]] = {
    "simulator": _simulator,
    "qemu": start_qemu,
    "renode": start_renode,
}
PAYLOAD_BYTES = 300_000


def firmware(board: Board) -> tuple[Firmware, bytes, int]:
    """LeNet-5 for the board, one input, and how many layers it has."""
    graph = lenet5(integer=True)
    generated = generate(graph, variant="int8", core=board.core)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 1)).astype(np.uint8)
    built = build(BuildInputs(name="times", files=generated.contents), board, cache_dir=cache_dir())
    return built, serialize_input(graph, image), len(generated.layers)


def payload(board: Board, folder: Path) -> Path:
    """An ELF file with 300 kB at the start of flash. Nobody runs it."""
    (folder / "payload.bin").write_bytes(np.random.default_rng(1).bytes(PAYLOAD_BYTES))
    elf = folder / "payload.elf"
    linker = ["arm-none-eabi-ld", "-b", "binary", f"--section-start=.data={board.region('flash').origin:#x}"]
    subprocess.run([*linker, "-o", str(elf), "payload.bin"], check=True, cwd=folder, timeout=60, capture_output=True)
    return elf


def first_inference(board: Board, engine: str, built: Firmware, data: bytes, layers: int, folder: Path) -> list[float]:
    """Seconds from the start until the session is open, and until the first inference was answered; seconds of CPU in
    all, starting and ending the emulator included.
    """
    started, cpu = time.perf_counter(), cpu_seconds()
    with START[engine](board, folder) as emulator, open_session(board, emulator=emulator) as session:
        opened = time.perf_counter() - started
        session.program(built.elf)
        with open_port(emulator.serial_url) as port:
            session.reset_and_run()
            client = BoardClient(port)
            client.load_input(data)
            client.layer_crcs(layers)
        answered = time.perf_counter() - started
    return [opened, answered, cpu_seconds() - cpu]


def cpu_seconds() -> float:
    """Of this process, and of those that have ended and were waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", default="nucleo-f746", choices=boards.names())
    parser.add_argument("--engine", default="simulator", choices=START)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    board = boards.load(arguments.board)
    built, data, layers = firmware(board)
    with tempfile.TemporaryDirectory(prefix="harness-times-") as name:
        folder = Path(name)
        times = np.array(
            [
                first_inference(board, arguments.engine, built, data, layers, folder)
                for _ in range(arguments.repeat + 1)  # the first one imports pyOCD
            ][1:]
        )
        elf = payload(board, folder)
        with START[arguments.engine](board, folder) as emulator, open_session(board, emulator=emulator) as session:
            programmed = [session.program(elf).seconds for _ in range(arguments.repeat)]
    print(
        json.dumps(
            {
                "board": board.id,
                "engine": arguments.engine,
                "session_open_s": round(statistics.median(times[:, 0]), 3),
                "first_inference_s": round(statistics.median(times[:, 1]), 3),
                "first_inference_best_s": round(float(times[:, 1].min()), 3),
                "first_inference_cpu_s": round(statistics.median(times[:, 2]), 3),
                "program_and_verify_300kB_s": round(statistics.median(programmed), 3),
                "program_and_verify_300kB_best_s": round(min(programmed), 3),
                "repeat": arguments.repeat,
                "load_average": round(os.getloadavg()[0], 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
