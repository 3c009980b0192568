"""MNIST's files: found, checked, read, downloaded; and what is said when they are damaged."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from harness.data import mnist
from harness.errors import InputError

TRAIN_IMAGES_HEADER = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (60_000, 28, 28))
NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(scope="module")
def real_folder() -> Path:
    configured = os.environ.get("HARNESS_DATA")
    found = mnist.find([Path(configured)]) if configured else None
    if found is None:
        pytest.skip("MNIST is not in $HARNESS_DATA")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files with MNIST's names and nothing in them."""
    for name in NAMES:
        (tmp_path / name).write_bytes(gzip.compress(b""))
    return tmp_path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server of our own: its address, and the folder it serves."""
    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "served"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", root
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a mirror that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


# ---- reading


def test_real_files_are_split_padded_and_scaled(real_folder: Path) -> None:
    dataset = mnist.read(real_folder)
    assert (dataset.name, dataset.input_shape, dataset.classes) == ("mnist", (32, 32, 1), 10)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [55_000, 5_000, 10_000]
    assert dataset.train.x.dtype == np.uint8 and dataset.train.y.dtype == np.int64
    border = np.ones((32, 32), bool)
    border[2:-2, 2:-2] = False
    assert not dataset.test.x[:, border].any() and dataset.test.x.any()
    assert dataset.network_input(dataset.test.x[:100]).max() == 1.0
    # The first training label and the first and last test labels, as published with the set.
    assert (dataset.train.y[0], dataset.test.y[0], dataset.test.y[-1]) == (5, 7, 6)
    assert dataset.sha256.startswith("35965805afc6")


def test_unpacked_files_give_the_same_dataset(real_folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        source = next(real_folder.glob(f"*{name.removesuffix('-ubyte.gz')}*"))
        content = source.read_bytes()
        (tmp_path / name.removesuffix(".gz")).write_bytes(
            gzip.decompress(content) if source.suffix == ".gz" else content
        )
    assert mnist.read(tmp_path).sha256 == mnist.read(real_folder).sha256


def test_one_changed_label_is_noticed(real_folder: Path, tmp_path: Path) -> None:
    for path in real_folder.glob("*ubyte*"):
        shutil.copyfile(path, tmp_path / path.name)
    labels = next(tmp_path.glob("*t10k-labels*"))
    content = bytearray(gzip.decompress(labels.read_bytes()) if labels.suffix == ".gz" else labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"t10k-labels.*checksum") as caught:
        mnist.read(tmp_path)
    assert str(tmp_path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "IDX header"),
        (b"\x00\x00\x08\x03" + bytes(12), "IDX header"),
        (TRAIN_IMAGES_HEADER + bytes(1_000), "1016 bytes of content, expected 47040016"),
        (TRAIN_IMAGES_HEADER + bytes(60_000 * 28 * 28), "checksum"),
        (gzip.compress(TRAIN_IMAGES_HEADER + bytes(100_000))[:-20], "cannot be read"),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
    ids=["empty", "other header", "cut short", "other content", "gzip cut short", "gzip damaged"],
)
def test_damaged_file_is_named(folder: Path, content: bytes, complaint: str) -> None:
    (folder / NAMES[0]).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        mnist.read(folder)
    assert str(folder / NAMES[0]) in caught.value.message


# ---- finding


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
def test_found_in_the_folder_or_below(folder: Path, tmp_path_factory: pytest.TempPathFactory, below: str) -> None:
    root = tmp_path_factory.mktemp("data root")
    target = root / below
    shutil.copytree(folder, target, dirs_exist_ok=True)
    assert mnist.find([root / "missing", root]) == target


def test_incomplete_set_is_an_error_not_a_reason_to_look_elsewhere(folder: Path) -> None:
    (folder / NAMES[3]).unlink()
    with pytest.raises(InputError, match=r"only part of MNIST: no file matches \*t10k-labels\*"):
        mnist.find([folder])


def test_half_written_files_are_not_taken_for_data(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f".{name}.x1y2").write_bytes(b"")
    assert mnist.find([tmp_path]) is None


# ---- downloading


def test_download_is_checked_stored_and_readable(
    real_folder: Path, served: tuple[str, Path], silent: str, tmp_path: Path
) -> None:
    url, root = served
    for name in NAMES:
        if not (real_folder / name).exists():
            pytest.skip("needs MNIST's files as published")
        shutil.copyfile(real_folder / name, root / name)
    fractions: list[float] = []
    target = tmp_path / "a cache" / "mnist"
    mnist.download(target, mirrors=(silent, url), connect_seconds=0.3, advance=fractions.append)
    assert sorted(path.name for path in target.iterdir()) == sorted(NAMES)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert mnist.read(target).sha256 == mnist.read(real_folder).sha256


def test_damaged_download_leaves_nothing_but_a_note(served: tuple[str, Path], tmp_path: Path) -> None:
    url, root = served
    (root / NAMES[0]).write_bytes(b"not MNIST")
    target = tmp_path / "mnist"
    with pytest.raises(mnist.DownloadError, match="arrived damaged") as caught:
        mnist.download(target, mirrors=(url,))
    assert "HARNESS_DATA" in (caught.value.hint or "")
    assert [path.name for path in target.iterdir()] == [".unreachable"]


def test_silent_mirror_costs_the_time_out_and_is_asked_once(silent: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(mnist.DownloadError, match=r"no answer within 0\.2 s"):
        mnist.download(tmp_path, mirrors=(silent,), connect_seconds=0.2)
    assert time.monotonic() - begin < 10  # no more than one time-out; without one it would wait for minutes


def test_failed_download_is_not_repeated_within_the_hour(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    with pytest.raises(mnist.DownloadError, match="404"):
        mnist.download(tmp_path, mirrors=(url,))
    with pytest.raises(mnist.DownloadError, match=r"0 minutes ago.*404"):
        mnist.download(tmp_path, mirrors=())
    note = tmp_path / ".unreachable"
    long_ago = time.time() - 2 * mnist.RETRY_SECONDS
    os.utime(note, (long_ago, long_ago))
    with pytest.raises(mnist.DownloadError, match="404"):
        mnist.download(tmp_path, mirrors=(url,))
    assert time.time() - note.stat().st_mtime < 60
