"""Which engine runs a board, why, and what its ticks mean. Starts nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Literal, cast, get_args

from harness.boards import Board
from harness.errors import DeviceError, InputError, unknown_name
from harness.link.usb_ports import REMOTE

Engine = Literal["hardware", "qemu", "simulator", "renode", "host"]
ENGINES: tuple[str, ...] = get_args(Engine)


@dataclass(frozen=True)
class Choice:
    """The engine a run uses, the reason in words, and the probe's unique id for hardware."""

    engine: Engine
    reason: str
    probe: str | None = None


def choose(board: Board, wanted: str, probe: str | None) -> Choice:
    """The engine for `board`. `auto` takes a connected probe whose board matches, else an emulator that models it.

    InputError for an unknown engine or one that the board does not have; DeviceError when nothing can run it.
    """
    if wanted != "auto" and wanted not in ENGINES:
        raise unknown_name("engine", wanted, ("auto", *ENGINES))
    if wanted == "host":
        return Choice("host", "the generated C, compiled for this machine")
    offered = board.engines.model_dump(exclude_none=True)
    if wanted != "auto":
        if wanted not in offered:
            raise InputError(
                f"board {board.id} has no engine {wanted}",
                hint=f"it has {', '.join(offered)}, and every board has host",
            )
        return _asked_for(board, wanted, probe)
    if board.engines.hardware is not None:
        if probe is not None and probe.startswith(REMOTE):
            return Choice("hardware", f"probe {probe} was named", probe)
        found = _matching_probes(board, probe)
        if found:
            return Choice("hardware", f"probe {found[0]} is connected to it", found[0])
        if probe is not None:
            raise DeviceError(f"probe {probe} is not connected", hint="harness doctor lists the probes it sees")
    if board.engines.simulator is not None:
        return Choice("simulator", "no probe with this board is connected; the built-in simulator models it")
    if board.engines.qemu is not None:
        if shutil.which("qemu-system-arm") is None:
            raise DeviceError(
                f"board {board.id} needs qemu-system-arm, which is not installed",
                hint="apt-get install qemu-system-arm, or --board nucleo-f746, which needs no QEMU",
            )
        return Choice("qemu", f"QEMU models it ({board.engines.qemu.machine})")
    if board.engines.renode is not None:
        _require_renode()
        return Choice("renode", "no probe with this board is connected; Renode models it")
    raise DeviceError(f"no probe with board {board.id} is connected, and no emulator models it")


def _asked_for(board: Board, wanted: str, probe: str | None) -> Choice:
    if wanted == "hardware":
        if probe is not None and probe.startswith(REMOTE):
            return Choice("hardware", "asked for", probe)
        found = _matching_probes(board, probe)
        # A probe that does not know its board (J-Link, DAPLink clones) is taken when it was named.
        uid = probe or (found[0] if found else None)
        return Choice("hardware", "asked for", uid)
    if wanted == "renode":
        _require_renode()
    return Choice(cast(Engine, wanted), "asked for")


def _require_renode() -> None:
    """DeviceError where it is not installed: before anything is built for it."""
    from harness.emulators import renode

    if renode.find() is None:
        raise renode.not_installed()


def _matching_probes(board: Board, uid: str | None) -> list[str]:
    """Unique ids of connected probes that report this board."""
    from harness.probe.hardware import list_probes, serves

    return [probe.uid for probe in list_probes() if (uid is None or uid in probe.uid) and serves(probe, board)]


def in_clock_units(ticks: int, board: Board, engine: Engine) -> int:
    """What a tick count is in the unit of the engine's clock: cycles, or an emulator's executed instructions.

    QEMU's timer runs in virtual time, in which an instruction lasts 2**icount_shift ns: with more than two ticks per
    instruction, rounding gives the exact count. Renode's CYCCNT counts instructions, the simulator's modelled cycles.
    """
    if engine != "qemu":
        return ticks
    qemu = board.engines.qemu
    assert qemu is not None
    return round(ticks * 1_000_000_000 / (qemu.tick_hz * (1 << qemu.icount_shift)))
