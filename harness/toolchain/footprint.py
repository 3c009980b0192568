"""What an image takes: every byte of its flash and RAM in exactly one class, from the ELF and the linker's map.

The ELF says how large its sections are; the map says which object each part of them came from. Bytes that the linker
put in for alignment belong to what they align.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import BuildError

Memory = Literal["flash", "ram"]
Class = Literal["weights", "kernels", "platform", "activations", "stack"]

# Weights of layer conv1 are in .rodata.weights.conv1; emitted as instructions, in .text.weights.conv1.
_WEIGHTS = re.compile(r"\.(?:rodata|text|data)\.weights\.(.+)")
_ACTIVATIONS = ".bss.activations"
_STACK = ".stack"

# What the linker itself puts in, as its map names it.
_FILL = "*fill*"
_STUBS = "linker stubs"


@dataclass(frozen=True)
class Flash:
    """Bytes of flash: total = weights + kernels + platform."""

    total: int
    weights: int
    kernels: int
    platform: int


@dataclass(frozen=True)
class Ram:
    """Bytes of RAM: total = activations + platform + stack (reserved)."""

    total: int
    activations: int
    platform: int
    stack: int


@dataclass(frozen=True)
class Part:
    """Bytes of one class that one input section takes in one memory, alignment in front of it included.

    output: the ELF's section. section: the object's section. origin: the object, or library.a(member).
    """

    memory: Memory
    kind: Class
    output: str
    section: str
    origin: str
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """What an image takes, in bytes. layers: weight bytes by layer. sections: every part, in the order of addresses."""

    flash: Flash
    ram: Ram
    layers: Mapping[str, int]
    sections: tuple[Part, ...]

    @property
    def network(self) -> int:
        """The network image: weights, kernels and activations. Ratios between variants use it."""
        return self.flash.weights + self.flash.kernels + self.ram.activations

    def as_dict(self) -> dict[str, dict[str, int]]:
        """{flash: {total, weights, kernels, platform}, ram: {total, activations, platform, stack}}"""
        return {"flash": asdict(self.flash), "ram": asdict(self.ram)}

    def to_json(self) -> dict[str, Any]:
        """Everything, as from_json reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Footprint:
        """The inverse of to_json; KeyError or TypeError for anything else."""
        return cls(
            flash=Flash(**raw["flash"]),
            ram=Ram(**raw["ram"]),
            layers=dict(raw["layers"]),
            sections=tuple(Part(**part) for part in raw["sections"]),
        )


def measure(elf: Path, map_file: Path, *, root: Path, is_model: Callable[[str], bool]) -> Footprint:
    """Counts the image `elf` that was linked, with -Map=`map_file`, in the folder `root`.

    is_model tells from an object's path, as the map has it, whether it is the network's; the objects must still be
    there. Library functions that only the network's objects lead to are kernels, the others platform.
    BuildError when the map and the ELF do not tell the same.
    """
    linked = _read_map(map_file.read_text(encoding="utf-8", errors="replace"))
    network = _network_origins(linked, root, is_model)
    parts: list[Part] = []
    for section in _allocated_sections(elf):
        try:
            pieces = list(_pieces(section, linked.inputs.get(section.name, ())))
        except ValueError as error:
            raise BuildError(f"{map_file} does not describe {section.name} of {elf}: {error}") from error
        for memory in section.memories:
            for piece, size in pieces:
                kind = _class_of(memory, piece, piece.origin in network)
                parts.append(Part(memory, kind, section.name, piece.section, piece.origin, size))

    def total(memory: Memory, kind: Class | None = None) -> int:
        return sum(part.bytes for part in parts if part.memory == memory and kind in (None, part.kind))

    layers: dict[str, int] = {}
    for part in parts:
        name = _WEIGHTS.fullmatch(part.section)
        if name and part.kind == "weights":
            layers[name[1]] = layers.get(name[1], 0) + part.bytes
    return Footprint(
        flash=Flash(total("flash"), total("flash", "weights"), total("flash", "kernels"), total("flash", "platform")),
        ram=Ram(total("ram"), total("ram", "activations"), total("ram", "platform"), total("ram", "stack")),
        layers=layers,
        sections=tuple(parts),
    )


