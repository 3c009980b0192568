"""Measures kernels beside CMSIS-NN, for each way in which the library was built, and writes benchmarks/kernels.json.

    python benchmarks/kernels.py --commit 99f736a6 --library=-Ofast=FOLDER --library=-O2=FOLDER [--board BOARD]...

FOLDER: as $HARNESS_CMSIS_NN names it; the flags before it are those that the library was built with.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness import boards
from harness.codegen.baselines.cmsis_nn import VARIABLE
from harness.kernelbench import bench, shapes


def measure(board: str, folder: str) -> list[bench.Measurement]:
    """Every layer with weights of 8, 4 and 2 bits, CMSIS-NN from `folder` beside it, then with activations of 4 bits.

    Pointwise convolutions also with the weights that the kernel for narrow types takes.
    """
    os.environ[VARIABLE] = folder
    layers = [shape for name in shapes.NETWORKS for shape in shapes.of(name)]
    pointwise = [shape for shape in layers if shape.kind == "pointwise"]

    def advance(fraction: float) -> None:
        print(f"\r{board}, {Path(folder).name}: {fraction:4.0%}", end="", file=sys.stderr)

    found = list(bench.measure(boards.load(board), layers, widths=(8, 4, 2), advance=advance))
    found += bench.measure(boards.load(board), layers, widths=(8, 4), activations=(4,), advance=advance)
    for bits, active in ((4, 4), (2, 8)):
        found += bench.measure(
            boards.load(board), pointwise, widths=(bits,), activations=(active,), symmetric=True, advance=advance
        )
    print(file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", required=True, help="of CMSIS-NN")
    parser.add_argument("--library", action="append", required=True, help="FLAGS=FOLDER")
    parser.add_argument("--board", action="append")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for board in arguments.board or ["nucleo-f746"]:
        for library in arguments.library:
            flags, _, folder = library.rpartition("=")
            found = measure(board, folder)
            rows = []
            ratios = zip(bench.ratios(found), bench.ratios(found, "cycles"), strict=True)
            for one, (ratio, by_cycles) in zip(found, ratios, strict=True):
                told = {"ratio": ratio, "ratio_in_cycles": by_cycles}
                rows.append(one.plain() | {name: value and round(value, 3) for name, value in told.items()})
            provenance = {**bench.provenance(boards.load(board)), "cmsis_nn": arguments.commit, "cmsis_nn_flags": flags}
            results.append({**provenance, "measurements": rows})
    target = Path(__file__).resolve().with_suffix(".json")
    target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
