"""Builds the image with PlatformIO, once for each different content; the same inputs give the same bytes from a cache.

A build runs in a project of its own inside the cache, made of copies of exactly what was hashed: the firmware's
sources, the generated network, the board. So it needs no writable installation, no path matters to it, and builds at
the same time do not meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import posixpath
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from harness.assets import firmware_dir
from harness.boards import Board
from harness.errors import BuildError, DoesNotFit, InputError, unknown_name
from harness.files import file_sha256, write_whole
from harness.toolchain import compiler, footprint
from harness.toolchain.footprint import Footprint

Toolchain = Literal["auto", "path", "registry"]
TOOLCHAINS = ("auto", "path", "registry")

# A build takes a second; the first one with the registry's toolchain downloads 150 MB.
DEADLINE_S = 300.0

# Changes whenever the same inputs shall no longer mean the same image.
_SCHEMA = 1

_PLATFORM = "harness_cortexm"
_REGISTRY_COMPILER = Path("toolchain-gccarmnoneeabi", "bin", compiler.ARM_COMMAND)
_SOURCE_FOLDERS = ("src", "ports", "nn", "ld")
_SOURCE_SUFFIXES = (".c", ".h", ".S", ".ld")
_PLATFORM_SUFFIXES = (".json", ".py")
_KERNELS, _PORTS = "nn/", "ports/"
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)

# Where PlatformIO leaves things, in the project.
_BUILD_DIR = PurePosixPath(".pio/build/firmware")
_ELF, _MAP, _LOG, _RECORD = "firmware.elf", "firmware.map", "build.log", "build.json"

# What would change a build behind the cache's back: PlatformIO's options and gcc's search paths.
_FOREIGN_VARIABLES = re.compile(
    r"PLATFORMIO_.*|NETWORK_DIR|CPATH|C_INCLUDE_PATH|LIBRARY_PATH|COMPILER_PATH|GCC_EXEC_PREFIX|SOURCE_DATE_EPOCH"
    r"|DEPENDENCIES_OUTPUT|SUNPRO_DEPENDENCIES|SCONSFLAGS|LANG|LC_.*"
)

# Characters with a meaning of their own in PlatformIO's ini files and in SCons.
_UNUSABLE_IN_FLAGS = re.compile(r"[\n\r$%;#]")


@dataclass(frozen=True)
class BuildInputs:
    """What is built around the firmware.

    name: for messages only. files: the generated C by file name, network.c and network.h at least; static libraries
    (*.a) among them are linked. optimize, extra_flags: compiler flags of the generated code, `optimize` as a shell
    would split it; the firmware itself is always built for size. defines: preprocessor symbols of all of the image.
    profile: the MLPerf Tiny benchmark that the board reports (kws01, ic01, vww01, ad01), None for the network's name.
    """

    name: str
    files: Mapping[str, str | bytes]
    optimize: str = "-O2"
    extra_flags: tuple[str, ...] = ()
    defines: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None


@dataclass(frozen=True)
class Firmware:
    """A built image.

    elf, map: files in the cache. build_id: 16 hexadecimal digits that the running image answers to `build%`.
    fingerprint: elf_sha256, key, compiler, flags (of the generated code, as they were used), manifest_sha256,
    platformio, scons. cached: whether it was built before.
    """

    elf: Path
    map: Path
    build_id: str
    footprint: Footprint
    fingerprint: Mapping[str, Any]
    cached: bool


def build(
    inputs: BuildInputs,
    board: Board,
    *,
    cache_dir: Path,
    toolchain: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> Firmware:
    """The image of `inputs` for `board`, from the cache or built now.

    toolchain: path (arm-none-eabi-gcc on PATH), registry (PlatformIO's), auto (path where there is one).
    progress is told, in a few words, what is being waited for.
    BuildError with the compiler's first error, or with the region that overflows; InputError for inputs that cannot be
    built and for a cache that cannot be written. Nothing half-built stays behind, and no process.
    """
    tell = progress or (lambda text: None)
    source = _toolchain(toolchain)
    project = _project(inputs, board, source)
    entry = _Entry(cache_dir / "firmware" / project.key, project.build_id)
    if (firmware := entry.load()) is not None:
        return firmware
    try:
        with _lock(entry.folder.with_suffix(".lock"), tell):
            if (firmware := entry.load()) is not None:  # another process was building it
                return firmware
            tell(f"compiling {inputs.name} for {board.id}")
            with _work_folder(entry.folder.parent) as work:
                _build(project, board, source, work, cache_dir)
                entry.store(work / "result")
    except OSError as error:
        raise InputError(
            f"the cache cannot be used: {error.filename or cache_dir}: {error.strerror or error}",
            hint="set HARNESS_CACHE to a folder that can be written to",
        ) from error
    firmware = entry.load(cached=False)
    if firmware is None:
        raise BuildError(f"the image that was just built is gone from {entry.folder}", hint="is the disk full?")
    return firmware


# ---- what is built


@dataclass(frozen=True)
class _ToolchainSource:
    """Where the compiler comes from. identity: what is known of it before the build. found: when it is on PATH."""

    option: Literal["path", "registry"]
    identity: str
    found: compiler.Compiler | None


@dataclass(frozen=True)
class _Project:
    """A PlatformIO project as file contents. key: the hash of everything that the image depends on."""

    files: Mapping[str, bytes]
    platform: Mapping[str, bytes]
    key: str
    build_id: str
    fingerprint: Mapping[str, Any]


def _toolchain(wanted: str) -> _ToolchainSource:
    if wanted not in TOOLCHAINS:
        raise unknown_name("toolchain", wanted, TOOLCHAINS)
    found = None
    if wanted == "path":
        found = compiler.arm()
    elif wanted == "auto":
        found = compiler.find_arm()
    if found is not None:
        return _ToolchainSource("path", found.identity, found)
    package = json.loads((firmware_dir() / "platform" / "platform.json").read_bytes())["packages"]
    (name, wants), *_ = package.items()
    return _ToolchainSource("registry", f"{name} {wants['version']}", None)


def _project(inputs: BuildInputs, board: Board, source: _ToolchainSource) -> _Project:
    """Everything that a build reads, and its hash."""
    if not {"network.c", "network.h"} <= inputs.files.keys():
        raise InputError(f"{inputs.name}: the generated files lack network.c or network.h")
    flags = [*shlex.split(inputs.optimize), *inputs.extra_flags]
    defines = [f"-D{name}={value}" for name, value in sorted(inputs.defines.items())]
    for flag in (*flags, *defines, *(f"-D{name}={value}" for name, value in board.defines.items())):
        if _UNUSABLE_IN_FLAGS.search(flag):
            raise InputError(f"the compiler flag {flag!r} cannot go through PlatformIO", hint="it holds one of $ % ; #")
    if inputs.profile is not None and not re.fullmatch(r"\w+", inputs.profile):
        raise InputError(f"the profile '{inputs.profile}' is not a plain name")

    sources = _read_folder(firmware_dir(), _SOURCE_FOLDERS, _SOURCE_SUFFIXES)
    platform = _read_folder(firmware_dir() / "platform", (".",), _PLATFORM_SUFFIXES)
    generated: dict[str, bytes] = {}
    for name, content in inputs.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{inputs.name}: the generated file '{name}' would lie outside its folder")
        generated[f"model/{path}"] = content.encode() if isinstance(content, str) else content
    files = _without_unused(sources | generated, f"{_PORTS}{board.port}.c")
    files[f"boards/{board.id}.json"] = _platformio_board(board)

    versions = {name: importlib.metadata.version(name) for name in ("platformio", "scons")}
    identity = {
        "schema": _SCHEMA,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        "platform": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(platform.items())},
        "board": board.manifest_sha256,
        "flags": flags,
        "defines": defines,
        "profile": inputs.profile,
        "compiler": source.identity,
        "versions": versions,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    options = {
        "platform": _PLATFORM,
        "board": board.id,
        "lib_ldf_mode": "off",
        "custom_toolchain": source.option,
        "custom_model_dir": "${PROJECT_DIR}/model",
        "custom_model_flags": shlex.join(flags),
        "custom_defines": shlex.join(defines),
        "custom_build_id": key[:16],
        "custom_profile": inputs.profile or "",
    }
    ini = "[platformio]\nboards_dir = ${PROJECT_DIR}/boards\n\n[env:firmware]\n"
    ini += "".join(f"{name} = {value}\n" for name, value in options.items() if value)
    files["platformio.ini"] = ini.encode()
    return _Project(
        files=files,
        platform=platform,
        key=key,
        build_id=key[:16],
        fingerprint={"key": key, "manifest_sha256": board.manifest_sha256, **versions},
    )


def _read_folder(root: Path, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """The contents of a folder's sources, by their paths in it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in suffixes and path.is_file()
    }


