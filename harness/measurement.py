"""One firmware on one board: start the engine, program, talk, bring the figures home. Leaves nothing running."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.boards import Board
from harness.emulators import logs
from harness.engines import Choice, in_clock_units
from harness.errors import DeviceError, HarnessError
from harness.progress import Reporter
from harness.toolchain.platformio import Firmware

if TYPE_CHECKING:
    from harness.emulators.base import Emulator
    from harness.link.answers import Clock, Ticks
    from harness.link.client import BoardClient
    from harness.link.serial_port import SerialPort
    from harness.probe.session import BoardSession

# A board that answers none of this in time hangs; a network may take this long for one inference.
BOOT_SECONDS = 5.0
INFERENCE_SECONDS = 60.0
# ... and a second more for each so many multiply-accumulates: emulators that model cycles are slow.
SLOWEST_MACS = 1_000_000
# Where the firmware is when nothing arrives.
_WAITS_IN = "port_read+"

# Above this share of instructions without a cost, modelled cycles come with a warning.
UNCOSTED_SHARE = 0.005


@dataclass(frozen=True)
class Inference:
    """What the board returned for one input: the last layer's bytes, its class, and a CRC-32 per layer."""

    output: bytes
    label: int
    crcs: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """What a board returned. Times are in cycles on silicon and on the simulator (modelled), in instructions on other
    emulators, overhead subtracted.

    times: one per repetition. overhead: what the empty region costs. hz: ticks per second of the board's counter.
    layer_times: one per layer. stack_used: bytes, high-water mark. retries: inputs that had to be sent again.
    clock: what ran the core, read back from the chip. instructions: of one inference, None on silicon. uncosted: share
    of the executed instructions that the cycle model has no cost for.
    """

    inferences: tuple[Inference, ...]
    times: tuple[int, ...]
    overhead: int
    hz: int
    layer_times: tuple[int, ...]
    stack_used: int
    emulator_version: str | None
    retries: int
    clock: Clock
    instructions: int | None
    uncosted: float = 0.0


