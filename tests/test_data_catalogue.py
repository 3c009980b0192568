"""Datasets by name: the order in which places are searched, the fall-back, and the image set that has none."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import data
from harness.data import cifar10
from harness.data.base import Dataset, Split, digest, fixed_split
from harness.errors import InputError
from harness.progress import Silent


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which the download has just failed, so that it is not attempted."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / ".unreachable").write_text("no network")
    return tmp_path


def test_without_mnist_the_digits_stand_in_and_say_so(offline: Path) -> None:
    told = Told()
    dataset = data.load("mnist", cache=offline, reporter=told)
    assert dataset.name == "digits8x8"
    assert "in place of mnist" in dataset.origin and "no network" in dataset.origin
    assert len(told.lines) == 1 and "digits8x8" in told.lines[0] and "HARNESS_DATA" in told.lines[0]


def test_digits_are_the_same_everywhere(offline: Path) -> None:
    dataset = data.load("digits8x8", cache=offline)
    assert "in place of" not in dataset.origin
    assert (dataset.input_shape, dataset.classes, dataset.train.x.dtype) == ((32, 32, 1), 10, np.uint8)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [1439, 179, 179]
    assert dataset.test.x.max() == 255 and not dataset.test.x[:, :6].any()
    assert dataset.sha256.startswith("139769b6a983")


def test_half_a_dataset_is_not_replaced_by_another(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = offline / "configured"
    root.mkdir()
    (root / "train-images-idx3-ubyte.gz").write_bytes(b"")
    monkeypatch.setenv("HARNESS_DATA", str(root))
    with pytest.raises(InputError, match="only part of MNIST"):
        data.load("mnist", cache=offline)


def test_unknown_name_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown dataset 'minst'") as caught:
        data.load("minst", cache=tmp_path)
    assert "mnist" in (caught.value.hint or "") and ".npz" in (caught.value.hint or "")


# ---- base


def test_network_input_undoes_the_quantisation() -> None:
    x = np.array([0, 128, 255], np.uint8).reshape(3, 1, 1, 1)
    split = Split(x, np.arange(3))
    dataset = Dataset("d", split, split, split, 0.5, 128, "here", "")
    assert dataset.network_input(x).ravel().tolist() == [-64.0, 0.0, 63.5]
    assert dataset.network_input(x).dtype == np.float32


def test_digest_depends_on_content_order_shape_and_type() -> None:
    x, y = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1])
    one, other = Split(x, y), Split(x[::-1], y)
    variants = [
        digest(one, other),
        digest(other, one),
        digest(Split(x.reshape(2, 4, 1, 1), y), other),
        digest(Split(x.astype(np.float32), y), other),
    ]
    assert len(set(variants)) == 4
    assert digest(Split(np.asfortranarray(x), y.astype(">i8")), other) == variants[0]


@pytest.mark.parametrize("count", [10, 57, 1000])
def test_fixed_split_is_a_partition(count: int) -> None:
    parts = fixed_split(count)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert len(parts[1]) == len(parts[2]) == count // 10


# ---- cifar10-jpeg, on a set of the same form with fewer images


def jpeg(color: tuple[int, int, int], side: int = 32) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (side, side), color).save(content, "JPEG", quality=95)
    return content.getvalue()


def write_archive(path: Path, *, leave_out: str = "", replace: dict[str, bytes] | None = None) -> Path:
    """Two training images and one test image per class; the colour says class, split and number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as tar:
        for split, count in (("train", 2), ("test", 1)):
            for label, name in enumerate(cifar10.CLASSES):
                for number in range(count):
                    member = f"./{split}/{name}/{number:04}.jpg"
                    if member == leave_out:
                        continue
                    content = (replace or {}).get(member) or jpeg((20 * label, 100 * number, 200))
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(cifar10, "_TEST_PER_CLASS", 1)
    monkeypatch.setattr(cifar10, "_VALIDATION_PER_CLASS", 1)


def test_images_are_decoded_once_in_balanced_order(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "data" / "cifar10" / "CIFAR-10-images_small.tar.xz")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    cache = tmp_path / "cache"
    dataset = data.load("cifar10-jpeg", cache=cache)
    assert dataset.name == "cifar10-jpeg" and str(archive) in dataset.origin
    for split, number in ((dataset.train, 0), (dataset.validation, 1), (dataset.test, 0)):
        assert split.y.tolist() == list(range(10))
        expected = [(20 * label, 100 * number, 200) for label in range(10)]
        np.testing.assert_allclose(split.x.mean(axis=(1, 2)), expected, atol=4)
    (kept,) = cache.iterdir()
    monkeypatch.setattr(cifar10, "_decode", lambda *_: pytest.fail("decoded twice"))
    assert data.load("cifar10-jpeg", cache=cache).sha256 == dataset.sha256
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:1000])
    monkeypatch.setattr(cifar10, "_TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(cifar10, "_TEST_PER_CLASS", 1)
    monkeypatch.setattr(cifar10, "_VALIDATION_PER_CLASS", 1)
    assert cifar10.read(archive, cache).sha256 == dataset.sha256


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"leave_out": "./test/dog/0000.jpg"}, "incomplete: 1 of 10 test images"),
        ({"replace": {"./train/cat/0001.jpg": b"not a JPEG"}}, "damaged after .*cat/0001"),
        ({"replace": {"./train/cat/0001.jpg": jpeg((0, 0, 0), side=16)}}, "16 x 16"),
    ],
)
def test_unusable_archive_is_named(small: None, tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    archive = write_archive(tmp_path / "CIFAR-10-images.tar.xz", **change)
    with pytest.raises(InputError, match=complaint) as caught:
        cifar10.read(archive, tmp_path / "cache")
    assert str(archive) in caught.value.message
    assert not (tmp_path / "cache").exists()


def test_archive_cut_short(small: None, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "CIFAR-10-images.tar.xz")
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        cifar10.read(archive, tmp_path / "cache")


def test_missing_image_set_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "mine"))
    with pytest.raises(InputError, match="no CIFAR-10-images") as caught:
        data.load("cifar10-jpeg", cache=tmp_path / "cache")
    assert str(tmp_path / "mine" / "cifar10") in (caught.value.hint or "")
