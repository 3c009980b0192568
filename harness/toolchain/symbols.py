"""Which function an address belongs to, read from an ELF's symbol table: for fault reports."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError


@dataclass(frozen=True)
class Symbol:
    """A function or an object of the image. address without the Thumb bit; size in bytes, 0 where it is not known."""

    name: str
    address: int
    size: int


class Symbols:
    """The functions and objects of one ELF, by address and by name."""

    def __init__(self, symbols: list[Symbol]) -> None:
        self._sorted = sorted(symbols, key=lambda symbol: symbol.address)
        self._addresses = [symbol.address for symbol in self._sorted]
        self._by_name = {symbol.name: symbol for symbol in self._sorted}

    def named(self, name: str) -> Symbol | None:
        """The symbol of that name."""
        return self._by_name.get(name)

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers `address` (the Thumb bit is ignored); None outside of all of them."""
        address &= ~1
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        symbol = self._sorted[index]
        return symbol if address < symbol.address + max(symbol.size, 1) else None

    def describe(self, address: int) -> str:
        """`network_infer+0x1c`, or the bare address where no symbol covers it."""
        symbol = self.at(address)
        if symbol is None:
            return f"0x{address:08x}"
        offset = (address & ~1) - symbol.address
        return f"{symbol.name}+0x{offset:x}" if offset else symbol.name


def read(elf: Path) -> Symbols:
    """The symbols of the image `elf`. InputError when it cannot be read as ELF."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found = []
    try:
        with elf.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            for entry in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
                kind = entry["st_info"]["type"]
                if kind in ("STT_FUNC", "STT_OBJECT") and entry["st_shndx"] != "SHN_UNDEF":
                    # Bit 0 of a function's address says Thumb; an object's is part of its address.
                    address = entry["st_value"] & ~1 if kind == "STT_FUNC" else entry["st_value"]
                    found.append(Symbol(entry.name, address, entry["st_size"]))
    except OSError as error:
        raise InputError(f"cannot read {elf}: {error.strerror or error}") from error
    except ELFError as error:
        raise InputError(f"{elf} is not an ELF image: {error}") from error
    return Symbols(found)