def measure(
    firmware: Firmware,
    board: Board,
    choice: Choice,
    inputs: Sequence[bytes],
    *,
    layers: int,
    repeat: int,
    serial: str | None,
    reporter: Reporter,
    macs: int = 0,
    staged: bool = True,
    clock_hz: int | None = None,
    cycle_parameters: Path | None = None,
) -> Measured:
    """Programs the board and runs every input on its network of `layers` layers.

    macs: of one inference: how long it may take before the board counts as hung follows from that.
    staged: whether the firmware keeps the input it was sent; otherwise it is sent anew for each inference.

    clock_hz, cycle_parameters: of the simulator's cycle model; default the manifest's clock and the shipped parameters.

    DeviceError with a fault report when it breaks or hangs.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="harness-")))
        with reporter.stage(f"starting {choice.engine}"):
            opened = started(board, choice, work, clock_hz=clock_hz, cycle_parameters=cycle_parameters)
            emulator, session = stack.enter_context(opened)
        with reporter.stage(f"programming {board.id}") as advance:
            session.program(firmware.elf, progress=advance)
        client = stack.enter_context(_client(emulator, session, serial))
        stack.enter_context(explaining(session, firmware.elf))
        session.reset_and_run()
        running = client.build(timeout=BOOT_SECONDS)
        if running != firmware.build_id:
            raise DeviceError(
                f"the serial line answers with build {running}, but {firmware.build_id} was programmed",
                hint="check that --serial belongs to the board that --probe programs",
            )
        version = emulator.version if emulator else None
        patience = INFERENCE_SECONDS + macs / SLOWEST_MACS
        renewed = None if staged else inputs[-1]
        load = _debugger_load(client, session, firmware.elf) if choice.engine == "qemu" else client.load_input
        measured = _ask(client, load, board, choice, inputs, renewed, layers, repeat, reporter, version, patience)
        if choice.engine != "simulator":
            return measured
        return _with_instructions(measured, client, session, renewed, reporter, patience)


def _debugger_load(client: BoardClient, session: BoardSession, elf: Path) -> Callable[[bytes], None]:
    """Loads inputs by the debugger, and has the board say the CRC-32 of what it holds then.

    For QEMU: its UART takes one byte each time that its main loop comes round, 20 to 200 us a byte. The firmware waits
    for a command meanwhile, with its input in these variables of protocol.c; a firmware without them gets its inputs
    over the line.
    """
    from harness.link.answers import RefusedError
    from harness.toolchain import symbols

    table = symbols.read(elf)
    staging, missing, loaded = (table.named(name) for name in ("staging", "missing", "loaded"))
    if staging is None or missing is None or loaded is None:
        return client.load_input

    def load(data: bytes) -> None:
        if len(data) == staging.size:
            session.halt()
            session.write_memory(staging.address, data)
            session.write_memory(missing.address, bytes(missing.size))
            session.write_memory(loaded.address, (1).to_bytes(loaded.size, "little"))
            session.resume()
            with suppress(RefusedError):
                if client.input_crc() == zlib.crc32(data):
                    return
        client.load_input(data)

    return load


def _ask(
    client: BoardClient,
    load: Callable[[bytes], None],
    board: Board,
    choice: Choice,
    inputs: Sequence[bytes],
    renewed: bytes | None,
    layers: int,
    repeat: int,
    reporter: Reporter,
    emulator_version: str | None,
    patience: float,
) -> Measured:
    """load: gets an input to the board. renewed: the input that has to be loaded before each timed inference; None:
    the last one is kept.

    patience: seconds that an inference may take.
    """

    def duration(ticks: int) -> int:
        return in_clock_units(ticks, board, choice.engine)

    inferences = []
    with reporter.stage(f"inferring {len(inputs)} samples") as advance:
        for index, data in enumerate(inputs):
            load(data)
            answer = client.layer_crcs(layers, timeout=patience)
            inferences.append(Inference(answer.output, answer.predicted, tuple(int(crc, 16) for crc in answer.crcs)))
            advance((index + 1) / len(inputs))
    with reporter.stage("timing"):
        timed = _ticks(client, repeat, renewed, patience)
        if renewed is not None:
            client.load_input(renewed)
        by_layer = client.layers(layers, timeout=patience)
        used = client.stack()
    clock = client.clock()
    _check_clock(clock, board, choice, reporter)
    if used.used >= used.reserved:  # the guard is its lowest word; what went below it cannot be seen
        raise DeviceError(
            f"the stack overflowed, or is full to the last byte: all {used.reserved} B that are reserved were used",
            hint=f"raise stack_bytes in boards/{board.id}.json",
        )
    if client.retries:
        reporter.say(f"note: {client.retries} inputs were damaged on the serial line and sent again")
    overhead = duration(timed.empty)
    return Measured(
        inferences=tuple(inferences),
        times=tuple(duration(ticks) - overhead for ticks in timed.ticks),
        overhead=overhead,
        hz=timed.tick_hz,
        layer_times=tuple(max(duration(ticks) - duration(by_layer.empty), 0) for ticks in by_layer.ticks),
        stack_used=used.used,
        emulator_version=emulator_version,
        retries=client.retries,
        clock=clock,
        instructions=None
        if choice.engine == "hardware"
        else median_low(duration(ticks) - overhead for ticks in timed.ticks),
    )


def _ticks(client: BoardClient, repeat: int, renewed: bytes | None, patience: float) -> Ticks:
    """Of `repeat` inferences, each timed alone. renewed, patience: as of _ask."""
    if renewed is None:
        return client.ticks(repeat, timeout=repeat * patience)
    parts = []
    for _ in range(repeat):
        client.load_input(renewed)
        parts.append(client.ticks(1, timeout=patience))
    return replace(parts[0], ticks=tuple(part.ticks[0] for part in parts))


def _check_clock(clock: Clock, board: Board, choice: Choice, reporter: Reporter) -> None:
    """Figures are of the board as its manifest describes it: DeviceError where the chip's registers say otherwise.

    Renode models few of them, so that a difference is only told there.
    """
    wanted = board.clock
    if wanted is None or clock.source == "fixed":
        return
    differences = [
        f"{what} {is_now}, not {should_be}"
        for what, is_now, should_be in (
            ("core clock", f"{clock.core_hz / 1e6:g} MHz", f"{board.clock_hz / 1e6:g} MHz"),
            ("flash wait states", str(clock.wait_states), str(wanted.wait_states)),
            ("caches", ", ".join(sorted(clock.caches)) or "none", ", ".join(sorted(wanted.caches)) or "none"),
        )
        if is_now != should_be
    ]
    if differences:
        text = f"{board.id} does not run as its manifest says: {'; '.join(differences)}"
        if choice.engine != "renode":
            raise DeviceError(text, hint="read back from its registers; the port or the manifest's `clock` is wrong")
        reporter.say(f"note: {text}; Renode does not model every register")
    elif clock.source != wanted.source:
        reporter.say(f"note: the core's clock comes from {clock.source}, as there is no {wanted.source}: up to 1 % off")


def _with_instructions(
    measured: Measured,
    client: BoardClient,
    session: BoardSession,
    renewed: bytes | None,
    reporter: Reporter,
    patience: float,
) -> Measured:
    """The same with the instructions of one more inference, for which the board's counter counts those."""
    from harness.emulators.simulator.cycles.edges import Coverage

    coverage = Coverage.from_json(session.monitor("coverage"))
    if coverage.share > UNCOSTED_SHARE:
        names = ", ".join(sorted(coverage.unknown, key=lambda name: -coverage.unknown[name])[:5])
        reporter.say(f"warning: {coverage.share:.1%} of the instructions have no cost in the cycle model: {names}")
    session.monitor("clock instructions")
    if renewed is not None:
        client.load_input(renewed)
    counted = client.ticks(1, timeout=patience)
    return replace(measured, instructions=counted.ticks[0] - counted.empty, uncosted=coverage.share)


