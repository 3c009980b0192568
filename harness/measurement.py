"""One firmware on one board: start the engine, program, talk, bring the figures home. Leaves nothing running."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.boards import Board
from harness.engines import Choice, to_instructions
from harness.errors import DeviceError
from harness.progress import Reporter
from harness.toolchain.platformio import Firmware

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Inference:
    """What the board returned for one input: the last layer's bytes, its class, and a CRC-32 per layer."""

    output: bytes
    label: int
    crcs: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """What a board returned. Times are in instructions on emulators and in cycles on silicon, overhead subtracted.

    times: one per repetition. overhead: what the empty region costs. hz: ticks per second of the board's counter.
    layer_times: one per layer. stack_used: bytes, high-water mark. retries: inputs that had to be sent again.
    """

    inferences: tuple[Inference, ...]
    times: tuple[int, ...]
    overhead: int
    hz: int
    layer_times: tuple[int, ...]
    stack_used: int
    emulator_version: str | None
    retries: int


def measure(
    firmware: Firmware,
    board: Board,
    choice: Choice,
    inputs: Sequence[bytes],
    *,
    repeat: int,
    serial: str | None,
    reporter: Reporter,
) -> Measured:
    """Programs the board and runs every input on it. DeviceError with a fault report when it breaks or hangs."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="harness-")))
        emulator = (
            stack.enter_context(_emulator(board, choice, work, reporter)) if choice.engine != "hardware" else None
        )
        session = stack.enter_context(_session(board, choice, emulator, firmware, reporter))
        client = stack.enter_context(_client(board, choice, emulator, session, firmware, serial))
        if client.build() != firmware.build_id:
            raise DeviceError(
                f"board {board.id} runs another image than the one that was programmed",
                hint="reset the board, or check that --serial belongs to this probe",
            )

        def duration(ticks: int) -> int:
            return to_instructions(ticks, board, choice.engine)

        inferences = []
        with reporter.stage(f"inferring {len(inputs)} samples") as advance:
            for index, data in enumerate(inputs):
                client.load_input(data)
                answer = client.layer_crcs()
                inferences.append(Inference(answer.output, answer.label, answer.crcs))
                advance((index + 1) / len(inputs))
        with reporter.stage("timing"):
            timed = client.ticks(repeat)
            layers = client.layers()
            used = client.stack()
        overhead = duration(timed.empty)
        return Measured(
            inferences=tuple(inferences),
            times=tuple(duration(ticks) - overhead for ticks in timed.ticks),
            overhead=overhead,
            hz=timed.hz,
            layer_times=tuple(duration(ticks) - duration(layers.empty) for ticks in layers.ticks),
            stack_used=used.used,
            emulator_version=emulator.version if emulator is not None else None,
            retries=client.retries,
        )
