"""Which storage form each layer takes: a search over bytes and instructions. It prints nothing and lowers nothing.

A form's cost counts its constants, its scratch and its own code; functions that several layers share are counted once,
so forms are chosen for the network as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, prod
from typing import Any, Literal, get_args

from harness.codegen.activations import Use, requests
from harness.codegen.pace import Pace
from harness.errors import InputError, unknown_name
from harness.graph.graph import Graph
from harness.graph.memory import plan
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

# Bytes of code that every network has: its functions for inference, input, output, scores and classes.
_NETWORK_CODE = 280


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
    """What a network costs. bytes: constants, code, and activations where they need most."""

    bytes: int
    instructions: int

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
) -> tuple[Form[Any], ...]:
    """One form per layer of `graph`. sites: each layer's, with the default storages. pace: of the board at hand, whose
    cycles then count instead of instructions.

    InputError for an unknown preference, layer or form, and for a form that does not fit its layer.
    """
    if prefer not in get_args(Prefer):
        raise unknown_name("preference", prefer, get_args(Prefer))
    for name in overrides:
        if name not in {layer.name for layer in graph.layers}:
            raise unknown_name("layer", name, [layer.name for layer in graph.layers])
    if kernels == "plain" and not overrides:
        return tuple(_plain(layer, site) for layer, site in zip(graph.layers, sites, strict=True))
    candidates = [
        _overridden(layer, site, overrides[layer.name], pace)
        if layer.name in overrides
        else _candidates(layer, site, pace)
        for layer, site in zip(graph.layers, sites, strict=True)
    ]
    return tuple(candidate.form for candidate in _best(_Network(graph, sites), candidates, prefer))


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


def _candidate(form: Form[Any], layer: Operator, site: Site, pace: Pace | None = None) -> _Candidate:
    cost = _paced(form, form.cost(layer, site), pace)
    planar = None
    if form.reads_layout(layer, site) is Layout.HCW:
        planar = _paced(form, form.cost(layer, replace(site, input_layout=Layout.HCW)), pace)
    return _Candidate(form, cost, planar, Layout.HCW in form.writes_layouts(layer, site))


def _paced(form: Form[Any], cost: Cost, pace: Pace | None) -> Cost:
    """The cost with the board's cycles for its instructions."""
    return cost if pace is None else replace(cost, instructions=pace.cycles(form.name, cost))


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

    def total(self, combination: Sequence[_Candidate]) -> _Total:
        """One candidate per layer, in order."""
        costs = [self._cost(combination, index) for index in range(len(combination))]
        shared: dict[str, int] = {}
        for cost in costs:
            shared.update(cost.shared)
        code = _NETWORK_CODE + sum(shared.values()) + sum(cost.code for cost in costs)
        return _Total(
            bytes=sum(cost.flash for cost in costs) + code + self._arena(costs),
            instructions=sum(cost.instructions for cost in costs),
        )

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
            uses = [
                Use(index, layer.inputs, layer.output, site.output, scratch, overlap=overlap)
                for index, (layer, site, (scratch, overlap)) in enumerate(
                    zip(self._graph.layers, self._sites, key, strict=True)
                )
            ]
            self._activations[key] = plan(requests(self._graph, uses)).total
        return self._activations[key]


def _best(network: _Network, candidates: Sequence[Sequence[_Candidate]], prefer: Prefer) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank; the first of equals."""

    def rank(combination: Sequence[_Candidate]) -> tuple[float, float]:
        return network.total(combination).rank(prefer)

    if prod(map(len, candidates)) <= _EXHAUSTIVE:
        return min(itertools.product(*candidates), key=rank)
    best = tuple(options[0] for options in candidates)
    while True:
        before = best
        for index, options in enumerate(candidates):
            best = min([best, *((*best[:index], option, *best[index + 1 :]) for option in options)], key=rank)
        if best == before:
            return best
