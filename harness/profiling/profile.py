"""Profiles of one inference: every executed instruction's cycles, by layer and function. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.boards import Board
from harness.codegen.generate import Generated
from harness.emulators.simulator.cycles.edges import Coverage, Visits
from harness.emulators.simulator.cycles.instructions import Instruction, Kind
from harness.emulators.simulator.cycles.model import CycleModel
from harness.errors import InputError, unknown_name
from harness.profiling.bench import Bench
from harness.toolchain import symbols

# What times the layers, and is no part of them.
_MEASURING = ("observe_time", "port_ticks")
_INFERENCE_SECONDS = 300.0
_MEMORY = (Kind.LOAD, Kind.STORE, Kind.LOAD_MULTIPLE, Kind.STORE_MULTIPLE, Kind.FLOAT_LOAD, Kind.FLOAT_STORE,
           Kind.FLOAT_LOAD_MULTIPLE, Kind.FLOAT_STORE_MULTIPLE)  # fmt: skip


@dataclass(frozen=True)
class Cycles:
    """Modelled cycles by cause. issue: instructions themselves. operands: waiting for an earlier result or a unit.
    data: waiting for memory. fetch: waiting for instructions. branch: refilling the pipeline. instructions: executed.
    """

    instructions: int = 0
    issue: int = 0
    operands: int = 0
    data: int = 0
    fetch: int = 0
    branch: int = 0

    @property
    def total(self) -> int:
        """All cycles."""
        return self.issue + self.operands + self.data + self.fetch + self.branch

    def __add__(self, other: Cycles) -> Cycles:
        return Cycles(*(getattr(self, name) + getattr(other, name) for name in CAUSES_AND_COUNT))

    def plain(self) -> dict[str, int]:
        """For JSON."""
        return {name: getattr(self, name) for name in CAUSES_AND_COUNT} | {"total": self.total}


CAUSES = ("issue", "operands", "data", "fetch", "branch")
CAUSES_AND_COUNT = ("instructions", *CAUSES)


@dataclass(frozen=True)
class Line:
    """One instruction of a layer. data: its share of what its block waited for memory; fetch and branch stalls count at
    a block's first and last instruction."""

    instruction: Instruction
    cycles: Cycles


@dataclass(frozen=True)
class FunctionProfile:
    """One function of the image within one layer, with its instructions by address."""

    name: str
    lines: tuple[Line, ...]

    @property
    def cycles(self) -> Cycles:
        """Of all its instructions."""
        return sum((line.cycles for line in self.lines), Cycles())


@dataclass(frozen=True)
class LayerProfile:
    """One layer of the network; functions with most cycles first."""

    name: str
    op: str
    form: str
    macs: int
    functions: tuple[FunctionProfile, ...]

    @property
    def cycles(self) -> Cycles:
        """Of all its functions."""
        return sum((function.cycles for function in self.functions), Cycles())


