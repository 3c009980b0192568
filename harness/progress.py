"""How long-running stages tell what they do, without knowing the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[float], None]


class Reporter(Protocol):
    """Receives what a run has to tell while it works."""

    def say(self, text: str) -> None:
        """One line that stays: a choice that was made and why, a warning."""

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """A stage begins; the value of the `with` is called with the fraction done (0..1), where that is known."""


class Silent:
    """A Reporter that tells nothing: for libraries, tests and --quiet."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def _stage(self) -> Iterator[Advance]:
        yield lambda fraction: None

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        return self._stage()
