"""The one exception hierarchy. The command line shows `str(error)`, then the hint, and exits with `exit_code`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class HarnessError(Exception):
    """A failure that a user can act on.

    message: one clear sentence on what went wrong.
    hint: the next step to take, or None when the message already says it.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(HarnessError):
    """What the user handed in (a name, a file, a network, an option) cannot be used: exit code 2."""

    exit_code = 2


class BuildError(HarnessError):
    """The compiler or the linker refused, or the image does not fit the board: exit code 2."""

    exit_code = 2


class DoesNotFit(BuildError):
    """The image is larger than the board's memory: exit code 2. A sweep lists it and goes on.

    overflows: by how many bytes, of "flash" and of "ram".
    """

    def __init__(self, message: str, *, overflows: Mapping[str, int] | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.overflows = dict(overflows or {})


class GateError(HarnessError):
    """A gate found a figure that moved, or a result that is not bit-exact: exit code 1."""

    exit_code = 1


class DeviceError(HarnessError):
    """A board, probe, emulator or serial line is broken, missing or silent: exit code 3."""

    exit_code = 3


class InternalError(HarnessError):
    """A bug of ours: exit code 4, so that a script can tell it from everything above."""

    exit_code = 4


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in `known`: names the nearest ones, else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return InputError(f"unknown {what} '{name}'", hint=hint)
