"""The command line: one file per command. Only this package knows the terminal; heavy imports stay inside commands."""

from __future__ import annotations

from harness.cli.app import main

__all__ = ["main"]
