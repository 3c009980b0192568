"""What is to be programmed: the loadable bytes of an ELF file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from harness.errors import InputError


@dataclass(frozen=True)
class Segment:
    """Bytes to program. address: where they are loaded (not where .data runs)."""

    address: int
    data: bytes


def read_segments(elf: Path) -> tuple[Segment, ...]:
    """Every PT_LOAD segment with contents. InputError where the file is missing, no ELF file, or has none."""
    try:
        with elf.open("rb") as file:
            segments = tuple(
                Segment(segment["p_paddr"], segment.data())
                for segment in ELFFile(file).iter_segments("PT_LOAD")
                if segment["p_filesz"]
            )
    except OSError as error:
        raise InputError(f"{elf} cannot be read: {error.strerror}") from error
    except (ELFError, ConstructError, struct.error, ValueError, KeyError) as error:
        raise InputError(f"{elf} is not a valid ELF file: {error}") from error
    if not segments:
        raise InputError(f"{elf} holds nothing to program")
    return segments
