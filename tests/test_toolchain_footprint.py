"""Every byte of an image is in exactly one class, and the classes add up to what `size` says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from firmware_images import network_files, shared_cache, tiny

import harness.toolchain.platformio as platformio
from harness import boards
from harness.assets import firmware_dir
from harness.errors import BuildError
from harness.toolchain import footprint, symbols
from harness.toolchain.footprint import Footprint
from harness.toolchain.platformio import Firmware, build

BOARD = boards.load("nucleo-f746")
INCLUDE = '#include "network.h"\n'
INFER = "void network_infer(nn_observer observer)\n{\n"


@pytest.fixture(scope="module")
def cache() -> Path:
    return shared_cache()


@pytest.fixture(scope="module")
def plain(cache: Path) -> Firmware:
    return build(tiny(), BOARD, cache_dir=cache)


@pytest.fixture(scope="module")
def rich(cache: Path) -> Firmware:
    """An image with everything that can be counted: weights as code, initialised data, constants, library functions."""
    code = """
#include <string.h>
__attribute__((section(".text.weights.fc"), noinline)) static int32_t coded(int32_t x)
{
    return x * 3 + 1;
}
__attribute__((section(".rodata.weights.other"))) static const uint8_t odd[3] = {1, 2, 3};
static const uint16_t table[5] = {9, 8, 7, 6, 5};
static volatile uint32_t initialised[7] = {1, 2, 3};
static volatile uint64_t dividend = 1000000007u;
static volatile uint32_t size = 5;
"""
    body = """
    uint8_t copy[16];
    memcpy(copy, arena.input, size);
    initialised[0] += odd[size % 3u] + table[size % 5u] + copy[0] + (uint32_t)coded((int32_t)size);
    dividend /= size + 7u;
"""
    return build(tiny(files=network_files(**{INCLUDE: INCLUDE + code, INFER: INFER + body})), BOARD, cache_dir=cache)


def sections(elf: Path) -> dict[str, int]:
    """binutils' opinion: bytes by section."""
    printed = subprocess.run(["arm-none-eabi-size", "-A", "-d", str(elf)], capture_output=True, text=True, check=True)
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)\s+\d+$", printed.stdout, re.MULTILINE)}


@pytest.mark.parametrize("image", ["plain", "rich"])
def test_the_classes_add_up_to_the_sections(image: str, request: pytest.FixtureRequest) -> None:
    firmware: Firmware = request.getfixturevalue(image)
    flash, ram = firmware.footprint.flash, firmware.footprint.ram
    found = sections(firmware.elf)
    assert flash.total == sum(found.get(name, 0) for name in (".isr_vector", ".text", ".rodata", ".data"))
    assert ram.total == sum(found.get(name, 0) for name in (".data", ".bss", ".stack"))
    assert flash.total == flash.weights + flash.kernels + flash.platform
    assert ram.total == ram.activations + ram.platform + ram.stack
    assert ram.stack == BOARD.stack_bytes
    assert sum(part.bytes for part in firmware.footprint.sections if part.memory == "flash") == flash.total
    assert sum(firmware.footprint.layers.values()) == flash.weights
    assert firmware.footprint.network == flash.weights + flash.kernels + ram.activations
    assert firmware.footprint.as_dict() == {
        "flash": {
            "total": flash.total,
            "weights": flash.weights,
            "kernels": flash.kernels,
            "platform": flash.platform,
        },
        "ram": {"total": ram.total, "activations": ram.activations, "platform": ram.platform, "stack": ram.stack},
    }


def test_the_little_networks_parts(plain: Firmware) -> None:
    assert plain.footprint.layers == {"fc": 64 + 16}
    assert plain.footprint.ram.activations == 16 + 32 + 16
    kernels = {part.section for part in plain.footprint.sections if part.kind == "kernels"}
    assert ".text.network_infer" in kernels
    assert all(name.startswith(".text.network_") for name in kernels)
    origins = {part.origin for part in plain.footprint.sections if part.kind == "platform"}
    assert not any("model" in origin for origin in origins)


