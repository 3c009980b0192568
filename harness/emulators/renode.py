"""Renode as an emulator: the platform and the script it is given, how it is started, and what its end means.

Written for the pinned release, whose behaviour docs/renode.md lists. A stock platform is taken as it is, but for what
is laid over it here; nothing is downloaded: its own `init`, which fetches a register description, is replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

from harness.boards import Board, RenodeConstant, RenodeEngine, RenodeMemory, RenodeRange, RenodeRegisters
from harness.emulators import guard, logs, renode_release
from harness.emulators.base import Emulator, Process
from harness.errors import DeviceError, InputError

PROGRAM = "renode"
ENVIRONMENT = "HARNESS_RENODE"

_READY = "the board is ready"
_REFUSED = "There was an error executing command"
_PORT_TAKEN = "address already in use"
# It takes 2 to 4 s on an idle machine.
_START_DEADLINE = 90.0
_POLL_SECONDS = 0.02
_TRIES = 3
_PARK_OFFSET = 0x200
_BRANCH_TO_ITSELF = 0xE7FE
_DWT = 0xE000_1000
_WRITES = {1: "WriteByte", 2: "WriteWord", 4: "WriteDoubleWord"}
_CONSTANTS_BLOCK = 0x100


def find() -> Path | None:
    """The program: $HARNESS_RENODE, else what `harness doctor --install renode` unpacked, else from PATH."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        program = shutil.which(Path(named).expanduser())
        if program is None:
            raise DeviceError(f"${ENVIRONMENT} names {named}, which is not a program", hint=f"unset {ENVIRONMENT}")
        return Path(program)
    installed = renode_release.installed_program()
    if installed is not None:
        return installed
    found = shutil.which(PROGRAM)
    return Path(found) if found is not None else None


def not_installed() -> DeviceError:
    """The error where there is none."""
    return DeviceError(
        "Renode is not installed",
        hint=f"harness doctor --install renode, or name another copy with ${ENVIRONMENT}",
    )


def start_renode(board: Board, work_dir: Path) -> Emulator:
    """Start Renode for `board`, halted; its log, platform and script go to `work_dir`.

    InputError when the manifest does not describe the board to Renode; DeviceError when Renode is missing, does not
    start, or refuses the script.
    """
    engine = board.engines.renode
    if engine is None:
        raise InputError(f"Renode does not model board {board.id}", hint="harness boards lists what each board runs on")
    program = find()
    if program is None:
        raise not_installed()
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_PortTaken):
            return _start(program, board, engine, work_dir)
    return _start(program, board, engine, work_dir)


class _PortTaken(DeviceError):
    """Somebody else took a port between our choice and Renode's listening: to be tried again."""


