"""Where firmware/ and boards/ are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness.errors import HarnessError

_PACKAGE = Path(__file__).resolve().parent


@cache
def _find(folder: str, landmark: str) -> Path:
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        if (root / folder / landmark).exists():
            return root / folder
    raise HarnessError(f"this installation lacks its {folder}/ folder", hint="install harness again")


def firmware_dir() -> Path:
    """The PlatformIO project: src/, ports/, nn/, ld/, platform/."""
    return _find("firmware", "platformio.ini")


def boards_dir() -> Path:
    """The folder of board manifests (one JSON file per board)."""
    return _find("boards", "nucleo-f746.json")
