"""What executions of a network return: the reference, the same C on this machine, the board; and whether they agree."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.codegen.generate import Generated, logical_bytes, parse_output
from harness.engines import Choice
from harness.errors import GateError
from harness.files import cache_dir
from harness.graph.graph import Graph
from harness.ops.base import Array
from harness.progress import Reporter
from harness.results import record

if TYPE_CHECKING:
    from harness.measurement import Measured


@dataclass(frozen=True, eq=False)
class Observed:
    """What one execution returned for N samples: outputs (N, C), classes (N,), CRC-32s (N, layers) uint32.

    nanoseconds: of each inference, where this machine took the time.
    """

    outputs: Array
    classes: Array
    crcs: Array
    nanoseconds: tuple[int, ...] = ()

    def crc(self, layer: int) -> str:
        """One checksum for a layer over all samples: of one sample its own CRC-32, of several the CRC-32 of theirs."""
        crcs = self.crcs[:, layer]
        value = int(crcs[0]) if len(crcs) == 1 else zlib.crc32(crcs.astype("<u4").tobytes())
        return f"{value:08x}"


def of_reference(graph: Graph, images: Array, generated: Generated) -> Observed:
    """What every execution must return, from the Graph's own exact arithmetic, in the layouts of the generated C."""
    crcs = np.zeros((len(images), len(graph.layers)), np.uint32)
    outputs = []
    for start in range(0, len(images), 256):
        values: Array | None = None
        for index, (layer, values) in enumerate(graph.run(images[start : start + 256])):
            for sample, value in enumerate(values):
                crcs[start + sample, index] = zlib.crc32(
                    logical_bytes(graph, layer, value, generated.layers[index].layout)
                )
        assert values is not None
        outputs.append(values.reshape(len(values), -1))
    output = np.concatenate(outputs)
    return Observed(output, output.argmax(axis=1), crcs)


def of_host(
    generated: Generated, graph: Graph, inputs: list[bytes], choice: Choice, reporter: Reporter
) -> Observed | None:
    """The same C, compiled for this machine. None without a host compiler, and where a library for the core is linked.

    Only another engine than host gets None.
    """
    from harness.toolchain import compiler
    from harness.toolchain.host import HostNetwork

    if generated.libraries:
        reporter.say(
            f"note: kernels {generated.kernels} link a library for {generated.core}: the comparison with the same C on "
            "this machine is left out; every layer on the board is still compared with the reference"
        )
        return None
    if choice.engine != "host" and compiler.find_host() is None:
        reporter.say("note: no host C compiler: the comparison with the same C on this machine is left out")
        return None
    with reporter.stage("host C"):
        ran = HostNetwork(generated, cache_dir=cache_dir()).infer(inputs)
    outputs = np.stack([parse_output(graph, output).reshape(-1) for output in ran.outputs])
    return Observed(outputs, outputs.argmax(axis=1), ran.crcs, ran.nanoseconds)


def of_board(graph: Graph, measured: Measured) -> Observed:
    """What the board answered; emulators and the simulator are boards, too."""
    outputs = np.stack([parse_output(graph, answer.output).reshape(-1) for answer in measured.inferences])
    classes = np.array([answer.label for answer in measured.inferences])
    return Observed(outputs, classes, np.array([answer.crcs for answer in measured.inferences], np.uint32))


def first_mismatch(graph: Graph, expected: Observed, got: Observed) -> Literal[True] | record.Mismatch:
    """True, or the first layer whose CRC-32s are not the expected ones."""
    for index, layer in enumerate(graph.layers):
        if (expected.crcs[:, index] != got.crcs[:, index]).any():
            return record.Mismatch(first_layer=layer.name, expected=expected.crc(index), got=got.crc(index))
    return True


def verdict(
    graph: Graph,
    reference: Observed,
    host: Observed | None,
    observed: Observed,
    bit_exact: Literal[True] | record.Mismatch | None,
) -> GateError | None:
    """What is wrong with a finished run, if anything: the first layer that differs, or a class."""
    if isinstance(bit_exact, record.Mismatch):
        return GateError(
            f"layer {bit_exact.first_layer} differs from the reference: CRC-32 {bit_exact.got}, "
            f"expected {bit_exact.expected}",
            hint="the result was written with this mismatch; please report it with that file",
        )
    if graph.integer and host is not None:
        on_host = first_mismatch(graph, reference, host)
        if isinstance(on_host, record.Mismatch):
            return GateError(f"layer {on_host.first_layer} of the same C on this machine differs from the reference")
    wrong = np.flatnonzero(observed.classes != reference.classes)
    if len(wrong):
        return GateError(
            f"sample {wrong[0]}: the board says class {observed.classes[wrong[0]]}, "
            f"the reference {reference.classes[wrong[0]]} ({len(wrong)} such samples)"
        )
    return None
