"""Datasets by name or path: finds the files, fetches what may be fetched, and says where it all came from."""

from __future__ import annotations

import os
from pathlib import Path

from harness.data.base import Dataset
from harness.errors import HarnessError, InputError, unknown_name
from harness.files import cache_dir
from harness.progress import Reporter, Silent

_NAMES = ("cifar10-jpeg", "digits8x8", "mnist")


def names() -> tuple[str, ...]:
    """The names that `load` knows, sorted."""
    return _NAMES


def load(name_or_path: str, *, cache: Path | None = None, reporter: Reporter | None = None) -> Dataset:
    """The dataset called `name_or_path`, or the one in the .npz file at that path.

    Looked for in $HARNESS_DATA, then in `cache` (default: the user's cache folder), then downloaded, where that is
    possible. "mnist" falls back to "digits8x8" when it can be had nowhere: the reporter is told, and the dataset's name
    and origin say so. InputError for unknown names, missing files (with the place to put them) and damaged ones.
    """
    reporter = reporter or Silent()
    if name_or_path.endswith(".npz"):
        from harness.data import npz

        return npz.read(Path(name_or_path).expanduser())
    if name_or_path not in _NAMES:
        error = unknown_name("dataset", name_or_path, _NAMES)
        raise InputError(error.message, hint=f"{error.hint}; or the path of an .npz file")
    cache = cache or cache_dir()
    if name_or_path == "mnist":
        return _mnist(cache, reporter)
    if name_or_path == "cifar10-jpeg":
        from harness.data import cifar10

        archive = cifar10.find(_folders(cache))
        with reporter.stage("decoding cifar10-jpeg") as advance:
            return cifar10.read(archive, cache, advance=advance)
    from harness.data import digits

    return digits.load()


def _mnist(cache: Path, reporter: Reporter) -> Dataset:
    from harness.data import digits, mnist

    found = mnist.find(_folders(cache))
    if found is not None:
        return mnist.read(found)
    folder = cache / "mnist"
    try:
        with reporter.stage("downloading MNIST") as advance:
            mnist.download(folder, advance=advance)
    except HarnessError as error:
        # Includes a cache folder that cannot be written to: the digits need none.
        reporter.say(f"{error.message}: using scikit-learn's digits8x8 instead ({error.hint})")
        return digits.load(reason=error.message)
    return mnist.read(folder)


def _folders(cache: Path) -> list[Path]:
    """Where dataset files may lie, in the order in which they are looked for."""
    configured = os.environ.get("HARNESS_DATA")
    return [Path(configured).expanduser().absolute(), cache] if configured else [cache]
