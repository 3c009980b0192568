"""The cycle model beside published figures of silicon: runs submitted MLPerf Tiny binaries that you have.

    python benchmarks/cycle_anchors.py FOLDER [--write]

FOLDER holds binaries of the submissions that harness/emulators/simulator/cycles/fitted/anchors.json names; they are
found by their SHA-256, whatever their names. Each boots on the simulated board and infers over the serial line, on an
input of zeros. --write puts what was predicted into the file. Rows of boards without a manifest stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from harness import boards
from harness.emulators.simulator.cycles import parameters
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.machine import Machine

ANCHORS = Path(parameters.__file__).parent / "fitted" / "anchors.json"
_BOOT_SECONDS, _RUN_SECONDS = 60.0, 600.0


def infer(binary: bytes, board: boards.Board, runs: int) -> tuple[int, int]:
    """Cycles and instructions of one inference, between the two time stamps around `runs` of them."""
    machine = Machine(board, cycle_model=CycleModel.of(board))
    machine.write(board.region("flash").origin, binary)
    machine.reset()
    said = bytearray()
    stamps: list[tuple[int, int]] = []

    def transmit(byte: int) -> None:
        said.append(byte)
        if byte == ord("\n"):
            line = bytes(said).rstrip().rpartition(b"\n")[2]
            if line.startswith(b"m-lap-us"):
                stamps.append((machine.cycles, machine.instructions))
            if line in (b"m-ready", b"m-infer-done"):
                machine.request_stop()

    machine.serial.transmit = transmit
    machine.run(timeout=_BOOT_SECONDS)
    stamps.clear()
    machine.serial.feed(b"infer %d 1%%" % runs)
    machine.run(timeout=_RUN_SECONDS)
    if len(stamps) != 2:
        raise SystemExit(f"it did not infer; it said {bytes(said[-200:])!r}")
    (cycles, instructions), (later, more) = stamps
    return round((later - cycles) / runs), round((more - instructions) / runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help=f"update {ANCHORS.name}")
    arguments = parser.parse_args()
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in arguments.folder.rglob("*.bin")}
    plain = json.loads(ANCHORS.read_text())
    for row in plain["rows"]:
        digest = (row["ran"] or {}).get("sha256")
        if digest not in found or row["board"] not in boards.names():
            continue
        # The print between the stamps is a larger share of short inferences.
        runs = 20 if row["published"]["cycles"] < 1_000_000 else 1
        cycles, instructions = infer(found[digest].read_bytes(), boards.load(row["board"]), runs)
        error = cycles / row["published"]["cycles"] - 1
        print(f"{row['id']}: published {row['published']['cycles']:,} cycles, modelled {cycles:,} ({error:+.1%})")
        row["predicted"] = {"cycles": cycles, "instructions": instructions, "error": round(error, 4)}
    if arguments.write:
        ANCHORS.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
