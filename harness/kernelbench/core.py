"""A few C functions on a simulated core, with nothing around them: what they return, and the instructions they take."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BuildError, DeviceError
from harness.toolchain import compiler, symbols

if TYPE_CHECKING:
    from harness.boards import Board
    from harness.emulators.simulator.cycles.model import CycleModel

# A compiler, and a function on the simulated core, that take longer are broken.
_BUILD_SECONDS, _RUN_SECONDS = 120.0, 120.0

_CPACR, _FULL_ACCESS = 0xE000_ED88, 0xF << 20

# Weights first, so that what the linker's map calls by these names can be told from code.
_LINKER_SCRIPT = """
MEMORY {{
  FLASH (rx) : ORIGIN = {flash.origin:#x}, LENGTH = {flash.length:#x}
  RAM (rw) : ORIGIN = {ram.origin:#x}, LENGTH = {ram.length:#x}
}}
SECTIONS {{
  .text : {{ *(.text .text.*) }} > FLASH
  .rodata : {{ *(.rodata .rodata.*) }} > FLASH
  .bss (NOLOAD) : {{ *(.bss .bss.*) }} > RAM
  /DISCARD/ : {{ *(.ARM.exidx* .ARM.extab*) }}
}}
"""

# Where functions return to: nothing is ever executed there.
_RETURN = "void kernelbench_return(void);\nvoid kernelbench_return(void) { for (;;) {} }\n"


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image: code, constants, and memory that is written."""

    code: int
    constants: int
    ram: int


class Core:
    """An image in a board's flash, and its core. Built from C files, by name, and static libraries.

    model: counts its cycles, too. BuildError when the compiler refuses or it does not fit, InputError when the
    simulator does not model the board.
    """

    def __init__(
        self,
        board: Board,
        sources: Mapping[str, str],
        folder: Path,
        *,
        includes: Sequence[Path] = (),
        libraries: Sequence[Path] = (),
        optimize: str = "-O2",
        roots: Sequence[str] = (),
        model: CycleModel | None = None,
    ) -> None:
        from harness.emulators.simulator.machine import Machine

        elf = _build(board, {**sources, "kernelbench_return.c": _RETURN}, folder, includes, libraries, optimize, roots)
        self._symbols = symbols.read(elf)
        self.sizes = _sizes(elf)
        self._machine = Machine(board, cycle_model=model)
        self._machine.load_elf(elf)
        ram = board.region("ram")
        self._stack = ram.origin + ram.length
        if board.fpu is not None:
            self._machine.write(_CPACR, _FULL_ACCESS.to_bytes(4, "little"))
        self._return = self._address("kernelbench_return")
        self._machine.breakpoints = [self._return]

    def call(self, function: str, *arguments: int) -> tuple[int, int]:
        """(what the function returns, the instructions it executed). DeviceError when it does not return."""
        from harness.emulators.simulator.stops import Reason

        machine = self._machine
        machine.write_register("xpsr", 1 << 24)
        machine.write_register("sp", self._stack)
        machine.write_register("lr", self._return | 1)
        machine.write_register("pc", self._address(function))
        for index, argument in enumerate(arguments):
            machine.write_register(f"r{index}", argument)
        before = machine.instructions
        stop = machine.run(timeout=_RUN_SECONDS)
        if stop.reason is not Reason.BREAKPOINT:
            raise DeviceError(f"{function} did not return on the simulated core: {stop.reason.value}")
        return machine.read_register("r0"), machine.instructions - before

    def cycles_per_instruction(self, function: str, *arguments: int) -> float:
        """What the core itself takes, memory aside, once its branch predictor has seen the function. Needs a model."""
        counting = self._machine.counting
        assert counting is not None, "there is no cycle model"
        self.call(function, *arguments)
        counting.clear_visits()
        self.call(function, *arguments)
        instructions = cycles = 0
        for visit in counting.visits():
            spent = visit.edge.cost.spent
            instructions += visit.count * len(spent)
            cycles += visit.count * sum(one.issue + one.stall for one in spent) + visit.branch
        return cycles / instructions

    @property
    def cycles(self) -> int:
        """Modelled cycles of all calls so far, from memories as the board has them. Needs a model."""
        return self._machine.cycles

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the core's memory."""
        return self._machine.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Writes into the core's memory."""
        self._machine.write(address, data)

    def _address(self, function: str) -> int:
        symbol = self._symbols.named(function)
        if symbol is None:
            raise BuildError(f"the image has no function {function}")
        return symbol.address


def _build(
    board: Board,
    sources: Mapping[str, str],
    folder: Path,
    includes: Sequence[Path],
    libraries: Sequence[Path],
    optimize: str,
    roots: Sequence[str],
) -> Path:
    files = []
    for name, text in sources.items():
        (folder / name).write_text(text)
        files += [str(folder / name)] if name.endswith(".c") else []
    script, elf = folder / "kernelbench.ld", folder / "kernelbench.elf"
    script.write_text(_LINKER_SCRIPT.format(flash=board.region("flash"), ram=board.region("ram")))
    command = [str(compiler.arm().path), f"-mcpu={board.core}", "-mthumb", f"-mfloat-abi={board.float_abi}"]
    command += [f"-mfpu={board.fpu}"] if board.fpu else []
    command += ["-std=c11", *optimize.split(), "-ffunction-sections", "-fdata-sections", "-fno-common"]
    command += [f"-I{path}" for path in (folder, *includes)]
    command += [*files, *map(str, libraries), "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-lc"]
    command += ["-Wl,-e,kernelbench_return", *(f"-Wl,-u,{root}" for root in roots), f"-Wl,-T,{script}", "-o", str(elf)]
    try:
        built = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"the compiler did not finish in {_BUILD_SECONDS:g} s") from error
    if built.returncode != 0:
        lines = [line for line in built.stderr.splitlines() if "error" in line or "overflow" in line]
        raise BuildError(f"a kernel does not compile: {(lines or ['no message'])[0]}")
    return elf


def _sizes(elf: Path) -> Sizes:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as file:
        sections = {section.name: int(section["sh_size"]) for section in ELFFile(file).iter_sections()}
    return Sizes(sections.get(".text", 0), sections.get(".rodata", 0), sections.get(".bss", 0))
