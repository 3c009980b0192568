"""Which storage form each layer takes: a search over bytes and instructions. It prints nothing and lowers nothing.

A form's cost counts its constants, its scratch and its own code; functions that several layers share are counted once,
so forms are chosen for the network as a whole. Where a board's memory has no room for the best ones, the best among
those that fit are taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, prod
from typing import Any, Literal, get_args

import numpy as np

from harness.codegen.activations import Use, requests
from harness.codegen.pace import Pace
from harness.errors import InputError, unknown_name
from harness.graph.graph import Graph
from harness.graph.memory import Request, plan
from harness.ops import sparse
from harness.ops.base import Operator
from harness.ops.lowering import Cost, Form, Layout, Site

Prefer = Literal["size", "speed", "balanced"]

# How much a percent of bytes and a percent of instructions count against each other. Neither is ever free: the last few
# bytes tend to cost many instructions, and the last few instructions many bytes. "balanced" leans towards instructions
# a little: of a network that is small already, most bytes are activations and code.
_EXPONENTS: dict[Prefer, tuple[int, int]] = {"size": (8, 1), "balanced": (5, 6), "speed": (1, 8)}

# More combinations than this are not all looked at: layers then take turns until none gains by changing.
_EXHAUSTIVE = 20_000

# A dense form that needs so many bytes of scratch less than the fastest one is looked at, too.
_LEAN = 4096

# Bounds the search tree of the program that fits forms into flash; those of published networks need a few nodes.
_NODES = 20_000

# Bytes of code that every network has: its functions for inference, input, output, scores and classes.
_NETWORK_CODE = 280


@dataclass(frozen=True)
class Room:
    """Bytes that a network may take. flash: of constants and code; ram: of activations and scratch. None: no limit."""

    flash: int | None = None
    ram: int | None = None


@dataclass(frozen=True)
class Choice:
    """One form per layer, and what they take by estimate, in bytes: see Room."""

    forms: tuple[Form[Any], ...]
    flash: int
    ram: int

    def same(self, other: Choice) -> bool:
        """Whether the forms are the other's."""
        return [form.name for form in self.forms] == [form.name for form in other.forms]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A form that fits its layer, and what it costs: its instructions, or the board's cycles for them.

    planar_cost: where its input is hcw, None for forms that do not read that. writes_planar: whether it can write that.
    """

    form: Form[Any]
    cost: Cost
    planar_cost: Cost | None
    writes_planar: bool

    def beats(self, other: _Candidate) -> bool:
        """Whether no network is better off with `other`, even if nobody shares this one's functions."""
        mine, its = self.cost, other.cost
        return (
            mine.flash + mine.code + sum(mine.shared.values()) < its.flash + its.code
            and mine.instructions <= its.instructions
            and mine.scratch <= its.scratch
            and mine.overlap == its.overlap
            and self.planar_cost is None
            and other.planar_cost is None
        )


@dataclass(frozen=True)
class _Total:
    """What a network costs. flash: constants and code; ram: activations where they need most."""

    flash: int
    ram: int
    instructions: int

    @property
    def bytes(self) -> int:
        """Of both memories."""
        return self.flash + self.ram

    def rank(self, prefer: Prefer) -> tuple[float, float]:
        """Lower is better, and independent of the network's size."""
        of_bytes, of_instructions = _EXPONENTS[prefer]
        return of_bytes * log(self.bytes) + of_instructions * log(self.instructions), self.bytes


def choose(
    graph: Graph,
    sites: Sequence[Site],
    *,
    kernels: str,
    prefer: Prefer,
    overrides: Mapping[str, str],
    pace: Pace | None = None,
    room: Room | None = None,
) -> Choice:
    """One form per layer of `graph`. sites: each layer's, with the default storages. pace: of the board at hand, whose
    cycles then count instead of instructions. room: what it has of memory; where nothing fits that, what exceeds it
    least is chosen.

    InputError for an unknown preference, layer or form, and for a form that does not fit its layer.
    """
    if prefer not in get_args(Prefer):
        raise unknown_name("preference", prefer, get_args(Prefer))
    for name in overrides:
        if name not in {layer.name for layer in graph.layers}:
            raise unknown_name("layer", name, [layer.name for layer in graph.layers])

    def candidates(layer: Operator, site: Site) -> list[_Candidate]:
        if layer.name in overrides:
            return _overridden(layer, site, overrides[layer.name], pace)
        if kernels == "plain" and not overrides:
            return [_candidate(_plain(layer, site), layer, site)]
        return _candidates(layer, site, pace) if room is None else _every_candidate(layer, site, pace)

    found = [candidates(layer, site) for layer, site in zip(graph.layers, sites, strict=True)]
    network = _Network(graph, sites)
    if room is None:
        best = _best(
            found,
            lambda combination: network.total(combination).rank(prefer),
            bound=lambda combination: network.roughly(combination).rank(prefer),
        )
    else:
        best = _within(network, found, prefer, room)
    total = network.total(best)
    return Choice(tuple(candidate.form for candidate in best), total.flash, total.ram)


