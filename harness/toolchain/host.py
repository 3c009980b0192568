"""The generated C, compiled for this machine and run over many inputs: the same network without a board."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.assets import firmware_dir
from harness.codegen.generate import Generated
from harness.errors import BuildError, DeviceError, InputError
from harness.files import write_whole
from harness.ops.base import Array
from harness.toolchain import compiler

# No contraction of a * b + c and no vector width beyond what every machine of the architecture has: floats come out
# equal on every machine with the same compiler, integers always do.
_FLAGS = ("-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
_OPTIMIZED = ("-O3",)
_SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

_COMPILE_SECONDS = 120.0
_RUN_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class HostRun:
    """What N inferences returned. outputs: each one's output tensor as bytes.

    crcs: (N, layers) uint32, the CRC-32 of every layer's logical tensor. nanoseconds: of each inference alone.
    """

    outputs: tuple[bytes, ...]
    crcs: Array
    nanoseconds: tuple[int, ...]


class HostNetwork:
    """A generated network as an executable in the cache, built once per content.

    sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer. InputError when there is no host compiler and for
    a network that links a library for its core, BuildError when the compiler refuses the C.
    """

    def __init__(self, generated: Generated, *, cache_dir: Path, sanitize: bool = False) -> None:
        if generated.libraries:
            raise InputError(
                f"{generated.name} links {', '.join(generated.libraries)}, which is built for {generated.core}: "
                "this machine cannot run it"
            )
        self._generated = generated
        self._executable = _build(generated, cache_dir, sanitize)

    def infer(self, inputs: Sequence[bytes] | Array, *, deadline_s: float = _RUN_SECONDS) -> HostRun:
        """Runs all inputs, each `input_bytes` long (or an array of N of them, in the network's own dtype and layout).

        InputError for an input of another length; DeviceError when the program crashes or outlasts the deadline (s).
        """
        generated = self._generated
        data = np.ascontiguousarray(inputs).tobytes() if isinstance(inputs, np.ndarray) else b"".join(inputs)
        count, rest = divmod(len(data), generated.input_bytes)
        if rest or count != len(inputs):
            raise InputError(f"every input of {generated.name} must have {generated.input_bytes} bytes")
        try:
            ran = subprocess.run(
                [str(self._executable)], input=data, capture_output=True, timeout=deadline_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{generated.name} on this machine did not finish in {deadline_s:g} s") from error
        except OSError as error:
            raise DeviceError(f"{self._executable} does not start: {error.strerror or error}") from error
        if ran.returncode != 0:
            raise _crash(generated, ran)
        layout = np.dtype(
            [
                ("output", np.uint8, generated.output_bytes),
                ("crcs", np.uint32, len(generated.layers)),
                ("nanoseconds", np.uint64),
            ]
        )
        if len(ran.stdout) != count * layout.itemsize:
            raise DeviceError(f"{generated.name} on this machine answered {len(ran.stdout)} bytes for {count} inputs")
        answers = np.frombuffer(ran.stdout, layout)
        return HostRun(
            outputs=tuple(answer["output"].tobytes() for answer in answers),
            crcs=answers["crcs"].reshape(count, len(generated.layers)).copy(),
            nanoseconds=tuple(answers["nanoseconds"].tolist()),
        )


def _crash(generated: Generated, ran: subprocess.CompletedProcess[bytes]) -> DeviceError:
    lines = [line for line in ran.stderr.decode(errors="replace").splitlines() if "ERROR" in line or "error:" in line]
    if ran.returncode < 0:
        reason = f"signal {signal.Signals(-ran.returncode).name}"
    else:
        reason = lines[0].strip() if lines else f"exit status {ran.returncode}"
    return DeviceError(
        f"the generated C of {generated.name} crashed on this machine: {reason}",
        hint="this is a fault of the generated code: please report it with the network",
    )


def _build(generated: Generated, cache_dir: Path, sanitize: bool) -> Path:
    """The executable for exactly these sources, compiler and flags; compiled where the cache has none."""
    found = compiler.host()
    firmware = firmware_dir()
    sources = [firmware / "host" / "batch.c", firmware / "src" / "crc32.c"]
    inputs = [*sources, firmware / "src" / "crc32.h", *(firmware / "nn" / name for name in generated.kernel_headers)]
    flags = _FLAGS + (_SANITIZED if sanitize else _OPTIMIZED)
    digest = hashlib.sha256("\0".join((found.identity, *flags)).encode())
    for name, text in sorted(generated.files.items()):
        digest.update(f"\0{name}\0{text}".encode())
    for path in inputs:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    executable = cache_dir / "host" / digest.hexdigest()[:32]
    if executable.is_file():
        return executable
    try:
        executable.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=executable.parent) as name:
            folder = Path(name)
            for file, text in generated.files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text)
            generated_sources = [str(folder / file) for file in sorted(generated.files) if file.endswith(".c")]
            includes = [f"-I{path}" for path in (folder, firmware / "nn", firmware / "src")]
            program = folder / "program"
            arguments = [*flags, *includes, *generated_sources, *map(str, sources), "-o", str(program)]
            _compile([str(found.path), *arguments], executable.with_suffix(".log"), generated.name)
            program.replace(executable)
    except OSError as error:
        raise BuildError(
            f"cannot write to the cache {cache_dir}: {error.strerror or error}",
            hint="set HARNESS_CACHE to a folder that can be written to",
        ) from error
    return executable


def _compile(arguments: list[str], log: Path, name: str) -> None:
    """One call of the compiler. BuildError with its first error; its whole answer is in `log` then."""
    try:
        ran = subprocess.run(arguments, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"compiling {name} for this machine took more than {_COMPILE_SECONDS:g} s") from error
    if ran.returncode == 0:
        return
    write_whole(log, ran.stdout + ran.stderr)
    errors = [line for line in ran.stderr.splitlines() if "error: " in line]
    raise BuildError(
        f"compiling {name} for this machine failed: {errors[0] if errors else f'exit status {ran.returncode}'}",
        hint=f"the compiler's whole answer is in {log}",
    )
