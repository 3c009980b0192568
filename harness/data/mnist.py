"""MNIST (LeCun, Cortes, Burges) from its four IDX files: found in a folder, or downloaded into the user's cache."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.base import Dataset, Split, digest
from harness.errors import InputError

# LeNet-5 was drawn for 32 x 32: two zero pixels on each side of the 28 x 28 image.
_PADDING = 2
_VALIDATION = 5_000

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
CONNECT_SECONDS = 3.0

# (received bytes, total bytes or None, file name)
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class _Idx:
    """One of the four files. md5: as published, of the .gz; sha256: of the content, however it is packed."""

    name: str
    pattern: str
    shape: tuple[int, ...]
    md5: str
    sha256: str


_TRAIN_IMAGES = _Idx(
    "train-images-idx3-ubyte.gz",
    "*train-images*",
    (60_000, 28, 28),
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
_TRAIN_LABELS = _Idx(
    "train-labels-idx1-ubyte.gz",
    "*train-labels*",
    (60_000,),
    "d53e105ee54ea40749a09fcbcd1e9432",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
_TEST_IMAGES = _Idx(
    "t10k-images-idx3-ubyte.gz",
    "*t10k-images*",
    (10_000, 28, 28),
    "9fb629c4189551a2d022fa330f9573f3",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
_TEST_LABELS = _Idx(
    "t10k-labels-idx1-ubyte.gz",
    "*t10k-labels*",
    (10_000,),
    "ec29112dd5afa0611ce80d1b7f02629c",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FILES = (_TRAIN_IMAGES, _TRAIN_LABELS, _TEST_IMAGES, _TEST_LABELS)


class DownloadError(InputError):
    """MNIST is in none of the folders and no mirror could be reached."""


def find(folders: Sequence[Path]) -> Path | None:
    """The first of `folders` (or its mnist/ or MNIST/raw/ subfolder) that holds MNIST's IDX files, packed or not.

    InputError where a folder has some of the four files but not all: a half-copied set is a mistake to be told about.
    """
    for folder in folders:
        for candidate in (folder, folder / "mnist", folder / "MNIST" / "raw"):
            present = [_match(candidate, file) for file in _FILES]
            if all(present):
                return candidate
            if any(present):
                missing = next(file.pattern for file, path in zip(_FILES, present, strict=True) if path is None)
                raise InputError(
                    f"{candidate} holds only part of MNIST: no file matches {missing}",
                    hint="copy all four IDX files there, or none of them",
                )
    return None


def read(folder: Path) -> Dataset:
    """The dataset from the four IDX files in `folder`.

    Images are padded to (32, 32, 1) with zeros; validation is the last 5,000 of the 60,000 training images; the real
    input is x / 255. InputError names the file that is missing, damaged or not MNIST's.
    """
    images, labels, test_images, test_labels = (_read_file(folder, file) for file in _FILES)
    x = _pad(images)
    y = labels.astype(np.int64)
    train = Split(x[:-_VALIDATION], y[:-_VALIDATION])
    validation = Split(x[-_VALIDATION:], y[-_VALIDATION:])
    test = Split(_pad(test_images), test_labels.astype(np.int64))
    return Dataset(
        name="mnist",
        train=train,
        validation=validation,
        test=test,
        input_scale=1 / 255,
        input_zero_point=0,
        origin=str(folder),
        sha256=digest(train, validation, test),
    )


def download(
    folder: Path,
    *,
    mirrors: Sequence[str] = MIRRORS,
    connect_seconds: float = CONNECT_SECONDS,
    progress: Progress | None = None,
) -> None:
    """Put the four files into `folder`, each checked against its published MD5 and written whole or not at all.

    DownloadError names the reason of every mirror's failure. A mirror that failed once is not asked again.
    """
    working = list(mirrors)
    reasons: list[str] = []
    for file in _FILES:
        if _match(folder, file):
            continue
        content: bytes | None = None
        while working and content is None:
            try:
                content = _fetch(working[0] + file.name, file, connect_seconds, progress)
            except (OSError, ValueError) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                reasons.append(f"{working.pop(0)}: {reason}")
        if content is None:
            raise DownloadError(
                f"MNIST could not be downloaded ({'; '.join(reasons)})",
                hint="set HARNESS_DATA to a folder with the four IDX files",
            )
        _write_whole(folder / file.name, content)


def _match(folder: Path, file: _Idx) -> Path | None:
    """The file in `folder` that fits; unpacked before packed, because it reads faster."""
    try:
        found = [path for path in folder.glob(file.pattern) if path.is_file() and not path.name.startswith(".")]
    except OSError:
        return None
    return min(found, key=lambda path: (path.suffix == ".gz", path.name), default=None)


def _read_file(folder: Path, file: _Idx) -> NDArray[np.uint8]:
    path = _match(folder, file)
    if path is None:
        raise InputError(f"{folder} lacks {file.name}")
    hint = "delete it and fetch it again"
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error
    # IDX: two zero bytes, 8 for unsigned byte, the number of dimensions, then each dimension big-endian.
    header = bytes((0, 0, 8, len(file.shape))) + b"".join(size.to_bytes(4, "big") for size in file.shape)
    if content[: len(header)] != header:
        raise InputError(f"{path} is not MNIST's {file.name}: its IDX header differs", hint=hint)
    expected = len(header) + int(np.prod(file.shape))
    if len(content) != expected:
        raise InputError(f"{path} is damaged: {len(content)} bytes of content, expected {expected}", hint=hint)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise InputError(f"{path} is damaged: its checksum differs from MNIST's", hint=hint)
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)


def _pad(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 28, 28) to (N, 32, 32, 1)."""
    count, height, width = images.shape
    padded = np.zeros((count, height + 2 * _PADDING, width + 2 * _PADDING, 1), np.uint8)
    padded[:, _PADDING:-_PADDING, _PADDING:-_PADDING, 0] = images
    return padded


def _fetch(url: str, file: _Idx, connect_seconds: float, progress: Progress | None) -> bytes:
    """The content of `url`. OSError where it cannot be reached, ValueError where its MD5 is wrong."""
    content = bytearray()
    with urllib.request.urlopen(url, timeout=connect_seconds) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while chunk := response.read(1 << 16):
            content += chunk
            if progress is not None:
                progress(len(content), total, file.name)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise ValueError(f"{file.name} arrived damaged (MD5 differs)")
    return bytes(content)
