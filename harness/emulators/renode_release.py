"""The Renode release that this harness was written for: fetched, checked and unpacked into the user's cache.

Whole or not at all: an archive with another checksum, or that leaves its folder, changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from harness.errors import DeviceError, InputError
from harness.files import cache_dir

URL_ENVIRONMENT = "HARNESS_RENODE_URL"

_STALL_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20
# The pinned archive has some 250 MB, unpacked.
_MOST_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Release:
    """One archive: a .tar.gz with a single folder, which holds the program `renode`. sha256: of the archive."""

    version: str
    url: str
    sha256: str


PINNED = Release(
    version="1.16.1",
    url="https://github.com/renode/renode/releases/download/v1.16.1/renode-1.16.1.linux-portable-dotnet.tar.gz",
    sha256="00e113cdbd0f5354cf2f64bbe3f5a070d8958409542fca66e45ac97d982938c0",
)


def folder(release: Release = PINNED) -> Path:
    """Where that release is unpacked."""
    return cache_dir() / "renode" / f"{release.version}-{release.sha256[:12]}"


def installed_program(release: Release = PINNED) -> Path | None:
    """The program in the user's cache; None where it is not installed."""
    program = folder(release) / "renode"
    return program if os.access(program, os.X_OK) and program.is_file() else None


def install(release: Release = PINNED, *, advance: Callable[[float], None] = lambda _share: None) -> Path:
    """Fetch and unpack `release` where it is not yet there; returns the program.

    $HARNESS_RENODE_URL replaces the address (a mirror, file:///...), never the checksum. advance: called with the share
    that was received. InputError where this machine cannot run it; DeviceError where it cannot be fetched, is not what
    was pinned, or cannot be unpacked. Nothing is left behind then.
    """
    installed = installed_program(release)
    if installed is not None:
        return installed
    if release is PINNED and (sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64")):
        raise InputError(
            f"the pinned Renode {release.version} is for Linux on x86-64 only",
            hint="install Renode for this system from renode.io, and name it with $HARNESS_RENODE",
        )
    target = folder(release)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as name:
            work = Path(name)
            archive = work / "archive.tar.gz"
            _fetch(os.environ.get(URL_ENVIRONMENT) or release.url, archive, release, advance)
            _unpack(archive, work / "unpacked", release)
            if target.exists():  # half of one, by other means than ours
                shutil.rmtree(target)
            (work / "unpacked").rename(target)
    except OSError as error:
        raise DeviceError(f"Renode cannot be installed to {target}: {error.strerror or error}") from error
    return target / "renode"


def _fetch(url: str, archive: Path, release: Release, advance: Callable[[float], None]) -> None:
    checksum = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_STALL_SECONDS) as response, archive.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            received = 0
            while chunk := response.read(_CHUNK_BYTES):
                received += len(chunk)
                if received > _MOST_BYTES:
                    raise DeviceError(f"{url} is larger than Renode can be")
                checksum.update(chunk)
                file.write(chunk)
                advance(min(received / size, 1.0) if size else 0.0)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DeviceError(
            f"Renode {release.version} cannot be fetched from {url}: {reason}",
            hint=f"fetch that file by other means and set {URL_ENVIRONMENT}=file:///path/to/it",
        ) from error
    if checksum.hexdigest() != release.sha256:
        raise DeviceError(
            f"{url} is not Renode {release.version}: its SHA-256 is {checksum.hexdigest()}, not {release.sha256}",
            hint="nothing was installed; try again, and if it stays, do not use that file",
        )


def _unpack(archive: Path, target: Path, release: Release) -> None:
    """Every file of the archive's one folder, into `target`: what `tar --strip-components=1` does."""
    target.mkdir()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            written = 0
            for member in tar:
                written += member.size
                if written > _MOST_BYTES:
                    raise DeviceError(f"the archive of Renode {release.version} unpacks to more than it can hold")
                _unpack_one(tar, member, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DeviceError(f"the archive of Renode {release.version} cannot be unpacked: {error}") from error
    program = target / "renode"
    if not program.is_file() or not os.access(program, os.X_OK):
        raise DeviceError(f"the archive of Renode {release.version} has no program in it")


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    path = _inside(target, member.name)
    if path == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir(exist_ok=True)
    elif member.isfile():
        content = tar.extractfile(member)
        assert content is not None  # only other kinds have none
        with content, path.open("xb") as file:
            shutil.copyfileobj(content, file)
        path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)
    elif member.issym():
        if not (path.parent / member.linkname).resolve().is_relative_to(target.resolve()):
            raise _outside(f"{member.name} -> {member.linkname}")
        path.symlink_to(member.linkname)
    elif member.islnk():
        shutil.copy2(_inside(target, member.linkname), path)
    else:
        raise DeviceError(f"the archive holds {member.name}, which is neither a file nor a folder")


def _inside(target: Path, name: str) -> Path:
    """Where `name` goes: below `target`, without the archive's own folder. DeviceError where it would be elsewhere."""
    parts = Path(name).parts[1:]
    path = target.joinpath(*parts)
    # The parent may be reached through links of the archive; they are followed.
    if Path(name).is_absolute() or ".." in parts or not path.resolve().is_relative_to(target.resolve()):
        raise _outside(name)
    return path


def _outside(name: str) -> DeviceError:
    return DeviceError(f"the archive holds {name}, which lies outside its folder", hint="nothing was installed")
