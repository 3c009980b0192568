"""MNIST (LeCun, Cortes, Burges) from its four IDX files: found in a folder, or downloaded into the user's cache."""

from __future__ import annotations

import gzip
import hashlib
import queue
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.base import Dataset, Split, digest
from harness.errors import InputError
from harness.files import write_whole
from harness.progress import Advance

# LeNet-5 was drawn for 32 x 32: two zero pixels on each side of the 28 x 28 image.
_PADDING = 2
_VALIDATION = 5_000

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
# A network that drops packets must not hold up every run: how long a mirror may take to answer, how long it may stall
# in between, and how long to do without the download after it failed.
CONNECT_SECONDS = 3.0
_STALL_SECONDS = 20.0
RETRY_SECONDS = 3600.0


@dataclass(frozen=True)
class _Idx:
    """One of the four files. md5, packed_bytes: of the .gz as published; sha256: of its content, however packed."""

    name: str
    pattern: str
    shape: tuple[int, ...]
    md5: str
    packed_bytes: int
    sha256: str


_TRAIN_IMAGES = _Idx(
    "train-images-idx3-ubyte.gz",
    "*train-images*",
    (60_000, 28, 28),
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    9_912_422,
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
_TRAIN_LABELS = _Idx(
    "train-labels-idx1-ubyte.gz",
    "*train-labels*",
    (60_000,),
    "d53e105ee54ea40749a09fcbcd1e9432",
    28_881,
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
_TEST_IMAGES = _Idx(
    "t10k-images-idx3-ubyte.gz",
    "*t10k-images*",
    (10_000, 28, 28),
    "9fb629c4189551a2d022fa330f9573f3",
    1_648_877,
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
_TEST_LABELS = _Idx(
    "t10k-labels-idx1-ubyte.gz",
    "*t10k-labels*",
    (10_000,),
    "ec29112dd5afa0611ce80d1b7f02629c",
    4_542,
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
    advance: Advance | None = None,
) -> None:
    """Put the four files into `folder`, each checked against its published MD5 and written whole or not at all.

    Files that are there already are kept. A mirror that failed once is not asked again; when all have failed, that is
    noted in `folder`, and within the next hour the download is not attempted. advance: called with the fraction done.
    DownloadError says why each mirror failed.
    """
    note = folder / ".unreachable"
    age = _age_seconds(note)
    if age < RETRY_SECONDS:
        raise DownloadError(
            f"MNIST could not be downloaded {age / 60:.0f} minutes ago ({_text(note)})",
            hint=f"set HARNESS_DATA to a folder with the four IDX files, or delete {note} to try again within the hour",
        )
    working = list(mirrors)
    reasons: list[str] = []
    done = 0
    size = sum(file.packed_bytes for file in _FILES)
    for file in _FILES:
        if _match(folder, file) is None:
            content = None
            while content is None:
                if not working:
                    write_whole(note, "; ".join(reasons))
                    raise DownloadError(
                        f"MNIST could not be downloaded ({'; '.join(reasons)})",
                        hint="set HARNESS_DATA to a folder with the four IDX files",
                    )
                try:
                    received = _Received(done, size, advance)
                    content = _fetch(working[0] + file.name, file, connect_seconds, received)
                except (OSError, ValueError, HTTPException) as error:
                    reasons.append(f"{working.pop(0)}: {_reason(error)}")
            write_whole(folder / file.name, content)
        done += file.packed_bytes
    note.unlink(missing_ok=True)


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


@dataclass(frozen=True)
class _Received:
    """Turns the bytes received of one file into the fraction of the whole download."""

    before: int
    total: int
    advance: Advance | None

    def __call__(self, received: int) -> None:
        if self.advance is not None:
            self.advance((self.before + received) / self.total)


def _fetch(url: str, file: _Idx, connect_seconds: float, received: _Received) -> bytes:
    """The content of `url`. OSError where it cannot be reached, ValueError where its MD5 is wrong."""
    content = bytearray()
    with closing(_open(url, connect_seconds)) as response:
        # One byte more than expected is enough to know that it is not the file.
        while len(content) <= file.packed_bytes and (chunk := response.read(1 << 16)):
            content += chunk
            received(len(content))
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise ValueError(f"{file.name} arrived damaged (its MD5 differs)")
    return bytes(content)


def _open(url: str, connect_seconds: float) -> HTTPResponse:
    """The response to GET `url`; TimeoutError when there is none after `connect_seconds`.

    In a thread, because no time-out of the socket module covers the look-up of the name.
    """
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=_STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="mnist-download", daemon=True).start()
    try:
        answer = answers.get(timeout=connect_seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {connect_seconds:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: Exception) -> str:
    """The cause that urllib wraps; its HTTPError reads better whole."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _age_seconds(path: Path) -> float:
    """Seconds since `path` was written; infinite where there is no such file, or it is from the future."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
    return age if age >= 0 else float("inf")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return "for reasons unknown"
