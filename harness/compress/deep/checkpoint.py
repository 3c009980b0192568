"""Where an interrupted search stopped: tensors and a JSON note in one safetensors file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.files import write_whole


def save(path: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Writes `tensors` and the JSON-able `note` to `path`; InputError where that is not possible."""
    from safetensors.torch import save as to_bytes

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"note": json.dumps(note), "sha256": _digest(contiguous, note)}
    write_whole(path, to_bytes(contiguous, metadata))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save` wrote, or None where there is nothing. ValueError where the file is damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        note = json.loads(metadata["note"])
        intact = metadata["sha256"] == _digest(tensors, note)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not intact:
        raise ValueError(f"{path.name} is damaged: its checksum differs")
    return tensors, note


def _digest(tensors: dict[str, Tensor], note: dict[str, Any]) -> str:
    state = hashlib.sha256(json.dumps(note).encode())
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].numpy().tobytes())
    return state.hexdigest()
