"""Counts executed instructions with a Unicorn block hook, as fast as Python allows."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import unicorn

from harness.emulators.simulator.engine import UcError

# uc_cb_hookcode_t of unicorn.h
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


class BlockCounter:
    """The instructions executed so far, all of the current block's included.

    counts: instructions per block, by its address. A block that is not in it is asked of `unknown(address, size)`,
    which answers with its count, or with None when it will not be executed because the run is being stopped. It must
    not raise.
    """

    def __init__(self, uc: Any, counts: dict[int, int], unknown: Callable[[int, int], int | None]) -> None:
        executed = block = 0

        # Called for every block: closure variables are the fastest state there is.
        def on_block(_uc: Any, address: int, size: int, _data: Any = None) -> None:
            nonlocal executed, block
            try:
                executed += counts[address]
            except KeyError:
                count = unknown(address, size)
                if count is None:
                    return
                executed += count
            block = address

        def read() -> tuple[int, int]:
            return executed, block

        def add(instructions: int) -> None:
            nonlocal executed
            executed += instructions

        self.read = read
        """() -> (instructions executed, address of the current block)"""
        self.add = add
        """(instructions): correct the count."""
        self._hook = _attach(uc, on_block)


def _attach(uc: Any, on_block: Callable[..., None]) -> Any:
    """Attach the hook without the two Python functions that the binding puts around it: firmware runs twice as fast.

    This needs private names of the binding; where they are gone, the public way is taken. Keep the result alive.
    """
    try:
        from unicorn.unicorn_py3.unicorn import uclib

        engine = uc._uch
    except (ImportError, AttributeError):
        return uc.hook_add(unicorn.UC_HOOK_BLOCK, on_block)
    callback = _CALLBACK(on_block)
    everywhere = ctypes.c_uint64(1), ctypes.c_uint64(0)
    status = uclib.uc_hook_add(
        engine,
        ctypes.byref(ctypes.c_size_t()),
        ctypes.c_int(unicorn.UC_HOOK_BLOCK),
        ctypes.cast(callback, ctypes.c_void_p),
        None,
        *everywhere,
    )
    if status != unicorn.UC_ERR_OK:
        raise UcError(status)
    return callback
