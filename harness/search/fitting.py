"""Limits from a board's manifest: what code and platform leave, with the linker's own figures as the last word."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness import boards, pipeline
from harness.boards import Board
from harness.compress.quantize import quantize
from harness.errors import DoesNotFit, InputError
from harness.graph.graph import Graph
from harness.progress import Reporter
from harness.search import evaluate
from harness.search.loading import Loaded
from harness.search.methods import Found
from harness.search.policy import WIDTHS, Policy
from harness.search.tensors import Limits, Table, table
from harness.toolchain.footprint import Footprint

Link = Callable[[Policy], Footprint]

# Searches that are tried, each under limits tightened by what the linker says the one before is too large by.
_ATTEMPTS = 8

# Images that scales come from where there are no data.
_NOISE_IMAGES = 2


def fit(
    loaded: Loaded, board: str, limits: Limits, find: Callable[[Limits], Found], *, reporter: Reporter
) -> tuple[Found, Limits]:
    """A policy by `find` that links for `board`, and the limits that it was found under.

    limits: the user's own; the board's are added to them. DoesNotFit where not even 2 bits everywhere link;
    InputError where policies of ever tighter limits still do not.
    """
    chosen = boards.load(board)

    def link(policy: Policy, *, smallest: bool = False) -> Footprint:
        return pipeline.link(linkable(loaded, policy), "mixed", chosen, reporter, smallest=smallest)

    narrowed = tightest(limits, of_board(chosen, table(loaded.graph), lambda policy: link(policy, smallest=True)))
    reporter.say(f"{board} has room for {narrowed.flash:,} bytes of weights and {narrowed.ram:,} of activations")
    for _ in range(_ATTEMPTS):
        found = find(narrowed)
        try:
            link(found.policy)
        except DoesNotFit as error:
            narrowed = Limits(
                (narrowed.flash or 0) - error.overflows.get("flash", 0),
                (narrowed.ram or 0) - error.overflows.get("ram", 0),
            )
            reporter.say(f"{error.message}: searching again under {narrowed.flash:,} and {narrowed.ram:,} bytes")
        else:
            return found, narrowed
    raise InputError(
        f"no policy of {loaded.graph.name} was found that links for {board}, in {_ATTEMPTS} searches",
        hint="set limits of your own below the board's: --flash, --ram",
    )


def linkable(loaded: Loaded, policy: Policy) -> Graph:
    """The policy's integers, for their size: without data the scales are of noise."""
    if loaded.dataset is not None:
        return evaluate.quantized(loaded.graph, loaded.dataset, policy)
    shape = (_NOISE_IMAGES, *loaded.graph.input_tensor.shape)
    noise = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    return quantize(loaded.graph, noise, policy=policy)


def of_board(board: Board, tensors: Table, link: Link) -> Limits:
    """What the board's memory leaves for weights and activations: measured on the network with 2 bits everywhere.

    link: in the forms that need the least RAM, which any policy can fall back on. Code and platform are the same
    whatever the widths, but for which kernels are linked; hence the loop in `fit`.
    """
    weights, activations = tensors.uniform(WIDTHS[0])
    policy = tensors.policy(weights, activations, method="uniform")
    assert policy.bytes is not None and policy.peak_ram is not None
    image = link(policy)
    return Limits(
        policy.bytes + board.region("flash").length - image.flash.total,
        policy.peak_ram + board.region("ram").length - image.ram.total,
    )


def tightest(one: Limits, other: Limits) -> Limits:
    """Both limits at once."""

    def least(a: int | None, b: int | None) -> int | None:
        return min(value for value in (a, b) if value is not None) if (a, b) != (None, None) else None

    return Limits(least(one.flash, other.flash), least(one.ram, other.ram))
