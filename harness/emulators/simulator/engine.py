"""Unicorn, as the rest of the simulator uses it: untyped, and without the slow part of its Python binding.

The binding puts two Python functions around each callback. Blocks and peripherals are called so often that firmware
runs twice as fast without them. That needs private names of the binding; where they are gone, the public way is taken.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import unicorn

_unicorn: Any = unicorn

UcError: type[Exception] = _unicorn.UcError

# uc_cb_hookcode_t, uc_cb_mmio_read_t and uc_cb_mmio_write_t of unicorn.h
_BLOCK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_READ = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)


def thumb_engine(cpu_model: int) -> Any:
    """A Unicorn engine for an M-profile core (UC_CPU_ARM_*)."""
    uc = _unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    uc.ctl_set_cpu_model(cpu_model)
    return uc


def hook_blocks(uc: Any, on_block: Callable[[Any, int, int, Any], None]) -> Any:
    """Call `on_block(_, address, size, _)` in front of every block. It must not raise. Keep the result alive."""
    library = _library(uc)
    if library is None:
        return uc.hook_add(unicorn.UC_HOOK_BLOCK, on_block)
    callback = _BLOCK(on_block)
    handle = ctypes.c_size_t()
    everywhere = ctypes.c_uint64(1), ctypes.c_uint64(0)
    pointer = ctypes.cast(callback, ctypes.c_void_p)
    _check(
        library.uc_hook_add(
            uc._uch, ctypes.byref(handle), ctypes.c_int(unicorn.UC_HOOK_BLOCK), pointer, None, *everywhere
        )
    )
    return callback


def map_device(
    uc: Any,
    base: int,
    size: int,
    read: Callable[[Any, int, int, Any], int],
    write: Callable[[Any, int, int, int, Any], None],
) -> Any:
    """Call `read(_, offset, width, _)` and `write(_, offset, width, value, _)` for accesses from `base` on.

    They must not raise. Keep the result alive.
    """
    library = _library(uc)
    if library is None:
        return uc.mmio_map(base, size, read, None, write, None)
    callbacks = _READ(read), _WRITE(write)
    readers, writers = (ctypes.cast(callback, ctypes.c_void_p) for callback in callbacks)
    _check(library.uc_mmio_map(uc._uch, ctypes.c_uint64(base), ctypes.c_uint64(size), readers, None, writers, None))
    return callbacks


def _library(uc: Any) -> Any:
    """The shared library behind the binding, or None where it cannot be reached."""
    try:
        from unicorn.unicorn_py3 import unicorn as binding
    except ImportError:
        return None
    return getattr(binding, "uclib", None) if hasattr(uc, "_uch") else None


def _check(status: int) -> None:
    if status != unicorn.UC_ERR_OK:
        raise UcError(status)
