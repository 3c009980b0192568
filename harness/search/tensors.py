"""What a network's tensors take at any bit widths: the memory model of arXiv 1905.13082 and 2008.05124.

Flash holds every weight at its layer's width and, for each output channel, a multiplier of 32 bits, a shift of 8 and a
bias of 32. RAM holds, while a layer runs, its inputs, its output and what a later layer still reads. Code, padding of
packed rows and buffers that share memory are not in this model: the linker's figures are the last word on a board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.search.policy import WIDTHS, Policy, activation_layers, weighted_layers

if TYPE_CHECKING:
    from harness.graph.graph import Graph

# Multiplier, shift and bias of one output channel.
PARAMETER_BYTES = 4 + 1 + 4
# Of the network's input (the protocol sends bytes) and of its result (accumulators).
INPUT_BITS = 8
OUTPUT_BITS = 32

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Weights:
    """One layer's weights: elements of them, for `channels` output channels."""

    layer: str
    elements: int
    channels: int

    def bytes(self, bits: int) -> int:
        """Packed, without the channels' parameters."""
        return -(-self.elements * bits // 8)

    @property
    def parameter_bytes(self) -> int:
        return PARAMETER_BYTES * self.channels


@dataclass(frozen=True)
class Activation:
    """One activation tensor. layer: whose width it has in a policy; None where `bits` is its width in every policy."""

    name: str
    elements: int
    layer: str | None
    bits: int = INPUT_BITS

    def width(self, widths: Widths) -> int:
        return self.bits if self.layer is None else widths[self.layer]

    def bytes(self, widths: Widths) -> int:
        """Packed, under the activations' widths by layer."""
        return -(-self.elements * self.width(widths) // 8)


@dataclass(frozen=True)
class Step:
    """One layer at work. live: all that is in RAM then, what it reads and writes included."""

    layer: str
    reads: tuple[Activation, ...]
    writes: Activation
    live: tuple[Activation, ...]

    def bytes(self, widths: Widths) -> int:
        return sum(tensor.bytes(widths) for tensor in self.live)


@dataclass(frozen=True)
class Limits:
    """flash: bytes of weights and parameters; ram: bytes of live activations. None: no limit."""

    flash: int | None = None
    ram: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("flash", self.flash), ("ram", self.ram)):
            if value is not None and value < 1:
                raise InputError(f"the limit of {name} is {value} bytes; it must be above 0")


@dataclass(frozen=True)
class Table:
    """A network's tensors in layer order, and how they meet."""

    network: str
    weights: tuple[Weights, ...]
    steps: tuple[Step, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """The layers whose output's width is free, in order."""
        free = [step.writes.layer for step in self.steps if step.writes.layer is not None]
        return tuple(dict.fromkeys(free))

    @property
    def parameter_bytes(self) -> int:
        """Of all channels of all layers."""
        return sum(weights.parameter_bytes for weights in self.weights)

    def weight_bytes(self, widths: Widths) -> int:
        """Of all weights under their widths by layer, without the channels' parameters."""
        return sum(weights.bytes(widths[weights.layer]) for weights in self.weights)

    def flash(self, widths: Widths) -> int:
        """Bytes of weights and parameters under the weights' widths by layer."""
        return self.weight_bytes(widths) + self.parameter_bytes

    def ram(self, widths: Widths) -> int:
        """Bytes of the activations alive at once, at most, under the activations' widths by layer."""
        return max(step.bytes(widths) for step in self.steps)

    def uniform(self, bits: int) -> tuple[dict[str, int], dict[str, int]]:
        """The same width for all weights and for all activations."""
        return {weights.layer: bits for weights in self.weights}, dict.fromkeys(self.activations, bits)

    def mean_bits(self, flash: int) -> float:
        """How wide a weight may be on the average where weights alone have `flash` bytes."""
        return 8 * flash / sum(weights.elements for weights in self.weights)

    def fits(self, weights: Widths, activations: Widths, limits: Limits) -> bool:
        return (limits.flash is None or self.flash(weights) <= limits.flash) and (
            limits.ram is None or self.ram(activations) <= limits.ram
        )

    def demand(self, limits: Limits, *, weights_only: bool = False) -> None:
        """InputError where even the narrowest widths do not fit; it names the smallest limits that would do."""
        weights, widths = self.uniform(WIDTHS[0])
        bits = WIDTHS[0]
        if weights_only:
            bits, widths = WIDTHS[-1], self.uniform(WIDTHS[-1])[1]
        peak = max(self.steps, key=lambda step: step.bytes(widths))
        least_flash, least_ram = self.flash(weights), peak.bytes(widths)
        reasons, enough = [], []
        if limits.flash is not None and least_flash > limits.flash:
            reasons.append(
                f"{limits.flash:,} bytes of flash: with 2 bits for every weight it takes {least_flash:,}, of which "
                f"{self.parameter_bytes:,} are the channels' parameters"
            )
            enough.append(f"--flash {least_flash}")
        if limits.ram is not None and least_ram > limits.ram:
            reasons.append(
                f"{limits.ram:,} bytes of RAM: with {bits} bits for every activation layer {peak.layer} takes "
                f"{least_ram:,}"
            )
            enough.append(f"--ram {least_ram}" + ("; or leave --weights-only out" if weights_only else ""))
        if reasons:
            raise InputError(
                f"{self.network} does not fit into {'; nor into '.join(reasons)}",
                hint=f"the smallest that would do: {' '.join(enough)}",
            )

    def policy(
        self,
        weights: Widths,
        activations: Widths,
        *,
        method: str,
        score: float | None = None,
        seed: int | None = None,
    ) -> Policy:
        """The widths as a Policy in layer order, with what they take."""
        return Policy(
            network=self.network,
            weights={tensor.layer: weights[tensor.layer] for tensor in self.weights},
            activations={layer: activations[layer] for layer in self.activations},
            bytes=self.flash(weights),
            peak_ram=self.ram(activations),
            score=score,
            method=method,
            seed=seed,
        )


def table(graph: Graph) -> Table:
    """The tensors of `graph` (float or integer). InputError for a network without weights."""
    weighted, free = set(weighted_layers(graph)), set(activation_layers(graph))
    if not weighted:
        raise InputError(f"network {graph.name} has no weights whose bits could be chosen")
    tensors = {graph.input: Activation(graph.input, graph.input_tensor.elements, None)}
    last_read = {graph.input: 0}
    weights = []
    for index, layer in enumerate(graph.layers):
        for name in layer.inputs:
            last_read[name] = index
        last_read[layer.output] = index
        elements = graph.tensors[layer.output].elements
        if layer.name in free:
            tensors[layer.output] = Activation(layer.output, elements, layer.name)
        elif layer is graph.layers[-1]:
            tensors[layer.output] = Activation(layer.output, elements, None, OUTPUT_BITS)
        else:  # a max-pool hands on what it reads
            source = tensors[layer.inputs[0]]
            tensors[layer.output] = Activation(layer.output, elements, source.layer, source.bits)
        if layer.name in weighted:
            array = layer.parameters["weight"]
            weights.append(Weights(layer.name, int(array.size), len(array)))
    steps = []
    written = [graph.input]
    for index, layer in enumerate(graph.layers):
        written.append(layer.output)
        steps.append(
            Step(
                layer.name,
                tuple(tensors[name] for name in dict.fromkeys(layer.inputs)),
                tensors[layer.output],
                tuple(tensors[name] for name in written if last_read[name] >= index),
            )
        )
    return Table(graph.name, tuple(weights), tuple(steps))
