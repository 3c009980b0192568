"""For tests: puts the stand-in of fake_renode.py in Renode's place."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import harness


def program(folder: Path) -> Path:
    """A command that behaves as `renode` does, as far as the harness uses it."""
    stand_in = Path(__file__).with_name("fake_renode.py")
    package = Path(harness.__file__).parent.parent
    path = folder / "stand-in" / "renode"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = f"PYTHONPATH={shlex.quote(os.pathsep.join([str(package), os.environ.get('PYTHONPATH', '')]))}"
    path.write_text(f'#!/bin/sh\n{environment} exec {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"\n')
    path.chmod(0o755)
    return path
