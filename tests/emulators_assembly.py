"""For the emulators' tests: test firmware, assembled with the real compiler."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NO_COMPILER = shutil.which("arm-none-eabi-gcc") is None
NEEDS_COMPILER = "arm-none-eabi-gcc is not installed"

FLASH = 0x0800_0000
_SOURCE = Path(__file__).parent / "emulators_firmware" / "cases.s"


@dataclass(frozen=True)
class Image:
    """What goes into flash at 0x08000000, and where its labels are."""

    elf: Path
    data: bytes
    labels: dict[str, int]


@functools.cache
def cases() -> Image:
    """emulators_firmware/cases.s, linked for an STM32F7."""
    folder = Path(tempfile.mkdtemp(prefix="harness-emulators-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    elf, binary = folder / "image.elf", folder / "image.bin"
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb", "-nostdlib", "-g", "-Wl,-Ttext=0x08000100"]
    command += ["-Wl,--section-start=.vectors=0x08000000", "-Wl,-ereset", "-o", str(elf), str(_SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", str(elf), str(binary)], check=True, timeout=60)
    listing = subprocess.run(["arm-none-eabi-nm", str(elf)], check=True, timeout=60, capture_output=True, text=True)
    fields = (line.split() for line in listing.stdout.splitlines())
    return Image(elf, binary.read_bytes(), {name: int(address, 16) for address, _, name in fields})
