"""Why the simulated core stops: for who runs the machine, and inside it, for what Unicorn leaves to us."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.emulators.simulator.exceptions import Fault


class Reason(enum.Enum):
    """Why run() or step() returned."""

    REQUEST = "stop was requested"
    TIMEOUT = "the time given is over"
    BREAKPOINT = "a breakpoint is reached"
    BKPT = "a BKPT instruction, with a debugger attached"
    STEP = "one instruction was executed"
    INPUT = "the firmware waits for serial input"
    SLEEP = "the firmware sleeps, or is in a loop without an instruction, and nothing is there to wake it"
    LOCKUP = "the core is locked up"
    RESET_LOOP = "the firmware resets itself again and again"


@dataclass(frozen=True)
class Stop:
    """How a run ended. pc: the next instruction. instructions: executed since reset."""

    reason: Reason
    pc: int
    instructions: int


# ---- what hooks note during a run, and the machine settles after it


@dataclass(frozen=True)
class Refused:
    """An access that no page allows. access: Unicorn's UC_MEM_*. page: the address of the page."""

    access: int
    page: int


@dataclass(frozen=True)
class Interrupt:
    """An exception that QEMU leaves to us, by its number."""

    number: int


@dataclass(frozen=True)
class Invalid:
    """An instruction that QEMU does not know, or one in Arm state."""


@dataclass(frozen=True)
class Late:
    """A fault at `pc` after which Unicorn goes on to the end of a block, and the registers to go back to."""

    fault: Fault
    pc: int
    xpsr: int
    registers: dict[str, int]


@dataclass(frozen=True)
class Waiting:
    """The firmware polls for input in vain."""


@dataclass(frozen=True)
class Spinning:
    """The firmware is in a loop without an instruction."""


Event = Refused | Interrupt | Invalid | Late | Waiting | Spinning
