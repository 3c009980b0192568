"""The memory plan: buffers alive together never overlap, and chains take no more than their largest neighbours."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.graph.memory import Request, least_bytes, live_bytes, plan


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Up to 12 buffers with any lifetimes within 8 layers."""
    result = []
    for index in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, 7))
        last = draw(st.integers(first, 7))
        alignment = draw(st.sampled_from((1, 2, 4, 8)))
        result.append(Request(f"b{index}", draw(st.integers(1, 5000)), alignment, first, last))
    return result


def chain(sizes: list[int]) -> list[Request]:
    """Buffer i is written by layer i - 1 and read by layer i; the first is the input, the last outlives all layers."""
    return [Request(f"b{i}", size, 4, max(i - 1, 0), i) for i, size in enumerate(sizes)]


@given(requests())
def test_buffers_that_live_together_are_apart(buffers: list[Request]) -> None:
    result = plan(buffers)
    for step in range(8):
        alive = sorted((result.offsets[b.name], b.bytes) for b in buffers if b.first <= step <= b.last)
        for (start, size), (following, _) in pairwise(alive):
            assert start + size <= following
    assert all(result.offsets[b.name] % b.alignment == 0 for b in buffers)
    assert result.total == max(result.offsets[b.name] + b.bytes for b in buffers)
    assert result.total >= live_bytes(buffers)


@given(st.lists(st.integers(1, 2000).map(lambda words: 4 * words), min_size=2, max_size=12))
def test_a_chain_takes_its_largest_neighbours(sizes: list[int]) -> None:
    assert plan(chain(sizes)).total == max(a + b for a, b in pairwise(sizes))


def test_lenet5_takes_what_unlu_states() -> None:
    """arXiv 2007.01348: 8,800 bytes with convolution and pooling fused and two buffers that take turns."""
    shapes = (32 * 32, 14 * 14 * 6, 5 * 5 * 16, 120, 84, 10)
    assert plan(chain([4 * elements for elements in shapes])).total == 8800


def test_scratch_of_one_layer_is_free_for_the_next() -> None:
    buffers = chain([400, 400, 400])
    buffers += [Request("scratch 0", 600, 4, 0, 0), Request("scratch 1", 600, 4, 1, 1)]
    assert plan(buffers).total == 1400


def test_chains_of_layers_that_overwrite_their_inputs_need_no_more_than_their_peak() -> None:
    """MobileNetV1 at 160x160, some of whose layers consume their input: no order by size or time alone places it."""
    sizes = (76800, 51200, 51200, 102400, 25600, 51200, 51200, 51200, 12800)
    overlaps = {1: 0, 3: 51840, 4: 0}
    scratch = (1460, 5248, 0, 3936, 1152, 5376, 2304, 5712)
    buffers = [
        Request(f"b{i}", size, 4, max(i - 1, 0), i, {f"b{i - 1}": overlaps[i]} if i in overlaps else {})
        for i, size in enumerate(sizes)
    ]
    buffers += [Request(f"scratch {i}", size, 4, i, i) for i, size in enumerate(scratch) if size]
    assert least_bytes(buffers) < live_bytes(buffers)
    assert plan(buffers).total == least_bytes(buffers) == 51200 + 51200 + 5376
