"""Where activations and scratch buffers lie in one arena: lifetimes in, offsets out. Knows nothing of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """One buffer. bytes > 0; alignment: a power of two, in bytes.

    first, last: the steps, both included, between which its content must survive. Scratch has first == last.
    before: buffers that this one may share memory with although both are alive, where it starts at least so many bytes
    before them: a layer's output that trails its input while the layer consumes it.
    """

    name: str
    bytes: int
    alignment: int
    first: int
    last: int
    before: Mapping[str, int] = field(default_factory=dict)

    def meets(self, other: Request) -> bool:
        """Whether both are alive at some step, so that they must not share memory."""
        return self.first <= other.last and other.first <= self.last

    def forbidden(self, other: Request, start: int) -> tuple[int, int]:
        """The offsets, both excluded, between which this buffer cannot start when `other` starts at `start`."""
        lowest, highest = start - self.bytes, start + other.bytes
        if other.name in self.before:
            lowest = max(lowest, start - self.before[other.name])
        if self.name in other.before:
            highest = min(highest, start + other.before[self.name])
        return lowest, highest


@dataclass(frozen=True)
class Plan:
    """offsets: bytes from the arena's start, by name. total: bytes of the arena. alignment: what the arena needs."""

    offsets: Mapping[str, int]
    total: int
    alignment: int


def live_bytes(requests: Sequence[Request]) -> int:
    """The most bytes alive at one step: no plan without shared memory needs less."""
    steps = {request.first for request in requests}
    return max((sum(r.bytes for r in requests if r.first <= step <= r.last) for step in steps), default=0)


def least_bytes(requests: Sequence[Request]) -> int:
    """What no plan needs less than: as live_bytes, but where a buffer may share memory with others, it does."""

    def at(step: int) -> int:
        alive = {r.name: r for r in requests if r.first <= step <= r.last}
        bytes_ = sum(request.bytes for request in alive.values())
        for request in alive.values():
            ahead = {name: by for name, by in request.before.items() if name in alive}
            if ahead:
                others = sum(alive[name].bytes for name in ahead)
                bytes_ -= max(0, request.bytes + others - max(request.bytes, min(ahead.values()) + others))
        return bytes_

    return max((at(step) for step in {request.first for request in requests}), default=0)


# In which order buffers are placed, each at the lowest offset that is free while it lives. No order is best for every
# network with branches and scratch; chains are exact by taking turns at both ends (_place with a ceiling). The last
# order is for outputs that trail their inputs: where those go follows from the output's place.
_ORDERS: tuple[Callable[[Request], tuple[int, ...]], ...] = (
    lambda r: (-r.bytes, r.first),
    lambda r: (-r.bytes * (r.last - r.first + 1), r.first),
    lambda r: (-(r.last - r.first), -r.bytes),
    lambda r: (r.first, -r.bytes),
    lambda r: (-r.last, -r.bytes),
    lambda r: (not r.before, -r.first, -r.bytes),
)


# How often the buffer on top is placed first instead, in each of these orders, while a plan needs more than it must.
_TURNS = 8


def plan(requests: Sequence[Request]) -> Plan:
    """The smallest of a few greedy layouts; exact for chains. Names must be unique."""
    assert len({request.name for request in requests}) == len(requests), "buffer names repeat"
    in_time = sorted(requests, key=lambda r: (r.first, -r.last, -r.bytes))
    candidates = [_place(in_time, live_bytes(requests))]
    candidates += [_place(sorted(requests, key=order)) for order in _ORDERS]
    best = min(candidates, key=lambda candidate: candidate.total)
    least = least_bytes(requests)
    for order in _ORDERS:
        if best.total <= least:
            break
        best = min(best, _improved(sorted(requests, key=order), least), key=lambda candidate: candidate.total)
    _check(requests, best)
    return best


def _improved(requests: Sequence[Request], least: int) -> Plan:
    """The best of some greedy layouts, in each of which the topmost buffer of the one before comes first."""
    found = [_place(requests)]
    for _ in range(_TURNS):
        latest = found[-1]
        top = next(r for r in requests if latest.offsets[r.name] + r.bytes == latest.total)
        if latest.total <= least or top is requests[0]:
            break
        requests = [top, *(request for request in requests if request is not top)]
        found.append(_place(requests))
    return min(found, key=lambda candidate: candidate.total)


def _place(requests: Sequence[Request], ceiling: int | None = None) -> Plan:
    """Each request in turn at the lowest aligned offset where nothing placed before it is alive with it.

    With a ceiling, buffers that outlive a step take turns: one at the highest offset below it, the next at the lowest.
    """
    placed: list[tuple[int, Request]] = []
    high = False
    for request in requests:
        taken = [request.forbidden(other, start) for start, other in placed if request.meets(other)]
        offset = None
        if ceiling is not None and request.first < request.last:
            high = not high
            offset = _highest(request, taken, ceiling) if high else None
        placed.append((_lowest(request, taken) if offset is None else offset, request))
    return Plan(
        {request.name: offset for offset, request in placed},
        max((offset + request.bytes for offset, request in placed), default=0),
        max((request.alignment for request in requests), default=1),
    )


def _lowest(request: Request, taken: Sequence[tuple[int, int]]) -> int:
    """The lowest offset that is in none of the open intervals `taken`."""
    offset = 0
    for lowest, highest in sorted(taken):
        if lowest < offset < highest:
            offset = _align(highest, request.alignment)
    return offset


def _highest(request: Request, taken: Sequence[tuple[int, int]], ceiling: int) -> int | None:
    """The highest offset that is in none of `taken` and leaves the buffer below `ceiling`, None when there is none."""
    offset = (ceiling - request.bytes) // request.alignment * request.alignment
    for lowest, highest in sorted(taken, key=lambda interval: -interval[1]):
        if lowest < offset < highest:
            offset = lowest // request.alignment * request.alignment
    return offset if offset >= 0 else None


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _check(requests: Sequence[Request], plan: Plan) -> None:
    """A plan that breaks its promise would corrupt activations silently; this costs nothing beside generating C."""
    for index, one in enumerate(requests):
        start = plan.offsets[one.name]
        assert start % one.alignment == 0 and start + one.bytes <= plan.total, f"{one.name} is misplaced"
        for two in requests[index + 1 :]:
            lowest, highest = one.forbidden(two, plan.offsets[two.name])
            assert not (lowest < start < highest and one.meets(two)), f"{one.name} and {two.name} overlap"
