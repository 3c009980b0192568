"""Which storage form each layer takes: a search over bytes and instructions. It prints nothing and lowers nothing.

A form's cost counts its constants, its scratch and its own code; functions that several layers share are counted once,
so forms are chosen for the network as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

from harness.errors import InputError, unknown_name
from harness.graph.graph import Graph
from harness.ops import sparse
from harness.ops.base import Operator
from harness.ops.lowering import Cost, Form, Site

Prefer = Literal["size", "speed", "balanced"]

# More combinations than this are not all looked at: layers then take turns until none gains by changing.
_EXHAUSTIVE = 50_000


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A form that fits its layer, and what it costs."""

    form: Form[Any]
    cost: Cost


@dataclass(frozen=True)
class _Total:
    """What a network costs. bytes: constants, scratch at its largest, and code."""

    bytes: int
    instructions: int

    def rank(self, prefer: Prefer) -> tuple[float, float]:
        """Lower is better. balanced: bytes and instructions count alike, whatever the network's size."""
        if prefer == "size":
            return self.bytes, self.instructions
        if prefer == "speed":
            return self.instructions, self.bytes
        return float(self.bytes) * self.instructions, self.bytes


def choose(
    graph: Graph, sites: Sequence[Site], *, kernels: str, prefer: Prefer, overrides: Mapping[str, str]
) -> tuple[Form[Any], ...]:
    """One form per layer of `graph`. sites: each layer's, with the default storages.

    InputError for an unknown preference, layer or form, and for a form that does not fit its layer.
    """
    if prefer not in get_args(Prefer):
        raise unknown_name("preference", prefer, get_args(Prefer))
    for name in overrides:
        if name not in {layer.name for layer in graph.layers}:
            raise unknown_name("layer", name, [layer.name for layer in graph.layers])
    if kernels == "plain" and not overrides:
        return tuple(_plain(layer) for layer in graph.layers)
    candidates = [
        _overridden(layer, site, overrides[layer.name]) if layer.name in overrides else _candidates(layer, site)
        for layer, site in zip(graph.layers, sites, strict=True)
    ]
    return tuple(candidate.form for candidate in _best(candidates, prefer))


def available(layer: Operator) -> tuple[Form[Any], ...]:
    """Every form of a layer, whether or not it fits."""
    return (*layer.forms, *sparse.forms(layer))


def _plain(layer: Operator) -> Form[Any]:
    return next(form for form in layer.forms if form.name == "plain")


def _overridden(layer: Operator, site: Site, name: str) -> list[_Candidate]:
    known = {form.name: form for form in available(layer)}
    if name not in known:
        raise unknown_name(f"form of layer {layer.name}", name, list(known))
    if not known[name].applicable(layer, site):
        raise InputError(
            f"layer {layer.name} cannot be stored as {name}: {known[name].refusal(layer, site)}",
            hint="leave its form to the harness",
        )
    return [_Candidate(known[name], known[name].cost(layer, site))]


def _candidates(layer: Operator, site: Site) -> list[_Candidate]:
    """The fastest dense form, and the sparse ones that are smaller than it; none that another beats in both costs."""
    dense = min(
        (_Candidate(form, form.cost(layer, site)) for form in layer.forms if form.applicable(layer, site)),
        key=lambda candidate: candidate.cost.instructions,
    )
    smaller = [
        candidate
        for form in sparse.forms(layer)
        if form.applicable(layer, site)
        and (candidate := _Candidate(form, form.cost(layer, site))).cost.flash < dense.cost.flash
    ]
    return [dense, *smaller]


def _best(candidates: Sequence[Sequence[_Candidate]], prefer: Prefer) -> tuple[_Candidate, ...]:
    """The combination of the lowest rank; the first of equals."""
    if prod(map(len, candidates)) <= _EXHAUSTIVE:
        return min(itertools.product(*candidates), key=lambda combination: _total(combination).rank(prefer))
    best = tuple(min(options, key=lambda option: _total([option]).rank(prefer)) for options in candidates)
    while True:
        before = best
        for index, options in enumerate(candidates):
            variants = [(*best[:index], option, *best[index + 1 :]) for option in options]
            best = min([best, *variants], key=lambda combination: _total(combination).rank(prefer))
        if best == before:
            return best


def _total(combination: Sequence[_Candidate]) -> _Total:
    shared: dict[str, int] = {}
    for candidate in combination:
        shared.update(candidate.cost.shared)
    return _Total(
        bytes=sum(shared.values())
        + sum(candidate.cost.flash + candidate.cost.code for candidate in combination)
        + max((candidate.cost.scratch for candidate in combination), default=0),
        instructions=sum(candidate.cost.instructions for candidate in combination),
    )
