"""What commands share on the terminal: consoles, progress, and how an error or an interrupt ends the program."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TextIO

from rich.console import Console

from harness.errors import HarnessError, InternalError
from harness.progress import Advance, Reporter, Silent


def _width(stream: TextIO) -> int | None:
    """A pipe has no width: sentences and tables are not folded into 80 columns there. None: the terminal's own."""
    return None if stream.isatty() or os.environ.get("COLUMNS") else 240


# Results go to stdout, everything said on the way to stderr, so that a pipe gets results alone.
out = Console(highlight=False, width=_width(sys.stdout))
err = Console(stderr=True, highlight=False, width=_width(sys.stderr))

EXIT_INTERRUPTED = 130

P = ParamSpec("P")


class Terminal:
    """A Reporter that prints lines and draws a progress bar on stderr; in a pipe it draws none."""

    def say(self, text: str) -> None:
        err.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def _stage(self, title: str) -> Iterator[Advance]:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
            task = progress.add_task(title, total=None)
            yield lambda fraction: progress.update(task, total=1.0, completed=min(max(fraction, 0.0), 1.0))

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        return self._stage(title)


def reporter(*, quiet: bool) -> Reporter:
    """The reporter for a command: silent when asked to be."""
    return Silent() if quiet else Terminal()


def print_json(data: Any) -> None:
    """Prints `data` as JSON on stdout, unwrapped and uncoloured whatever stdout is."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def fail(error: HarnessError) -> NoReturn:
    """Ends the program the way an error of ours asks for: one sentence, the next step, the exit code."""
    err.print("[bold red]error:[/]", end=" ")
    # The terminal breaks lines by itself; a pipe, and who searches it, gets sentences in one piece.
    err.print(error.message, markup=False, soft_wrap=True)
    if error.hint:
        err.print("[bold]next:[/]", end="  ")
        err.print(error.hint, markup=False, soft_wrap=True)
    raise SystemExit(error.exit_code)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """`command`, with our errors and interrupts turned into one sentence and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except HarnessError as error:
            fail(error)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise SystemExit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our stdout is gone (harness show ... | head): nothing is left to say.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except Exception as error:
            if os.environ.get("HARNESS_DEBUG"):
                raise
            fail(_internal(error))

    return run


def _internal(error: Exception) -> HarnessError:
    """An error that is ours, not the user's: the details go to a file that can be sent to us."""
    import traceback

    from harness.files import cache_dir, write_whole

    report = InternalError(
        f"{type(error).__name__}: {error}", hint="this is a bug in harness; HARNESS_DEBUG=1 shows it"
    )
    path = cache_dir() / "last-error.txt"
    with suppress(HarnessError):
        write_whole(path, "".join(traceback.format_exception(error)))
        report.hint = f"this is a bug in harness; please report it with {path}"
    return report


def unwind_on_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C does, so that emulators and builds end with us."""

    def unwind(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), unwind)
    if hasattr(signal, "setitimer"):
        _raise_again_what_was_swallowed()


def _raise_again_what_was_swallowed() -> None:
    """An interrupt that arrives while a C extension calls back into Python is printed and lost: raise it once more."""
    swallowed: list[BaseException] = []

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            swallowed.append(unraisable.exc_value)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            sys.__unraisablehook__(unraisable)

    def again(number: int, frame: FrameType | None) -> None:
        if swallowed:
            raise swallowed.pop()

    signal.signal(signal.SIGALRM, again)
    sys.unraisablehook = note