def available(layer: Operator) -> tuple[Form[Any], ...]:
    """Every form of a layer, whether or not it fits."""
    return (*layer.forms, *sparse.forms(layer))


def _plain(layer: Operator, site: Site) -> Form[Any]:
    """The form that every core runs: "plain", or "packed" where widths or padding want more than that."""
    found = [form for form in layer.forms if form.name in ("plain", "packed") and form.fits(layer, site)]
    if not found:
        raise _no_form(layer)
    return found[0]


def _no_form(layer: Operator) -> InputError:
    return InputError(f"layer {layer.name}: there are no kernels for a {layer.label} like this")


def _overridden(layer: Operator, site: Site, name: str, pace: Pace | None = None) -> list[_Candidate]:
    known = {form.name: form for form in available(layer)}
    if name not in known:
        raise unknown_name(f"form of layer {layer.name}", name, list(known))
    reason = known[name].unsuited(layer, site) or known[name].refusal(layer, site)
    if reason is not None:
        raise InputError(
            f"layer {layer.name} cannot be stored as {name}: {reason}",
            hint="leave its form to the harness",
        )
    return [_candidate(known[name], layer, site, pace)]


def _candidates(layer: Operator, site: Site, pace: Pace | None = None) -> list[_Candidate]:
    """The fastest dense form, the fastest that needs much less memory, and sparse ones that are smaller or faster."""
    fitting = [_candidate(form, layer, site, pace) for form in layer.forms if form.fits(layer, site)]
    if not fitting:
        raise _no_form(layer)
    dense = min(fitting, key=lambda candidate: candidate.cost.instructions)
    lean = [candidate for candidate in fitting if candidate.cost.scratch + _LEAN <= dense.cost.scratch]
    leaner = [min(lean, key=lambda candidate: candidate.cost.instructions)] if lean else []
    sparse_forms = sparse.forms(layer) if sparse.worthwhile(layer) else ()
    others = [_candidate(form, layer, site, pace) for form in sparse_forms if form.fits(layer, site)]
    gaining = [
        other
        for other in others
        if other.cost.flash < dense.cost.flash or other.cost.instructions < dense.cost.instructions
    ]
    found = [dense, *leaner, *gaining]
    return [one for one in found if not any(other.beats(one) for other in found)]


def _every_candidate(layer: Operator, site: Site, pace: Pace | None = None) -> list[_Candidate]:
    """All forms that could be worth their memory, the fastest first."""
    tried = (*layer.forms, *(sparse.forms(layer) if sparse.worthwhile(layer) else ()))
    found = [_candidate(form, layer, site, pace) for form in tried if form.fits(layer, site)]
    if not found:
        raise _no_form(layer)
    found.sort(key=lambda candidate: candidate.cost.instructions)
    return [one for one in found if not any(other.beats(one) for other in found)]


def _candidate(form: Form[Any], layer: Operator, site: Site, pace: Pace | None = None) -> _Candidate:
    cost = _paced(form, layer, form.cost(layer, site), pace)
    planar = None
    if form.reads_layout(layer, site) is Layout.HCW:
        planar = _paced(form, layer, form.cost(layer, replace(site, input_layout=Layout.HCW)), pace)
    return _Candidate(form, cost, planar, Layout.HCW in form.writes_layouts(layer, site))


def _paced(form: Form[Any], layer: Operator, cost: Cost, pace: Pace | None) -> Cost:
    """The cost with the board's cycles for its instructions."""
    return cost if pace is None else replace(cost, instructions=pace.cycles(layer.kind, form.name, cost))


