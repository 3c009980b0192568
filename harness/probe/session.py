"""One open board: program it, run it, watch it, explain why it stopped. The same for real probes and for emulators.

    with open_session(board, emulator=emulator) as session:
        session.program(elf)
        session.reset_and_run()
        ...
        if report := session.check():
            raise report.error()

pyOCD does the work; it is imported here only, and this module only where a board is used.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyocd.core import exceptions
from pyocd.core.session import Session
from pyocd.core.target import Target
from pyocd.flash.loader import MemoryLoader

from harness.boards import Board
from harness.emulators import renode
from harness.emulators.base import Emulator
from harness.errors import BuildError, DeviceError, HarnessError, InputError
from harness.probe import hardware, logs, targets
from harness.probe.core import EXCEPTION_NUMBER
from harness.probe.faults import (
    FAULT_EXCEPTIONS,
    FRAME_BYTES,
    CoreState,
    FaultKind,
    FaultReport,
    active_exceptions,
    explain,
    frame_address,
    hanging,
    state_at_qemu_lockup,
)
from harness.probe.hardware import ProbeInfo, list_probes
from harness.probe.image import Segment, is_elf, read_firmware, read_segments
from harness.probe.plugin import EmulatorProbe
from harness.toolchain import symbols

__all__ = ["BoardSession", "ProbeInfo", "ProgramReport", "State", "list_probes", "open_session"]

State = Literal["running", "halted", "lockup", "fault", "reset"]

_CPUID = 0xE000_ED00
# CPUID's part numbers (Arm's technical reference manuals), as manifests call these cores.
CORES = {
    0xC20: "cortex-m0",
    0xC60: "cortex-m0plus",
    0xC23: "cortex-m3",
    0xC24: "cortex-m4",
    0xC27: "cortex-m7",
    0xD21: "cortex-m33",
    0xD22: "cortex-m55",
}
_VERIFY_CHUNK_BYTES = 1 << 14
_EXIT_SECONDS = 1.0  # from the last sign of life on the GDB connection until the emulator's process must have ended
# A booting firmware switches its UART on within this time; see BoardSession._wake.
_WAKE_SECONDS = 2.0
_LOG_SECONDS = 0.2
_BOOT_WAKES, _BOOT_WAKE_SECONDS = 4, 0.005
_HANG_LOOKS, _HANG_LOOK_SECONDS = 8, 0.002
_FAULT_STATUS = 0xE000_ED24  # SHCSR, CFSR, HFSR, DFSR, MMFAR, BFAR
_NVIC_IABR, _NVIC_IABR_WORDS = 0xE000_E300, 8
# Every exception that a fault can become, also where the firmware enables those that otherwise escalate to HardFault.
_CATCHES = (
    Target.VectorCatch.HARD_FAULT
    | Target.VectorCatch.BUS_FAULT
    | Target.VectorCatch.MEM_FAULT
    | Target.VectorCatch.STATE_ERR
    | Target.VectorCatch.CHECK_ERR
    | Target.VectorCatch.COPROCESSOR_ERR
    | Target.VectorCatch.CORE_RESET
)
# Share of the progress that erasing, programming and verifying have, by the time they take on flash.
_PHASES = ((0.0, 0.4), (0.4, 0.8), (0.8, 1.0))


@dataclass(frozen=True)
class ProgramReport:
    """bytes: programmed and verified. seconds: for both."""

    bytes: int
    seconds: float
    verified: bool


class BoardSession:
    """A board under pyOCD's control; made by open_session() only.

    Every method raises DeviceError where the board, the probe or the emulator fails; once an emulator has died, the
    error says how. Not for use by several threads.
    """

    def __init__(self, board: Board, session: Session, emulator: Emulator | None, log: logs.LogTail) -> None:
        self.board = board
        self._session = session
        self._emulator = emulator
        self._log = log
        self._programmed: Path | None = None
        self._halted_by_us = True
        self._wake_until = 0.0
        self._log_mark = 0

    @property
    def target(self) -> Any:
        """pyOCD's target, for what this class does not cover (breakpoints, single steps, registers)."""
        return self._session.target

    @property
    def probe_uid(self) -> str:
        """The unique id of the probe that is in use."""
        return str(self._session.probe.unique_id)

    # ---- which chip this is

    def check_chip(self) -> None:
        """DeviceError where the core, or on a real board the chip, is another one than the manifest's."""
        with self._guarded("reading the chip's identification"):
            core = CORES.get(self.target.read32(_CPUID) >> 4 & 0xFFF)
            if core is not None and core != self.board.core:
                raise _wrong_chip(self.board, f"its core is a {core}, not a {self.board.core}")
            hardware = self.board.engines.hardware
            if self._emulator is None and hardware is not None and hardware.chip_id is not None:
                expected = hardware.chip_id
                found = self.target.read32(expected.at) & expected.mask
                if found != expected.value:
                    raise _wrong_chip(
                        self.board, f"its identification at {expected.at:#010x} is {found:#x}, not {expected.value:#x}"
                    )

    # ---- programming

    def program(self, firmware: Path, *, progress: Callable[[float], None] | None = None) -> ProgramReport:
        """Write an ELF file's loadable segments, or a raw image, to flash and read them back. The core is left halted.

        progress: called with the share that is done, 0.0 to 1.0. BuildError where the image does not lie in the board's
        flash; DeviceError with address, expected and read byte where flash holds something else afterwards.
        """
        elf = is_elf(firmware)
        segments = read_segments(firmware) if elf else read_firmware(firmware, self.board)
        self._check_placement(segments)
        size = sum(len(segment.data) for segment in segments)
        self._programmed = firmware if elf else None
        started = time.monotonic()
        report = _Progress(progress)
        with self._guarded("programming"):
            self.halt()
            loader = MemoryLoader(self._session, progress=report.from_pyocd)
            for segment in segments:
                try:
                    loader.add_data(segment.address, segment.data)
                except ValueError as error:
                    raise BuildError(
                        f"pyOCD's target {self.target.part_number} cannot hold the image: {error}"
                    ) from error
            loader.commit()
            self._verify(segments, size, report)
        return ProgramReport(bytes=size, seconds=time.monotonic() - started, verified=True)

    def _check_placement(self, segments: tuple[Segment, ...]) -> None:
        flash = [region for region in self.board.memory if region.kind == "flash"]
        for segment in segments:
            end = segment.address + len(segment.data)
            if not any(r.origin <= segment.address and end <= r.origin + r.length for r in flash):
                raise BuildError(
                    f"the image has {len(segment.data)} bytes at {segment.address:#010x},"
                    f" outside the flash of {self.board.name}",
                    hint=f"build it for this board: its memory map is in boards/{self.board.id}.json",
                )

    def _verify(self, segments: tuple[Segment, ...], size: int, progress: _Progress) -> None:
        done = 0
        for segment in segments:
            for offset in range(0, len(segment.data), _VERIFY_CHUNK_BYTES):
                expected = segment.data[offset : offset + _VERIFY_CHUNK_BYTES]
                if self._same_by_checksum(segment.address + offset, expected):
                    done += len(expected)
                    progress.verified(done / size)
                    continue
                got = bytes(self.target.read_memory_block8(segment.address + offset, len(expected)))
                if got != expected:
                    first = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
                    raise DeviceError(
                        f"flash does not hold what was programmed: at {segment.address + offset + first:#010x}"
                        f" {expected[first]:#04x} was expected and {got[first]:#04x} read",
                        hint="program again; if it stays, the flash is worn out or write-protected",
                    )
                done += len(expected)
                progress.verified(done / size)

    def _same_by_checksum(self, address: int, data: bytes) -> bool:
        """Whether an emulator says that its memory holds `data`; never on a real board, whose flash is read back."""
        return isinstance(self._session.probe, EmulatorProbe) and self._session.probe.core.holds(address, data)

    # ---- running

    def reset_and_run(self) -> None:
        """Reset, and let the firmware run with every fault caught."""
        self.reset_and_halt()
        self.resume()
        if self._needs_wake:
            for _ in range(_BOOT_WAKES):
                time.sleep(_BOOT_WAKE_SECONDS)
                self._wake()

    def reset_and_halt(self) -> None:
        """Reset, and hold the core before its first instruction."""
        with self._guarded("resetting"):
            self.target.reset_and_halt()
        self._halted_by_us = True

    def halt(self) -> None:
        """Stop the core."""
        with self._guarded("halting"):
            self.target.halt()
        self._halted_by_us = True

    def resume(self) -> None:
        """Let the core go on, with every fault caught."""
        if self._emulator is not None and self._emulator.kind == "renode":
            self._log_mark = len(self._emulator.log())
        with self._guarded("resuming"):
            self.target.set_vector_catch(_CATCHES)
            self.target.resume()
        self._halted_by_us = False
        self._wake_until = time.monotonic() + _WAKE_SECONDS if self._needs_wake else 0.0

    @property
    def _needs_wake(self) -> bool:
        return self._emulator is not None and self._session.probe.core.sleeps_after_reset

    def _wake(self) -> None:
        """Make QEMU look at its serial input: what came before the firmware switched its UART on may wait a second.

        Costs a fraction of a millisecond, and not one instruction of virtual time. A lockup is left to check().
        """
        try:
            with self._guarded("waking the emulator"):
                self._session.probe.core.wake()
        except DeviceError:
            if self._state_at_lockup() is None:
                raise

    def state(self) -> State:
        """What the core does. fault: stopped by an exception that nothing recovers from. reset: has reset itself."""
        try:
            with self._guarded("asking for the core's state"):
                return self._pyocd_state()
        except DeviceError:
            if self._state_at_lockup() is not None:
                return "lockup"
            raise

    def _pyocd_state(self) -> State:
        if self._emulator is not None and not self._emulator.alive():
            raise exceptions.ProbeDisconnected("the emulator ended")
        state = self.target.get_state()
        if state == Target.State.LOCKUP:
            return "lockup"
        if state != Target.State.HALTED:
            return "running"
        if self.target.get_halt_reason() != Target.HaltReason.VECTOR_CATCH:
            return "halted"
        exception = self.target.read_core_register("ipsr")
        if exception in FAULT_EXCEPTIONS:
            return "fault"
        return "halted" if exception or self._halted_by_us else "reset"

    def check(self) -> FaultReport | None:
        """None while all is well. Cheap (no traffic while the core runs): for use while waiting for an answer."""
        if time.monotonic() < self._wake_until:
            self._wake()
        state = self.state()
        if state == "running" or (state == "halted" and self._halted_by_us):
            return None
        return self.fault_report()

    def fault_report(self, elf: Path | None = None) -> FaultReport:
        """Explain where the core is: after a fault or a lockup, or after too long without an answer. Leaves it halted.

        elf: names the functions; the last programmed image without it.
        """
        elf = elf or self._programmed
        names = symbols.read(elf) if elf is not None else None
        ram = tuple(range(r.origin, r.origin + r.length) for r in self.board.memory if r.kind == "ram")
        kinds: dict[State, FaultKind] = {
            "running": "hang",
            "halted": "stopped",
            "lockup": "lockup",
            "fault": "fault",
            "reset": "reset",
        }
        try:
            kind = kinds[self.state()]
            core = self._hanging_state() if kind == "hang" else None
            if core is None:
                kind = kinds[self.state()]
                core = self._halted_state()
            observed = self._bad_accesses() if kind in ("fault", "lockup") else ()
        except DeviceError:
            last = self._state_at_lockup()
            if last is None:
                raise
            kind, core, observed = "lockup", last, ()
        return explain(kind, core, names, ram, observed)

    def _bad_accesses(self) -> tuple[str, ...]:
        """What Renode's log tells of accesses to nothing since the core was last resumed; its registers do not.

        The log comes a moment later than the fault.
        """
        if self._emulator is None or self._emulator.kind != "renode":
            return ()
        deadline = time.monotonic() + _LOG_SECONDS
        while not (found := renode.bad_accesses(self._emulator.log()[self._log_mark :])):
            if time.monotonic() > deadline:
                return ()
            time.sleep(0.01)
        return (f"access to nothing: {found[0]}",)

    def _hanging_state(self) -> CoreState | None:
        """The state of a core that runs, by several looks at it; it is left halted. None where it stopped by itself."""
        looks: list[CoreState] = []
        while self.state() == "running":
            looks.append(self._halted_state())
            if len(looks) == _HANG_LOOKS:
                return hanging(looks)
            self.resume()
            time.sleep(_HANG_LOOK_SECONDS)
        return None

    def _halted_state(self) -> CoreState:
        self.halt()
        with self._guarded("reading the core's registers"):
            return self._core_state()

    def _core_state(self) -> CoreState:
        read = self.target.read_core_register
        pc, lr, sp, xpsr = (read(name) for name in ("pc", "lr", "sp", "xpsr"))
        frame = None
        shcsr, cfsr, hfsr, _, mmfar, bfar = self.target.read_memory_block32(_FAULT_STATUS, 6)
        active = active_exceptions(shcsr, self.target.read_memory_block32(_NVIC_IABR, _NVIC_IABR_WORDS))
        address = frame_address(lr, msp=read("msp"), psp=read("psp"))
        # In thread mode there is no frame; a reset leaves LR all ones, which looks like an EXC_RETURN.
        if address is not None and xpsr & EXCEPTION_NUMBER:
            with suppress(exceptions.TransferError):  # the stack pointer itself was wrong, which the report says
                frame = struct.unpack("<8I", bytes(self.target.read_memory_block8(address, FRAME_BYTES)))
        return CoreState(pc, lr, sp, xpsr, cfsr, hfsr, mmfar, bfar, frame, active)

    def monitor(self, command: str) -> str:
        """Run a command of the emulator's own and return what it printed. Only for emulators."""
        with self._guarded(f"the emulator's command '{command}'"):
            return str(self._session.probe.monitor(command))

    # ---- memory

    def read_memory(self, address: int, count: int) -> bytes:
        """`count` bytes from `address`, also while the core runs."""
        with self._guarded(f"reading {count} bytes at {address:#010x}"):
            return bytes(self.target.read_memory_block8(address, count))

    def write_memory(self, address: int, data: bytes) -> None:
        """Write `data` to RAM from `address`, also while the core runs."""
        with self._guarded(f"writing {len(data)} bytes at {address:#010x}"):
            self.target.write_memory_block8(address, list(data))  # a remote probe sends it as JSON

    # ---- errors

    @contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        """Turn pyOCD's errors into ours; when the emulator died, say how instead."""
        try:
            yield
        except HarnessError:
            raise
        except (exceptions.Error, OSError) as error:
            if isinstance(error, exceptions.ProbeDisconnected) and self._ended():
                assert self._emulator is not None
                raise self._emulator.exit_report() from error
            raise _device_error(f"{action} failed: {error}", self._log) from error

    def _ended(self) -> bool:
        """Whether the emulator's process is gone; its connection can close a moment earlier."""
        if self._emulator is None:
            return False
        deadline = time.monotonic() + _EXIT_SECONDS
        while self._emulator.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _state_at_lockup(self) -> CoreState | None:
        """The last registers of an emulator that ended because of a lockup, as QEMU does; None where it did not."""
        if self._emulator is None or self._emulator.kind != "qemu" or self._emulator.alive():
            return None
        return state_at_qemu_lockup(self._emulator.log())


