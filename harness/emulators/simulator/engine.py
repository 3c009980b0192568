"""Unicorn's classes, whose annotations are too incomplete to check ours against."""

from __future__ import annotations

from typing import Any

import unicorn

_unicorn: Any = unicorn

UcError: type[Exception] = _unicorn.UcError


def thumb_engine(cpu_model: int) -> Any:
    """A Unicorn engine for an M-profile core (UC_CPU_ARM_*)."""
    uc = _unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    uc.ctl_set_cpu_model(cpu_model)
    return uc