def _without_unused(files: dict[str, bytes], port: str) -> dict[str, bytes]:
    """Of nn/ and ports/ only `port` and what the other sources include: a kernel that a network does not use, or the
    port of another family, does not make another image. InputError without that port."""
    if port not in files:
        ports = sorted(PurePosixPath(name).stem for name in files if re.fullmatch(_PORTS + r"\w+\.c", name))
        raise unknown_name("port", PurePosixPath(port).stem, ports)
    used = {name: content for name, content in files.items() if not name.startswith((_KERNELS, _PORTS))}
    used[port] = files[port]
    waiting = list(used)
    while waiting:
        includer = waiting.pop()
        if not includer.endswith(_SOURCE_SUFFIXES):
            continue  # a library
        for match in _INCLUDE.findall(used[includer]):
            # As the compiler searches: beside the file that includes, then in the folders themselves.
            for folder in (posixpath.dirname(includer), _KERNELS, _PORTS):
                name = posixpath.normpath(posixpath.join(folder, match.decode()))
                if name in files and name not in used:
                    used[name] = files[name]
                    waiting.append(name)
    return used


def _platformio_board(board: Board) -> bytes:
    """The board as a PlatformIO manifest, with what the builder reads."""
    manifest = {
        "name": board.name,
        "vendor": board.vendor,
        "url": board.url,
        "build": {"cpu": board.core, "f_cpu": f"{board.clock_hz}L", "fpu": board.fpu, "float_abi": board.float_abi},
        # PlatformIO shows these sizes; what enforces them is the linker, on each region.
        "upload": {
            "maximum_size": board.region("flash").length,
            "maximum_ram_size": board.region("ram").length,
        },
        "harness": {
            "port": board.port,
            **board.model_dump(mode="json", include={"clock", "uart"}, exclude_none=True),
            "defines": board.defines,
            "stack_bytes": board.stack_bytes,
            "memory": [region.model_dump() for region in board.memory],
        },
    }
    return json.dumps(manifest, indent=2, sort_keys=True).encode()


