"""What a board answers: lines cut from bytes, and each command's answer checked and made a record. Pure functions.

Nothing is skipped and nothing is guessed: a byte that does not belong where it is makes the whole answer a LineError.
What no grammar can notice is a figure that became another one: a digit more, less or changed, a sign lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import DeviceError

READY = "m-ready"

# The longest line is m-output: two digits for each byte of the network's output.
_MAX_LINE_BYTES = 1 << 18

_COUNT = r"(0|[1-9][0-9]{0,19})"
_SCORE = r"-?(?:0|[1-9][0-9]{0,9})\.[0-9]{3}"
_TEXT = r"([ -~]+)"
# As manifests name them, and "fixed" where nothing can be chosen.
_SOURCE = r"fixed|hse-bypass|hse-crystal|hsi|msi"
_CACHE = r"(?:prefetch|art|instruction|data)"


class LineError(DeviceError):
    """Bytes on the line are not what the protocol says: they were lost, doubled or changed, or the board refused."""


class SilentBoardError(LineError):
    """Nothing answers at all: the board hangs or is off, or this is not its line. Trying again does not help."""


class AnswerError(LineError):
    """An answer came whole and in time, but is not what the protocol says: the firmware's fault, not the line's."""


class RefusedError(LineError):
    """The board answered e-[reason]: the command reached it damaged, or asks for what it cannot do."""


@dataclass(frozen=True)
class Profile:
    """profile: which protocol the firmware speaks. model: the network in it (its NETWORK_NAME)."""

    profile: str
    model: str


@dataclass(frozen=True)
class Inference:
    """`runs` inferences. start_us, end_us: the board's clock before, and after with the inferences' time alone added.

    scores: the dequantised outputs of the last inference, in thousandths' precision.
    """

    runs: int
    warmups: int
    start_us: int
    end_us: int
    scores: tuple[float, ...]

    @property
    def us(self) -> int:
        """Microseconds that all `runs` inferences took."""
        return self.end_us - self.start_us

    @property
    def predicted(self) -> int:
        """The class with the highest score; the first one where several are equal in thousandths."""
        return self.scores.index(max(self.scores))


@dataclass(frozen=True)
class Ticks:
    """Ticks of each single inference, as counted; `empty` ticks, those of an empty region, are still in each."""

    ticks: tuple[int, ...]
    empty: int
    tick_hz: int


@dataclass(frozen=True)
class LayerTicks:
    """Ticks of each layer in one inference; `empty` ticks, those of one observer call, are still in each of them."""

    ticks: tuple[int, ...]
    empty: int


@dataclass(frozen=True)
class LayerCrcs:
    """crcs: of each layer's logical tensor, 8 hex digits. predicted: the class. output: the last layer's bytes."""

    crcs: tuple[str, ...]
    predicted: int
    output: bytes


@dataclass(frozen=True)
class Stack:
    """Bytes of stack used at most since boot, and bytes reserved."""

    used: int
    reserved: int


@dataclass(frozen=True)
class Clock:
    """What runs the core, as the firmware read it back from the chip's registers.

    source: as manifests name it, or "fixed". core_hz: follows from the registers; 0 where nobody knows. wait_states: of
    the flash. caches: those that are on. registers: (address, value) of each register that says so.
    """

    source: str
    core_hz: int
    wait_states: int
    caches: tuple[str, ...]
    registers: tuple[tuple[int, int], ...]


class Lines:
    """Cuts the bytes of a line into its lines, however they arrive. any_end: a line may also end in LF alone."""

    def __init__(self, *, any_end: bool = False) -> None:
        self._any_end = any_end
        self._partial = b""

    @property
    def partial(self) -> bytes:
        """The bytes since the last line end."""
        return self._partial

    def clear(self) -> None:
        """Forgets what has arrived of the current line."""
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their CRLF. LineError for what is no line of printable ASCII."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            raise LineError(f"the board sent {len(self._partial):,} bytes without a line end")
        return [_line(raw, self._any_end) for raw in complete]


def _line(raw: bytes, any_end: bool) -> str:
    text = raw.rstrip(b"\r") if any_end else raw[:-1]
    if not (any_end or raw.endswith(b"\r")) or not all(0x20 <= byte <= 0x7E for byte in text):
        raise LineError(f"the board sent a damaged line: {shown(raw)}")
    return text.decode("ascii")


def shown(data: bytes) -> str:
    """Bytes for people, shortened."""
    return repr(data if len(data) <= 60 else data[:57] + b"...").removeprefix("b")


class _Answer:
    """The lines of one answer, taken one after the other."""

    def __init__(self, command: str, lines: Sequence[str]) -> None:
        self._command = command
        self._lines = lines
        self._next = 0

    def take(self, pattern: str) -> re.Match[str]:
        """The next line, which must be all of `pattern`."""
        match = self.take_if(pattern)
        if match is None:
            raise self._unexpected()
        return match

    def take_if(self, pattern: str) -> re.Match[str] | None:
        """The next line if it is all of `pattern`, else None."""
        if self._next == len(self._lines):
            return None
        match = re.fullmatch(pattern, self._lines[self._next])
        self._next += match is not None
        return match

    def end(self) -> None:
        """There must be no further line."""
        if self._next < len(self._lines):
            raise self._unexpected()

    def error(self, reason: str) -> LineError:
        return LineError(f"the board's answer to `{self._command}` is damaged: {reason}")

    def _unexpected(self) -> LineError:
        if self._next == len(self._lines):
            return self.error(f"it ends after {self._next} lines")
        line = self._lines[self._next]
        return self.error(f"line {self._next + 1} is {shown(line.encode())}")


def _only(command: str, lines: Sequence[str], pattern: str) -> str:
    """Of an answer of one line, which must be all of `pattern`: the pattern's first group."""
    answer = _Answer(command, lines)
    found = answer.take(pattern).group(1)
    answer.end()
    return found


