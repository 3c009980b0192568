"""A firmware image on a simulated board inside this process, asked over its serial line as any board is."""

from __future__ import annotations

import time
from pathlib import Path

from harness.boards import Board
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.stops import Reason
from harness.errors import DeviceError
from harness.link.client import BoardClient

_BOOT_SECONDS = 30.0


class Bench:
    """machine: runs `elf`, booted, with `model` counting its cycles. client: the harness's own protocol on its line."""

    def __init__(self, board: Board, elf: Path, model: CycleModel) -> None:
        self.machine = Machine(board, cycle_model=model)
        self.machine.load_elf(elf)
        self.machine.reset()
        self.client = BoardClient(_Line(self.machine))
        self.client.name(timeout=_BOOT_SECONDS)


class _Line:
    """A BytePort onto a machine, which runs while something is read."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def write(self, data: bytes) -> None:
        """See BytePort."""
        self._machine.serial.feed(data)

    def read(self, timeout: float) -> bytes:
        """See BytePort. DeviceError when the core locks up."""
        output = self._machine.serial.output
        deadline = time.monotonic() + timeout
        while not output and time.monotonic() < deadline:
            stop = self._machine.run(timeout=max(0.01, deadline - time.monotonic()))
            if stop.reason is Reason.LOCKUP:
                raise DeviceError(f"the simulated core is locked up: {self._machine.lockup}")
            if stop.reason in (Reason.INPUT, Reason.SLEEP):
                break
        data = bytes(output)
        output.clear()
        return data