# ---- the cache


@dataclass(frozen=True)
class _Entry:
    """One image in the cache: a folder that appears complete."""

    folder: Path
    build_id: str

    def load(self, *, cached: bool = True) -> Firmware | None:
        """The image, None when it is not there or not what was put there."""
        elf = self.folder / _ELF
        try:
            record = json.loads((self.folder / _RECORD).read_bytes())
            if file_sha256(elf) != record["fingerprint"]["elf_sha256"]:
                return None
            return Firmware(
                elf=elf,
                map=self.folder / _MAP,
                build_id=self.build_id,
                footprint=Footprint.from_json(record["footprint"]),
                fingerprint=record["fingerprint"],
                cached=cached,
            )
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None

    def store(self, result: Path) -> None:
        """Moves a finished folder into place; only under the lock. One that could not be loaded is replaced."""
        shutil.rmtree(self.folder, ignore_errors=True)
        result.rename(self.folder)


@contextlib.contextmanager
def _lock(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds the file lock `path`; BuildError when another process holds it for longer than a build may take."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + DEADLINE_S
    waiting = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(
                        f"another process has been building the same image for {DEADLINE_S:.0f} s"
                    ) from None
                if not waiting:
                    tell("waiting for another process that builds the same image")
                    waiting = True
                time.sleep(0.05)
        yield  # closing the file gives the lock back


@contextlib.contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder on the cache's file system, removed at the end; those of killed processes go after a day."""
    for left in parent.glob(".build-*"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - 86_400:
                shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=parent)).resolve()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ---- the build


def _build(project: _Project, board: Board, source: _ToolchainSource, work: Path, cache_dir: Path) -> None:
    """Builds in `work` and leaves work/result with the image, its map, the log and the record."""
    for name, content in project.files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    log = work / _LOG
    packages = (cache_dir / "platformio" / "packages").absolute()
    environment = _environment(_core_folder(project.platform, cache_dir).absolute(), packages)
    command = [sys.executable, "-m", "platformio", "run", "-v", "-d", str(work), "-e", "firmware"]
    status = _run(command, work, environment, log)
    text = log.read_text(encoding="utf-8", errors="replace")
    if status != 0:
        kept = cache_dir / "firmware" / "logs" / f"{project.build_id}.log"
        write_whole(kept, text)
        if status is None:
            raise BuildError(f"PlatformIO did not finish within {DEADLINE_S:.0f} s", hint=f"the full log is {kept}")
        raise _explain(text, board, source, kept)

    elf, map_file = work / _BUILD_DIR / _ELF, work / _BUILD_DIR / _MAP
    used = source.found or compiler.identify(packages / _REGISTRY_COMPILER)
    record = {
        "fingerprint": {
            **project.fingerprint,
            "elf_sha256": file_sha256(elf),
            "compiler": used.identity if used else source.identity,
            "flags": json.loads((work / _BUILD_DIR / "flags.json").read_bytes()),
        },
        "footprint": footprint.measure(
            elf, map_file, root=work, is_model=lambda name: PurePosixPath(name).is_relative_to(_BUILD_DIR / "model")
        ).to_json(),
    }
    result = work / "result"
    result.mkdir()
    elf.rename(result / _ELF)
    map_file.rename(result / _MAP)
    log.rename(result / _LOG)
    write_whole(result / _RECORD, json.dumps(record, indent=1))


