"""How long a sweep of 24 runs takes, the second time too, which finds everything done: prints JSON.

    python benchmarks/sweep.py --jobs 2

Three boards, two variants and four seeds of lenet5; images come from a cache of its own that is empty at first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOARDS = ("nucleo-f746", "mps2-an386", "mps2-an500")
VARIANTS = ("int8", "fp32")
SEEDS = (0, 1, 2, 3)
DEADLINE_S = 1800


def sweep(plan: Path, results: Path, cache: Path, jobs: int) -> float:
    """Wall time of one `harness sweep` of the plan, which must succeed."""
    command = [sys.executable, "-m", "harness", "sweep", str(plan), "--jobs", str(jobs), "--results", str(results)]
    environment = {**os.environ, "HARNESS_CACHE": str(cache)}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=DEADLINE_S, check=False)
    if done.returncode:
        sys.exit(f"the sweep failed with exit code {done.returncode}: {done.stderr.strip()}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time; default: all processors")
    parser.add_argument("--samples", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        folder = Path(name)
        plan = folder / "plan.toml"
        boards, variants, seeds = (json.dumps(list(values)) for values in (BOARDS, VARIANTS, SEEDS))
        plan.write_text(
            f'model = "lenet5"\nboards = {boards}\nvariants = {variants}\nseeds = {seeds}\n'
            f"samples = {arguments.samples}\n"
        )
        results, cache = folder / "results", folder / "cache"
        first = sweep(plan, results, cache, arguments.jobs)
        again = sweep(plan, results, cache, arguments.jobs)
        records = len(list((results / "runs").glob("*.json")))
    wanted = len(BOARDS) * len(VARIANTS) * len(SEEDS)
    if records != wanted:
        sys.exit(f"{records} records were written, not {wanted}")
    print(
        json.dumps(
            {
                "runs": records,
                "jobs": arguments.jobs,
                "seconds": round(first, 1),
                "seconds_when_all_is_done": round(again, 1),
                "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
