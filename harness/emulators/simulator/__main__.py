"""python -m harness.emulators.simulator --board nucleo-f746

Prints {"gdb": PORT, "serial": PORT} when both ports of 127.0.0.1 are open, and serves until it is killed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from harness import boards
from harness.errors import HarnessError


def main() -> int:
    """The exit status: 0 after a debugger's kill or the end of the parent, else as for the command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.emulators.simulator", description=__doc__)
    parser.add_argument("--board", required=True, help="the board to simulate")
    parser.add_argument("--check-alignment", action="store_true", help="misaligned LDM, LDRD, VLDR fault; slow")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input, and with the parent process")
    parser.add_argument("--clock-hz", type=int, help="count modelled cycles, of the core at this clock")
    parser.add_argument("--cycle-parameters", type=Path, help="a file of harness calibrate, instead of the shipped one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        board = boards.load(arguments.board)
        # Imports Unicorn, which a wrong name should not have to wait for.
        from harness.emulators.simulator.cycles.model import CycleModel
        from harness.emulators.simulator.server import Server

        model = None
        if arguments.clock_hz is not None:
            model = CycleModel.of(board, clock_hz=arguments.clock_hz, parameters_file=arguments.cycle_parameters)
        Server(board, check_alignment=arguments.check_alignment, cycle_model=model).serve(until_eof=arguments.until_eof)
    except HarnessError as error:
        print(f"{error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The core's thread may be inside Unicorn, which must not be torn down under it.
    os._exit(status)
