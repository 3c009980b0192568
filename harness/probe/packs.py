"""CMSIS packs: where pyOCD gets the flash algorithm of a chip that it does not know itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.boards import Board
from harness.errors import DeviceError, InputError


def is_builtin(target: str) -> bool:
    """Whether pyOCD brings that target itself."""
    from pyocd.target import TARGET

    return _normalized(target) in TARGET


def is_installed(target: str) -> bool:
    """Whether an installed pack has that target. False where the packs cannot be read."""
    return is_builtin(target) or any(_normalized(device) == _normalized(target) for device in _installed_devices())


def install(board: Board) -> str:
    """Make sure that pyOCD can program `board`; returns in words what was done.

    Downloads the index of all packs where the board's chip is not in it yet (minutes), then the one pack, with pyOCD's
    own pack manager, to where pyOCD looks for it. InputError for a board without hardware; DeviceError where the pack
    is unknown or cannot be fetched.
    """
    hardware = board.engines.hardware
    if hardware is None:
        raise InputError(f"{board.name} exists as an emulator only", hint="harness boards lists what is real")
    target = hardware.pyocd_target
    if is_builtin(target):
        return f"pyOCD programs {target} without a pack"
    if is_installed(target):
        return f"the pack for {target} is installed"
    cache = _cache()
    try:
        if _device(cache, target) is None:
            cache.cache_descriptors()
            cache = _cache()  # which has read the index by now
        device = _device(cache, target)
        if device is None:
            raise DeviceError(
                f"no CMSIS pack has {target}",
                hint="the index could not be fetched either? then name a pack file in pyocd.yaml: docs/real-boards.md",
            )
        packs = cache.packs_for_devices([device])
        cache.download_pack_list(packs)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DeviceError(f"the CMSIS pack for {target} cannot be fetched: {error}") from error
    missing = [pack for pack in packs if not (Path(cache.data_path) / pack.get_pack_name()).is_file()]
    if missing:
        raise DeviceError(f"the CMSIS pack {missing[0]} was not fetched", hint="check the network, and try again")
    return f"installed {', '.join(str(pack) for pack in packs)} for {target}"


def _cache() -> Any:
    import cmsis_pack_manager  # type: ignore[import-untyped]  # it has none

    return cmsis_pack_manager.Cache(True, False)


def _device(cache: Any, target: str) -> Any | None:
    """The index's entry of that chip; packs write names in mixed case (STM32F746ZGTx)."""
    return next((entry for name, entry in cache.index.items() if _normalized(name) == _normalized(target)), None)


def _installed_devices() -> list[str]:
    cache = _cache()
    names: list[str] = []
    for name, entry in cache.index.items():
        (pack,) = cache.packs_for_devices([entry])
        if (Path(cache.data_path) / pack.get_pack_name()).is_file():
            names.append(name)
    return names


def _normalized(target: str) -> str:
    """As pyOCD compares names of targets."""
    from pyocd.target import normalise_target_type_name

    return str(normalise_target_type_name(target))
