"""Unicorn, as the rest of the simulator uses it: untyped, and without the slow part of its Python binding.

The binding puts two Python functions around each callback. What is called often is attached without them, and
firmware runs twice as fast. That needs private names of the binding; where they are gone, the public way is taken.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import unicorn
from unicorn import arm_const

_unicorn: Any = unicorn

UcError: type[Exception] = _unicorn.UcError

STORE: int = unicorn.UC_MEM_WRITE
PROT_EXEC: int = unicorn.UC_PROT_EXEC

FORGET_TRANSLATIONS: int = unicorn.UC_CTL_TB_REMOVE_CACHE | 2 << 26 | unicorn.UC_CTL_IO_WRITE << 30
"""A uc_ctl() of two addresses: those from the first to before the second are translated anew."""

# uc_cb_hookcode_t, uc_cb_hookmem_t, uc_cb_mmio_read_t and uc_cb_mmio_write_t of unicorn.h
_BLOCK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_ACCESS = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
_READ = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)

# How many bytes of a uc_engine are searched for one of its fields; all of it is over 12 kB (Unicorn 2.1).
_SEARCHED = 4096


@dataclass(frozen=True)
class Hook:
    """A hook; lasts as long as this object is kept. callback: None where the binding keeps it."""

    handle: int
    callback: Any


def thumb_engine(cpu_model: int) -> Any:
    """A Unicorn engine for an M-profile core (UC_CPU_ARM_*)."""
    uc = _unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    uc.ctl_set_cpu_model(cpu_model)
    return uc


def hook_blocks(uc: Any, on_block: Callable[[Any, int, int, Any], None]) -> Hook:
    """Call `on_block(_, address, size, _)` in front of every block. It must not raise."""
    return _hook(uc, unicorn.UC_HOOK_BLOCK, _BLOCK, on_block)


def hook_accesses(
    uc: Any,
    on_access: Callable[[Any, int, int, int, int, Any], None],
    *,
    within: range | None = None,
    stores: bool = True,
) -> Hook:
    """Call `on_access(_, kind, address, size, value, _)` in front of every load and store. It must not raise.

    within: only for those addresses. stores: whether for stores too; kind is STORE for them.
    """
    kinds = unicorn.UC_HOOK_MEM_READ | (unicorn.UC_HOOK_MEM_WRITE if stores else 0)
    return _hook(uc, kinds, _ACCESS, on_access, within)


def has_native_hooks(uc: Any) -> bool:
    """Whether functions of a C library can be hooks."""
    return _library(uc) is not None


def hook_native_blocks(uc: Any, function: Any, data: Any) -> Hook:
    """Call the C function `function(uc, address, size, data)` in front of every block."""
    return _native_hook(uc, unicorn.UC_HOOK_BLOCK, function, data, None)


def hook_native_accesses(uc: Any, function: Any, data: Any, within: range, *, stores: bool) -> Hook:
    """Call the C function `function(uc, kind, address, size, value, data)`; see hook_accesses()."""
    kinds = unicorn.UC_HOOK_MEM_READ | (unicorn.UC_HOOK_MEM_WRITE if stores else 0)
    return _native_hook(uc, kinds, function, data, within)


def hook_native_pages(uc: Any, function: Any, data: Any) -> Hook:
    """Call the C function `function(uc, page, kind, uc_tlb_entry *, data)` for pages that Unicorn does not know (with a
    virtual TLB). Where it answers false, the hook that was added next is asked."""
    return _native_hook(uc, unicorn.UC_HOOK_TLB_FILL, function, data, None)


def hook_instruction(uc: Any, address: int, on_instruction: Callable[[Any, int, int, Any], None]) -> Hook:
    """Call `on_instruction(_, address, size, _)` in front of the instruction at `address`, if its condition holds."""
    return Hook(uc.hook_add(unicorn.UC_HOOK_CODE, on_instruction, begin=address, end=address), None)


def unhook(uc: Any, hook: Hook) -> None:
    """Remove a hook."""
    library = _library(uc)
    if hook.callback is None or library is None:
        uc.hook_del(hook.handle)
    else:
        _check(library.uc_hook_del(uc._uch, ctypes.c_size_t(hook.handle)))


def register_setter(uc: Any, register: int, value: int) -> Callable[[], object]:
    """A function that sets a 32-bit register (UC_ARM_REG_*) to `value`."""
    library = _library(uc)
    if library is None:
        return lambda: uc.reg_write(register, value)
    write, engine, number = library.uc_reg_write, uc._uch, ctypes.c_int(register)
    kept = ctypes.c_uint64(value)
    pointer = ctypes.byref(kept)
    return lambda: write(engine, number, pointer)


def native_register_write(uc: Any) -> Any:
    """The address of `uc_err write(uc_engine *, int register, const void *value)`, for functions of a C library."""
    return ctypes.cast(_library(uc).uc_reg_write, ctypes.c_void_p)


def native_control(uc: Any) -> Any:
    """The address of `uc_err uc_ctl(uc_engine *, uc_control_type, ...)`, for functions of a C library."""
    return ctypes.cast(_library(uc).uc_ctl, ctypes.c_void_p)


def split_size_offset(uc: Any) -> int | None:
    """Where in its engine Unicorn keeps the size of the access whose pieces it makes; None where that is not found.

    A C int, 0 while whole accesses are made. Nothing of Unicorn's interface tells it, so it is looked for: by loads and
    stores, whole ones and split ones, on an engine made for that.
    """
    return _find_split_size() if _library(uc) is not None else None


@cache
def _find_split_size() -> int | None:
    uc = thumb_engine(arm_const.UC_CPU_ARM_CORTEX_M4)
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        seen.append(struct.unpack(f"{_SEARCHED // 4}i", ctypes.string_at(uc._uch, _SEARCHED)))

    def on_read(_uc: Any, _offset: int, _width: int, _data: Any) -> int:
        look()
        return 0

    def on_write(_uc: Any, _offset: int, _width: int, _value: int, _data: Any) -> None:
        look()

    code, device = 0x1000, 0x2000
    # ldr, str, ldrh, strh r0, [r1]
    instructions = ((0x6808, 4), (0x6008, 4), (0x8808, 2), (0x8008, 2))
    uc.mem_map(code, 0x1000)
    uc.mem_write(code, b"".join(word.to_bytes(2, "little") for word, _ in instructions))
    kept = map_device(uc, device, 0x1000, on_read, on_write)
    possible = set(range(_SEARCHED // 4))
    for index, (_, size) in enumerate(instructions):
        for misaligned in (0, 1):
            seen.clear()
            uc.reg_write(arm_const.UC_ARM_REG_R1, device + misaligned)
            try:
                uc.emu_start(code + 2 * index | 1, 0, count=1)
            except UcError:
                return None
            expected = size if misaligned else 0
            possible = {at for at in possible if seen and all(words[at] == expected for words in seen)}
    del kept
    return 4 * possible.pop() if len(possible) == 1 else None


def register_access(uc: Any) -> tuple[Callable[[int], int], Callable[[int, int], object]]:
    """(read, write) of one register of up to 64 bits, by its UC_ARM_REG_*. Not for two threads at a time."""
    library = _library(uc)
    if library is None:
        return uc.reg_read, uc.reg_write
    read_register, write_register, engine = library.uc_reg_read, library.uc_reg_write, uc._uch
    word = ctypes.c_uint64()
    pointer = ctypes.byref(word)

    def read(register: int) -> int:
        word.value = 0
        read_register(engine, register, pointer)
        return word.value

    def write(register: int, value: int) -> None:
        word.value = value
        write_register(engine, register, pointer)

    return read, write


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
    map_native_device(uc, base, size, *callbacks, None)
    return callbacks


def map_native_device(uc: Any, base: int, size: int, read: Any, write: Any, data: Any) -> None:
    """Call the C functions `read(uc, offset, width, data)` and `write(uc, offset, width, value, data)`."""
    readers, writers = (ctypes.cast(function, ctypes.c_void_p) for function in (read, write))
    place = ctypes.c_uint64(base), ctypes.c_uint64(size)
    _check(_library(uc).uc_mmio_map(uc._uch, *place, readers, data, writers, data))


def _hook(uc: Any, kind: int, signature: Any, function: Callable[..., None], within: range | None = None) -> Hook:
    library = _library(uc)
    begin, end = (within.start, within.stop - 1) if within else (1, 0)
    if library is None:
        return Hook(uc.hook_add(kind, function, begin=begin, end=end), None)
    callback = signature(function)
    hook = _native_hook(uc, kind, callback, None, within)
    return Hook(hook.handle, callback)


def _native_hook(uc: Any, kind: int, function: Any, data: Any, within: range | None) -> Hook:
    begin, end = (within.start, within.stop - 1) if within else (1, 0)
    handle = ctypes.c_size_t()
    pointer = ctypes.cast(function, ctypes.c_void_p)
    places = ctypes.c_uint64(begin), ctypes.c_uint64(end)
    _check(_library(uc).uc_hook_add(uc._uch, ctypes.byref(handle), ctypes.c_int(kind), pointer, data, *places))
    return Hook(handle.value, function)


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