@contextmanager
def open_session(board: Board, *, emulator: Emulator | None, probe_uid: str | None = None) -> Iterator[BoardSession]:
    """Connect to an emulator or, without one, to the real board on a debug probe; leaves the core halted.

    probe_uid: any unique part of the probe's id; needed only where several probes are connected. Raises DeviceError
    where there is no such board, probe or target support. On leaving, the connection is closed whatever happened; an
    emulator stays as it is, a real board runs on.
    """
    with logs.captured() as log:
        session = _hardware_session(board, probe_uid) if emulator is None else _emulator_session(board, emulator)
        try:
            _open(session, emulator, log)
            opened = BoardSession(board, session, emulator, log)
            opened.check_chip()
            yield opened
        finally:
            _close(session)


def _session_options() -> dict[str, Any]:
    return {
        "project_dir": str(Path.cwd()),  # pyOCD changes the working directory to this one
        "hide_programming_progress": True,
        "chip_erase": "sector",
        "keep_unwritten": False,
        "auto_unlock": False,  # unlocking a protected chip erases it: the user's decision
    }


def _emulator_session(board: Board, emulator: Emulator) -> Session:
    if not emulator.alive():
        raise emulator.exit_report()
    probe = EmulatorProbe(
        f"127.0.0.1:{emulator.gdb_port},{emulator.kind}",
        keep_trying=emulator.alive,
        unmapped=emulator.unmapped,
        transcript=emulator.transcript,
    )
    return Session(
        probe,
        target_override=targets.register(board),
        options={
            **_session_options(),
            "no_config": True,  # the user's pyocd.yaml and pyocd_user.py are about real boards
            "user_script": os.devnull,
            "reset.post_delay": 0.0,
            "resume_on_disconnect": False,
            "smart_flash": False,
        },
    )


