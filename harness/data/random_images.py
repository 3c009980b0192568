"""Seeded random images: something to run a network on where its data cannot be had. Their classes mean nothing."""

from __future__ import annotations

import numpy as np

from harness.data.base import Dataset, Split, digest

NAME = "random-images"

# Images for calibration, and as many to run.
_IMAGES = 16

# Rows and columns of the coarse image under the noise: a network tells smooth images apart better than plain noise.
_COARSE = 4


def load(shape: tuple[int, int, int], classes: int) -> Dataset:
    """Images of (H, W, C) uint8, the same on every machine; the real input is (x - 128) / 64. Labels count up."""
    random = np.random.RandomState(0)
    validation, test = (_split(random, shape, classes) for _ in range(2))
    train = Split(validation.x[:0], validation.y[:0])
    return Dataset(
        name=NAME,
        train=train,
        validation=validation,
        test=test,
        input_scale=1 / 64,
        input_zero_point=128,
        origin="drawn at random with a fixed seed",
        sha256=digest(train, validation, test),
    )


def _split(random: np.random.RandomState, shape: tuple[int, int, int], classes: int) -> Split:
    height, width, channels = shape
    coarse = random.randint(0, 192, (_IMAGES, _COARSE, _COARSE, channels))
    rows, columns = np.arange(height) * _COARSE // height, np.arange(width) * _COARSE // width
    x = coarse[:, rows][:, :, columns] + random.randint(0, 64, (_IMAGES, *shape))
    return Split(x.astype(np.uint8), np.arange(_IMAGES, dtype=np.int64) % classes)
