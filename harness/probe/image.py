"""What the probe needs of an ELF file: the bytes to program, and which function an address lies in."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.errors import InputError


@dataclass(frozen=True)
class Segment:
    """Bytes to program. address: where they are loaded (not where .data runs)."""

    address: int
    data: bytes


@dataclass(frozen=True)
class _Function:
    start: int
    size: int  # 0 for hand-written assembly that does not say
    name: str


@dataclass(frozen=True)
class Image:
    """An ELF file, read once. functions: sorted by start address."""

    segments: tuple[Segment, ...]
    functions: tuple[_Function, ...]

    @property
    def size(self) -> int:
        """Bytes to program."""
        return sum(len(segment.data) for segment in self.segments)

    def function_at(self, address: int) -> tuple[str, int] | None:
        """Name of the function that holds `address`, and the offset into it in bytes."""
        index = bisect.bisect_right(self.functions, address, key=lambda function: function.start) - 1
        if index < 0:
            return None
        function = self.functions[index]
        offset = address - function.start
        return (function.name, offset) if offset < function.size or not function.size else None


def read_image(path: Path) -> Image:
    """The image in the ELF file at `path`. InputError where it is missing, no ELF file, or has nothing to program."""
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            segments = tuple(
                Segment(segment["p_paddr"], segment.data())
                for segment in elf.iter_segments("PT_LOAD")
                if segment["p_filesz"]
            )
            functions = _functions(elf)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ELFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a valid ELF file: {error}") from error
    if not segments:
        raise InputError(f"{path} holds nothing to program")
    return Image(segments, functions)


def _functions(elf: ELFFile) -> tuple[_Function, ...]:
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return ()  # stripped: addresses stay numbers
    found = (
        _Function(symbol["st_value"] & ~1, symbol["st_size"], symbol.name)  # bit 0 only says that it is Thumb code
        for symbol in table.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF"
    )
    return tuple(sorted(found, key=lambda function: (function.start, function.size)))
