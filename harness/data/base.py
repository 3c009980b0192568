"""The record every dataset is handed over as, and what the readers share. Reads no files and knows no dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8] | NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their classes. x: (N, H, W, C), uint8 or float32; y: (N,) int64, 0 <= y."""

    x: Images
    y: Labels

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One dataset in three splits: parameters are fitted to `train`, choices made on `validation`, figures on `test`.

    input_scale, input_zero_point: for uint8 samples the network's real input is input_scale * (x - input_zero_point);
        both are None for float32 samples, which are the network's input themselves.
    origin: where the samples came from, for people; says so where it is a fall-back for another dataset.
    sha256: over the arrays of all splits (see `digest`), so it does not depend on how the files were packed.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    input_scale: float | None
    input_zero_point: int | None
    origin: str
    sha256: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one sample."""
        height, width, channels = self.test.x.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """One more than the largest class in any split."""
        return 1 + max(int(split.y.max(initial=-1)) for split in (self.train, self.validation, self.test))

    def network_input(self, x: Images) -> NDArray[np.float32]:
        """What the float network sees for the samples x (N, H, W, C): float32, same shape."""
        if self.input_scale is None or self.input_zero_point is None:
            return x.astype(np.float32, copy=False)
        return np.float32(self.input_scale) * (x.astype(np.float32) - np.float32(self.input_zero_point))


def digest(*splits: Split) -> str:
    """SHA-256 over shape, dtype and little-endian bytes of every split's x and y, in the order given."""
    state = hashlib.sha256()
    for split in splits:
        arrays: tuple[NDArray[Any], ...] = (split.x, split.y)
        for array in arrays:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            state.update(f"{little.shape}{little.dtype.str}".encode())
            state.update(little.data)
    return state.hexdigest()


def fixed_split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The fixed 80/10/10 split of `count` samples: indices of train, validation and test.

    RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    """
    order = np.random.RandomState(0).permutation(count).astype(np.int64)
    held_out = count // 10
    return order[2 * held_out :], order[:held_out], order[held_out : 2 * held_out]
