"""A user's own data: one .npz file with samples and labels, checked before anything is computed from it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.base import Dataset, Images, Labels, Split, digest, fixed_split
from harness.errors import InputError, unknown_name

Array = NDArray[Any]

_KEYS = ("x", "y", "x_test", "y_test", "layout", "mean", "std")
_LAYOUTS = ("NHWC", "NCHW")
# The numbers of channels by which planar samples are recognised when the file does not state its layout.
_USUAL_CHANNELS = (1, 3, 4)
# A tenth of the samples is a split, which must not be empty.
_FEWEST = 10


def read(path: Path) -> Dataset:
    """The dataset in `path`, named after the file.

    x: samples, uint8 or floating point, (N, H, W, C), or (N, C, H, W) where `layout` is "NCHW"; y: classes (N,), whole
    numbers >= 0. x_test, y_test (optional): the test split; without them it is a fixed, shuffled tenth of x. Another
    such tenth of x is the validation split.
    mean, std (optional): numbers or (C,), in x's own units: the network's input is (x - mean) / std. Without them it is
    x / 255 for uint8, and x itself for floating point.

    One std and one mean that is a whole number in 0..255 become input_scale and input_zero_point of uint8 samples; no
    other mean and std can be expressed so: samples are then normalised here, and the dataset's are float32.

    InputError says which array is missing, has the wrong shape or type, or holds NaN, infinite or negative values.
    """
    arrays = _read_arrays(path)
    layout = _layout(path, arrays)
    x, y = _labelled(path, arrays, "x", "y", layout)
    if len(x) < _FEWEST:
        raise InputError(f"{path}: x holds {len(x)} samples; it takes at least {_FEWEST} to split them")
    train_rows, validation_rows, test_rows = fixed_split(len(x))
    if "x_test" in arrays or "y_test" in arrays:
        test_x, test_y = _labelled(path, arrays, "x_test", "y_test", layout)
        if test_x.shape[1:] != x.shape[1:] or test_x.dtype != x.dtype:
            raise InputError(
                f"{path}: samples of x_test are {test_x.dtype} {test_x.shape[1:]}, of x {x.dtype} {x.shape[1:]}"
            )
        train_rows = np.concatenate([train_rows, test_rows])
    else:
        test_x, test_y = x[test_rows], y[test_rows]

    normalisation = _normalisation(path, arrays, x)
    scale: float | None = None
    zero_point: int | None = None
    if x.dtype == np.uint8:
        scale, zero_point = (1 / 255, 0) if normalisation is None else _as_scale(*normalisation)
    if scale is None and normalisation is not None:
        x, test_x = _normalise(x, *normalisation), _normalise(test_x, *normalisation)
    train = Split(x[train_rows], y[train_rows])
    validation = Split(x[validation_rows], y[validation_rows])
    test = Split(test_x, test_y)
    return Dataset(
        name=path.stem,
        train=train,
        validation=validation,
        test=test,
        input_scale=scale,
        input_zero_point=zero_point,
        origin=str(path),
        sha256=digest(train, validation, test),
    )


def _read_arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"data file {path} is not an .npz", hint="write it with numpy.savez(path, x=x, y=y)")
        with file:
            for key in file.files:
                if key not in _KEYS:
                    raise unknown_name(f"array in {path}:", key, _KEYS)
            return {key: file[key] for key in file.files}
    # RuntimeError: encrypted, or packed in a way that zipfile does not know. MemoryError: a header may claim any shape.
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"data file {path} cannot be read: {error}",
            hint="write it with numpy.savez(path, x=x, y=y), from arrays of numbers",
        ) from error


def _layout(path: Path, arrays: dict[str, Array]) -> str:
    if "layout" in arrays:
        layout = str(arrays["layout"])
        if layout not in _LAYOUTS:
            raise InputError(f"{path}: layout is '{layout}', not {' or '.join(_LAYOUTS)}")
        return layout
    shape = arrays["x"].shape if "x" in arrays else ()
    if len(shape) == 4 and shape[1] in _USUAL_CHANNELS and shape[3] not in _USUAL_CHANNELS:
        raise InputError(
            f"{path}: x is {shape}, which looks like (N, C, H, W)",
            hint="store layout='NCHW', or layout='NHWC' if it is not",
        )
    return "NHWC"


def _labelled(path: Path, arrays: dict[str, Array], x_key: str, y_key: str, layout: str) -> tuple[Images, Labels]:
    """Checked samples (N, H, W, C), uint8 or float32, and their labels (N,) int64."""
    for key in (x_key, y_key):
        if key not in arrays:
            raise InputError(f"{path} lacks the array {key}; it has {', '.join(arrays) or 'none'}")
    x, y = arrays[x_key], arrays[y_key]
    if x.ndim != 4 or 0 in x.shape:
        axes = ", ".join(layout)
        raise InputError(f"{path}: {x_key} has shape {x.shape}; expected ({axes}), none of them 0")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InputError(
            f"{path}: {y_key} is {y.dtype} of shape {y.shape}; expected one whole number per sample",
            hint=f"store {y_key}.argmax(axis=1) for one-hot labels",
        )
    if len(x) != len(y):
        raise InputError(f"{path}: {x_key} holds {len(x)} samples, {y_key} holds {len(y)} labels")
    if int(y.min()) < 0:
        raise InputError(f"{path}: {y_key}[{int(y.argmin())}] is {int(y.min())}; classes count from 0")
    if layout == "NCHW":
        x = x.transpose(0, 2, 3, 1)
    if x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.floating):
            raise InputError(
                f"{path}: {x_key} is {x.dtype}; expected uint8 or floating point", hint=f"{x_key}.astype(numpy.float32)"
            )
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        finite = np.isfinite(x).all(axis=(1, 2, 3))
        if not finite.all():
            raise InputError(f"{path}: {x_key}[{int(finite.argmin())}] holds NaN or infinite values")
    return np.ascontiguousarray(x), y.astype(np.int64)


def _normalisation(path: Path, arrays: dict[str, Array], x: Images) -> tuple[Array, Array] | None:
    """mean and std as float64, both scalar or both (C,); None where the file has neither."""
    given = [key for key in ("mean", "std") if key in arrays]
    if not given:
        return None
    if len(given) == 1:
        raise InputError(f"{path} has {given[0]} alone; mean and std belong together")
    channels = x.shape[3]
    values = []
    for key in given:
        if arrays[key].size not in (1, channels) or not np.issubdtype(arrays[key].dtype, np.number):
            raise InputError(f"{path}: {key} must be one number, or one for each of the {channels} channels")
        value = arrays[key].astype(np.float64).reshape(-1)
        if not np.isfinite(value).all() or (key == "std" and not (value > 0).all()):
            raise InputError(f"{path}: {key} is {value.tolist()}; it must be finite, and std above 0")
        values.append(np.broadcast_to(value, channels))
    mean, std = values
    if x.dtype == np.uint8 and (std < 1).any():
        raise InputError(
            f"{path}: std {std.min():g} is in units of x / 255, but x is uint8", hint="multiply mean and std by 255"
        )
    return mean, std


def _as_scale(mean: Array, std: Array) -> tuple[float, int] | tuple[None, None]:
    """(input_scale, input_zero_point) for uint8 samples, or two None where such a pair cannot express mean and std."""
    if np.ptp(mean) == 0 and np.ptp(std) == 0 and mean[0] == np.rint(mean[0]) and 0 <= mean[0] <= 255:
        return float(1 / std[0]), int(mean[0])
    return None, None


def _normalise(x: Images, mean: Array, std: Array) -> NDArray[np.float32]:
    return ((x - mean.astype(np.float32)) / std.astype(np.float32)).astype(np.float32, copy=False)
