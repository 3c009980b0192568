"""Exact instruction counts of one inference, layer by layer, and the network's image by class: no board, no firmware.

    python benchmarks/count_instructions.py [--core cortex-m4] [--kernels default] [--network lenet5-int8]

The generated C is compiled by arm-none-eabi-gcc, linked alone and run in Unicorn. Instructions are counted by decoding
every basic block that is executed; an instruction inside an IT block counts whether or not its condition holds, as in
QEMU's -icount. Weights are random where none are trained: dense kernels take the same path whatever the values.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from networks import NETWORKS

from harness.assets import firmware_dir
from harness.codegen.generate import Generated, generate, serialize_input
from harness.graph.graph import Graph
from harness.ops.base import Array
from harness.ops.packing import row_bytes, unpack_rows

FLASH, RAM, RAM_BYTES = 0x0800_0000, 0x2000_0000, 0x8_0000
# A page that holds only "bx lr": where inferences return to, and where the observer is.
STUB = 0x0000_0000
RETURN, OBSERVER = STUB + 0x100, STUB + 0x200
STACK_PATTERN = b"\xa5" * 4096

MACHINE = {
    "cortex-m0": ["-mfloat-abi=soft"],
    "cortex-m3": ["-mfloat-abi=soft"],
    "cortex-m4": ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "cortex-m7": ["-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
}
UNICORN_MODEL = {
    "cortex-m0": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
}

# nn_element's packed ones, and their bits.
_PACKED_BITS = {5: 4, 6: 2}

LINKER_SCRIPT = """
MEMORY { FLASH (rx) : ORIGIN = 0x08000000, LENGTH = 2M  RAM (rw) : ORIGIN = 0x20001000, LENGTH = 500K }
SECTIONS {
  .text : { KEEP(*(.text.network_*)) *(.text .text.*) } > FLASH
  .rodata : { *(.rodata .rodata.*) } > FLASH
  .bss (NOLOAD) : { *(.bss .bss.*) } > RAM
  /DISCARD/ : { *(.ARM.exidx* .ARM.extab*) }
}
"""


@dataclass(frozen=True)
class Image:
    """Bytes of the network by class (DESIGN.md): constants, everything else in flash, the arena."""

    weights: int
    kernels: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.kernels + self.activations


@dataclass(frozen=True)
class Inference:
    """What one inference did. layers: the output of each, as stored (element, bytes); functions: instructions by name.

    instructions, functions and stack (bytes) are of an inference without an observer.
    """

    output: bytes
    layers: tuple[tuple[int, bytes], ...]
    instructions: int
    functions: dict[str, int]
    stack: int


def build(generated: Generated, folder: Path, optimize: str | None = None) -> Path:
    """network.elf in `folder`."""
    for name, text in generated.files.items():
        (folder / name).write_text(text)
    (folder / "link.ld").write_text(LINKER_SCRIPT)
    elf = folder / "network.elf"
    command = ["arm-none-eabi-gcc", f"-mcpu={generated.core}", "-mthumb", *MACHINE[generated.core], "-std=c11"]
    command += (optimize or generated.optimize).split()
    command += ["-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections", "-fno-common"]
    command += [f"-I{folder}", f"-I{firmware_dir() / 'nn'}", str(folder / "network.c")]
    command += ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-Wl,-e,network_infer"]
    command += [f"-Wl,-u,{name}" for name in ("network_input", "network_output", "network_infer")]
    command += ["-Wl,-T," + str(folder / "link.ld"), f"-Wl,-Map={folder}/network.map", "-o", str(elf)]
    subprocess.run(command, check=True, timeout=120)
    return elf


class BareCore:
    """A core with the network in flash and nothing else around it."""

    def __init__(self, elf: Path, core: str) -> None:
        import unicorn
        from elftools.elf.elffile import ELFFile
        from unicorn import arm_const

        self._uc = uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._unicorn = unicorn
        self._reg = arm_const
        uc.ctl_set_cpu_model(getattr(arm_const, UNICORN_MODEL[core]))
        uc.mem_map(STUB, 0x1000)
        uc.mem_write(STUB, b"\x70\x47" * 0x800)
        uc.mem_map(FLASH, 0x20_0000)
        uc.mem_map(RAM, RAM_BYTES)
        self._symbols: dict[str, int] = {}
        self._functions: list[tuple[int, int, str]] = []
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            for segment in parsed.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    uc.mem_write(segment["p_vaddr"], segment.data())
            sections = {s.name: s["sh_size"] for s in parsed.iter_sections()}
            for symbol in parsed.get_section_by_name(".symtab").iter_symbols():
                kind, start, size = symbol["st_info"]["type"], symbol["st_value"] & ~1, symbol["st_size"]
                self._symbols[symbol.name] = start
                if kind == "STT_FUNC":
                    self._functions.append((start, start + size, symbol.name))
        weights = _weights_in_map((elf.parent / "network.map").read_text())
        self.image = Image(weights, sections[".text"] + sections.get(".rodata", 0) - weights, sections[".bss"])
        if core in ("cortex-m4", "cortex-m7"):
            uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 0x4000_0000)
        self._blocks: Counter[tuple[int, int]] = Counter()
        uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        self._observed: list[tuple[int, int, bytes]] = []
        uc.hook_add(unicorn.UC_HOOK_CODE, self._on_observer, begin=OBSERVER, end=OBSERVER)

    def infer(self, data: bytes) -> Inference:
        """Two inferences of one input: with an observer, then without; the second is counted."""
        uc, reg = self._uc, self._reg
        self._observed.clear()
        uc.mem_write(self._call("network_input"), data)
        self._call("network_infer", OBSERVER | 1)
        layers = [
            (parts[0][1], b"".join(value for _, _, value in parts))
            for _, group in groupby(sorted(self._observed, key=lambda entry: entry[0]), key=lambda entry: entry[0])
            if (parts := list(group))
        ]
        uc.mem_write(self._call("network_input"), data)
        uc.mem_write(RAM, STACK_PATTERN)
        self._blocks.clear()
        self._call("network_infer", 0)
        blocks = dict(self._blocks)
        stack = bytes(uc.mem_read(RAM, len(STACK_PATTERN)))
        untouched = len(stack) - len(stack.lstrip(STACK_PATTERN[:1]))
        functions: Counter[str] = Counter()
        for (address, size), times in blocks.items():
            functions[self._function(address)] += self._decode(address, size) * times
        output = self._call("network_output")
        assert uc.reg_read(reg.UC_ARM_REG_SP) == RAM + len(STACK_PATTERN)
        return Inference(
            bytes(uc.mem_read(output, len(layers[-1][1]))),
            tuple(layers),
            sum(functions.values()),
            dict(functions),
            len(stack) - untouched,
        )

    def _call(self, function: str, argument: int = 0) -> int:
        uc, reg = self._uc, self._reg
        uc.reg_write(reg.UC_ARM_REG_SP, RAM + len(STACK_PATTERN))
        uc.reg_write(reg.UC_ARM_REG_LR, RETURN | 1)
        uc.reg_write(reg.UC_ARM_REG_R0, argument)
        uc.emu_start(self._symbols[function] | 1, RETURN, timeout=60_000_000)
        assert uc.reg_read(reg.UC_ARM_REG_PC) & ~1 == RETURN, f"{function} did not return"
        return int(uc.reg_read(reg.UC_ARM_REG_R0))

    def _on_block(self, _uc: object, address: int, size: int, _data: object) -> None:
        self._blocks[address, size] += 1

    def _on_observer(self, uc: object, _address: int, _size: int, _data: object) -> None:
        layer, data, elements, element = (self._uc.reg_read(self._reg.UC_ARM_REG_R0 + i) for i in range(4))
        if element in _PACKED_BITS:
            # As the logical tensor has them, one byte an element: rows come one by one.
            bits = _PACKED_BITS[element]
            words = np.frombuffer(bytes(self._uc.mem_read(data, row_bytes(elements, bits))), "<u4")
            self._observed.append((layer, 0, unpack_rows(words[None], bits, elements).tobytes()))
            return
        size = elements * (1, 2, 4, 4)[element]
        self._observed.append((layer, element, bytes(self._uc.mem_read(data, size))))

    def _decode(self, address: int, size: int) -> int:
        """Instructions in a block: Thumb instructions whose first halfword is at least 0xE800 are four bytes long."""
        code = np.frombuffer(bytes(self._uc.mem_read(address, size)), "<u2")
        count = index = 0
        while index < len(code):
            index += 2 if code[index] >= 0xE800 else 1
            count += 1
        return count

    def _function(self, address: int) -> str:
        return next((name for start, end, name in self._functions if start <= address < end), "?")


def _weights_in_map(text: str) -> int:
    """Bytes of the input sections that hold weights, from the linker's map."""
    total = 0
    words = text.split("Linker script and memory map", 1)[1].split()
    for index, word in enumerate(words):
        if word.startswith((".rodata.weights.", ".text.weights.")) and words[index + 1].startswith("0x"):
            total += int(words[index + 2], 16)
    return total


