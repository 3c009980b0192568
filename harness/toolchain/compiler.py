"""Which compilers there are. Finding only: what is compiled, and how, is decided elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import InputError

ARM_COMMAND = "arm-none-eabi-gcc"
ARM_PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi"
HOST_COMMANDS = ("cc", "gcc", "clang")

# A compiler that takes longer to tell its version is broken.
_DEADLINE_S = 20


@dataclass(frozen=True)
class Compiler:
    """A C compiler that answers.

    path: the program. version: its number, 12.2.1. identity: the first line of --version, which names the
    distribution's build too: two compilers of one identity are taken to give the same bytes.
    """

    path: Path
    version: str
    identity: str


def find_arm() -> Compiler | None:
    """arm-none-eabi-gcc on PATH together with its C library; None without either."""
    found = _on_path(ARM_COMMAND)
    return found if found is not None and _has_libc(found.path) else None


def arm() -> Compiler:
    """arm-none-eabi-gcc on PATH with its C library; InputError says which of the two is missing, and how to get it."""
    found = _on_path(ARM_COMMAND)
    if found is None:
        raise InputError(
            f"{ARM_COMMAND} is not on PATH",
            hint=f"apt-get install {ARM_PACKAGES}, or let PlatformIO fetch its own with --toolchain registry",
        )
    if not _has_libc(found.path):
        raise InputError(
            f"{found.path} has no C library (newlib) beside it", hint=f"apt-get install {ARM_PACKAGES.split()[1]}"
        )
    return found


def find_host() -> Compiler | None:
    """This machine's C compiler: $CC when it names a program, else cc, gcc or clang; None without any."""
    for command in (os.environ.get("CC", ""), *HOST_COMMANDS):
        found = _on_path(command) if command else None
        if found is not None:
            return found
    return None


def host() -> Compiler:
    """This machine's C compiler; InputError when there is none."""
    found = find_host()
    if found is None:
        raise InputError("this machine has no C compiler", hint="apt-get install gcc")
    return found


def identify(path: Path) -> Compiler | None:
    """The compiler at `path`, None when it does not answer."""
    try:
        # The time of change tells an upgraded compiler from the one asked before.
        return _identify(path, path.stat().st_mtime_ns)
    except OSError:
        return None


def _on_path(command: str) -> Compiler | None:
    found = shutil.which(command)
    return identify(Path(found)) if found else None


@cache
def _identify(path: Path, _changed_ns: int) -> Compiler | None:
    identity = _ask(path, "--version")
    version = _ask(path, "-dumpfullversion", "-dumpversion")  # clang knows only the second
    return Compiler(path, version[0], identity[0]) if identity and version else None


@cache
def _has_libc(path: Path) -> bool:
    # gcc answers with the bare name when it finds no such file
    return any(os.sep in line for line in _ask(path, "-print-file-name=libc.a"))


def _ask(path: Path, *arguments: str) -> list[str]:
    """The lines that the compiler prints; none when it fails."""
    try:
        answer = subprocess.run(
            [str(path), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()
