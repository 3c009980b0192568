"""scikit-learn's bundled 8 x 8 digits, enlarged to LeNet-5's input: what is left where MNIST cannot be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.data.base import Dataset, Split, digest, fixed_split

# MNIST's digits fill a box of 20 x 20 pixels: enlarged to that box, a network trained on MNIST still reads these.
_BOX = 20
_SIDE = 32


def load(*, reason: str | None = None) -> Dataset:
    """1,797 images as (32, 32, 1) uint8, dataset name "digits8x8"; the real input is x / 255.

    reason: why the digits stand in for MNIST; it goes into `origin`.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = _enlarge(digits.images.astype(np.int64))
    y = digits.target.astype(np.int64)
    train, validation, test = (Split(x[rows], y[rows]) for rows in fixed_split(len(y)))
    origin = "scikit-learn's bundled 8x8 digits, enlarged to 32x32"
    return Dataset(
        name="digits8x8",
        train=train,
        validation=validation,
        test=test,
        input_scale=1 / 255,
        input_zero_point=0,
        origin=f"{origin}, in place of mnist: {reason}" if reason else origin,
        sha256=digest(train, validation, test),
    )


def _enlarge(images: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(N, 8, 8) in 0..16 to (N, 32, 32, 1) in 0..255: bilinear, in integers, so that every machine gets the same."""
    side = images.shape[1]
    # Pixel i of the box lies at ((2 i + 1) side / box - 1) / 2 of the source: whole 1 / (2 box) steps.
    steps = 2 * _BOX
    position = np.clip((2 * np.arange(_BOX) + 1) * side - _BOX, 0, (side - 1) * steps)
    low = np.minimum(position // steps, side - 2)
    weights = np.zeros((_BOX, side), np.int64)
    weights[np.arange(_BOX), low + 1] = position - low * steps
    weights[np.arange(_BOX), low] = steps - weights[np.arange(_BOX), low + 1]
    enlarged = weights @ images @ weights.T
    full = 16 * steps**2
    margin = (_SIDE - _BOX) // 2
    canvas = np.zeros((len(images), _SIDE, _SIDE, 1), np.uint8)
    canvas[:, margin:-margin, margin:-margin, 0] = (enlarged * 255 + full // 2) // full
    return canvas
