"""Measures a firmware whose network nobody here knows: it has to speak the MLPerf Tiny protocol, and that is all.

Knows the order of the work and nothing of terminals. The engine's clock is read where the simulator saw the firmware
send its lap lines, so that nothing has to be built into the firmware.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness import boards, engines, fingerprint
from harness.errors import InputError
from harness.files import file_sha256
from harness.measurement import explaining, started, watched_port
from harness.progress import Reporter
from harness.results import firmware_record as record

if TYPE_CHECKING:
    from harness.boards import Board
    from harness.emulators.simulator.cycles.model import CycleModel
    from harness.link.foreign import ForeignClient, ForeignInference, ForeignProfile
    from harness.probe.image import Segment
    from harness.probe.session import BoardSession

# The stock runner gives up after as long without a line, and during `infer`.
ANSWER_SECONDS = 5.0
INFER_SECONDS = 30.0


@dataclass(frozen=True)
class MeasureSpec:
    """What is to be measured. input: a file whose bytes are loaded; without it, zeros. input_bytes: how many the
    firmware takes, where its model's name does not tell. inferences: of the timed run. timeout: seconds that one
    inference may take."""

    firmware: Path
    board: str
    engine: str = "auto"
    input: Path | None = None
    input_bytes: int | None = None
    inferences: int = 10
    warmups: int = 1
    timeout: float = INFER_SECONDS
    probe: str | None = None
    serial: str | None = None


@dataclass(frozen=True)
class _Stamped:
    """An inference run as the engine's counters saw it; None where they cannot."""

    run: ForeignInference
    instructions: int | None
    cycles: int | None


def measure(spec: MeasureSpec, reporter: Reporter) -> record.FirmwareResult:
    """Programs the firmware, drives it over its serial line, and returns what it showed.

    InputError for a file that is no firmware of that board, or an input of the wrong size; DeviceError, with a report
    on the core, when the firmware faults, hangs, or answers as the protocol does not say.
    """
    from harness.link.foreign import ForeignClient
    from harness.probe.image import read_firmware

    board = boards.load(spec.board)
    choice = engines.choose(board, spec.engine, spec.probe)
    if choice.engine == "host":
        raise InputError(
            "a firmware image does not run on engine host", hint="harness boards lists what each board has"
        )
    segments = read_firmware(spec.firmware, board)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="harness-")))
        with reporter.stage(f"starting {choice.engine}"):
            emulator, session = stack.enter_context(started(board, choice, work))
        with reporter.stage(f"programming {board.id}") as advance:
            session.program(spec.firmware, progress=advance)
        port, check = stack.enter_context(watched_port(emulator, session, spec.serial))
        client = ForeignClient(port, check=check)
        stack.enter_context(explaining(session, None))
        session.reset_and_run()
        with reporter.stage("asking who is there"):
            profile = client.who(timeout=ANSWER_SECONDS)
        data = _input(spec, profile)
        with reporter.stage(f"loading {len(data):,} bytes") as advance:
            client.load(data, timeout=ANSWER_SECONDS, progress=advance)
        with reporter.stage(f"{spec.inferences} inferences"):
            runs = _runs(spec, client, session, simulated=choice.engine == "simulator")
        unmodelled = None
        if choice.engine == "simulator":
            unmodelled = tuple(f"{base:#010x}" for base in json.loads(session.monitor("unmodelled")))
        model = _cycle_model(board) if choice.engine == "simulator" else None
        return _record(spec, board, choice, profile, data, segments, runs, unmodelled, model, emulator)


def _input(spec: MeasureSpec, profile: ForeignProfile) -> bytes:
    from harness.link.foreign import INPUT_BYTES

    expected = spec.input_bytes or INPUT_BYTES.get(profile.model or "")
    if spec.input is not None:
        try:
            data = spec.input.read_bytes()
        except OSError as error:
            raise InputError(f"{spec.input} cannot be read: {error.strerror}") from error
        if expected is not None and len(data) != expected:
            raise InputError(f"{spec.input} has {len(data):,} bytes, but {profile.model} takes {expected:,}")
        return data
    if expected is None:
        raise InputError(
            f"how many bytes an input of model '{profile.model}' has is not known",
            hint="say it with --input-bytes, or name an input with --input",
        )
    return bytes(expected)


