"""Which buffers a network's activations and scratch need, and when: the requests that the memory plan is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.graph.graph import Graph
from harness.graph.memory import Request
from harness.ops.lowering import Storage, default_storage

# Tensors and scratch are read by words.
_ALIGNMENT = 4


@dataclass(frozen=True, eq=False)
class Use:
    """What a step does to memory: what it reads and writes, and what Lowering says of scratch, slack and overlap.

    index: of its layer, for the name of its scratch. storage: of its output.
    """

    index: int
    inputs: tuple[str, ...]
    output: str
    storage: Storage
    scratch_bytes: int = 0
    overread: int = 0
    overwrite: int = 0
    overlap: int | None = None


def scratch_name(index: int) -> str:
    """The buffer that holds the scratch of layer `index`."""
    return f"scratch of layer {index}"


def requests(graph: Graph, uses: Sequence[Use]) -> list[Request]:
    """One request per tensor and per scratch.

    The input may be overwritten once the last layer that reads it is done; the output stays until the inference ends.
    """
    stored = {graph.input: default_storage(graph.input_tensor.dtype, graph.input_tensor.bits)}
    written, read = {graph.input: 0}, {graph.input: 0}
    slack: dict[str, int] = {}
    before: dict[str, dict[str, int]] = {}
    result = []
    for step, use in enumerate(uses):
        output = use.output
        stored[output] = use.storage
        for source in use.inputs:
            slack[source] = max(slack.get(source, 0), use.overread)
        slack[output] = use.overwrite
        # Whoever reads an input after this layer keeps it alive, and then its memory is not given away.
        dying = [source for source in use.inputs if all(source not in other.inputs for other in uses[step + 1 :])]
        if use.overlap is not None:
            before[output] = dict.fromkeys(dying, use.overlap)
        written[output] = read[output] = step
        read |= dict.fromkeys(use.inputs, step)
        if use.scratch_bytes:
            result.append(Request(scratch_name(use.index), use.scratch_bytes, _ALIGNMENT, step, step))
    read[graph.output.name] = len(uses)
    for name, storage in stored.items():
        size = storage.size(graph.tensors[name].shape) + slack.get(name, 0)
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        result.append(Request(name, size, _ALIGNMENT, written[name], read[name], before.get(name, {})))
    return result