def test_weights_as_code_and_initialised_data(plain: Firmware, rich: Firmware) -> None:
    layers = rich.footprint.layers
    assert layers["fc"] > plain.footprint.layers["fc"], "weights emitted as instructions are weights"
    assert layers["other"] >= 3
    initialised = [part for part in rich.footprint.sections if part.output == ".data" and "initialised" in part.section]
    assert {(part.memory, part.kind, part.bytes) for part in initialised} == {
        ("ram", "activations", 28),
        ("flash", "kernels", 28),
    }
    table = [part for part in rich.footprint.sections if part.section == ".rodata.table"]
    assert [part.kind for part in table] == ["kernels"]


def test_library_functions_that_only_the_network_needs_are_kernels(plain: Firmware, rich: Firmware) -> None:
    library = {part.origin.rpartition("(")[2]: part.kind for part in rich.footprint.sections if ".a(" in part.origin}
    assert any("memcpy" in member for member in library)
    assert any("divmod" in member for member in library), "of the library's 64-bit division"
    assert set(library.values()) == {"kernels"}
    assert not any(".a(" in part.origin for part in plain.footprint.sections), "the firmware needs no library"
    # but for what aligns the firmware's parts behind the network's
    assert rich.footprint.flash.platform == pytest.approx(plain.footprint.flash.platform, abs=8)


def test_library_functions_that_the_firmware_needs_too_are_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(firmware_dir(), copy)
    main = copy / "src" / "main.c"
    text = main.read_text().replace("    port_init();\n", "    port_init();\n    memcpy(to, from, bytes);\n")
    text = text.replace(
        "int main", "#include <string.h>\nchar to[8], from[8];\nvolatile unsigned bytes = 4;\n\nint main"
    )
    main.write_text(text)
    monkeypatch.setattr(platformio, "firmware_dir", lambda: copy)
    code = "    __builtin_memcpy(arena.half, arena.input, observer ? 3 : arena.input[0] & 7u);\n"
    shared = build(tiny(files=network_files(**{INFER: INFER + code})), BOARD, cache_dir=tmp_path / "cache")
    library = {part.origin.rpartition("(")[2]: part.kind for part in shared.footprint.sections if ".a(" in part.origin}
    assert any("memcpy" in member for member in library)
    assert set(library.values()) == {"platform"}


def test_survives_json(rich: Firmware) -> None:
    assert Footprint.from_json(json.loads(json.dumps(rich.footprint.to_json()))) == rich.footprint


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"(\n \.text\.network_infer\n\s+0x[0-9a-f]+\s+)0x[0-9a-f]+", r"\g<1>0xffff"),  # too long
        (r"\n \.text\.network_infer\n.*", ""),  # left out
        (r"\n \.rodata\.weights\.fc(?=\s)", "\n .rodata weights"),  # unreadable
    ],
)
def test_a_map_that_does_not_cover_the_image_is_noticed(
    plain: Firmware, tmp_path: Path, pattern: str, replacement: str
) -> None:
    text, changed = re.subn(pattern, replacement, plain.map.read_text())
    assert changed == 1
    damaged = tmp_path / "damaged.map"
    damaged.write_text(text)
    with pytest.raises(BuildError, match=r"damaged\.map does not describe \.(text|rodata) of .*(room for|starts at)"):
        footprint.measure(plain.elf, damaged, root=tmp_path, is_model=lambda name: "model" in name)


def test_what_is_no_elf_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.elf"
    broken.write_bytes(b"not an image")
    (tmp_path / "broken.map").write_text("")
    with pytest.raises(BuildError, match="cannot be read"):
        footprint.measure(broken, tmp_path / "broken.map", root=tmp_path, is_model=bool)


def test_symbols_agree_with_nm(plain: Firmware) -> None:
    printed = subprocess.run(["arm-none-eabi-nm", "-S", str(plain.elf)], capture_output=True, text=True, check=True)
    found = symbols.read(plain.elf)
    functions = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [tT] (\w+)$", printed.stdout, re.MULTILINE)
    assert len(functions) > 10
    for address, size, name in functions:
        start = int(address, 16) & ~1
        assert found.named(name) == symbols.Symbol(name, start, int(size, 16))
        assert found.describe(start + int(size, 16) - 2).startswith(name)
        assert found.describe(start | 1) == name, "the Thumb bit is no part of an address"
    assert found.describe(0x2004_0000) == "0x20040000"
    assert found.at(0) is None
    assert found.named("HardFault_Handler") is not None
