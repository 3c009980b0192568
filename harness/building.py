"""From a Graph to an image that fits its board: in forms that there is room for, linked until it does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from harness.boards import Board
from harness.codegen.choose import Room
from harness.codegen.generate import Generated
from harness.errors import DoesNotFit, InputError
from harness.files import cache_dir
from harness.progress import Reporter
from harness.toolchain.platformio import BuildInputs, Firmware

T = TypeVar("T")

# How often forms are chosen anew, each time for the room that the linker says there is.
_LINKS = 6


def linked(
    make: Callable[[Room], Generated], attempt: Callable[[Generated], T], board: Board, room: Room, reporter: Reporter
) -> tuple[Generated, T]:
    """The network in the best forms that `attempt`, which links it, has room for, and what that returned.

    attempt: raises DoesNotFit, which the next choice of forms goes by. The last one is of the smallest forms.
    """
    generated = make(room)
    for _ in range(_LINKS):
        try:
            made = attempt(generated)
        except DoesNotFit as error:
            failure = error
        else:
            if generated.leaner:
                reporter.say(f"note: {board.id} has no room for the best forms of all layers: leaner ones were taken")
            return generated, made
        flash, ram = room.flash, room.ram
        if generated.flash_bytes is not None and "flash" in failure.overflows:
            flash = generated.flash_bytes - failure.overflows["flash"]
        if "ram" in failure.overflows:
            ram = generated.activation_bytes - failure.overflows["ram"]
        room = Room(flash, ram)
        leaner = make(room)
        if leaner.files == generated.files:
            break
        generated = leaner
    needed = " and ".join(
        f"{board.region(kind).length + failure.overflows[kind]:,} bytes of {kind}"
        for kind in ("flash", "ram")
        if kind in failure.overflows
    )
    raise DoesNotFit(
        f"{failure.message}; its smallest forms need {needed.replace('ram', 'RAM')}",
        overflows=failure.overflows,
        hint=failure.hint,
    ) from failure


def room_of(board: Board) -> Room:
    """What memory there is at most: without what the firmware's own code and data take, which the linker knows."""
    return Room(ram=board.region("ram").length - board.stack_bytes)


def build_image(
    variant: str, generated: Generated, board: Board, toolchain: str, reporter: Reporter
) -> tuple[Firmware, bool]:
    """The image, and whether it keeps the input that it was sent beside the network's own, which an inference consumes.

    It does where RAM has room for both. Forms of layers are not chosen for that: the input is sent between inferences.
    DoesNotFit: not even without the copy.
    """
    from harness.toolchain.platformio import build

    inputs = build_inputs(variant, generated)
    both = generated.activation_bytes + generated.input_bytes + board.stack_bytes
    with reporter.stage(f"building for {board.id}"):
        if both <= board.region("ram").length:
            with suppress(DoesNotFit):
                return build(inputs, board, cache_dir=cache_dir(), toolchain=toolchain), True
        built = build(unstaged(inputs), board, cache_dir=cache_dir(), toolchain=toolchain)
    reporter.say("note: RAM has no room for a second copy of the input: it is sent anew for each inference")
    return built, False


def build_inputs(variant: str, generated: Generated) -> BuildInputs:
    """What the firmware of a network is built from."""
    optimize, *extra_flags = generated.optimize.split()
    return BuildInputs(
        name=f"{generated.name}-{variant}",
        files=generated.contents,
        optimize=optimize,
        extra_flags=tuple(extra_flags),
    )


def unstaged(inputs: BuildInputs) -> BuildInputs:
    """The same for firmware that keeps no copy of its input beside the network's own."""
    return dataclasses.replace(inputs, defines={"HARNESS_STAGING": "0"})


def optimized(flags: str, wanted: str) -> str:
    """The kernels' compiler flags with another level of optimisation, and further -f flags where some are wanted."""
    level, *others = wanted.split() or [""]
    if not re.fullmatch(r"-O([0-3sgz]|fast)", level) or not all(re.fullmatch(r"-f[\w=-]+", word) for word in others):
        raise InputError(
            f"'{wanted}' is no level of optimisation",
            hint="-O0 to -O3, -Os or -Ofast; flags that start with -f may follow",
        )
    return " ".join([level, *(word for word in flags.split() if not word.startswith("-O")), *others])
