"""A real browser for tests: what Debian's chromium makes of a page, its console, and a picture of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


@dataclass(frozen=True)
class Rendered:
    """dom: the document after its scripts ran. console: what they, or the browser about the page, complained of."""

    dom: str
    console: tuple[str, ...]


def open_page(page: Path, profile: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Rendered:
    """Loads a file and returns what became of it. profile: a new, empty folder."""
    done = _chromium(page, profile, width, height, dark, "--dump-dom")
    return Rendered(done.stdout, tuple(re.findall(r"CONSOLE[^\n]*", done.stderr)))


def picture(
    page: Path, to: Path, profile: Path, *, width: int = 1280, height: int = 900, dark: bool = False
) -> tuple[str, ...]:
    """Writes a PNG of the page's first `height` pixels, and returns what the console said."""
    done = _chromium(page, profile, width, height, dark, f"--screenshot={to}")
    return tuple(re.findall(r"CONSOLE[^\n]*", done.stderr))


def _chromium(
    page: Path, profile: Path, width: int, height: int, dark: bool, action: str
) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *_OPTIONS,
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=3000",
        action,
        page.absolute().as_uri(),
    ]
    # A group of its own: chromium's helper processes end with it, also when it hangs.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(command, 0, out, err)
