"""What is to be programmed: the loadable bytes of an ELF file, or a raw image of flash."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from harness.boards import Board
from harness.errors import InputError

_ELF_MAGIC = b"\x7fELF"
# Initial stack pointer, reset vector.
_VECTORS = struct.Struct("<2I")


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


def is_elf(path: Path) -> bool:
    """Whether the file begins as an ELF file does. InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_ELF_MAGIC)) == _ELF_MAGIC
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def ram_bytes(elf: Path, board: Board) -> int:
    """Bytes of the board's RAM that the sections of an ELF file take: data, zeros, reserved stack and heap."""
    ram = [range(region.origin, region.origin + region.length) for region in board.memory if region.kind == "ram"]
    with elf.open("rb") as file:
        sections = [
            (section["sh_addr"], section["sh_size"])
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC
        ]
    return sum(size for address, size in sections if any(address in place for place in ram))


def read_firmware(path: Path, board: Board) -> tuple[Segment, ...]:
    """The segments of an ELF file, or all of any other file as one at the origin of the board's flash.

    InputError where the file cannot be read, or does not begin with a vector table that `board` could start from: the
    initial stack pointer in RAM, the reset vector in the image, and odd.
    """
    if is_elf(path):
        segments = read_segments(path)
    else:
        data = path.read_bytes()
        if not data:
            raise InputError(f"{path} is empty")
        segments = (Segment(board.region("flash").origin, data),)
    _check_vectors(path, board, segments)
    return segments


def _check_vectors(path: Path, board: Board, segments: tuple[Segment, ...]) -> None:
    origin = board.region("flash").origin
    table = next((segment for segment in segments if segment.address == origin), None)
    if table is None or len(table.data) < _VECTORS.size:
        raise InputError(
            f"{path.name} has no vector table at {origin:#010x}, where the flash of {board.name} begins",
            hint="was it linked for another board, or to start behind a bootloader?",
        )
    stack_pointer, start = _VECTORS.unpack_from(table.data)
    ram = [(region.origin, region.length) for region in board.memory if region.kind == "ram"]
    ram += [(region.origin, region.length) for region in (board.timing.tcm if board.timing is not None else ())]
    if not any(origin < stack_pointer <= origin + length for origin, length in ram):
        raise _implausible(path, board, f"the initial stack pointer {stack_pointer:#010x} is not in its RAM")
    inside = any(segment.address <= start & ~1 < segment.address + len(segment.data) for segment in segments)
    if not inside or not start & 1:
        raise _implausible(path, board, f"the reset vector {start:#010x} is no Thumb code of the image")


def _implausible(path: Path, board: Board, why: str) -> InputError:
    return InputError(
        f"{path.name} is no firmware that {board.name} can start: {why}",
        hint="is it an ELF file or a raw image of the flash, made for this board?",
    )
