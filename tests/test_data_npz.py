"""A user's .npz: what is accepted, what it becomes, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import data
from harness.data import npz
from harness.errors import InputError

RNG = np.random.RandomState(1)
X = RNG.randint(0, 256, (50, 6, 5, 3)).astype(np.uint8)
Y = RNG.randint(0, 4, 50)


def write(folder: Path, **arrays: Any) -> Path:
    path = folder / "my data.npz"
    np.savez(path, **arrays)
    return path


def test_split_is_fixed_disjoint_and_complete(tmp_path: Path) -> None:
    x = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    dataset = npz.read(write(tmp_path, x=x, y=np.arange(100)))
    parts = [split.x.ravel().tolist() for split in (dataset.train, dataset.validation, dataset.test)]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(100))
    assert parts[1] == [26, 86, 2, 55, 75, 93, 16, 73, 54, 95]
    assert (dataset.test.y == dataset.test.x.ravel()).all()
    assert dataset.name == "my data"


def test_test_split_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    dataset = npz.read(write(tmp_path, x=X, y=Y, x_test=X[:7], y_test=Y[:7]))
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [45, 5, 7]
    assert (dataset.test.x == X[:7]).all() and (dataset.test.y == Y[:7]).all()


def test_planar_samples_become_channels_last(tmp_path: Path) -> None:
    planar = npz.read(write(tmp_path, x=X.transpose(0, 3, 1, 2), y=Y, layout="NCHW"))
    assert planar.input_shape == (6, 5, 3)
    assert planar.sha256 == npz.read(write(tmp_path, x=X, y=Y)).sha256


def test_planar_samples_without_a_layout_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looks like") as caught:
        npz.read(write(tmp_path, x=X.transpose(0, 3, 1, 2), y=Y))
    assert "NCHW" in (caught.value.hint or "")


def test_bytes_are_fractions_of_255_unless_told_otherwise(tmp_path: Path) -> None:
    dataset = npz.read(write(tmp_path, x=X, y=Y))
    assert (dataset.input_scale, dataset.input_zero_point) == (1 / 255, 0)


def test_mean_and_std_become_scale_and_zero_point(tmp_path: Path) -> None:
    dataset = npz.read(write(tmp_path, x=X, y=Y, mean=128, std=np.array([64.0])))
    assert dataset.train.x.dtype == np.uint8
    assert (dataset.input_scale, dataset.input_zero_point) == (1 / 64, 128)
    np.testing.assert_allclose(dataset.network_input(dataset.test.x), (dataset.test.x - 128.0) / 64)


@pytest.mark.parametrize(
    ("mean", "std"),
    [(127.5, 64.0), (300.0, 64.0), ([120.0, 121.0, 122.0], 60.0), (128.0, [60.0, 61.0, 62.0])],
    ids=["fraction", "out of range", "means per channel", "stds per channel"],
)
def test_mean_and_std_that_no_scale_expresses_are_applied_here(tmp_path: Path, mean: Any, std: Any) -> None:
    dataset = npz.read(write(tmp_path, x=X, y=Y, x_test=X, y_test=Y, mean=mean, std=std))
    assert (dataset.input_scale, dataset.input_zero_point) == (None, None)
    assert dataset.test.x.dtype == dataset.train.x.dtype == np.float32
    expected = (X - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(dataset.network_input(dataset.test.x), expected, rtol=1e-6, atol=1e-6)


def test_floats_are_the_network_input_themselves(tmp_path: Path) -> None:
    x = X.astype(np.float64) / 10
    dataset = npz.read(write(tmp_path, x=x, y=Y, x_test=x, y_test=Y))
    assert dataset.test.x.dtype == np.float32 and dataset.input_scale is None
    np.testing.assert_array_equal(dataset.network_input(dataset.test.x), x.astype(np.float32))


FLOATS = X.astype(np.float32)
WITH_NAN = FLOATS.copy()
WITH_NAN[17, 0, 0, 0] = np.nan
WITH_INF = FLOATS.astype(np.float64)
WITH_INF[3, 1, 1, 1] = 1e300


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": X}, "lacks the array y; it has x"),
        ({"x": X, "y": Y, "x_test": X}, "lacks the array y_test"),
        ({"x": X, "y": Y, "labels": Y}, "unknown array in .*'labels'"),
        ({"x": X[..., 0], "y": Y}, r"x has shape \(50, 6, 5\); expected \(N, H, W, C\)"),
        ({"x": X[:0], "y": Y[:0]}, "none of them 0"),
        ({"x": X[:9], "y": Y[:9]}, "9 samples; it takes at least 10"),
        ({"x": X.astype(np.int16), "y": Y}, "x is int16"),
        ({"x": X, "y": Y[:-1]}, "50 samples, y holds 49 labels"),
        ({"x": X, "y": Y.astype(float)}, "y is float64"),
        ({"x": X, "y": np.eye(4, dtype=int)[Y]}, "one whole number per sample"),
        ({"x": X, "y": Y - 1}, "classes count from 0"),
        ({"x": WITH_NAN, "y": Y}, r"x\[17\] holds NaN"),
        ({"x": WITH_INF, "y": Y}, r"x\[3\] holds NaN or infinite"),
        ({"x": X, "y": Y, "x_test": X[:, :5], "y_test": Y}, "samples of x_test are"),
        ({"x": X, "y": Y, "x_test": FLOATS, "y_test": Y}, "samples of x_test are"),
        ({"x": X, "y": Y, "layout": "HWCN"}, "layout is 'HWCN', not NHWC or NCHW"),
        ({"x": X, "y": Y, "mean": 1}, "mean alone"),
        ({"x": X, "y": Y, "mean": [1, 2], "std": 1}, "mean must be one number, or one for each of the 3 channels"),
        ({"x": X, "y": Y, "mean": "a", "std": 1}, "mean must be one number"),
        ({"x": X, "y": Y, "mean": 0, "std": 0}, "std above 0"),
        ({"x": X, "y": Y, "mean": np.nan, "std": 1}, "must be finite"),
        ({"x": X, "y": Y, "mean": 0.1307, "std": 0.3081}, r"units of x / 255"),
        ({"x": np.array([{"a": 1}] * 50), "y": Y}, "cannot be read"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(InputError, match=complaint) as caught:
        npz.read(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"plain text"])
def test_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        npz.read(path)


def test_bare_array_is_no_npz(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match=r"not an \.npz"):
        npz.read(tmp_path / "x.npz")


def test_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[len(X.tobytes()) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        npz.read(path)


@pytest.mark.parametrize(("offset", "value"), [(6, 255), (8, 1), (10, 99)], ids=["version", "encrypted", "packing"])
def test_an_archive_that_python_cannot_open_is_refused(tmp_path: Path, offset: int, value: int) -> None:
    path = write(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        npz.read(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        data.load(str(tmp_path / "none.npz"))