@contextmanager
def started(
    board: Board,
    choice: Choice,
    work: Path,
    *,
    clock_hz: int | None = None,
    cycle_parameters: Path | None = None,
) -> Iterator[tuple[Emulator | None, BoardSession]]:
    """The board under control, its core halted; with its running emulator, None for hardware. Ends both.

    work: a folder for logs. clock_hz, cycle_parameters: see measure().
    """
    from harness.probe.session import open_session

    with (
        _emulator(board, choice, work, clock_hz or board.clock_hz, cycle_parameters) as emulator,
        open_session(board, emulator=emulator, probe_uid=choice.probe) as session,
    ):
        yield emulator, session


@contextmanager
def _emulator(
    board: Board, choice: Choice, work: Path, clock_hz: int, cycle_parameters: Path | None
) -> Iterator[Emulator | None]:
    if choice.engine == "qemu":
        from harness.emulators.qemu import start_qemu as start
    elif choice.engine == "simulator":
        from harness.emulators.simulator.launch import start_simulator

        start = partial(start_simulator, clock_hz=clock_hz, cycle_parameters=cycle_parameters)
    elif choice.engine == "renode":
        from harness.emulators.renode import start_renode as start
    else:
        yield None
        return
    with start(board, work) as emulator:
        try:
            yield emulator
        except DeviceError as error:
            if emulator.kind == "renode":
                logs.keep(error, emulator.kind, emulator.evidence())
            raise


@contextmanager
def watched_port(
    emulator: Emulator | None, session: BoardSession, serial: str | None
) -> Iterator[tuple[SerialPort, Callable[[], None]]]:
    """The serial line to the board, and a check() for whoever waits on it: it raises when the core faulted, or the
    emulator died.

    serial: the port to take, instead of the emulator's or the probe's.
    """
    from harness.link.serial_port import open_port
    from harness.link.usb_ports import port_of_probe

    def check() -> None:
        report = session.check()
        if report is not None:
            raise report.error()

    url = serial or (emulator.serial_url if emulator else port_of_probe(session.probe_uid))
    with open_port(url, check=check) as port:
        yield port, check


@contextmanager
def _client(emulator: Emulator | None, session: BoardSession, serial: str | None) -> Iterator[BoardClient]:
    from harness.link.client import PIPELINED, BoardClient

    with watched_port(emulator, session, serial) as (port, check):
        # A UART without flow control loses what arrives while a polling board answers.
        yield BoardClient(port, check=check, window=PIPELINED if emulator else 1)


@contextmanager
def explaining(session: BoardSession, elf: Path | None) -> Iterator[None]:
    """When the board does not answer, says where it is instead.

    elf: names the functions; the last programmed image without it.
    """
    from harness.link.answers import AnswerError, LineError

    try:
        yield
    except AnswerError:
        raise
    except LineError as error:
        try:
            report = session.fault_report(elf)
        except HarnessError:
            raise error from None
        if report.kind == "hang" and (report.function or "").startswith(_WAITS_IN):
            raise DeviceError(
                f"{error.message}; the firmware runs and waits for commands",
                hint=f"is this its serial port, and is the line whole? registers: {report.registers}",
            ) from error
        raise DeviceError(f"{error.message}; {report.text}", hint=f"registers: {report.registers}") from error
