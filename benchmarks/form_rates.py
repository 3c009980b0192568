"""Cycles per instruction of every storage form, memory stalls aside: the figures of harness/codegen/pace.json.

    python benchmarks/form_rates.py [--write]

Builds LeNet-5 with each form that fits a layer of it and profiles that layer on the cycle model of two boards.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from harness import boards, codegen
from harness.codegen.choose import available
from harness.codegen.pace import family
from harness.emulators.simulator.cycles.model import CycleModel
from harness.errors import HarnessError
from harness.pipeline import Compression, RunSpec, build_firmware, prepare
from harness.profiling.profile import profile

BOARDS = ("nucleo-l4r5", "nucleo-f746")
FILE = Path(codegen.__file__).with_name("pace.json")


def measured(variant: str, board_name: str, layer: str, form: str) -> float:
    """Cycles per instruction of one layer in one form."""
    board = boards.load(board_name)
    built = build_firmware(RunSpec("lenet5", board_name, variant=variant, forms=(f"{layer}={form}",)))
    found = profile(board, built.firmware.elf, built.generated, built.data, CycleModel.of(board)).layer(layer).cycles
    return (found.issue + found.operands + found.branch) / found.instructions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"update {FILE.name}")
    arguments = parser.parse_args()
    rates: dict[str, dict[str, list[float]]] = {boards.load(name).core: {} for name in BOARDS}
    for variant in ("int8", "deep"):
        graph = prepare("lenet5", Compression(variant)).graph
        for layer in graph.layers:
            for form in sorted({form.name for form in available(layer)}):
                for name in BOARDS:
                    try:
                        rate = measured(variant, name, layer.name, form)
                    except HarnessError as error:
                        print(f"{variant} {layer.name} {form} on {name}: {error}")
                        break
                    print(f"{variant} {layer.name} {form} on {name}: {rate:.3f} cycles per instruction", flush=True)
                    rates[boards.load(name).core].setdefault(family(form), []).append(rate)
    plain = {
        "about": "benchmarks/form_rates.py: medians over the layers of LeNet-5, int8 and deep, without memory stalls",
        "boards": list(BOARDS),
        "cycles_per_instruction": {
            core: {name: round(statistics.median(found), 3) for name, found in sorted(families.items())}
            for core, families in rates.items()
        },
    }
    print(json.dumps(plain, indent=2))
    if arguments.write:
        FILE.write_text(json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
