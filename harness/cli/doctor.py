"""`harness doctor`: what is installed, what is missing, how to get it, and what is plugged in."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from dataclasses import dataclass
from typing import Annotated

import typer

from harness.cli.options import JsonOption, complete_boards
from harness.cli.terminal import out, print_json, reporter
from harness.errors import DeviceError, InputError, unknown_name

INSTALLABLE = ("pack", "renode")


@dataclass(frozen=True)
class Check:
    """One thing that a run may need. needed_for and remedy are for people; version is None when it is missing."""

    name: str
    version: str | None
    needed_for: str
    remedy: str


def _tool(name: str, needed_for: str, remedy: str) -> Check:
    """The first line that `name --version` prints."""
    return _program(name, shutil.which(name), needed_for, remedy)


def _program(name: str, path: str | None, needed_for: str, remedy: str) -> Check:
    if path is None:
        return Check(name, None, needed_for, remedy)
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
        return Check(name, (answer.stdout or answer.stderr).strip().splitlines()[0], needed_for, remedy)
    except (OSError, subprocess.SubprocessError, IndexError):
        return Check(name, None, needed_for, f"{path} does not answer; install it again")


def _renode() -> Check:
    """Unlike the other emulators it cannot be told to listen on this machine's own address only."""
    from harness.emulators import renode, renode_release

    needed_for = "engine renode (while it runs, its ports are open on all interfaces of this machine)"
    try:
        program = renode.find()
    except DeviceError as error:
        return Check("renode", None, needed_for, f"{error.message}; {error.hint}")
    if program is not None and program == renode_release.installed_program():
        return Check("renode", f"{renode_release.PINNED.version} ({program})", needed_for, "")
    return _program("renode", str(program) if program else None, needed_for, "harness doctor --install renode")


def _install(what: str, board: str | None) -> None:
    if what not in INSTALLABLE:
        raise unknown_name("part", what, INSTALLABLE)
    if what == "renode":
        from harness.emulators import renode_release

        release = renode_release.PINNED
        with reporter(quiet=False).stage(f"fetching Renode {release.version}") as advance:
            program = renode_release.install(release, advance=advance)
        out.print(f"Renode {release.version} is {program}", markup=False, soft_wrap=True)
        return
    if board is None:
        raise InputError("which board's pack is to be installed?", hint="harness doctor --install pack --board NAME")
    from harness import boards
    from harness.probe import packs

    out.print(packs.install(boards.load(board)), markup=False, soft_wrap=True)


def _checks() -> list[Check]:
    from importlib.metadata import PackageNotFoundError, version

    checks = [
        _tool(
            "arm-none-eabi-gcc",
            "building with the toolchain on PATH",
            "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi, or let PlatformIO fetch its own",
        ),
        _tool("cc", "engine host, comparing with the same C on this machine", "apt-get install gcc"),
        _tool("qemu-system-arm", "the boards that QEMU models", "apt-get install qemu-system-arm"),
        _renode(),
    ]
    for package, needed_for in (
        ("torch", "tracing and training networks"),
        ("platformio", "building firmware"),
        ("scons", "building firmware without PlatformIO's registry"),
        ("pyocd", "programming boards"),
        ("pyserial", "talking to boards"),
        ("unicorn", "the built-in simulator"),
    ):
        try:
            checks.append(Check(package, version(package), needed_for, ""))
        except PackageNotFoundError:
            checks.append(Check(package, None, needed_for, f"pip install {package}"))
    return checks


def command(
    install: Annotated[
        str | None,
        typer.Option(
            "--install",
            help="renode (the pinned release, into the user's cache) or pack (what pyOCD needs to program --board).",
        ),
    ] = None,
    board: Annotated[
        str | None,
        typer.Option("--board", "-b", help="With --install pack: the board.", autocompletion=complete_boards),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the installation, and list debug probes and serial ports; or install what a run may need."""
    if install is not None:
        _install(install, board)
        return
    from serial.tools.list_ports import comports

    from harness.files import cache_dir
    from harness.probe.hardware import list_probes
    from harness.results.store import results_dir

    checks = _checks()
    probes = [dataclasses.asdict(probe) for probe in list_probes()]
    ports = [
        {"device": port.device, "description": port.description, "serial_number": port.serial_number}
        for port in comports()
    ]
    folders = {"cache": str(cache_dir()), "results": str(results_dir())}
    if json:
        print_json(
            {
                "checks": [dataclasses.asdict(check) for check in checks],
                "probes": probes,
                "serial_ports": ports,
                "folders": folders,
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("", "what", "version", "needed for", "how to get it"):
        table.add_column(column)
    for check in checks:
        mark, style = ("ok", "green") if check.version else ("missing", "yellow")
        remedy = "" if check.version else check.remedy
        table.add_row(f"[{style}]{mark}[/]", check.name, check.version or "-", check.needed_for, remedy)
    out.print(table)
    out.print("\nprobes", style="bold")
    for probe in probes:
        out.print(f"  {probe['uid']}  {probe['description']}  {probe['board'] or ''}", markup=False)
    if not probes:
        out.print("  none seen")
    out.print("serial ports", style="bold")
    for port in ports:
        out.print(f"  {port['device']}  {port['description']}", markup=False)
    if not ports:
        out.print("  none seen")
    out.print("folders", style="bold")
    for name, folder in folders.items():
        out.print(f"  {name}: {folder}", markup=False, soft_wrap=True)
