"""Who made a figure: the versions of this tool, its packages and its repository."""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

# The packages that can move a figure. The compiler and the emulator are recorded beside them.
PACKAGES = ("harness", "numpy", "torch", "platformio", "scons", "pyocd", "pyserial", "pyelftools", "unicorn")


@cache
def packages() -> dict[str, str]:
    """Installed versions of the packages that can move a figure."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout this package runs from; (None, None) when it is installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(root), "-c", "safe.directory=*", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
