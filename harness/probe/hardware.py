"""Real debug probes: which are connected, which one to take, and why one cannot be used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from harness.boards import Board
from harness.errors import DeviceError
from harness.link.usb_ports import REMOTE
from harness.probe import logs

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeInfo:
    """One connected debug probe. board, target: what the probe says it is soldered to, None for separate probes."""

    uid: str
    description: str
    board: str | None
    target: str | None

    def __str__(self) -> str:
        return (
            f"{self.description} ({self.board}), id {self.uid}" if self.board else f"{self.description}, id {self.uid}"
        )


def list_probes() -> tuple[ProbeInfo, ...]:
    """All connected probes, by id. Never raises: without USB access there are none, and the log says why."""
    with logs.captured():
        return tuple(sorted((_info(probe) for probe in _connected()), key=lambda info: info.uid))


def serves(info: ProbeInfo, board: Board) -> bool:
    """Whether the probe says that it is soldered to that board."""
    hardware = board.engines.hardware
    return hardware is not None and (info.board or "").lower() in {name.lower() for name in hardware.board_names}


def choose_probe(board: Board, uid: str | None) -> Any:
    """pyOCD's probe with that id (any part of it that is unique), else the only one, else the only one on such a board.

    Raises DeviceError that lists the probes, where there is none or more than one to choose from.
    """
    from pyocd.core import exceptions
    from pyocd.probe.aggregator import DebugProbeAggregator

    if uid is None:
        found = _connected()
        on_board = [probe for probe in found if serves(_info(probe), board)]
        candidates = on_board if len(found) > 1 and on_board else found
    else:
        try:
            candidates = DebugProbeAggregator.get_all_connected_probes(unique_id=uid)
        except (exceptions.Error, OSError) as error:
            raise DeviceError(f"probe '{uid}' cannot be used: {error}") from error
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise DeviceError(
            f"{len(candidates)} debug probes are connected: {_listed(candidates)}",
            hint="choose one with --probe ID (any part of its id that is unique)",
        )
    if uid is None:
        raise DeviceError(
            "no debug probe is connected",
            hint=f"connect {board.name} by USB, or choose an emulator with --engine; `harness doctor` lists probes",
        )
    others = _connected()
    raise DeviceError(
        f"no debug probe with the id '{uid}' is connected",
        hint=f"connected: {_listed(others)}" if others else "no other probe is connected either",
    )


def missing_target(board: Board) -> DeviceError:
    """The error for a board whose chip pyOCD cannot program as installed."""
    assert board.engines.hardware is not None
    return DeviceError(
        f"pyOCD cannot program {board.engines.hardware.pyocd_target} without its CMSIS pack",
        hint=f"install it once with: harness doctor --install pack --board {board.id}",
    )


def cannot_open(probe: Any, error: Exception) -> DeviceError:
    """The error for a probe that is there but refuses, with the likeliest remedy."""
    text = str(error).lower()
    if str(probe.unique_id).startswith(REMOTE):
        hint = "is it served there? pyocd server --uid ID, on the machine that has the probe"
    elif any(words in text for words in ("busy", "in use", "already open", "exclusive")):
        hint = "another program uses it: close debuggers, IDEs and other runs, then try again"
    elif any(words in text for words in ("access denied", "insufficient permissions", "permission")):
        hint = "give your user access to USB probes: install pyOCD's udev rules (https://pyocd.io/docs/installing#udev)"
    else:
        hint = "unplug the board and plug it in again, and check that it is powered"
    return DeviceError(f"{_info(probe)}, cannot be opened: {error}", hint=hint)


def _connected() -> list[Any]:
    """All probes. Asks one probe type after the other, so that one without its library does not hide the rest."""
    try:
        from pyocd.probe.aggregator import PROBE_CLASSES
    except ImportError as error:
        _LOG.info("no debug probes: %s", error)
        return []
    found: list[Any] = []
    for name, probe_class in PROBE_CLASSES.items():
        try:
            found += probe_class.get_all_connected_probes()
        except Exception as error:  # a missing libusb, driver or vendor library shows as any of a dozen types
            _LOG.info("no %s probes: %s", name, error)
    return found


def _info(probe: Any) -> ProbeInfo:
    board = target = None
    try:
        description = str(probe.description)
        if (board_info := probe.associated_board_info) is not None:
            board, target = board_info.name, board_info.target
    except Exception as error:  # asking opens the probe: any USB failure, as above
        description = f"{type(probe).__name__} (not accessible: {error})"
    return ProbeInfo(uid=str(probe.unique_id), description=description, board=board, target=target)


def _listed(probes: list[Any]) -> str:
    return "; ".join(str(_info(probe)) for probe in probes)
