"""How the image is built, as SCons reads it: our firmware for size, the generated network as the project's options say.

Options of the environment in platformio.ini:
  custom_model_dir    folder with the generated network.c and network.h; static libraries (*.a) in it are linked
  custom_model_flags  compiler flags of the generated code, as a shell would split them; -O2 when there are none
  custom_defines      -D flags of everything
  custom_build_id     16 hexadecimal digits that the command build% answers
  custom_profile      the MLPerf Tiny benchmark that profile% answers; the network's name when there is none
"""

import json
import re
import shlex
import sys
from pathlib import Path

from SCons.Script import Alias, AlwaysBuild, Default, DefaultEnvironment
from SCons.Subst import Literal

env = DefaultEnvironment()
project = Path(env.subst("$PROJECT_DIR"))
board = env.BoardConfig()


def flags(*words):
    """Command line words that reach the compiler as they are, whatever characters they have."""
    return [Literal(word) for word in words]


def string_define(name, value):
    return f'-D{name}="{value}"'


def region(kind):
    """The first memory region of that kind in the board's manifest, as (origin, length) in bytes."""
    first = next(entry for entry in board.get("harness.memory") if entry["kind"] == kind)
    return int(str(first["origin"]), 0), int(str(first["length"]), 0)


def port_symbols():
    """Preprocessor symbols of the port: what the manifest says of clock and serial line, and its own `defines`."""
    symbols = {"PORT_CORE_HZ": f"{int(str(board.get('build.f_cpu')).rstrip('L'))}u"}
    clock = board.get("harness.clock", None)
    if clock:
        symbols["PORT_SOURCE"] = "SOURCE_" + clock["source"].replace("-", "_").upper()
        symbols["PORT_SOURCE_HZ"] = f"{clock['source_hz']}u"
        symbols["PORT_WAIT_STATES"] = f"{clock['wait_states']}u"
        for cache in ("prefetch", "art", "instruction", "data"):
            symbols[f"PORT_{cache.upper()}"] = int(cache in clock.get("caches", ()))
    uart = board.get("harness.uart", None)
    if uart:
        symbols["PORT_UART"] = f"UART_{uart['name']}"
        symbols["PORT_UART_FUNCTION"] = f"{uart.get('alternate_function', 0)}u"
        for role in ("tx", "rx"):
            group, number = re.fullmatch(r"P([A-K]|[01])\.?([0-9]+)", uart[role]).groups()
            group = int(group) if group.isdigit() else ord(group) - ord("A")
            symbols[f"PORT_{role.upper()}_GROUP"] = f"{group}u"
            symbols[f"PORT_{role.upper()}_PIN"] = f"{int(number)}u"
    return symbols | dict(board.get("harness.defines", {}))


machine = ["-mthumb", f"-mcpu={board.get('build.cpu')}", f"-mfloat-abi={board.get('build.float_abi', 'soft')}"]
if board.get("build.fpu", ""):
    machine.append(f"-mfpu={board.get('build.fpu')}")

flash_origin, flash_length = region("flash")
ram_origin, ram_length = region("ram")
symbols = {
    "FLASH_ORIGIN": flash_origin,
    "FLASH_LENGTH": flash_length,
    "RAM_ORIGIN": ram_origin,
    "RAM_LENGTH": ram_length,
    "STACK_BYTES": board.get("harness.stack_bytes", 4096),
}

env.Replace(
    AR="arm-none-eabi-gcc-ar",
    AS="arm-none-eabi-gcc",
    CC="arm-none-eabi-gcc",
    LINK="arm-none-eabi-gcc",
    RANLIB="arm-none-eabi-gcc-ranlib",
    SIZETOOL="arm-none-eabi-size",
    PROGNAME="firmware",
    PROGSUFFIX=".elf",
    LIBS=["m"],
    LDSCRIPT_PATH="",
)
env.Append(
    CPPPATH=[str(project / folder) for folder in ("src", "ports", "nn")],
    ASPPFLAGS=flags("-x", "assembler-with-cpp", *machine),
    CFLAGS=flags("-std=c11"),
    CCFLAGS=flags(
        *machine,
        # Sections of their own let the linker drop what is unused, and the footprint be counted.
        *("-ffunction-sections", "-fdata-sections", "-fno-common"),
        *("-Wall", "-Wextra", "-Werror"),
        # The same sources give the same bytes wherever they lie.
        f"-ffile-prefix-map={project}=.",
    ),
    LINKFLAGS=flags(
        *machine,
        "-nostartfiles",
        *("-T", str(project / "ld" / "firmware.ld")),
        *(f"-Wl,--defsym={name}={value}" for name, value in symbols.items()),
        "-Wl,--gc-sections",
        f"-Wl,-Map={env.subst('$BUILD_DIR')}/firmware.map",
    ),
)

model_dir = env.GetProjectOption("custom_model_dir", "")
if not (Path(model_dir) / "network.h").is_file():
    sys.stderr.write(
        f"error: custom_model_dir '{model_dir}' has no network.h: it must be a generated network's folder\n"
    )
    env.Exit(2)
env.Append(CPPPATH=[model_dir])

env.Append(CCFLAGS=flags(*shlex.split(env.GetProjectOption("custom_defines", ""))))

model = env.Clone()
model.Append(CCFLAGS=flags(*(shlex.split(env.GetProjectOption("custom_model_flags", "")) or ["-O2"])))
model.BuildSources("$BUILD_DIR/model", model_dir)
# Libraries that the network brings, before the C library: what it calls comes from them first.
env.Prepend(LIBS=[env.File(str(path)) for path in sorted(Path(model_dir).rglob("*.a"))])
# What the network was compiled with, for the record of the build.
used = [str(flag) for flag in (*model["CFLAGS"], *model["CCFLAGS"]) if not str(flag).startswith("-ffile-prefix-map=")]
Path(env.subst("$BUILD_DIR"), "flags.json").write_text(json.dumps(used), encoding="utf-8")

definitions = [
    string_define("HARNESS_BOARD", env["BOARD"]),
    string_define("HARNESS_BUILD_ID", env.GetProjectOption("custom_build_id", "0" * 16)),
]
if profile := env.GetProjectOption("custom_profile", ""):
    definitions.append(string_define("HARNESS_PROFILE", profile))
# Size is what counts outside the network. No loop becomes a call of memset or memcpy, which would come from libc.
env.Append(CCFLAGS=flags("-Os", "-fno-tree-loop-distribute-patterns", *definitions))

port = env.Clone()
port.Append(CCFLAGS=flags(*(f"-D{name}={value}" for name, value in port_symbols().items())))
port.BuildSources("$BUILD_DIR/ports", str(project / "ports"), f"+<{board.get('harness.port')}.c>")

program = env.BuildProgram()
env.Depends(program, env.File(str(project / "ld" / "firmware.ld")))
env.SideEffect("$BUILD_DIR/firmware.map", program)
AlwaysBuild(Alias("size", program, env.VerboseAction("$SIZETOOL -A -d $SOURCES", "Size of $SOURCES")))
Default(Alias("buildprog", program))
