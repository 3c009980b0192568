"""For the tests of `harness measure`: a firmware that is not ours, built with the real compiler."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import boards

BOARD = boards.load("nucleo-f746")
NO_COMPILER = shutil.which("arm-none-eabi-gcc") is None
NEEDS_COMPILER = "arm-none-eabi-gcc is not installed"
_HERE = Path(__file__).parent


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="harness-measure-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def foreign(*defines: str) -> Path:
    """measure_firmware/main.c as an ELF file for the STM32F746, with these preprocessor symbols."""
    name = "-".join(["firmware", *(define.replace("=", "_").replace('"', "") for define in defines)])
    elf = _folder() / f"{name}.elf"
    flash, ram = BOARD.region("flash"), BOARD.region("ram")
    places = {"FLASH_ORIGIN": flash.origin, "FLASH_LENGTH": flash.length}
    # In the manner of many: the stack at the end of RAM. Behind it there is nothing, in front of it .bss.
    places |= {"RAM_ORIGIN": ram.origin, "RAM_LENGTH": ram.length}
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard", "-mthumb", "-O1", "-g"]
    command += ["-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Wno-infinite-recursion"]
    command += [f"-D{define}" for define in defines]
    command += [f"-Wl,--defsym={symbol}={value:#x}" for symbol, value in places.items()]
    command += ["-T", str(_HERE / "probe_firmware" / "link.ld"), "-Wl,--no-warn-rwx-segments"]
    command += ["-o", str(elf), str(_HERE / "measure_firmware" / "main.c"), "-lgcc"]
    subprocess.run(command, check=True, timeout=60)
    return elf


@functools.cache
def binary(*defines: str) -> Path:
    """The same as a raw image."""
    elf = foreign(*defines)
    path = elf.with_suffix(".bin")
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", str(elf), str(path)], check=True, timeout=60)
    return path
