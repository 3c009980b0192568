"""The host side of MLPerf Tiny's serial protocol for anybody's firmware: only what the benchmark's own runner asks for.

Others greet when they boot, print their figures with as many digits as they like, and know no checksums: what is lost
on the line is noticed by the answers that do not come. Reference: https://github.com/mlcommons/tiny, benchmark/runner.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import InputError
from harness.link.answers import AnswerError, LineError, Lines, SilentBoardError, shown
from harness.link.client import DB_BYTES, BoardClient, BytePort

INPUT_BYTES = {"kws01": 490, "ic01": 3072, "vww01": 27648, "ad01": 2560}
"""Bytes of one input of the benchmark's models, by the name that `profile%` answers."""

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LAP = re.compile(r"m-lap-us-\[?([0-9]+)\]?")
_RESULTS = re.compile(rf"m-results-\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*,?\s*\]")


# An answer to `name`, to its end.
_NAMED = re.compile(rb"m-name-dut-\[[^\]]*\]\r?\n(?:[^\n]*\n)??m-ready\r?\n")
_ASK_AGAIN_S = 2.0
_GREETING_S = 1.0
_QUIET_S = 0.1


@dataclass(frozen=True)
class ForeignProfile:
    """What the firmware says it is. profile, model: None where it does not say."""

    name: str
    profile: str | None
    model: str | None


@dataclass(frozen=True)
class ForeignInference:
    """`runs` inferences in a row. us: microseconds between the two laps, by the firmware's own clock."""

    runs: int
    us: int
    scores: tuple[float, ...]


class ForeignClient(BoardClient):
    """Asks a firmware that is not ours. Every method raises LineError where the line is bad, AnswerError
    where what came is not what the protocol says.

    check: see BoardClient.
    """

    def __init__(self, port: BytePort, *, check: Callable[[], None] | None = None) -> None:
        # One line at a time: a line may be run in the interrupt of its last byte.
        super().__init__(port, check=check, window=1)
        self._lines = Lines(any_end=True)

    def _sync(self, deadline: float, timeout: float) -> None:
        """See BoardClient. Asks for the name, which everybody answers, and listens until every question is answered: a
        greeting ends in m-ready too."""
        self._in_step = False
        self._lines.clear()
        self._received.clear()
        # Asked while it boots, firmware was seen to swallow a question, or the one behind it.
        heard, asked, next_question = self._greeting(), 0, 0.0
        while True:
            answered = len(_NAMED.findall(heard))
            now = time.monotonic()
            if answered and answered >= asked:
                break
            if now >= deadline:
                if answered:
                    break  # what was asked before it listened is lost
                said = f"; it sent {shown(heard)}" if heard else ""
                raise SilentBoardError(
                    f"the firmware does not answer `name` on the serial line within {timeout:.3g} s{said}",
                    hint="does it speak the MLPerf Tiny protocol, on this UART of the board, at 115,200 baud?",
                )
            if not answered and now >= next_question:
                self._write("name%")
                asked, next_question = asked + 1, now + _ASK_AGAIN_S
            heard += self._receive(min(deadline, next_question if not answered else deadline))
        while self._read(_QUIET_S):
            if time.monotonic() >= deadline + timeout:
                raise LineError("the board does not stop sending")
        self._in_step = True

    def _greeting(self) -> bytes:
        """What the firmware says by itself as it boots; the benchmark's own firmware ends it in m-ready."""
        heard, deadline = b"", time.monotonic() + _GREETING_S
        while b"m-ready" not in heard and time.monotonic() < deadline:
            heard += self._receive(deadline)
        return heard

    def who(self, *, timeout: float) -> ForeignProfile:
        """What `name%` and `profile%` answer."""
        name = _find(r"m-name-dut-\[([^\]]*)\]", self._ask("name", timeout))
        if name is None:
            raise AnswerError("the board does not answer `name` with m-name-dut-[...]")
        answer = self._ask("profile", timeout)
        return ForeignProfile(name, _find(r"m-profile-\[([^\]]*)\]", answer), _find(r"m-model-\[([^\]]*)\]", answer))

    def load(self, data: bytes, *, timeout: float, progress: Callable[[float], None] = lambda _share: None) -> None:
        """Load an input; `timeout` seconds for each line. progress: called with the share that is loaded."""
        if not data:
            raise InputError("an input of 0 bytes cannot be loaded")
        self._ask(f"db load {len(data)}", timeout)
        answer: list[str] = []
        for start in range(0, len(data), DB_BYTES):
            answer = self._ask(f"db {data[start : start + DB_BYTES].hex()}", timeout)
            progress(min(1.0, (start + DB_BYTES) / len(data)))
        if "m-load-done" not in answer:
            raise AnswerError(f"the board has not said m-load-done behind the last of {len(data):,} bytes")

    def run(self, runs: int, warmups: int, *, timeout: float) -> ForeignInference:
        """`runs` inferences of the loaded input after `warmups` untimed ones."""
        command = f"infer {runs} {warmups}"
        lines = self._ask(command, timeout)
        laps = [int(match[1]) for line in lines if (match := _LAP.fullmatch(line))]
        results = next((match for line in lines if (match := _RESULTS.fullmatch(line))), None)
        if len(laps) != 2 or laps[1] < laps[0]:
            raise AnswerError(f"the board's answer to `{command}` has no two laps: {shown(' '.join(lines).encode())}")
        if results is None:
            raise AnswerError(f"the board's answer to `{command}` has no results: {shown(' '.join(lines).encode())}")
        scores = tuple(float(score) for score in results[1].split(","))
        return ForeignInference(runs, laps[1] - laps[0], scores)


def _find(pattern: str, lines: list[str]) -> str | None:
    return next((match[1] for line in lines if (match := re.fullmatch(pattern, line))), None)
