"""Where activations and scratch buffers lie in one arena: lifetimes in, offsets out. Knows nothing of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One buffer. bytes > 0; alignment: a power of two, in bytes.

    first, last: the steps, both included, between which its content must survive. Scratch has first == last.
    """

    name: str
    bytes: int
    alignment: int
    first: int
    last: int

    def meets(self, other: Request) -> bool:
        """Whether both are alive at some step, so that they must not share memory."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """offsets: bytes from the arena's start, by name. total: bytes of the arena. alignment: what the arena needs."""

    offsets: Mapping[str, int]
    total: int
    alignment: int


def live_bytes(requests: Sequence[Request]) -> int:
    """The most bytes alive at one step: no plan needs less."""
    steps = {request.first for request in requests}
    return max((sum(r.bytes for r in requests if r.first <= step <= r.last) for step in steps), default=0)


# In which order buffers are placed, each at the lowest offset that is free while it lives. No order is best for every
# network: the largest first is for chains (two buffers that take turns emerge), the others for branches and scratch.
_ORDERS: tuple[Callable[[Request], tuple[int, ...]], ...] = (
    lambda r: (-r.bytes, r.first),
    lambda r: (-r.bytes * (r.last - r.first + 1), r.first),
    lambda r: (-(r.last - r.first), -r.bytes),
    lambda r: (r.first, -r.bytes),
    lambda r: (-r.last, -r.bytes),
)


def plan(requests: Sequence[Request]) -> Plan:
    """The smallest of a few greedy layouts; exact for chains. Names must be unique."""
    assert len({request.name for request in requests}) == len(requests), "buffer names repeat"
    bound = live_bytes(requests)
    best: Plan | None = None
    for order in _ORDERS:
        candidate = _place(sorted(requests, key=order))
        if best is None or candidate.total < best.total:
            best = candidate
        if best.total == bound:
            break
    assert best is not None
    _check(requests, best)
    return best


def _place(requests: Sequence[Request]) -> Plan:
    """Each request in turn at the lowest aligned offset where nothing placed before it is alive with it."""
    placed: list[tuple[int, Request]] = []
    for request in requests:
        taken = sorted((start, start + other.bytes) for start, other in placed if request.meets(other))
        offset = 0
        for start, end in taken:
            if offset + request.bytes <= start:
                break
            offset = max(offset, _align(end, request.alignment))
        placed.append((offset, request))
    return Plan(
        {request.name: offset for offset, request in placed},
        max((offset + request.bytes for offset, request in placed), default=0),
        max((request.alignment for request in requests), default=1),
    )


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _check(requests: Sequence[Request], plan: Plan) -> None:
    """A plan that breaks its promise would corrupt activations silently; this costs nothing beside generating C."""
    for index, one in enumerate(requests):
        start = plan.offsets[one.name]
        assert start % one.alignment == 0 and start + one.bytes <= plan.total, f"{one.name} is misplaced"
        for two in requests[index + 1 :]:
            other = plan.offsets[two.name]
            overlap = start < other + two.bytes and other < start + one.bytes
            assert not (overlap and one.meets(two)), f"{one.name} and {two.name} overlap"