def _core_folder(platform: Mapping[str, bytes], cache_dir: Path) -> Path:
    """PlatformIO's core folder with our platform installed, one for each version of it.

    The platform is installed by its files: through a link, PlatformIO would remember the path of one checkout and use
    it for another.
    """
    digest = hashlib.sha256(repr(sorted(platform.items())).encode()).hexdigest()[:16]
    core = cache_dir / "platformio" / digest
    installed = core / "platforms" / _PLATFORM
    if installed.exists():
        return core
    installed.parent.mkdir(parents=True, exist_ok=True)
    version = json.loads(platform["platform.json"])["version"]
    owner = {"owner": None, "id": None, "name": _PLATFORM, "requirements": None, "uri": None}
    metadata = {"type": "platform", "name": _PLATFORM, "version": version, "spec": owner}
    staging = Path(tempfile.mkdtemp(prefix="platform-", dir=core))
    try:
        for name, content in {**platform, ".piopm": json.dumps(metadata).encode()}.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
        with contextlib.suppress(OSError):  # another process was faster
            staging.rename(installed)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return core


def _environment(core: Path, packages: Path) -> dict[str, str]:
    ours = {
        "LC_ALL": "C",  # gcc's messages are read
        "PLATFORMIO_CORE_DIR": str(core),
        "PLATFORMIO_PACKAGES_DIR": str(packages),
        # Either would wait for the network, for up to 46 s.
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_DISABLE_UPGRADE_CHECK": "true",
        "PLATFORMIO_NO_ANSI": "true",
    }
    return {name: value for name, value in os.environ.items() if not _FOREIGN_VARIABLES.fullmatch(name)} | ours


def _run(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> int | None:
    """The command's exit status, None when it passed the deadline; its output goes to `log`.

    It and what it started never outlive this call, however it ends.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # SCons and gcc are of the same group
                process.wait()


# ---- what the log says

_COMPILER_ERROR = re.compile(r"^(?P<where>\S[^:\n]*:\d+)(?::\d+)?: (?:fatal )?error: (?P<what>.+)$", re.MULTILINE)
_OVERFLOW = re.compile(r"region `(\w+)' overflowed by (\d+) bytes?")
_UNDEFINED = re.compile(r"undefined reference to `([^']+)'")
_OTHER_FLOAT_ABI = re.compile(r"error: (\S.*) uses VFP register arguments, (\S.*) does not")
_ANY_ERROR = re.compile(r"^\w*error: *(.+)$", re.MULTILINE | re.IGNORECASE)


def _explain(log: str, board: Board, source: _ToolchainSource, kept: Path) -> BuildError:
    """The error that the log of a failed build is about."""
    hint = f"the full log is {kept}"
    overflows = dict(_OVERFLOW.findall(log))
    if overflows:
        regions = {"FLASH": board.region("flash"), "RAM": board.region("ram")}
        found = " and ".join(
            f"{regions[name].name} ({regions[name].length:,} bytes) overflows by {int(by):,} bytes"
            for name, by in overflows.items()
        )
        sizes = {name.lower(): int(by) for name, by in overflows.items()}
        return DoesNotFit(f"the image does not fit {board.id}: {found}", overflows=sizes, hint=hint)
    if found_error := _COMPILER_ERROR.search(log):
        return BuildError(f"{found_error['where']}: {found_error['what']}", hint=hint)
    if other := _OTHER_FLOAT_ABI.search(log):
        libraries = [PurePosixPath(name).name for name in other.groups() if ".a(" in name]
        return BuildError(
            f"{libraries[0] if libraries else 'a library'} was built for another float ABI than {board.id} has",
            hint=f"{board.id} has float ABI {board.float_abi}{f' and FPU {board.fpu}' if board.fpu else ''}; {hint}",
        )
    if undefined := _UNDEFINED.search(log):
        return BuildError(f"the generated code calls {undefined[1]}, which no library has", hint=hint)
    if source.option == "registry":
        return BuildError(
            "PlatformIO could not build with its registry's toolchain",
            hint=f"without a network, apt-get install {compiler.ARM_PACKAGES}; {hint}",
        )
    first = _ANY_ERROR.search(log)
    return BuildError(f"PlatformIO failed: {first[1] if first else 'it gave no reason'}", hint=hint)