def _hardware_session(board: Board, probe_uid: str | None) -> Session:
    hardware_engine = board.engines.hardware
    if hardware_engine is None:
        raise InputError(f"{board.name} exists as an emulator only", hint="choose its emulator with --engine")
    probe = hardware.choose_probe(board, probe_uid)
    try:
        return Session(probe, target_override=hardware_engine.pyocd_target, options=_session_options())
    except exceptions.TargetSupportError as error:
        raise hardware.missing_target(board) from error


def _open(session: Session, emulator: Emulator | None, log: logs.LogTail) -> None:
    try:
        session.open()
    except (exceptions.Error, OSError) as error:
        if emulator is None:
            raise hardware.cannot_open(session.probe, error) from error
        if not emulator.alive():
            raise emulator.exit_report() from error
        raise _device_error(f"the emulator cannot be debugged: {error}", log) from error


def _close(session: Session) -> None:
    """Close all that is open, also where the other side is gone."""
    try:
        session.close()
    except (exceptions.Error, OSError):
        pass  # pyOCD reports most errors of closing to its log itself; these came from the transport
    finally:
        if isinstance(session.probe, EmulatorProbe):
            session.probe.close()


def _wrong_chip(board: Board, difference: str) -> DeviceError:
    return DeviceError(
        f"this is not a {board.name}: {difference}",
        hint="choose the probe of that board with --probe, or the board that is connected with --board",
    )


def _device_error(message: str, log: logs.LogTail) -> DeviceError:
    lines = [line for line in log.tail(3, logging.WARNING) if line not in message]
    return DeviceError(message, hint="pyOCD's log: " + " | ".join(lines) if lines else None)


class _Progress:
    """Puts pyOCD's two runs from 0 to 1 (erase, program) and ours (verify) behind each other."""

    def __init__(self, callback: Callable[[float], None] | None) -> None:
        self._callback = callback
        self._phase = 0
        self._last = 0.0

    def from_pyocd(self, share: float) -> None:
        if share < self._last:
            self._phase = 1  # erasing reached 1, programming starts at 0
        self._last = share
        self._emit(_PHASES[self._phase], share)

    def verified(self, share: float) -> None:
        self._emit(_PHASES[2], share)

    def _emit(self, phase: tuple[float, float], share: float) -> None:
        if self._callback is not None:
            start, end = phase
            self._callback(start + (end - start) * share)