def verdict(graph: Graph, image: Array, ran: Inference) -> str:
    """How the layers compare with the reference: integers bit by bit, floats by their largest difference."""
    observed = [np.frombuffer(data, ("u1", "<i2", "<i4", "<f4")[element]) for element, data in ran.layers]
    expected = [value[0].ravel() for _, value in graph.run(image[None].astype(graph.input_tensor.dtype))]
    pairs = list(zip(observed, expected, strict=True))
    if not graph.integer:
        return f"largest error {max(float(np.abs(one - two).max()) for one, two in pairs):.1e}"
    return "bit-exact" if all(np.array_equal(one, two) for one, two in pairs) else "WRONG"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="cortex-m4", choices=MACHINE)
    parser.add_argument("--kernels", default="default")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="one or more; all when not given")
    parser.add_argument("--optimize", help="compiler flags instead of the recommended ones")
    arguments = parser.parse_args()
    for name in arguments.network or NETWORKS:
        graph = NETWORKS[name]()
        generated = generate(graph, variant=name, core=arguments.core, kernels=arguments.kernels)
        with tempfile.TemporaryDirectory() as folder:
            core = BareCore(build(generated, Path(folder), arguments.optimize), arguments.core)
        generator = np.random.default_rng(0)
        image = generator.integers(0, 256, graph.input_tensor.shape)
        if not graph.integer:
            image = (image / 255).astype(np.float32)
        ran = core.infer(serialize_input(graph, image))
        result = verdict(graph, image, ran)
        print(f"{name} on {arguments.core}: {ran.instructions:,} instructions, stack {ran.stack} B, {result}")
        for layer in generated.layers:
            count = ran.functions[f"run_{layer.symbol}"]
            rate = f"{count / layer.macs:.3f} per MAC" if layer.macs else ""
            print(f"  {layer.name:12} {layer.form:12} {count:>10,} {rate:14} {layer.weight_bytes:>8,} B of constants")
        layers = {f"run_{layer.symbol}" for layer in generated.layers}
        for function, count in ran.functions.items():
            if function not in layers:
                print(f"  {function:25} {count:>10,}")
        image_bytes = core.image
        print(
            f"  image {image_bytes.total:,} B = weights {image_bytes.weights:,} + kernels {image_bytes.kernels:,}"
            f" + activations {image_bytes.activations:,}"
        )


if __name__ == "__main__":
    main()