def _start(program: Path, board: Board, engine: RenodeEngine, work_dir: Path) -> Emulator:
    gdb, serial = _free_ports(2)
    work_dir.mkdir(parents=True, exist_ok=True)
    platform, script = work_dir / "board.repl", work_dir / "board.resc"
    try:
        platform.write_text(platform_description(board, work_dir), encoding="utf-8")
        for registers in engine.registers:
            _registers_script(registers, work_dir).write_text(ready_registers(registers), encoding="utf-8")
        script.write_text(monitor_script(board, platform, gdb_port=gdb, serial_port=serial), encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"Renode's files cannot be written to {work_dir}: {error.strerror}") from error
    # A configuration of its own: not the user's, and not one that two instances write at the same time.
    renode = [str(program), "--disable-gui", "--plain", "--config", str(work_dir / "renode.config"), "--console"]
    # The end of standard input ends it too, but not while it hangs; guard.py waits and then kills it.
    command = [sys.executable, "-I", "-S", str(Path(guard.__file__)), "--forward", *renode, _escaped(script)]
    # .NET wants libicu for the languages of the world, which small images of Linux lack and Renode has no use for.
    environment = {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"} | os.environ
    process = Process(
        "Renode", "renode", command, work_dir, environment=environment, explain=_explain, farewell=b"quit\n"
    )
    try:
        _wait_until_ready(process)
    except BaseException as error:
        process.stop()
        if isinstance(error, DeviceError) and not isinstance(error, _PortTaken):
            logs.keep(error, "renode", process.evidence())
        raise
    unmapped = tuple(range(hole.at, hole.at + hole.length) for hole in engine.unmapped)
    version = re.search(r"Renode, version (\S+)", process.log())
    return Emulator(
        "renode",
        version[1] if version is not None else "unknown",
        process,
        gdb_port=gdb,
        serial_port=serial,
        unmapped=unmapped,
    )


def _wait_until_ready(process: Process) -> None:
    """Until the script's last line was executed. A script that fails leaves Renode running, at its prompt."""
    deadline = time.monotonic() + _START_DEADLINE
    while True:
        alive, log = process.alive(), process.log()
        if _REFUSED in log:
            if _PORT_TAKEN in log.lower():
                raise _PortTaken("a port that Renode was given is in use", hint=_last_lines(log))
            raise DeviceError("Renode refuses the board's script", hint=_last_lines(log))
        if _READY in log:
            return
        if not alive:
            raise process.exit_report()
        if time.monotonic() > deadline:
            raise DeviceError(f"Renode is not ready after {_START_DEADLINE:g} s", hint=_last_lines(log))
        time.sleep(_POLL_SECONDS)


def _last_lines(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    first = next((index for index, line in enumerate(lines) if _REFUSED in line), max(len(lines) - 8, 0))
    return "it printed: " + "\n".join(lines[first : first + 8])


def _explain(log: str) -> str | None:
    errors: list[str] = re.findall(r"\[ERROR\] (.+)", log)
    return errors[-1] if errors else None


def bad_accesses(log: str) -> list[str]:
    """What Renode logged about accesses to nothing, with the address of the instruction; oldest first."""
    pattern = (
        r"\[cpu: 0x([0-9A-Fa-f]+)\] (?:bad access (\w+) at|(Read|Write)\w+ (?:from|to) non existing peripheral at)"
        r" 0x([0-9A-Fa-f]+)"
    )
    return [
        f"{'write' if (kind or other).lower().startswith('w') else 'read'} at {int(address, 16):#010x}"
        f" by the instruction at {int(pc, 16):#010x}"
        for pc, kind, other, address in re.findall(pattern, log)
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free on all interfaces, as Renode listens on all. All are held until all are known."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


# ---- the files it is given


def platform_description(board: Board, folder: Path) -> str:
    """The .repl file: the stock platform, and what the manifest lays over it.

    folder: where the scripts of registers are.
    """
    engine = _engine(board)
    parts = [f'using "{engine.platform}"\n']
    parts += [_memory(memory) for memory in engine.memory]
    parts += [_constants(base) for base in sorted({_block(constant) for constant in engine.constants})]
    parts += [_registers(registers, folder) for registers in engine.registers]
    parts += [_hole(hole, engine.cpu) for hole in engine.unmapped]
    # At so many MHz the cycle counter counts instructions: as many of them make a microsecond of virtual time.
    parts.append(f"{engine.cpu}:\n    PerformanceInMips: {engine.mips}\n")
    if board.core not in ("cortex-m0", "cortex-m0plus"):
        parts.append(f"dwt: Miscellaneous.DWT @ sysbus {_DWT:#010x}\n    frequency: {engine.mips * 1_000_000}\n")
    parts.append(_init(engine))
    return "\n".join(parts)


def monitor_script(board: Board, platform: Path, *, gdb_port: int, serial_port: int) -> str:
    """The .resc file: makes the machine, opens its ports, and says when all is done."""
    engine = _engine(board)
    flash, ram = board.region("flash"), board.region("ram")
    park = flash.origin + _PARK_OFFSET
    lines = [
        "using sysbus",
        f'mach create "{board.id}"',
        f"machine LoadPlatformDescription @{_escaped(platform)}",
        f'emulation SetGlobalQuantum "{engine.quantum_us / 1e6:.6f}"',
        "emulation SetGlobalSerialExecution true",
        "emulation SetSeed 1",
        "emulation SetGlobalAdvanceImmediately true",
        f'emulation CreateServerSocketTerminal {serial_port} "terminal" false',  # false: no telnet bytes
        f"connector Connect sysbus.{engine.uart} terminal",
        *(f"sysbus {_WRITES[one.bytes]} {one.at:#010x} {one.value:#x}" for one in engine.constants),
        # Blank flash gets a vector table and a loop: otherwise the core stops for good and a debugger hangs.
        f"sysbus WriteDoubleWord {flash.origin:#010x} {ram.origin + ram.length:#010x}",
        f"sysbus WriteDoubleWord {flash.origin + 4:#010x} {park | 1:#010x}",
        f"sysbus WriteWord {park:#010x} {_BRANCH_TO_ITSELF:#06x}",
        "macro reset",
        '"""',
        f"    sysbus.{engine.cpu} VectorTableOffset {flash.origin:#010x}",
        '"""',
        "runMacro $reset",
        f"machine StartGdbServer {gdb_port} true",  # time starts when a debugger attaches, the core held at reset
        f'echo "{_READY}"',
    ]
    return "\n".join(lines) + "\n"


def _engine(board: Board) -> RenodeEngine:
    assert board.engines.renode is not None
    return board.engines.renode


def _memory(memory: RenodeMemory) -> str:
    kind = "Memory.MappedMemory " if memory.new else ""
    size = f"    size: {memory.length:#x}\n"
    if len(memory.at) == 1:
        return f"{memory.name}: {kind}@ sysbus {memory.at[0]:#010x}\n{size}"
    places = ";\n".join(f"        sysbus {address:#010x}" for address in memory.at)
    return f"{memory.name}: {kind}@ {{\n{places}\n    }}\n{size}"


def _block(constant: RenodeConstant) -> int:
    return constant.at // _CONSTANTS_BLOCK * _CONSTANTS_BLOCK


def _constants(base: int) -> str:
    # Memory that the script fills: a debugger cannot read tags.
    return f"constants_{base:x}: Memory.ArrayMemory @ sysbus {base:#010x}\n    size: {_CONSTANTS_BLOCK:#x}\n"


def _registers(registers: RenodeRegisters, folder: Path) -> str:
    return (
        f"{registers.name}: Python.PythonPeripheral @ sysbus <{registers.at:#010x}, +{registers.length:#x}>\n"
        f"    size: {registers.length:#x}\n    initable: true\n"
        f'    filename: "{_registers_script(registers, folder).absolute()}"\n'
    )


def _registers_script(registers: RenodeRegisters, folder: Path) -> Path:
    return folder / f"board.{registers.name}.py"


def ready_registers(registers: RenodeRegisters) -> str:
    """The script of a Python peripheral of Renode's (IronPython 2.7): `request` is what it is asked."""
    rules: dict[int, list[tuple[int, int]]] = {}
    for rule in registers.ready:
        rules.setdefault(rule.at - registers.at, []).append((rule.mask, rule.shift))
    return (
        "# Registers that keep what is written. RULES: offset -> bits, and how many places higher they are answered.\n"
        f"RULES = {rules}\n"
        "if request.IsInit:\n"
        "    values = {}\n"
        "elif request.IsWrite:\n"
        "    values[int(request.Offset)] = int(request.Value)\n"
        "elif request.IsRead:\n"
        "    offset = int(request.Offset)\n"
        "    value = values.get(offset, 0)\n"
        "    for mask, shift in RULES.get(offset, ()):\n"
        "        answered = mask << shift if shift > 0 else mask >> -shift\n"
        "        bits = value & mask\n"
        "        value = value & ~answered | (bits << shift if shift > 0 else bits >> -shift)\n"
        "    request.Value = value\n"
    )


def _hole(hole: RenodeRange, cpu: str) -> str:
    """Renode only warns of an access to nothing. Here it becomes a HardFault, pending from the next block of code on.

    The stacked PC is near the instruction; what is logged is exact.
    """
    script = (
        f"m = self.GetMachine(); m['sysbus.nvic'].SetPendingIRQ(3); "
        f"self.WarningLog('[cpu: %s] bad access %s at 0x%x' % "
        f"(m['sysbus.{cpu}'].PC, request.Type, {hole.at:#x} + request.Offset))"
    )
    return (
        f"hole_{hole.at:x}: Python.PythonPeripheral @ sysbus <{hole.at:#010x}, +{hole.length:#x}>\n"
        f'    size: {hole.length:#x}\n    initable: false\n    script: "{script}"\n'
    )


def _init(engine: RenodeEngine) -> str:
    """Replaces the stock platform's, which downloads a register description. It may not be empty."""
    tags = [(tag.at, tag.length, f'"{tag.name}" {tag.value:#x}') for tag in engine.tags]
    tags = tags or [(0xE004_4000, 4, '"unused"')]
    lines = "".join(f"        Tag <{at:#010x}, {at + length - 1:#010x}> {what}\n" for at, length, what in tags)
    return f"sysbus:\n    init:\n{lines}"


def _escaped(path: Path) -> str:
    """A path as the monitor takes it. InputError where it cannot be written so."""
    text = str(path.absolute())
    if re.search(r"[;\n\"'\\]", text):
        raise InputError(f"Renode cannot read files in {path.parent}", hint="set TMPDIR to a folder with a plain name")
    return text.replace(" ", "\\ ")
