"""Starts the built-in simulator as an emulator process."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import harness
from harness.boards import Board
from harness.emulators.base import START_DEADLINE, Emulator, Process
from harness.errors import DeviceError, InputError


def start_simulator(
    board: Board,
    work_dir: Path,
    *,
    check_alignment: bool = False,
    clock_hz: int | None = None,
    cycle_parameters: Path | None = None,
) -> Emulator:
    """Start the simulator for `board`, halted; its log goes to `work_dir`.

    check_alignment: whether misaligned LDM, LDRD, VLDR fault, as on silicon; runs 2 million instructions per second.
    clock_hz: counts modelled cycles of the core at that clock; instructions without it. cycle_parameters: a file of
    `harness calibrate`. InputError when it does not model the board; DeviceError when it does not start.
    """
    if board.engines.simulator is None:
        raise InputError(
            f"the simulator does not model board {board.id}", hint="harness boards lists what each board runs on"
        )
    # -P and PYTHONPATH: this package, whatever modules the current folder holds.
    command = [sys.executable, "-P", "-m", "harness.emulators.simulator", "--board", board.argument]
    command += ["--until-eof"]
    command += ["--check-alignment"] if check_alignment else []
    command += ["--clock-hz", str(clock_hz)] if clock_hz is not None else []
    command += ["--cycle-parameters", str(cycle_parameters.absolute())] if cycle_parameters is not None else []
    search = [str(Path(harness.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(search)}
    process = Process("the simulator", "simulator", command, work_dir, environment=environment, capture_stdout=True)
    try:
        line = process.first_line(time.monotonic() + START_DEADLINE)
        try:
            ports = json.loads(line)
            gdb, serial = int(ports["gdb"]), int(ports["serial"])
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceError("the simulator did not tell its ports", hint=f"it said {line!r}") from error
    except BaseException:
        process.stop()
        raise
    return Emulator("simulator", harness.__version__, process, gdb_port=gdb, serial_port=serial)
