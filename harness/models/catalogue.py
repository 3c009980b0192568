"""The networks that ship with the harness, and their weights on disk. Listing them imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam, cosine decay to zero after a warm-up of one epoch, cross-entropy.

    shift: every image moves by up to that many pixels each way; rotate: degrees, scale: fraction, both up to that much
    either way; flip: left and right are exchanged for half the images.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class CatalogueEntry:
    """One network. factory: "module:callable" without arguments; input_shape: (H, W, C); weights: file name or None."""

    name: str
    factory: str
    input_shape: tuple[int, int, int]
    classes: int
    dataset: str
    weights: str | None
    recipe: Recipe
    description: str

    @property
    def weights_path(self) -> Path | None:
        """The shipped weights, or None for a network that ships untrained."""
        return None if self.weights is None else _WEIGHTS / self.weights


_ENTRIES = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="lenet5",
            factory="harness.models.lenet5:LeNet5",
            input_shape=(32, 32, 1),
            classes=10,
            dataset="mnist",
            weights="lenet5.safetensors",
            recipe=Recipe(epochs=30, learning_rate=2e-3, batch_size=256, shift=2, rotate=8.0, scale=0.08),
            description="LeNet-5 with ReLU and max-pooling: handwritten digits, 61,706 parameters",
        ),
    )
}


def names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(_ENTRIES))


def entry(name: str) -> CatalogueEntry:
    """The network called `name`; unknown names raise InputError with the nearest ones."""
    if name not in _ENTRIES:
        raise unknown_name("model", name, _ENTRIES)
    return _ENTRIES[name]


def build(entry: CatalogueEntry) -> nn.Module:
    """A new module with the initial weights that torch's global generator gives; `load_weights` fills in trained ones."""
    module, _, factory = entry.factory.partition(":")
    network: nn.Module = getattr(importlib.import_module(module), factory)()
    return network
