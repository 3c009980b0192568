"""Basic blocks and the edges between them, decoded and costed once. What the counters share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from harness.emulators.simulator.cycles.instructions import Instruction, Kind, decode
from harness.emulators.simulator.cycles.model import CycleModel, EdgeCost, FetchLine

# Reads code: (address, bytes).
ReadCode = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Block:
    """One basic block as Unicorn translated it. unknown: its instructions that the model has no cost for."""

    address: int
    size: int
    instructions: tuple[Instruction, ...]
    lines: tuple[FetchLine, ...]
    unknown: int


@dataclass(frozen=True)
class Edge:
    """A block behind another one, and what it costs there. before: None after a reset or where code has changed."""

    before: Block | None
    block: Block
    cost: EdgeCost


@dataclass(frozen=True)
class Visits:
    """How often an edge was taken, and the cycles beyond its static cost: waiting for data and for instructions, and
    for branches that were predicted wrongly or not at all (of the block before it)."""

    edge: Edge
    count: int
    data: int
    fetch: int
    branch: int

    @property
    def cycles(self) -> int:
        """All cycles of these visits."""
        return self.count * self.edge.cost.cycles + self.data + self.fetch + self.branch


@dataclass(frozen=True)
class Coverage:
    """How many of the executed instructions the model has no cost for, by name."""

    instructions: int
    unknown: dict[str, int]

    @property
    def share(self) -> float:
        """The unknown ones as a fraction of all."""
        return sum(self.unknown.values()) / self.instructions if self.instructions else 0.0

    def to_json(self) -> str:
        """One line that from_json() reads."""
        return json.dumps({"instructions": self.instructions, "unknown": self.unknown})

    @staticmethod
    def from_json(text: str) -> Coverage:
        """ValueError or KeyError when it is none."""
        plain = json.loads(text)
        return Coverage(plain["instructions"], plain["unknown"])


class Edges:
    """Makes blocks and edges, and keeps them."""

    def __init__(self, model: CycleModel, read_code: ReadCode) -> None:
        self._model = model
        self._read_code = read_code
        self._blocks: dict[int, Block] = {}

    def forget(self) -> None:
        """Code may have changed."""
        self._blocks.clear()

    def stale(self, address: int) -> None:
        """The code at `address` may have changed."""
        self._blocks.pop(address, None)

    def block(self, address: int, size: int) -> Block:
        """The block at `address`, of `size` bytes."""
        known = self._blocks.get(address)
        if known is None or known.size != size:
            instructions = decode(self._read_code(address, size), address)
            unknown = sum(not self._model.knows(instruction) for instruction in instructions)
            known = Block(address, size, instructions, self._model.lines(address, size), unknown)
            self._blocks[address] = known
        return known

    def edge(self, before: Block | None, block: Block) -> Edge:
        """What `block` costs behind `before`."""
        return Edge(before, block, self._model.edge(before.instructions if before else (), block.instructions))


def coverage(visits: list[Visits], model: CycleModel) -> Coverage:
    """Which instructions of a run had no cost."""
    unknown: dict[str, int] = {}
    total = 0
    for visit in visits:
        total += visit.count * len(visit.edge.block.instructions)
        if visit.edge.block.unknown:
            for instruction in visit.edge.block.instructions:
                if not model.knows(instruction):
                    name = instruction.name if instruction.kind is not Kind.UNKNOWN else instruction.text
                    unknown[name] = unknown.get(name, 0) + visit.count
    return Coverage(total, unknown)
