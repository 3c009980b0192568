"""Figures of CMSIS-NN that were measured once, kept for machines without it: its code is not ours.

`harness reproduce` measures it where the user has built it, and reads these where he has not. They are of the library
compiled at -O2, -O3 and -Ofast; it never writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import boards
from harness.codegen.baselines import cmsis_nn
from harness.errors import InputError
from harness.reproduce.experiment import Accuracy, Figures

_SCHEMA = 1


@dataclass(frozen=True)
class Kept:
    """accuracy: None where it was not taken. provenance: the library's version and commit, and when it was measured."""

    figures: tuple[Figures, ...]
    accuracy: Accuracy | None
    provenance: dict[str, str]


def name(model: str) -> str:
    """The file of a network's figures, in the folder of the papers' pages."""
    return f"measured/cmsis-nn-{model}.json"


def load(folders: Sequence[Path], model: str) -> Kept | None:
    """The figures in the first results folder that has them; None without any. InputError for a damaged file."""
    files = [folder / "reproduce" / name(model) for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        raw: dict[str, Any] = json.loads(file.read_bytes())
        if raw["schema"] != _SCHEMA:
            raise ValueError(f"schema {raw['schema']}")
        source = raw["provenance"]
        origin = f"CMSIS-NN {source['version']}, measured {source['date']}"
        return Kept(
            figures=tuple(Figures.from_json(entry, origin=origin) for entry in raw["figures"]),
            accuracy=None if raw["accuracy"] is None else Accuracy(**raw["accuracy"]),
            provenance=source,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} does not hold kept figures: {error}",
            hint="take it from the repository again, or remove it: the figures are left out then",
        ) from error


def available(board: str) -> bool:
    """Whether the user has built CMSIS-NN for the board's core."""
    return cmsis_nn.available(boards.load(board).core)


def identity(board: str) -> str:
    """What identifies the library that the user built for the board's core: the start of its SHA-256."""
    (archive,) = cmsis_nn.library(boards.load(board).core).archives.values()
    return hashlib.sha256(archive).hexdigest()[:16]


def notes(kept: Kept | None, built: Mapping[str, str]) -> list[str]:
    """What a page says about its figures of CMSIS-NN. kept: whose are in it. built: `identity` of each board's."""
    found = []
    if built:
        libraries = ", ".join(f"{board}: SHA-256 {digest}" for board, digest in built.items())
        found.append(f"CMSIS-NN as its user built it ({libraries}), measured in this run.")
    if kept is not None:
        source = kept.provenance
        found.append(
            f"CMSIS-NN {source['version']} (commit {source['commit']}, {source['requantization']}): figures kept of "
            f"{source['date']}, of the library compiled at the level that is given."
        )
    return found