def _count(text: str) -> int:
    """A count of at most 64 bits; its pattern admits a little more."""
    value = int(text)
    if value >= 1 << 64:
        raise LineError(f"the board sent a number that no counter holds: {text}")
    return value


def refusal(line: str) -> str | None:
    """The reason in an `e-[reason]` line, None for any other line."""
    match = re.fullmatch(r"e-\[([ -~]*)\]", line)
    return match.group(1) if match else None


def parse_name(lines: Sequence[str]) -> str:
    """Of `name%`: the board's name."""
    return _only("name", lines, rf"m-name-dut-\[{_TEXT}\]")


def parse_profile(lines: Sequence[str]) -> Profile:
    """Of `profile%`."""
    answer = _Answer("profile", lines)
    profile = answer.take(rf"m-profile-\[{_TEXT}\]").group(1)
    model = answer.take(rf"m-model-\[{_TEXT}\]").group(1)
    answer.end()
    return Profile(profile, model)


def parse_build(lines: Sequence[str]) -> str:
    """Of `build%`: the build id, 16 hex digits."""
    return _only("build", lines, r"m-build-\[([0-9a-f]{16})\]")


def parse_load(lines: Sequence[str], size: int) -> None:
    """Of `db load <size>%`."""
    answer = _Answer(f"db load {size}", lines)
    answer.take(rf"m-\[Expecting {size} bytes\]")
    answer.end()


def parse_crc(lines: Sequence[str]) -> str:
    """Of `db crc%`: 8 hex digits."""
    return _only("db crc", lines, r"m-crc-\[([0-9a-f]{8})\]")


def parse_sum(lines: Sequence[str]) -> str:
    """Of `sum%`: the CRC-32 of the answer before, 8 hex digits."""
    return _only("sum", lines, r"m-sum-\[([0-9a-f]{8})\]")