def _class_of(memory: Memory, piece: _Input, of_network: bool) -> Class:
    if memory == "flash":
        if _WEIGHTS.fullmatch(piece.section):
            return "weights"
        return "kernels" if of_network else "platform"
    if piece.section == _STACK:
        return "stack"
    return "activations" if of_network or piece.section == _ACTIVATIONS else "platform"


# ---- the ELF


@dataclass(frozen=True)
class _Section:
    """An allocated section. memories: where its bytes lie; initialised data has them in RAM and, copied, in flash."""

    name: str
    address: int
    size: int
    memories: tuple[Memory, ...]


def _allocated_sections(elf: Path) -> list[_Section]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    found = []
    try:
        with elf.open("rb") as file:
            image = ELFFile(file)
            # A segment that is loaded elsewhere than it runs is copied to RAM by the start-up code.
            copied = [
                range(segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"])
                for segment in image.iter_segments("PT_LOAD")
                if segment["p_vaddr"] != segment["p_paddr"]
            ]
            for section in image.iter_sections():
                size, address = section["sh_size"], section["sh_addr"]
                if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or size == 0:
                    continue
                memories: tuple[Memory, ...] = ("flash",)
                if section["sh_type"] == "SHT_NOBITS":
                    memories = ("ram",)
                elif any(address in addresses for addresses in copied):
                    memories = ("ram", "flash")
                found.append(_Section(section.name, address, size, memories))
    except (OSError, ELFError) as error:
        raise BuildError(f"the image {elf} cannot be read: {error}") from error
    return found


def _pieces(section: _Section, inputs: Iterable[_Input]) -> Iterator[tuple[_Input, int]]:
    """What the section is made of, with the bytes of each: fill counts with what follows, the last with what precedes.

    ValueError when the inputs do not cover the section exactly.
    """
    placed = sorted((piece for piece in inputs if piece.size), key=lambda piece: piece.address)
    ends = [piece.address for piece in placed[1:]] + [section.address + section.size]
    if placed and placed[0].address != section.address:
        raise ValueError(f"it starts at 0x{placed[0].address:08x}")
    fill = 0
    previous: tuple[_Input, int] | None = None
    for piece, end in zip(placed, ends, strict=True):
        size = end - piece.address
        if size != piece.size and not piece.merged:
            raise ValueError(f"{piece.section} at 0x{piece.address:08x} has {piece.size} bytes, but room for {size}")
        if piece.section == _FILL:
            fill += size
            continue
        if previous is not None:
            yield previous
        previous = piece, fill + size
        fill = 0
    if previous is not None:
        yield previous[0], previous[1] + fill
    else:
        yield _Input(section.name, "linker script", section.address, section.size), section.size


# ---- the map


@dataclass(frozen=True)
class _Input:
    """One object's section in the image. origin: the object's path, or library.a(member).

    merged: its strings or constants were merged with those of others, and the map's size is only about right.
    """

    section: str
    origin: str
    address: int
    size: int
    merged: bool = False


@dataclass(frozen=True)
class _Linked:
    """What the map tells. inputs: by output section. objects: on the command line. members: taken from libraries."""

    inputs: Mapping[str, tuple[_Input, ...]]
    objects: frozenset[str]
    members: frozenset[str]


_HEX = r"0x([0-9a-f]+)"
_OUTPUT = re.compile(rf"(\.\S+)(?:\s+{_HEX}\s+{_HEX}.*)?")
_INPUT = re.compile(rf" (\.\S+|COMMON)(?:\s+{_HEX}\s+{_HEX}\s+(\S.*))?")
_INPUT_FILL = re.compile(rf" \*fill\*\s+{_HEX}\s+{_HEX}\s.*")
_INPUT_REST = re.compile(rf"\s+{_HEX}\s+{_HEX}\s+(\S.*)")
_MEMBER = re.compile(r"(\S.*\.a\(.+?\))(?:\s.*)?")


def _read_map(text: str) -> _Linked:
    """Reads GNU ld's map. A name that is too long for its column has the numbers on the next line."""
    introduction, _, memory_map = text.partition("\nLinker script and memory map\n")
    members = introduction.partition("\nDiscarded input sections\n")[0]
    inputs: dict[str, list[_Input]] = {}
    objects = set()
    output = ""
    pending: str | None = None
    for line in memory_map.splitlines():
        if pending is not None and (rest := _INPUT_REST.fullmatch(line)):
            inputs[output].append(_Input(pending, rest[3], int(rest[1], 16), int(rest[2], 16)))
            pending = None
            continue
        pending = None
        if line.endswith(" (size before relaxing)") and output:
            inputs[output][-1] = replace(inputs[output][-1], merged=True)
        elif line.startswith("LOAD "):
            objects.add(line.removeprefix("LOAD "))
        elif found := _OUTPUT.fullmatch(line):
            output = found[1]
            inputs.setdefault(output, [])
        elif (found := _INPUT_FILL.fullmatch(line)) and output:
            inputs[output].append(_Input(_FILL, "", int(found[1], 16), int(found[2], 16)))
        elif (found := _INPUT.fullmatch(line)) and output:
            if found[4] is None:
                pending = found[1]
            else:
                inputs[output].append(_Input(found[1], found[4], int(found[2], 16), int(found[3], 16)))
    return _Linked(
        {name: tuple(found) for name, found in inputs.items()},
        frozenset(name for name in objects if not name.endswith(".a") and name != _STUBS),
        frozenset(found[1] for line in members.splitlines() if (found := _MEMBER.fullmatch(line))),
    )


# ---- who needs which library function


@dataclass(frozen=True)
class _Names:
    """Global symbols of one object."""

    defined: frozenset[str]
    undefined: frozenset[str]


def _network_origins(linked: _Linked, root: Path, is_model: Callable[[str], bool]) -> frozenset[str]:
    """The network's objects, and the library members that are reached from them and from nothing else."""
    model = frozenset(name for name in linked.objects if is_model(name))
    if not linked.members:
        return model
    names = {name: _symbol_names((root / name).read_bytes()) for name in linked.objects}
    libraries: dict[str, set[str]] = {}
    for member in linked.members:
        library, _, inside = member.removesuffix(")").rpartition("(")
        libraries.setdefault(library, set()).add(inside)
    for library, wanted in libraries.items():
        for inside, content in _archive_members((root / library).read_bytes()):
            if inside in wanted:
                names[f"{library}({inside})"] = _symbol_names(content)
    definers: dict[str, set[str]] = {}
    for member in linked.members & names.keys():
        for symbol in names[member].defined:
            definers.setdefault(symbol, set()).add(member)

    def reached(start: Iterable[str]) -> set[str]:
        seen: set[str] = set()
        waiting = list(start)
        while waiting:
            for symbol in names[waiting.pop()].undefined:
                fresh = definers.get(symbol, set()) - seen
                seen |= fresh
                waiting.extend(fresh)
        return seen

    return model | (reached(model) - reached(linked.objects - model))


def _symbol_names(content: bytes) -> _Names:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    defined: set[str] = set()
    undefined: set[str] = set()
    table = ELFFile(io.BytesIO(content)).get_section_by_name(".symtab")
    for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
        if symbol["st_info"]["bind"] in ("STB_GLOBAL", "STB_WEAK"):
            (undefined if symbol["st_shndx"] == "SHN_UNDEF" else defined).add(symbol.name)
    return _Names(frozenset(defined), frozenset(undefined))


def _archive_members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a Unix archive with GNU's long names (ar(5))."""
    long_names = b""
    position = len(b"!<arch>\n")
    while position + 60 <= len(content):
        header = content[position : position + 60]
        size = int(header[48:58])
        body = content[position + 60 : position + 60 + size]
        name = header[:16].decode("latin-1").rstrip()
        if name == "//":
            long_names = body
        elif name.startswith("/") and name[1:].isdigit():
            start = int(name[1:])
            yield long_names[start : long_names.index(b"/\n", start)].decode("latin-1"), body
        elif name not in ("/", "/SYM64/"):
            yield name.removesuffix("/"), body
        position += 60 + size + size % 2  # members start at even offsets
