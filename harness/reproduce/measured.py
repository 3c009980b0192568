"""Figures that not every machine can measure again, kept with what they came from: CMSIS-NN's, whose code is not ours.

`harness reproduce` writes them where CMSIS-NN is at hand and reads them where it is not.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.codegen.baselines import cmsis_nn
from harness.errors import InputError
from harness.reproduce.experiment import Accuracy, Figures

_SCHEMA = 1
_GIT_SECONDS = 10.0


@dataclass(frozen=True)
class Measured:
    """accuracy: None where it was not taken. provenance: the library's version, and when and from what it was built."""

    figures: tuple[Figures, ...]
    accuracy: Accuracy | None
    provenance: dict[str, str]


def name(model: str) -> str:
    """The file of a network's figures, in the folder of the papers' pages."""
    return f"measured/cmsis-nn-{model}.json"


def provenance() -> dict[str, str]:
    """What identifies the CMSIS-NN at hand: its commit where it is a git checkout, and a hash of what is used of it."""
    sources = cmsis_nn.sources()
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()
    commit = _git(cmsis_nn.root(), "rev-parse", "HEAD")
    version = _git(cmsis_nn.root(), "describe", "--tags", "--always")
    return {
        "library": "CMSIS-NN, Apache-2.0, https://github.com/ARM-software/CMSIS-NN",
        "version": version or "unknown",
        "commit": commit or "unknown",
        "sources_sha256": digest,
        "requantization": "CMSIS_NN_USE_SINGLE_ROUNDING",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def content(measured: Measured) -> bytes:
    """The figures as a file."""
    fields = {
        "schema": _SCHEMA,
        "provenance": measured.provenance,
        "figures": [{**entry.to_json(), "origin": ""} for entry in measured.figures],
        "accuracy": None if measured.accuracy is None else vars(measured.accuracy),
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def merged(new: Measured, earlier: Measured | None) -> Measured:
    """What is to be kept: the new figures, and those of other boards where the same library was measured before."""
    if earlier is None or earlier.provenance["sources_sha256"] != new.provenance["sources_sha256"]:
        return new
    taken = {(entry.label, entry.board) for entry in new.figures}
    others = tuple(entry for entry in earlier.figures if (entry.label, entry.board) not in taken)
    return Measured((*new.figures, *others), new.accuracy or earlier.accuracy, new.provenance)


def load(folders: Sequence[Path], model: str) -> Measured | None:
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
        return Measured(
            figures=tuple(Figures.from_json(entry, origin=origin) for entry in raw["figures"]),
            accuracy=None if raw["accuracy"] is None else Accuracy(**raw["accuracy"]),
            provenance=source,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not a file that this harness wrote: {error}",
            hint=f"set {cmsis_nn.VARIABLE}, then run harness reproduce again: it writes the file anew",
        ) from error


def available() -> bool:
    """Whether CMSIS-NN is at hand."""
    try:
        cmsis_nn.root()
    except InputError:
        return False
    return True


def _git(folder: Path, *arguments: str) -> str:
    """git's answer about the checkout in `folder` itself, empty where it is none."""
    if not (folder / ".git").exists():
        return ""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