def parse_inference(lines: Sequence[str], runs: int, warmups: int, outputs: int | None = None) -> Inference:
    """Of `infer <runs> <warmups>%`, with `outputs` scores where that is known."""
    answer = _Answer(f"infer {runs} {warmups}", lines)
    answer.take(f"m-warmup-start-{warmups}")
    answer.take("m-warmup-done")
    answer.take(f"m-infer-start-{runs}")
    start = _count(answer.take(f"m-lap-us-{_COUNT}").group(1))
    end = _count(answer.take(f"m-lap-us-{_COUNT}").group(1))
    answer.take("m-infer-done")
    scores = answer.take(rf"m-results-\[({_SCORE}(?:,{_SCORE})*)\]").group(1).split(",")
    answer.end()
    if end < start:
        raise answer.error(f"time goes back from {start} us to {end} us")
    if outputs is not None and len(scores) != outputs:
        raise answer.error(f"it has {len(scores)} results, not {outputs}")
    return Inference(runs, warmups, start, end, tuple(float(score) for score in scores))


def parse_ticks(lines: Sequence[str], runs: int) -> Ticks:
    """Of `ticks <runs>%`."""
    answer = _Answer(f"ticks {runs}", lines)
    tick_hz = _count(answer.take(rf"m-tick-hz-\[{_COUNT}\]").group(1))
    empty = _count(answer.take(rf"m-empty-\[{_COUNT}\]").group(1))
    ticks = tuple(_count(answer.take(rf"m-ticks-\[{_COUNT}\]").group(1)) for _ in range(runs))
    answer.end()
    if tick_hz == 0:
        raise answer.error("a clock of 0 Hz")
    return Ticks(ticks, empty, tick_hz)


def parse_layers(lines: Sequence[str], count: int | None = None) -> LayerTicks:
    """Of `layers%`, with `count` layers where that is known: each one once, in order."""
    answer = _Answer("layers", lines)
    empty = _count(answer.take(rf"m-layer-empty-\[{_COUNT}\]").group(1))
    ticks: list[int] = []
    while match := answer.take_if(rf"m-layer-\[{len(ticks)},{_COUNT}\]"):
        ticks.append(_count(match.group(1)))
    answer.end()
    _check_count(answer, len(ticks), count)
    return LayerTicks(tuple(ticks), empty)


def parse_layer_crcs(lines: Sequence[str], count: int | None = None) -> LayerCrcs:
    """Of `crc%`, with `count` layers where that is known: each one once, in order."""
    answer = _Answer("crc", lines)
    crcs: list[str] = []
    while match := answer.take_if(rf"m-layer-crc-\[{len(crcs)},([0-9a-f]{{8}})\]"):
        crcs.append(match.group(1))
    predicted = _count(answer.take(rf"m-class-\[{_COUNT}\]").group(1))
    output = answer.take(r"m-output-\[((?:[0-9a-f]{2})+)\]").group(1)
    answer.end()
    _check_count(answer, len(crcs), count)
    return LayerCrcs(tuple(crcs), predicted, bytes.fromhex(output))


def parse_stack(lines: Sequence[str]) -> Stack:
    """Of `stack%`."""
    answer = _Answer("stack", lines)
    match = answer.take(rf"m-stack-\[{_COUNT},{_COUNT}\]")
    answer.end()
    stack = Stack(_count(match.group(1)), _count(match.group(2)))
    if stack.used > stack.reserved:
        raise answer.error(f"{stack.used} bytes used of {stack.reserved} reserved")
    return stack


def parse_clock(lines: Sequence[str]) -> Clock:
    """Of `clock%`."""
    answer = _Answer("clock", lines)
    source, *numbers = answer.take(rf"m-clock-\[({_SOURCE}),{_COUNT},{_COUNT},{_COUNT}\]").groups()
    core_hz, wait_states, count = map(_count, numbers)
    caches = answer.take(rf"m-caches-\[((?:{_CACHE}(?:,{_CACHE})*)?)\]").group(1)
    registers = []
    while match := answer.take_if(r"m-register-\[([0-9a-f]{8}),([0-9a-f]{8})\]"):
        registers.append((int(match.group(1), 16), int(match.group(2), 16)))
    answer.end()
    if len(registers) != count:
        raise answer.error(f"it has {len(registers)} registers, not {count}")
    return Clock(source, core_hz, wait_states, tuple(caches.split(",")) if caches else (), tuple(registers))


def _check_count(answer: _Answer, got: int, expected: int | None) -> None:
    if got == 0 or (expected is not None and got != expected):
        raise answer.error(f"it has {got} layers" + ("" if expected is None else f", not {expected}"))
