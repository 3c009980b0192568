"""Whole networks on the cycle model, CMSIS-NN beside ours on the same integers: benchmarks/whole_networks.json.

    python benchmarks/whole_networks.py [--commit 99f736a6 --library=-Ofast=FOLDER]

FOLDER: as $HARNESS_CMSIS_NN names it; before it the flags that the library was built with. Without one, only ours are
measured and what was measured of the library goes. benchmarks/readme.py puts the table into the README.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import record, row

# The four networks of MLPerf Tiny, and MobileNetV1 for ImageNet: model, board, samples.
NETWORKS = (
    ("resnet8", "nucleo-f746", 3),
    ("resnet8", "nucleo-l4r5", 3),
    ("ds-cnn", "nucleo-f746", 3),
    ("ds-cnn", "nucleo-l4r5", 3),
    ("mobilenet-v1-0.25-vww", "nucleo-f746", 2),
    ("mobilenet-v1-0.25-vww", "nucleo-l4r5", 2),
    ("autoencoder", "nucleo-f746", 3),
    ("autoencoder", "nucleo-l4r5", 3),
    ("mobilenet-v1-0.25-96", "nucleo-f746", 2),
)
# The most inferences per second that MLPerf Tiny's results list for these chips at these clocks, of any submitter.
PUBLISHED = {
    ("resnet8", "nucleo-f746"): 15.99,
    ("ds-cnn", "nucleo-f746"): 56.34,
    ("mobilenet-v1-0.25-vww", "nucleo-f746"): 29.34,
    ("autoencoder", "nucleo-f746"): 585.0,
    ("resnet8", "nucleo-l4r5"): 6.04,
    ("ds-cnn", "nucleo-l4r5"): 23.03,
    ("mobilenet-v1-0.25-vww", "nucleo-l4r5"): 11.18,
    ("autoencoder", "nucleo-l4r5"): 208.6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="of CMSIS-NN")
    parser.add_argument("--library", help="FLAGS=FOLDER")
    arguments = parser.parse_args()
    flags, _, folder = (arguments.library or "").rpartition("=")
    if bool(arguments.commit) != bool(folder):
        parser.error("--commit and --library go together")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for model, board, samples in NETWORKS:
            run = (model, "-b", board, "-n", str(samples), "--repeat", "1")
            library = None
            if folder:
                library = row(record(Path(name), *run, "--kernels", "cmsis-nn", cmsis_nn=folder))
            published = PUBLISHED.get((model, board))
            rows.append({**row(record(Path(name), *run)), "cmsis_nn": library, "published_per_second": published})
            print(f"measured {model} on {board}", file=sys.stderr)
    found = {"cmsis_nn": {"commit": arguments.commit, "flags": flags} if folder else None, "networks": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