def _runs(spec: MeasureSpec, client: ForeignClient, session: BoardSession, *, simulated: bool) -> tuple[_Stamped, ...]:
    """A run of one inference, where there will be more, and the one that was asked for."""
    lengths = [1, spec.inferences] if spec.inferences > 1 else [1]
    runs = []
    for place, length in enumerate(lengths):
        warmups = spec.warmups if place == 0 else 0
        done = client.run(length, warmups, timeout=spec.timeout * (length + warmups))
        instructions, cycles = _between_laps(session) if simulated else (None, None)
        runs.append(_Stamped(done, instructions, cycles))
    return tuple(runs)


def _between_laps(session: BoardSession) -> tuple[int | None, int | None]:
    """Instructions and cycles from the end of the first lap line to the beginning of the second."""
    laps = [line for line in json.loads(session.monitor("lines")) if line[0].startswith("m-lap-us")]
    (_, _, first), (_, second, _) = laps[-2:]
    cycles = second[1] - first[1] if first[1] is not None else None
    return second[0] - first[0], cycles


def _cycle_model(board: Board) -> CycleModel | None:
    from harness.emulators.simulator.cycles.model import CycleModel

    return CycleModel.of(board)


def _slope(counts: Sequence[int], lengths: Sequence[int]) -> tuple[float, float]:
    """(of one inference, overhead), from runs of one or two lengths."""
    if len(counts) == 1:
        return counts[0] / lengths[0], 0.0
    each = max(0.0, (counts[1] - counts[0]) / (lengths[1] - lengths[0]))
    return each, counts[0] - each * lengths[0]


def _record(
    spec: MeasureSpec,
    board: Board,
    choice: engines.Choice,
    profile: ForeignProfile,
    data: bytes,
    segments: Sequence[Segment],
    runs: Sequence[_Stamped],
    unmodelled: tuple[str, ...] | None,
    model: CycleModel | None,
    emulator: object,
) -> record.FirmwareResult:
    from harness.probe.image import is_elf, ram_bytes

    lengths = [run.run.runs for run in runs]
    each_us, overhead_us = _slope([run.run.us for run in runs], lengths)
    elf = is_elf(spec.firmware)
    return record.FirmwareResult.new(
        image=record.Image(
            name=spec.firmware.name,
            format="elf" if elf else "bin",
            sha256=file_sha256(spec.firmware),
            flash=sum(len(segment.data) for segment in segments),
            ram=ram_bytes(spec.firmware, board) if elf else None,
        ),
        board=board.id,
        engine=choice.engine,
        device=profile.name,
        profile=profile.profile,
        model=profile.model,
        input_bytes=len(data),
        input_sha256=hashlib.sha256(data).hexdigest(),
        warmups=spec.warmups,
        laps=record.Laps(
            total_us=runs[-1].run.us, inferences=lengths[-1], per_inference_us=each_us, overhead_us=overhead_us
        ),
        counted=_counted(runs, lengths, model),
        results=runs[-1].run.scores,
        unmodelled=unmodelled,
        emulator_version=getattr(emulator, "version", None),
        board_manifest_sha256=board.manifest_sha256,
        git_commit=fingerprint.git()[0],
        packages=fingerprint.packages(),
    )


def _counted(runs: Sequence[_Stamped], lengths: Sequence[int], model: CycleModel | None) -> tuple[record.Counted, ...]:
    counted = []
    instructions = [run.instructions for run in runs if run.instructions is not None]
    if len(instructions) == len(runs):
        each, overhead = _slope(instructions, lengths)
        counted.append(
            record.Counted(
                clock="instructions",
                unit="instructions",
                per_inference=each,
                overhead=round(overhead),
                hz=None,
                us=None,
            )
        )
    cycles = [run.cycles for run in runs if run.cycles is not None]
    if model is not None and len(cycles) == len(runs):
        each, overhead = _slope(cycles, lengths)
        counted.append(
            record.Counted(
                clock="modelled",
                unit="cycles",
                per_inference=each,
                overhead=round(overhead),
                hz=model.clock_hz,
                us=each / model.clock_hz * 1e6,
                error_band=model.error_band,
                model_version=model.version,
            )
        )
    return tuple(counted)