class _Network:
    """What combinations of forms cost together."""

    def __init__(self, graph: Graph, sites: Sequence[Site]) -> None:
        self._graph, self._sites = graph, sites
        self._activations: dict[tuple[tuple[int, int | None], ...], int] = {}
        # The layer that alone reads what a layer writes: only then may that be hcw.
        readers = [
            [i for i, other in enumerate(graph.layers) if layer.output in other.inputs] for layer in graph.layers
        ]
        self._writers = {found[0]: index for index, found in enumerate(readers) if len(found) == 1}
        self._alive = self._alive_bytes()

    def total(self, combination: Sequence[_Candidate]) -> _Total:
        """One candidate per layer, in order."""
        costs = self._costs(combination)
        return self._total(costs, self._arena(costs))

    def roughly(self, combination: Sequence[_Candidate]) -> _Total:
        """The same without a plan of the memory: with the most bytes alive at a time, below which no plan goes."""
        costs = self._costs(combination)
        return self._total(costs, max(self._need(index, cost) for index, cost in enumerate(costs)))

    def need(self, index: int, candidate: _Candidate) -> int:
        """Bytes of activations and scratch that are alive while a layer runs in this form: no plan needs less."""
        costs = [candidate.cost] + ([candidate.planar_cost] if candidate.planar_cost is not None else [])
        return min(self._need(index, cost) for cost in costs)

    def _costs(self, combination: Sequence[_Candidate]) -> list[Cost]:
        return [self._cost(combination, index) for index in range(len(combination))]

    def _total(self, costs: Sequence[Cost], ram: int) -> _Total:
        shared: dict[str, int] = {}
        for cost in costs:
            shared.update(cost.shared)
        code = _NETWORK_CODE + sum(shared.values()) + sum(cost.code for cost in costs)
        return _Total(sum(cost.flash for cost in costs) + code, ram, sum(cost.instructions for cost in costs))

    def _cost(self, combination: Sequence[_Candidate], index: int) -> Cost:
        """What a layer costs behind the one that the combination has before it."""
        candidate, writer = combination[index], self._writers.get(index)
        if candidate.planar_cost is not None and writer is not None and combination[writer].writes_planar:
            return candidate.planar_cost
        return candidate.cost

    def _arena(self, costs: Sequence[Cost]) -> int:
        """Bytes of all activations, with the default storages."""
        key = tuple((cost.scratch, cost.overlap) for cost in costs)
        if key not in self._activations:
            self._activations[key] = plan(self._requests(key)).total
        return self._activations[key]

    def _requests(self, scratch: Sequence[tuple[int, int | None]]) -> list[Request]:
        """scratch: of each layer, its bytes and its overlap."""
        uses = [
            Use(index, layer.inputs, layer.output, site.output, bytes_, overlap=overlap)
            for index, (layer, site, (bytes_, overlap)) in enumerate(
                zip(self._graph.layers, self._sites, scratch, strict=True)
            )
        ]
        return requests(self._graph, uses)

    def _alive_bytes(self) -> list[tuple[int, int, int]]:
        """Of each layer: its output, the inputs that nobody reads after it, and all other tensors alive meanwhile."""
        # Whoever overlaps by 0 has the inputs that it may overwrite in `before`.
        stored = {request.name: request for request in self._requests([(0, 0)] * len(self._graph.layers))}
        found = []
        for step, layer in enumerate(self._graph.layers):
            output = stored[layer.output]
            dying = sum(stored[name].bytes for name in output.before)
            alive = sum(tensor.bytes for tensor in stored.values() if tensor.first <= step <= tensor.last)
            found.append((output.bytes, dying, alive - output.bytes - dying))
        return found

    def _need(self, index: int, cost: Cost) -> int:
        output, dying, others = self._alive[index]
        together = output + dying if cost.overlap is None else min(output + dying, max(output, cost.overlap + dying))
        return others + together + cost.scratch


_Rank = Callable[[Sequence[_Candidate]], tuple[float, ...]]


def _best(
    candidates: Sequence[Sequence[_Candidate]],
    rank: _Rank,
    start: Sequence[_Candidate] | None = None,
    bound: _Rank | None = None,
) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank; the first of equals. start: where layers begin to take turns. bound: see
    _lowest()."""
    if prod(map(len, candidates)) <= _EXHAUSTIVE:
        return _lowest(list(itertools.product(*candidates)), rank, bound)
    best = tuple(start) if start is not None else tuple(options[0] for options in candidates)
    while True:
        before = best
        for index, options in enumerate(candidates):
            turns = [best, *((*best[:index], option, *best[index + 1 :]) for option in options)]
            best = _lowest(turns, rank, bound)
        if best == before:
            return best


def _lowest(combinations: Sequence[tuple[_Candidate, ...]], rank: _Rank, bound: _Rank | None) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank; the first of equals. bound: not above the rank, and quicker to tell."""
    if bound is None:
        return min(combinations, key=rank)
    bounds = [bound(combination) for combination in combinations]
    found: tuple[tuple[float, ...], int] | None = None
    for index in sorted(range(len(combinations)), key=bounds.__getitem__):
        if found is not None and bounds[index] > found[0]:
            break
        ranked = rank(combinations[index]), index
        found = ranked if found is None else min(found, ranked)
    assert found is not None
    return combinations[found[1]]