@dataclass(frozen=True)
class Profile:
    """One inference. peak: multiply-accumulates per cycle that the core can do at best, on this kind of number.
    error_band: of the model on this kind of number, as a fraction; None where it is uncalibrated.
    """

    network: str
    board: str
    clock_hz: int
    model: CycleModel
    peak: float
    error_band: float | None
    layers: tuple[LayerProfile, ...]
    coverage: Coverage
    notes: tuple[str, ...] = field(default=())

    @property
    def cycles(self) -> Cycles:
        """Of all layers."""
        return sum((layer.cycles for layer in self.layers), Cycles())

    @property
    def functions(self) -> dict[str, Cycles]:
        """Each function over all layers, most cycles first."""
        found: dict[str, Cycles] = {}
        for layer in self.layers:
            for function in layer.functions:
                found[function.name] = found.get(function.name, Cycles()) + function.cycles
        return dict(sorted(found.items(), key=lambda item: -item[1].total))

    def layer(self, name: str) -> LayerProfile:
        """InputError for a layer that the network does not have."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown_name("layer", name, [layer.name for layer in self.layers])

    def plain(self) -> dict[str, Any]:
        """For JSON: per layer and per function, without single instructions."""
        return {
            "network": self.network,
            "board": self.board,
            "clock_hz": self.clock_hz,
            "model_version": self.model.version,
            "error_band": self.error_band,
            "notes": list(self.notes),
            "peak_macs_per_cycle": self.peak,
            "uncosted": {"share": self.coverage.share, "instructions": self.coverage.unknown},
            "cycles": self.cycles.plain(),
            "us": self.cycles.total / self.clock_hz * 1e6,
            "layers": [
                {
                    "name": layer.name,
                    "op": layer.op,
                    "form": layer.form,
                    "macs": layer.macs,
                    "macs_per_cycle": layer.macs / layer.cycles.total if layer.cycles.total else None,
                    "cycles": layer.cycles.plain(),
                    "functions": {function.name: function.cycles.plain() for function in layer.functions},
                }
                for layer in self.layers
            ],
            "functions": {name: cycles.plain() for name, cycles in self.functions.items()},
        }


def profile(board: Board, elf: Path, generated: Generated, data: bytes, model: CycleModel) -> Profile:
    """Runs one inference of `data` on the simulated board, after one that fills caches and trains the predictor.

    InputError for an image without the symbols of our firmware; DeviceError when it breaks.
    """
    names = symbols.read(elf)
    start, observe = names.named("network_infer"), names.named("observe_time")
    if start is None or observe is None:
        raise InputError(f"{elf} is no firmware of the harness: it has no network_infer and observe_time")
    bench = Bench(board, elf, model)
    machine = bench.machine
    counting = machine.counting
    assert counting is not None
    bench.client.load_input(data, timeout=_INFERENCE_SECONDS)
    bench.client.ticks(1, timeout=_INFERENCE_SECONDS)
    bench.client.load_input(data, timeout=_INFERENCE_SECONDS)  # which an inference may have consumed

    tallies: list[dict[int, Line]] = [{} for _ in generated.layers]
    running = False

    def begin() -> None:
        nonlocal running
        running = True
        counting.clear_visits()

    def layer_is_done() -> None:
        index = machine.read_register("r0")
        if running and index < len(tallies):
            _add(tallies[index], counting.visits())
            counting.clear_visits()

    machine.call_at(start.address, begin)
    machine.call_at(observe.address, layer_is_done)
    bench.client.layers(len(generated.layers), timeout=_INFERENCE_SECONDS)

    layers = tuple(
        LayerProfile(layer.name, layer.op, layer.form or layer.op, layer.macs, _by_function(tally.values(), names))
        for layer, tally in zip(generated.layers, tallies, strict=True)
    )
    lines = [line for tally in tallies for line in tally.values()]
    floating = any(line.instruction.kind is Kind.FLOAT_MAC for line in lines)
    return Profile(
        network=generated.name,
        board=board.id,
        clock_hz=model.clock_hz,
        model=model,
        peak=model.table.peak_float_macs if floating else model.table.peak_macs,
        error_band=model.band(integer=not floating),
        layers=layers,
        coverage=_coverage(lines, model),
        notes=model.notes,
    )


def _coverage(lines: Sequence[Line], model: CycleModel) -> Coverage:
    unknown: dict[str, int] = {}
    for line in lines:
        if not model.knows(line.instruction):
            name = line.instruction.name
            unknown[name] = unknown.get(name, 0) + line.cycles.instructions
    return Coverage(sum(line.cycles.instructions for line in lines), unknown)


def _add(tally: dict[int, Line], visits: Iterable[Visits]) -> None:
    """Gives every instruction of the visited blocks its cycles."""
    for visit in visits:
        block, cost = visit.edge.block, visit.edge.cost
        accesses = [index for index, one in enumerate(block.instructions) if one.kind in _MEMORY]
        shares = _shares(visit.data, len(accesses))
        for index, (instruction, spent) in enumerate(zip(block.instructions, cost.spent, strict=True)):
            waited = shares[accesses.index(index)] if shares and index in accesses else 0
            _count(
                tally,
                instruction,
                Cycles(
                    instructions=visit.count,
                    issue=visit.count * spent.issue,
                    operands=visit.count * spent.stall,
                    data=waited,
                    fetch=visit.fetch if index == 0 else 0,
                ),
            )
        if visit.branch:
            before = visit.edge.before
            _count(tally, before.instructions[-1] if before else block.instructions[0], Cycles(branch=visit.branch))


def _shares(cycles: int, count: int) -> list[int]:
    """`cycles` in `count` whole parts that differ by one at most."""
    if not count:
        return []
    each, rest = divmod(cycles, count)
    return [each + (index < rest) for index in range(count)]


def _count(tally: dict[int, Line], instruction: Instruction, cycles: Cycles) -> None:
    known = tally.get(instruction.address)
    tally[instruction.address] = Line(instruction, cycles if known is None else known.cycles + cycles)


def _by_function(lines: Iterable[Line], names: symbols.Symbols) -> tuple[FunctionProfile, ...]:
    found: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.instruction.address):
        symbol = names.at(line.instruction.address)
        name = symbol.name if symbol is not None else f"{line.instruction.address & ~0xFF:#010x}"
        if name not in _MEASURING:
            found.setdefault(name, []).append(line)
    functions = [FunctionProfile(name, tuple(its)) for name, its in found.items()]
    return tuple(sorted(functions, key=lambda function: -function.cycles.total))