# ---- within a board's memory


def _within(
    network: _Network, candidates: Sequence[Sequence[_Candidate]], prefer: Prefer, room: Room
) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank that `room` has room for; else the one that exceeds it least.

    What a layer needs of RAM hardly depends on the other layers' forms: the peak is the largest of these needs. So
    whatever needs too much is left out from the start. Where the plan then still does not reach the peak, the forms of
    the layers that set it are left out, too.
    """

    def excess(combination: Sequence[_Candidate]) -> int:
        total = network.total(combination)
        flash = 0 if room.flash is None else max(0, total.flash - room.flash)
        return flash + (0 if room.ram is None else max(0, total.ram - room.ram))

    needs = [[network.need(index, option) for option in options] for index, options in enumerate(candidates)]
    least = [min(found) for found in needs]
    # Below the peak that no choice of forms lowers, others' needs do not matter either.
    most = max(map(max, needs)) if room.ram is None else max(room.ram, *least)
    tried = []
    while True:
        allowed = [
            [option for option, need in zip(options, found, strict=True) if need <= max(most, lowest)]
            for options, found, lowest in zip(candidates, needs, least, strict=True)
        ]
        best = _fitting(network, allowed, prefer, room.flash)
        tried.append(best)
        taken = [network.need(index, candidate) for index, candidate in enumerate(best)]
        lower = [need for need, lowest in zip(taken, least, strict=True) if need > lowest]
        ram = network.total(best).ram
        if room.ram is None or ram <= max(room.ram, *least) or not lower:
            return min(tried, key=excess)
        most = max(lower) - 1


def _fitting(
    network: _Network, candidates: Sequence[Sequence[_Candidate]], prefer: Prefer, flash: int | None
) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank of so many bytes of flash, or the smallest one."""

    def rank(combination: Sequence[_Candidate]) -> tuple[float, ...]:
        total = network.roughly(combination)
        return max(0, total.flash - (total.flash if flash is None else flash)), *total.rank(prefer)

    return _best(candidates, rank, None if flash is None else _fastest(candidates, flash) or _fastest(candidates, None))


def _fastest(candidates: Sequence[Sequence[_Candidate]], flash: int | None) -> tuple[_Candidate, ...] | None:
    """The combination of the fewest instructions of so many bytes of flash; None: there is none. flash None: smallest.

    Functions that layers share make this more than a knapsack: an integer linear program, with one variable per
    candidate and one per function, which is there when a candidate that calls it is.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    flat = [(index, option) for index, options in enumerate(candidates) for option in options]
    functions: dict[str, int] = {}
    for _, option in flat:
        functions.update(option.cost.shared)
    names = {name: len(flat) + place for place, name in enumerate(functions)}
    size = np.array([option.cost.flash + option.cost.code for _, option in flat] + list(functions.values()), float)
    time = np.array([option.cost.instructions for _, option in flat] + [0] * len(functions), float)
    rows = [index for index, _ in flat]
    chosen = coo_array((np.ones(len(flat)), (rows, range(len(flat)))), (len(candidates), len(size)))
    calls = [(place, names[name]) for place, (_, option) in enumerate(flat) for name in option.cost.shared]
    constraints = [LinearConstraint(chosen.tocsr(), 1, 1)]
    if calls:
        places = np.repeat(np.arange(len(calls)), 2)
        called = coo_array((np.tile([1.0, -1.0], len(calls)), (places, np.ravel(calls))), (len(calls), len(size)))
        constraints.append(LinearConstraint(called.tocsr(), -np.inf, 0))
    if flash is not None:
        constraints.append(LinearConstraint(size[None], -np.inf, flash - _NETWORK_CODE))
    solved = milp(
        size if flash is None else time,
        constraints=constraints,
        integrality=np.ones(len(size)),
        bounds=Bounds(0, 1),
        options={"node_limit": _NODES},
    )
    if solved.x is None:
        return None
    shares = np.split(solved.x[: len(flat)], np.cumsum([len(options) for options in candidates])[:-1])
    return tuple(options[int(share.argmax())] for options, share in zip(candidates, shares, strict=True))
